"""Facts for the data report out of what a prepared run has kept, where prepare gathered none itself.

Sources are read again, rows that the ledger refused are left out, parts are told by where each row stands. Slower than
gathering while preparing, and the same facts. Near twins are looked for among at most 20,000 rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from danlu.data.dataset import Dataset
from danlu.data.finding import SourceSpec
from danlu.data.ledger import Ledger
from danlu.data.quality import (
    Cluster,
    Conflict,
    ConflictFacts,
    DataFacts,
    DocumentFacts,
    LengthFacts,
    Member,
    ReplayFacts,
    StageFacts,
    Tally,
    Told,
    TwinFacts,
    gather,
    lengths_of,
)
from danlu.data.quality.reading import asked_and_answered
from danlu.data.sample import Document, Label, Sample
from danlu.data.similar import similar_pairs
from danlu.data.sources import read
from danlu.data.split import Ties, fold
from danlu.run.run import Run
from danlu.version import VERSION

_SHARD = 5000
_MAX_COMPARED = 20_000
_THRESHOLD = 0.7
_TEXT_CHARS = 500
_OVER = ("encode_over_length", "encode_answer_over_length", "encode_prompt_cut", "encode_split")
_CUT = ("encode_over_length", "encode_answer_over_length", "encode_prompt_cut")
_TWIN = "duplicate"
_ENCODING = ("encode_", "no_stage_wants_it")

Account = Mapping[str, Any]


def gather_from_run(run: Run) -> DataFacts:
    """Read the run's sources and accounts; RunError when it has not been prepared."""
    account: Account = run.read("ledger.json")
    outcome = run.outcome("prepare") or {}
    eye = _Eye(account, _places(run))
    tallies = Tally()
    shard: dict[str, list[Sample]] = defaultdict(list)
    specs = [
        SourceSpec(source.path, None if source.format == "auto" else source.format, source.columns or None)
        for source in run.recipe.data.sources
    ]
    for part, sample in eye.kept(read(specs, Ledger())):
        shard[part].append(sample)
        if len(shard[part]) == _SHARD:
            tallies.merge(Tally.of(shard.pop(part), part))
    for part, samples in shard.items():
        tallies.merge(Tally.of(samples, part))
    dataset = Dataset.open(run.path("dataset", outcome["stages"][-1]), verify=False) if outcome else None
    told = Told(
        name=run.recipe.name,
        dataset=dataset.digest if dataset else "",
        template=dataset.card.contract_digest if dataset else "",
        created=str(run.read("run.json").get("created", "")),
        stages=funnel_of(account),
        lengths=_lengths(dataset, account, run) if dataset else None,
        parts=dict(tallies.rows),
        twins=eye.twins(account),
        conflicts=eye.conflicts(),
        documents=eye.documents(),
        certificate=outcome.get("certificate", {}),
        replay=_replay(dataset, account, run) if dataset else None,
        reproduce={"recipe": run.recipe.digest, "run": run.name, "danlu": VERSION},
    )
    return gather([tallies], told)


def funnel_of(account: Account) -> tuple[StageFacts, ...]:
    """The stages of a plain preparation: reading, duplicates, encoding, out of the ledger's JSON."""
    dropped: dict[str, Counter[str]] = {name: Counter() for name in ("read", "twins", "encode")}
    changed: dict[str, Counter[str]] = {name: Counter() for name in dropped}
    for entries, into in (("rejects", dropped), ("changes", changed)):
        for entry in account[entries]:
            into[_stage_of(entry["code"])][entry["code"]] += 1
    stages, left = [], int(account["rows"]["read"])
    for name, reasons in dropped.items():
        after = left - reasons.total()
        if name == "read" or reasons or changed[name]:
            stages.append(StageFacts(name, left, after, dict(reasons.most_common()), dict(changed[name].most_common())))
        left = after
    return tuple(stages)


def _stage_of(reason: str) -> str:
    return "twins" if reason == _TWIN else "encode" if reason.startswith(_ENCODING) else "read"


def _lengths(dataset: Dataset, account: Account, run: Run) -> LengthFacts:
    reasons = Counter(entry["code"] for name in ("rejects", "changes") for entry in account[name])
    train = dataset.part("train")
    return lengths_of(
        train.lengths,
        int(dataset.card.facts.get("context", 0)),
        over_length=run.recipe.data.over_length,
        num_over=sum(reasons[reason] for reason in _OVER),
        num_cut=sum(reasons[reason] for reason in _CUT),
        num_supervised=int(dataset.card.parts.get("train", {}).get("supervised_tokens", 0)),
    )


def _replay(dataset: Dataset, account: Account, run: Run) -> ReplayFacts | None:
    section = run.recipe.data.replay
    num_tokens = int(account["counts"].get("replay_tokens", 0))
    if not num_tokens and not getattr(section, "path", None):
        return None
    total = dataset.part("train").num_tokens
    return ReplayFacts(section.ratio, num_tokens, num_tokens / total if total else 0.0)


