"""prepare: sources in, one packed dataset per stage out, and an account of every row. No torch, no GPU.

read > drop duplicates > split by group > render > encode > write. The result is reused as long as sources, recipe
chapters, tokenizer and template stay the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from danlu.core.errors import DataError, RunError, TemplateError
from danlu.core.files import read_json, sha256_file, sha256_json, write_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.card import Card
from danlu.data.contract import Contract, make_contract
from danlu.data.dataset import Dataset
from danlu.data.encode import Encoder
from danlu.data.finding import SourceSpec, find_files
from danlu.data.inspect import flat_text
from danlu.data.ledger import Ledger
from danlu.data.rejects import check_threshold, write_rejects
from danlu.data.sample import Sample
from danlu.data.samples_file import write_samples
from danlu.data.sources import read
from danlu.data.split import Split, fold, fold_finely, split
from danlu.data.tokens import Item
from danlu.pipeline.base import Base, open_base
from danlu.pipeline.fates import Fates, merge_stages
from danlu.pipeline.leaks import asked
from danlu.recipe.data import DataSection
from danlu.recipe.method import SFTSection, StageSection
from danlu.recipe.recipe import Recipe
from danlu.run.run import Run
from danlu.version import VERSION

NUM_PREVIEWS = 3
NUM_PROBES = 16
CHOSEN = ("duplicate", "no_stage_wants_it")
"""Reasons that are the recipe's choice and no fault of the data: they do not count towards `data.max_rejected`."""


@dataclass(frozen=True, slots=True)
class StageData:
    """The dataset of one stage; `name` is `1-sft`, as everywhere in the run."""

    name: str
    dataset: Dataset

    @property
    def digest(self) -> str:
        return self.dataset.digest


@dataclass(frozen=True, slots=True)
class Prepared:
    """What prepare leaves: a dataset per stage, the ledger's JSON, the split's certificate, the template contract."""

    stages: tuple[StageData, ...]
    ledger: dict[str, Any]
    certificate: dict[str, Any]
    contract: Contract | None
    outcome: dict[str, Any]

    @property
    def card(self) -> Card:
        """Of the last stage, the one the run is about."""
        return self.stages[-1].dataset.card


def prepare(run: Run, *, progress: Progress | None = None) -> Prepared:
    """Make (or find again) the datasets of all stages. DataError when too many rows were rejected or none are left."""
    told = progress or Silent()
    recipe = run.recipe
    base = open_base(recipe.model, progress=told)
    sources = _sources_of(recipe.data)
    inputs = _inputs_digest(recipe, base, sources)
    with run.acting("prepare"):
        outcome = run.finished("prepare", inputs)
        if outcome is not None:
            try:
                return _open(run, outcome)
            except (DataError, RunError) as error:  # damaged since: made anew, for the sources are still there
                told.note(error.text)
        return _open(run, run.finish("prepare", inputs, _prepare(run, base, sources, told)))


def _open(run: Run, outcome: dict[str, Any]) -> Prepared:
    stages = tuple(StageData(name, Dataset.open(run.path("dataset", name))) for name in outcome["stages"])
    contract = Contract.from_json(run.read("contract.json")) if run.path("contract.json").is_file() else None
    return Prepared(stages, run.read("ledger.json"), outcome["certificate"], contract, outcome)


def _prepare(run: Run, base: Base, sources: dict[str, str], told: Progress) -> dict[str, Any]:
    recipe, ledger = run.recipe, Ledger()
    described = _describe(recipe.data, sources)
    contract = _store_contract(run, base)
    samples = _drop_duplicates(recipe.data, _read(_specs(recipe.data), ledger, told), ledger)
    watched = _read([SourceSpec(recipe.data.validation)], ledger, told) if recipe.data.validation else None
    if not ledger.num_used:
        _store_account(run, ledger)
        _judge(run, ledger)
    parts = split(
        samples,
        test=recipe.data.split.test if recipe.evaluation.questions is None else 0.0,
        validation=recipe.data.split.validation if watched is None else 0.0,
        seed=recipe.data.split.seed,
    )
    if watched is not None:
        parts = replace(parts, validation=watched)
    told.note(say("pipeline.split", train=len(parts.train), validation=len(parts.validation), test=len(parts.test)))
    _write_beside(run, parts)
    replay_ledger = Ledger()  # apart: rows that the ratio does not need are neither used nor rejected
    replay = _read([SourceSpec(recipe.data.replay.path)], replay_ledger, told) if recipe.data.replay.path else []
    desks = []
    previews: list[dict[str, Any]] = []
    for number, stage in enumerate(recipe.plan_stages(), start=1):
        desk = _Stage(f"{number}-{stage.method.kind}", recipe, stage, base, contract)
        desk.write(run.path("dataset", desk.name), parts, replay, described, told)
        previews += desk.previews(parts.train)
        desks.append(desk)
    merge_stages(ledger, [desk.fates for desk in desks])
    _refuse_unaccepted([*parts.train, *parts.validation, *parts.test], desks, ledger, told)
    write_json(run.path("dataset", "preview.json"), previews)
    account = _store_account(run, ledger)
    for desk in desks:
        desk.refuse_untouched()
    _judge(run, ledger)
    for desk in desks:
        desk.refuse_empty(run.path("rejects.jsonl"))
    return account | {
        "replay": replay_ledger.to_json()["rows"],
        "stages": [desk.name for desk in desks],
        "certificate": parts.certificate,
        "num_test": len(parts.test),
    }


