"""prepare: sources in, one packed dataset per stage out, and an account of every row. No torch, no GPU.

read > drop duplicates > split by group > render > encode > write. The result is reused as long as sources, recipe
chapters, tokenizer and template stay the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import DataError
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
from danlu.data.split import fold, split
from danlu.data.tokens import Item
from danlu.pipeline.base import Base, open_base
from danlu.pipeline.leaks import asked, fold_digest
from danlu.recipe.data import DataSection
from danlu.recipe.method import SFTSection, StageSection
from danlu.recipe.recipe import Recipe
from danlu.run.run import Run
from danlu.version import VERSION

NUM_PREVIEWS = 3
NUM_PROBES = 16


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
    outcome = run.finished("prepare", inputs)
    if outcome is None:
        with run.acting("prepare"):
            outcome = run.finish("prepare", inputs, _prepare(run, base, told))
    return _open(run, outcome)


def _open(run: Run, outcome: dict[str, Any]) -> Prepared:
    stages = tuple(StageData(name, Dataset.open(run.path("dataset", name))) for name in outcome["stages"])
    stored = run.path("contract.json")
    contract = Contract.from_json(read_json(stored)) if stored.is_file() else None
    return Prepared(stages, read_json(run.path("ledger.json")), outcome["certificate"], contract, outcome)


def _prepare(run: Run, base: Base, told: Progress) -> dict[str, Any]:
    recipe, ledger = run.recipe, Ledger()
    contract = _store_contract(run, base)
    samples = _drop_duplicates(recipe.data, _read(_specs(recipe.data), ledger, told), ledger)
    watched = _read([SourceSpec(recipe.data.validation)], ledger, told) if recipe.data.validation else None
    parts = split(
        samples,
        test=recipe.data.split.test if recipe.evaluation.questions is None else 0.0,
        validation=recipe.data.split.validation if watched is None else 0.0,
        seed=recipe.data.split.seed,
    )
    told.note(
        say("pipeline.split", train=len(parts.train), validation=len(watched or parts.validation), test=len(parts.test))
    )
    write_samples(run.path("dataset", "test.jsonl"), parts.test)
    write_json(
        run.path("dataset", "prompts.json"), sorted({fold_digest(text) for s in parts.train for text in asked(s)})
    )
    write_json(run.path("dataset", "probes.json"), _probes(parts.train))
    certificate = parts.certificate
    replay_ledger = Ledger()  # apart: rows that the ratio does not need are neither used nor rejected
    replay = _read([SourceSpec(recipe.data.replay.path)], replay_ledger, told) if recipe.data.replay.path else []
    names = []
    previews: list[dict[str, Any]] = []
    accepted: set[str] = set()
    for number, stage in enumerate(recipe.plan_stages(), start=1):
        name = f"{number}-{stage.method.kind}"
        names.append(name)
        accepted |= stage.method.accepts
        desk = _Stage(recipe, stage, base, ledger, contract)
        told.start(say("pipeline.encoding", stage=name))
        desk.write(run.path("dataset", name), parts.train, watched or parts.validation, replay, certificate, told)
        told.finish()
        previews += desk.previews(parts.train)
    _refuse_unaccepted([*parts.train, *parts.validation, *parts.test], accepted, ledger)
    write_json(run.path("dataset", "preview.json"), previews)
    return _account(run, ledger) | {
        "replay": replay_ledger.to_json()["rows"],
        "stages": names,
        "certificate": certificate,
        "num_test": len(parts.test),
    }


def _probes(samples: Sequence[Sample]) -> list[list[dict[str, str]]]:
    """A few training prompts, spread over the data: what parity and canaries are asked in the domain's own words."""
    asking = [sample for sample in samples if asked(sample)]
    step = max(1, len(asking) // NUM_PROBES)
    return [[{"role": "user", "content": asked(sample)[0]}] for sample in asking[::step][:NUM_PROBES]]


def _read(specs: Sequence[SourceSpec], ledger: Ledger, told: Progress) -> list[Sample]:
    return list(read(specs, ledger, progress=told))


def _account(run: Run, ledger: Ledger) -> dict[str, Any]:
    """Store the ledger and the rejects before judging them: who is refused must be able to read why."""
    ledger.check()
    write_rejects(ledger, run.path("rejects.jsonl"))
    account = ledger.to_json()
    write_json(run.path("ledger.json"), account)
    check_threshold(ledger, run.recipe.data.max_rejected, rejects_file=run.path("rejects.jsonl"))
    if not ledger.num_used:
        raise DataError("pipeline.nothing_left", where="data.sources", rejects=str(run.path("rejects.jsonl")))
    return {"rows": account["rows"], "counts": account["counts"]}


def _store_contract(run: Run, base: Base) -> Contract | None:
    """The template contract as it is now; every later stage is held to it."""
    if base.template is None:
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
        key = f"{sample.kind} {fold(flat_text(sample))}"
        if key in seen:
            ledger.revoke(sample.origin.file, sample.origin.line, "duplicate", first=seen[key])
        else:
            seen[key] = str(sample.origin)
            kept.append(sample)
    return kept


def _refuse_unaccepted(samples: Iterable[Sample], accepted: set[str], ledger: Ledger) -> None:
    for sample in samples:
        if sample.kind not in accepted:
            ledger.revoke(
                sample.origin.file,
                sample.origin.line,
                "no_stage_wants_it",
                kind=sample.kind,
                wanted=", ".join(sorted(accepted)),
            )


class _Stage:
    """Encodes what one stage's method accepts and writes its dataset."""

    def __init__(
        self, recipe: Recipe, stage: StageSection, base: Base, ledger: Ledger, contract: Contract | None
    ) -> None:
        self.recipe, self.stage, self.base, self.ledger, self.contract = recipe, stage, base, ledger, contract
        method = stage.method
        self.encoder = Encoder(
            base.tokenizer,
            base.template,
            stage.training.context,
            # a document is always cut into passages: none of its tokens is lost, and none is an answer
            "split" if method.kind == "pretrain" else recipe.data.over_length,
            method.train_on if isinstance(method, SFTSection) else "assistant",
        )

    def write(
        self, folder: Path, train: Sequence[Sample], validation: Sequence[Sample], replay: Sequence[Sample],
        certificate: dict[str, Any], told: Progress,
    ) -> Dataset:  # fmt: skip
        """The dataset folder of this stage. DataError when no item is left for training."""
        items = self._watched(self.encoder.items(self._accepted(train), self.ledger), told)
        card = Card(
            name=self.recipe.name,
            vocab_size=self.base.tokenizer.vocab_size,
            contract_digest=self.contract.digest if self.contract else "",
            tokenizer_digest=self.base.tokenizer.digest,
            sources=tuple(_describe(SourceSpec(source.path)) for source in self.recipe.data.sources),
            facts={
                "split": certificate,
                "over_length": self.recipe.data.over_length,
                "context": self.stage.training.context,
            },
        )
        dataset = Dataset.write(
            folder,
            {
                "train": self._with_replay(items, replay),
                "validation": self.encoder.items(self._accepted(validation), self.ledger),
            },
            card,
        )
        if not len(dataset.part("train")):
            wanted = ", ".join(sorted(self.stage.method.accepts))
            raise DataError(
                "pipeline.stage_without_data", where="data.sources", stage=self.stage.method.kind, wanted=wanted
            )
        return dataset

    def _accepted(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        return (sample for sample in samples if sample.kind in self.stage.method.accepts)

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
        for item in self.encoder.items(self._accepted(replay), Ledger()):
            if given >= wanted:
                break
            given += sum(len(tokens) for tokens in item.tokens)
            yield item
        self.ledger.counts["replay_tokens"] += given

    def previews(self, train: Sequence[Sample]) -> list[dict[str, Any]]:
        """The first samples as the model will see them: text pieces, ids, what is learnt."""
        silent = Ledger()
        found: list[dict[str, Any]] = []
        for sample in self._accepted(train):
            if len(found) == NUM_PREVIEWS:
                break
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


def _describe(spec: SourceSpec) -> dict[str, Any]:
    files = find_files([spec])
    return {"path": str(spec.path), "files": len(files), "digest": sha256_json([sha256_file(f.path) for f in files])}


def _inputs_digest(recipe: Recipe, base: Base, sources: dict[str, str]) -> str:
    stages = [[stage.method.model_dump(mode="json"), stage.training.context] for stage in recipe.plan_stages()]
    template = base.template.texts if base.template else None
    told = [recipe.model.system, recipe.model.thinking, recipe.model.template, recipe.evaluation.questions is None]
    data = recipe.data.model_dump(mode="json")
    return sha256_json([VERSION, data, stages, sources, base.tokenizer.digest, template, told])