def _places(run: Run) -> dict[str, str]:
    """`file:line` of held-out rows, and their part. Documents share a line, so their page tells nothing apart."""
    places: dict[str, str] = {}
    outcome = run.outcome("prepare") or {}
    for stage in outcome.get("stages", ()):
        dataset = Dataset.open(run.path("dataset", stage), verify=False)
        if "validation" in dataset.names:
            places |= {row["origin"]: "validation" for row in dataset.part("validation").rows}
    path = run.path("dataset", "test.jsonl")
    if path.is_file():
        from danlu.data.samples_file import read_samples

        places |= {str(sample.origin): "test" for sample in read_samples(path)}
    return places


class _Eye:
    """Sees every used row once and remembers what twins, conflicts and documents need."""

    def __init__(self, account: Account, places: Mapping[str, str]) -> None:
        self.places = places
        self.refused = Counter(f"{entry['file']}:{entry['line']}" for entry in account["rejects"])
        self.copies: dict[str, list[str]] = defaultdict(list)
        for entry in account["rejects"]:
            if entry["code"] == _TWIN:
                self.copies[entry["values"]["first"]].append(f"{entry['file']}:{entry['line']}")
        self.firsts: dict[str, str] = {}
        self.texts: list[tuple[str, str, str]] = []
        """(where, folded text, shown text) of the rows that near twins are looked for among."""
        self.answers: dict[str, dict[str, list[tuple[str, str]]]] = defaultdict(dict)
        self.files: dict[str, list[int]] = {}
        self.num_rows = 0

    def kept(self, samples: Iterator[Sample]) -> Iterator[tuple[str, Sample]]:
        """Rows that the run used, with their part."""
        for sample in samples:
            where = str(sample.origin)
            if isinstance(sample, Document) or sample.origin.page is not None:
                seen = self.files.setdefault(sample.origin.file, [0, 0])
                seen[0] += len(asked_and_answered(sample)[1])
                seen[1] += 1
            if where in self.copies and where not in self.firsts:
                self.firsts[where] = "\n".join(asked_and_answered(sample))[:_TEXT_CHARS]
            if self.refused[where]:
                self.refused[where] -= 1
                continue
            self._remember(sample, where)
            yield self.places.get(where, "train"), sample

    def _remember(self, sample: Sample, where: str) -> None:
        self.num_rows += 1
        asked, answered = asked_and_answered(sample)
        shown = f"{asked}\n{answered}".strip()[:_TEXT_CHARS]
        if len(self.texts) < _MAX_COMPARED:
            self.texts.append((where, fold(f"{asked}\n{answered}"), shown))
        if not isinstance(sample, Document) and (question := fold(asked)):
            said = answered if isinstance(sample, Label) else fold(answered)
            self.answers[question].setdefault(said, []).append((where, shown))

    def twins(self, account: Account) -> TwinFacts:
        """Exact copies as the ledger names them, near ones compared here."""
        clusters = [
            Cluster(len(copies) + 1, (Member(first, self.firsts.get(first, "")),), is_exact=True)
            for first, copies in self.copies.items()
        ]
        num_exact = sum(len(copies) for copies in self.copies.values())
        ties = Ties(len(self.texts))
        folded = [text for _, text, _ in self.texts]
        for left, right in similar_pairs(folded, _THRESHOLD).pairs:
            ties.join(left, right)
        ties.join_equal([text or None for text in folded])
        near = [group for group in ties.groups() if len(group) > 1]
        clusters += [Cluster(len(group), self._members(group)) for group in near]
        return TwinFacts(
            num_rows=self.num_rows + num_exact,
            num_exact=num_exact,
            num_near=sum(len(group) - 1 for group in near),
            num_clusters=len(clusters),
            threshold=_THRESHOLD,
            top=tuple(sorted(clusters, key=lambda cluster: -cluster.size)[:40]),
            dropped="exact",
            sampled=len(self.texts) if self.num_rows > len(self.texts) else 0,
        )

    def _members(self, group: Sequence[int]) -> tuple[Member, ...]:
        return tuple(Member(self.texts[index][0], self.texts[index][2]) for index in group[:6])

    def conflicts(self) -> ConflictFacts:
        """Questions that are the same once case, width and punctuation are gone, and answered differently."""
        found = {question: said for question, said in self.answers.items() if len(said) > 1}
        top = sorted(found.items(), key=lambda entry: (-len(entry[1]), entry[0]))[:20]
        conflicts = tuple(
            Conflict(_question(said), tuple(Member(*rows[0]) for rows in said.values())) for _, said in top
        )
        return ConflictFacts(len(found), sum(len(rows) for said in found.values() for rows in said.values()), conflicts)

    def documents(self) -> tuple[DocumentFacts, ...]:
        return tuple(
            DocumentFacts(name, num_chars=seen[0], num_passages=seen[1]) for name, seen in sorted(self.files.items())
        )


def _question(said: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """The question as the first row writes it."""
    return next(iter(said.values()))[0][1].partition("\n")[0]