def _write_beside(run: Run, parts: Split) -> None:
    """What evaluation and export want to know of the data: held-out samples, seen prompts, a few probes."""
    write_samples(run.path("dataset", "test.jsonl"), parts.test)
    seen = {fold(text) for sample in parts.train for text in asked(sample)}
    write_json(run.path("dataset", "prompts.json"), sorted(seen))
    write_json(run.path("dataset", "probes.json"), _probes(parts.train))


def _probes(samples: Sequence[Sample]) -> list[list[dict[str, str]]]:
    """A few training prompts, spread over the data: what parity and canaries are asked in the domain's own words."""
    asking = [sample for sample in samples if asked(sample)]
    step = max(1, len(asking) // NUM_PROBES)
    return [[{"role": "user", "content": asked(sample)[0]}] for sample in asking[::step][:NUM_PROBES]]


def _read(specs: Sequence[SourceSpec], ledger: Ledger, told: Progress) -> list[Sample]:
    return list(read(specs, ledger, progress=told))


def _store_account(run: Run, ledger: Ledger) -> dict[str, Any]:
    """Store the ledger and the rejects, before they are judged: who is refused must be able to read why."""
    ledger.check()
    write_rejects(ledger, run.path("rejects.jsonl"))
    account = ledger.to_json()
    write_json(run.path("ledger.json"), account)
    return {"rows": account["rows"], "counts": account["counts"]}


def _judge(run: Run, ledger: Ledger) -> None:
    """DataError when nothing can be used, or when too many rows were at fault."""
    at_fault = [entry for entry in ledger.rejects if entry.reason not in CHOSEN] if ledger.num_used else ledger.rejects
    judged = Ledger(num_read=ledger.num_used + len(at_fault), num_used=ledger.num_used, rejects=at_fault)
    check_threshold(judged, run.recipe.data.max_rejected, rejects_file=run.path("rejects.jsonl"))


def _store_contract(run: Run, base: Base) -> Contract | None:
    """The template contract as it is now; every later stage is held to it."""
    if base.template is None:
        run.path("contract.json").unlink(missing_ok=True)
        return None
    generation = base.folder / "generation_config.json"
    defaults = read_json(generation) if generation.is_file() else {}
    sampling = {
        key: defaults[key] for key in ("temperature", "top_p", "top_k", "repetition_penalty") if key in defaults
    }
    contract = make_contract(base.template, base.tokenizer, sampling)
    write_json(run.path("contract.json"), contract.to_json())
    return contract


def _drop_duplicates(section: DataSection, samples: list[Sample], ledger: Ledger) -> list[Sample]:
    if section.duplicates == "keep":
        return samples
    seen: dict[str, str] = {}
    kept = []
    for sample in samples:
        key = f"{sample.kind} {fold_finely(flat_text(sample))}"
        if key in seen:
            ledger.revoke(sample.origin.file, sample.origin.line, "duplicate", first=seen[key])
        else:
            seen[key] = str(sample.origin)
            kept.append(sample)
    return kept


def _refuse_unaccepted(samples: Iterable[Sample], desks: Sequence[_Stage], ledger: Ledger, told: Progress) -> None:
    accepted = frozenset().union(*(desk.stage.method.accepts for desk in desks))
    wanted = ", ".join(sorted(accepted))
    unwanted: Counter[str] = Counter()
    for sample in samples:
        if sample.kind not in accepted:
            unwanted[sample.kind] += 1
            ledger.revoke(sample.origin.file, sample.origin.line, "no_stage_wants_it", kind=sample.kind, wanted=wanted)
    for kind, count in unwanted.items():
        told.note(say("pipeline.unwanted", count=count, kind=kind, wanted=wanted))


class _Stage:
    """Encodes what one stage's method accepts and writes its dataset."""

    def __init__(self, name: str, recipe: Recipe, stage: StageSection, base: Base, contract: Contract | None) -> None:
        self.name, self.recipe, self.stage, self.base, self.contract = name, recipe, stage, base, contract
        self.fates = Fates()
        self.num_items = 0
        method = stage.method
        if base.template is None and method.kind != "pretrain":
            raise TemplateError("pipeline.no_template", where="model.template")
        self.encoder = Encoder(
            base.tokenizer,
            base.template,
            stage.training.context,
            # a document is always cut into passages: none of its tokens is lost, and none is an answer
            "split" if method.kind == "pretrain" else recipe.data.over_length,
            method.train_on if isinstance(method, SFTSection) else "assistant",
        )

    def write(
        self, folder: Path, parts: Split, replay: Sequence[Sample], sources: tuple[dict[str, Any], ...], told: Progress
    ) -> None:
        """The dataset folder of this stage; what happened to each row stands in `fates`."""
        card = Card(
            name=self.recipe.name,
            vocab_size=self.base.tokenizer.vocab_size,
            contract_digest=self.contract.digest if self.contract else "",
            tokenizer_digest=self.base.tokenizer.digest,
            sources=sources,
            facts={
                "split": parts.certificate,
                "over_length": self.recipe.data.over_length,
                "context": self.stage.training.context,
            },
        )
        told.start(say("pipeline.encoding", stage=self.name))
        items = self._watched(self.encoder.items(self._accepted(parts.train), self.fates.ledger), told)
        validation = self.encoder.items(self._accepted(parts.validation), self.fates.ledger)
        dataset = Dataset.write(folder, {"train": self._with_replay(items, replay), "validation": validation}, card)
        told.finish()
        self.num_items = len(dataset.part("train"))

    def refuse_untouched(self) -> None:
        """DataError when no sample is of a kind that this stage learns from."""
        if not self.fates.tried and not self.num_items:
            wanted = ", ".join(sorted(self.stage.method.accepts))
            raise DataError(
                "pipeline.stage_without_data", where="data.sources", stage=self.stage.method.kind, wanted=wanted
            )

    def refuse_empty(self, rejects: Path) -> None:
        """DataError when there were such samples, and every one was refused."""
        if not self.num_items:
            count = len(self.fates.ledger.rejects)
            raise DataError("pipeline.stage_all_refused", where="data.sources", stage=self.name, count=count,
                            rejects=str(rejects))  # fmt: skip

    def _accepted(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Samples of the kinds that the method takes; rows that reach the encoder are counted."""
        for sample in samples:
            if sample.kind in self.stage.method.accepts:
                self.fates.tried[sample.origin.file, sample.origin.line] += 1
                yield sample

    def _watched(self, items: Iterator[Item], told: Progress) -> Iterator[Item]:
        for item in items:
            told.advance()
            yield item

    def _with_replay(self, items: Iterator[Item], replay: Sequence[Sample]) -> Iterator[Item]:
        """General items after the domain's own, until they make up `data.replay.ratio` of all train tokens."""
        num_tokens = 0
        for item in items:
            num_tokens += sum(len(tokens) for tokens in item.tokens)
            yield item
        ratio = self.recipe.data.replay.ratio
        wanted = num_tokens * ratio / (1 - ratio)
        given = 0
        general = (sample for sample in replay if sample.kind in self.stage.method.accepts)
        for item in self.encoder.items(general, Ledger()):
            if given >= wanted:
                break
            given += sum(len(tokens) for tokens in item.tokens)
            yield item
        self.fates.ledger.counts["replay_tokens"] += given

    def previews(self, train: Sequence[Sample]) -> list[dict[str, Any]]:
        """The first samples as the model will see them: text pieces, ids, what is learnt."""
        silent = Ledger()
        found: list[dict[str, Any]] = []
        for sample in train:
            if len(found) == NUM_PREVIEWS:
                break
            if sample.kind not in self.stage.method.accepts:
                continue
            encoded = self.encoder.encode(sample, silent)
            if encoded:
                found.append(
                    preview(encoded[0].ids.tolist(), encoded[0].weights.tolist(), self.base, str(sample.origin))
                )
        return found


def preview(ids: list[int], weights: list[int], base: Base, origin: str) -> dict[str, Any]:
    """Ids, weights and the text in runs of equal weight, control tokens shown."""
    runs: list[dict[str, Any]] = []
    start = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or weights[end] != weights[start]:
            text = base.tokenizer.decode(ids[start:end], skip_control=False)
            runs.append({"text": text, "learnt": bool(weights[start])})
            start = end
    return {"origin": origin, "ids": ids, "weights": weights, "runs": runs}


def _specs(section: DataSection) -> list[SourceSpec]:
    return [
        SourceSpec(source.path, None if source.format == "auto" else source.format, source.columns or None)
        for source in section.sources
    ]


def _sources_of(section: DataSection) -> dict[str, str]:
    """Every file that is read, and its digest."""
    if not section.sources:
        raise DataError("pipeline.no_sources", where="data.sources")
    extra = [path for path in (section.validation, section.replay.path) if path]
    return {found.name: sha256_file(found.path) for found in find_files([*_specs(section), *extra])}


def _describe(section: DataSection, digests: dict[str, str]) -> tuple[dict[str, Any], ...]:
    """Each source as the dataset's card tells of it: path, number of files, digest of them all."""
    found = []
    for spec in _specs(section):
        names = [file.name for file in find_files([spec])]
        digest = sha256_json([digests[name] for name in names])
        found.append({"path": str(spec.path), "files": len(names), "digest": digest})
    return tuple(found)


def _inputs_digest(recipe: Recipe, base: Base, sources: dict[str, str]) -> str:
    stages = [[stage.method.model_dump(mode="json"), stage.training.context] for stage in recipe.plan_stages()]
    template = base.template.texts if base.template else None
    told = [recipe.model.system, recipe.model.thinking, recipe.model.template, recipe.evaluation.questions is None]
    data = recipe.data.model_dump(mode="json")
    return sha256_json([VERSION, data, stages, sources, base.tokenizer.digest, template, told])
