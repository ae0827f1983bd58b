"""prepare: sources in, one packed dataset per stage out, and an account of every row. No torch, no GPU.

    furnace.py   files > rows > parts        desk.py   parts > tokens, one dataset per stage
    here         the act: found again while nothing it stands on has changed; what is stored beside; who is refused

What many runs may use (finished shards, replies of teachers) lies in `.furnace` beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from danlu.core.errors import DataError, RunError
from danlu.core.files import read_json, remove_unfinished, sha256_json, write_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.card import Card
from danlu.data.contract import Contract, make_contract
from danlu.data.dataset import Dataset
from danlu.data.finding import find_files
from danlu.data.flow.account import fold as fold_fates
from danlu.data.flow.conveyor import keys_of
from danlu.data.flow.crew import Crew
from danlu.data.flow.kept import rows_gone
from danlu.data.flow.passing import Passing
from danlu.data.flow.store import Store
from danlu.data.ledger import Entry, Ledger, is_fault
from danlu.data.rejects import check_threshold, write_rejects
from danlu.data.sample import Sample
from danlu.data.samples_file import write_samples
from danlu.pipeline.base import Base, open_base
from danlu.pipeline.data_report import write_report
from danlu.pipeline.desk import Desk
from danlu.pipeline.encoders import refuse_unfit, store_class_contract
from danlu.pipeline.fates import merge_stages
from danlu.pipeline.furnace import STORE, Smelted, Sources, smelt, specs_of
from danlu.pipeline.leaks import asked, write_prompts
from danlu.pipeline.parts import Parts
from danlu.pipeline.passing import build_passing
from danlu.pipeline.prepared_facts import facts_of
from danlu.pipeline.provenance import counting_on, keep_rows, prune, write_manifests
from danlu.pipeline.replayed import Replay
from danlu.recipe.data import DataSection
from danlu.recipe.recipe import Recipe
from danlu.run.run import Run
from danlu.version import VERSION

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
    progress = progress or Silent()
    recipe = run.recipe
    base = open_base(recipe.model, progress=progress)
    refuse_unfit(recipe, base)
    if not recipe.data.sources:
        raise DataError("pipeline.no_sources", where="data.sources")
    store = Store(run.folder.parent / STORE)
    with Crew(recipe.data.engine, recipe.data.workers, store) as crew:
        sources = Sources.of(recipe.data, progress, crew)
        passing = build_passing(recipe.data, recipe.evaluation.questions, progress=progress)
        return _made_or_found(run, base, sources, passing, store, progress)


def _made_or_found(
    run: Run, base: Base, sources: Sources, passing: Passing, store: Store, progress: Progress
) -> Prepared:
    recipe = run.recipe
    inputs = _inputs_digest(recipe, base, sources, passing)
    with run.acting("prepare"):
        outcome = run.finished("prepare", inputs)
        if outcome is not None:
            try:
                return _open(run, outcome)
            except (DataError, RunError) as error:  # damaged since: made anew, for the sources are still there
                progress.note(error.text)
        remove_unfinished(run.path("dataset"))
        keys = [key for plan in sources.plans for key in keys_of(plan, passing, recipe.data.engine)]
        with counting_on(run, store, keys):
            made = _prepare(run, base, sources, passing, store, progress)
        return _open(run, run.finish("prepare", inputs, made))


def _open(run: Run, outcome: dict[str, Any]) -> Prepared:
    """DataError or RunError when something of it is damaged or gone, rows in the store included."""
    if rows_gone(run.path("dataset"), Store(run.folder.parent / STORE)):
        raise RunError("flow.rows_gone", where=str(run.folder.parent / STORE), runs=run.name)
    stages = _stages(run, outcome)
    contract = Contract.from_json(run.read("contract.json")) if run.path("contract.json").is_file() else None
    return Prepared(stages, run.read("ledger.json"), outcome["certificate"], contract, outcome)


def _stages(run: Run, outcome: dict[str, Any]) -> tuple[StageData, ...]:
    return tuple(StageData(name, Dataset.open(run.path("dataset", name))) for name in outcome["stages"])


def prepared_stages(run: Run) -> tuple[StageData, ...]:
    """The datasets that lie in a run, whatever has changed since; RunError where it was never prepared."""
    outcome = run.outcome("prepare")
    if outcome is None:
        raise RunError("ranks.not_prepared", where=str(run.folder))
    return _stages(run, outcome)


def _prepare(
    run: Run, base: Base, sources: Sources, passing: Passing, store: Store, progress: Progress
) -> dict[str, Any]:
    recipe = run.recipe
    contract = _store_contract(run, base) if base.reach is None else None
    smelted = smelt(recipe, sources, passing, run.folder, store, progress)
    parts, ledger = smelted.parts, smelted.ledger
    if not parts.verdicts.stays.any():
        _store_account(run, smelted)
        _judge(run, smelted)
    write_samples(run.path("dataset", "test.jsonl"), parts.samples("test"))
    if base.reach is not None:
        contract = store_class_contract(run, base, parts)
    replay = Replay(recipe, smelted, sources.general, passing, store, progress)
    desks: list[Desk] = []
    previews: list[dict[str, Any]] = []
    for number, stage in enumerate(recipe.plan_stages(), start=1):
        desk = Desk(f"{number}-{stage.method.kind}", recipe, stage, base, contract)
        desk.write(run.path("dataset", desk.name), parts, replay, _describe(recipe.data, sources), progress)
        previews += desk.previews(parts)
        desks.append(desk)
    _refuse_unaccepted(parts, desks, progress)
    write_json(run.path("dataset", "preview.json"), previews)
    _write_beside(run, parts)
    account = _store_account(run, smelted, desks, replay)
    _tell_replay(run, replay, progress)
    for desk in desks:
        desk.refuse_untouched()
    _judge(run, smelted)
    for desk in desks:
        desk.refuse_empty(run.path("rejects.jsonl"))
    keep_rows(run, smelted)
    name = write_manifests(run, smelted, sources, passing, desks, account)
    write_report(run, facts_of(run, smelted, desks, ledger, name))
    prune(run, store)
    return {"rows": account["rows"], "counts": account["counts"]} | {
        "dataset_id": name,
        "shards": {
            "all": sum(len(one.shards) for one in smelted.conveyed),
            "redone": sum(one.num_redone for one in smelted.conveyed),
        },
        "replay": {"rows": replay.num_taken},
        "stages": [desk.name for desk in desks],
        "certificate": parts.certificate,
        "num_test": parts.count("test"),
    }


def _write_beside(run: Run, parts: Parts) -> None:
    """What evaluation and export want to know of training: the prompts seen, replay's too, and a few probes."""
    seen = chain(parts.samples("train"), parts.samples("replay"))
    asking = write_prompts(run.path("dataset", "prompts.json"), seen)
    asking -= sum(bool(asked(sample)) for sample in parts.samples("replay"))
    write_json(run.path("dataset", "probes.json"), list(_probes(parts.samples("train"), asking)))


def _probes(samples: Iterator[Sample], num_asking: int) -> Iterator[list[dict[str, str]]]:
    """A few training prompts, spread over the data: what parity and canaries are asked in the domain's own words."""
    step = max(1, num_asking // NUM_PROBES)
    at = 0
    for sample in samples:
        turns = asked(sample)
        if not turns:
            continue
        if at % step == 0 and at < step * NUM_PROBES:
            yield [{"role": "user", "content": turns[0]}]
        at += 1
        if at >= step * NUM_PROBES:
            return


def _refuse_unaccepted(parts: Parts, desks: Sequence[Desk], progress: Progress) -> None:
    accepted = frozenset().union(*(desk.stage.method.accepts for desk in desks))
    for kind, count in parts.verdicts.refuse_unwanted(parts.pieces, accepted).items():
        progress.note(say("pipeline.unwanted", count=count, kind=kind, wanted=parts.verdicts.wanted))


def _store_account(
    run: Run, smelted: Smelted, desks: Sequence[Desk] = (), replay: Replay | None = None
) -> dict[str, Any]:
    """Store the ledger and the rejects, before they are judged: who is refused must be able to read why. Replay has an
    account of its own, for it is no data of the project's."""
    parts, ledger = smelted.parts, smelted.ledger
    _count_tried(parts, desks)
    own = range(replay.first_piece) if replay else None

    def of_encoding() -> Iterator[Entry]:
        yield from merge_stages(ledger, [desk.fates for desk in desks])

    entries = chain(fold_fates(parts.pieces, parts.verdicts, ledger, own), of_encoding())
    general = replay.account([desk.replayed for desk in desks]) if replay else ()
    write_rejects(chain(entries, general), run.path("rejects.jsonl"))
    ledger.check()
    account = ledger.to_json()
    if replay and replay.ledger.num_read:
        account["replay"] = replay.to_json()
        account["counts"] |= {f"replay_{name}": num for name, num in account["replay"]["rows"].items()}
    write_json(run.path("ledger.json"), account)
    return account


def _tell_replay(run: Run, replay: Replay, progress: Progress) -> None:
    """Once, what of replay could not be used: nobody would miss it."""
    ledger = replay.ledger
    if ledger.num_rejected:
        reasons = "; ".join(f"{num} × {say(f'ledger.{reason}', **entry.values)}"
                            for reason, num, entry in ledger.top_reasons())  # fmt: skip
        progress.note(say("pipeline.replay_refused", refused=ledger.num_rejected, read=ledger.num_read, reasons=reasons,
                      rejects=run.path("rejects.jsonl")))  # fmt: skip


def _count_tried(parts: Parts, desks: Sequence[Desk]) -> None:
    """Only places at which something was refused matter: another stage may have made it good."""
    refused = {place for desk in desks for place in desk.fates.refused()}
    if not refused:
        return
    for desk in desks:
        for name in ("train", "validation"):
            for _, row in parts.rows(name, desk.stage.method.accepts):
                place = row.origin.file, row.origin.line
                if place in refused:
                    desk.fates.tried[place] += 1


def _judge(run: Run, smelted: Smelted) -> None:
    """DataError when nothing can be used, or when too many rows were at fault."""
    ledger = smelted.ledger
    stages = {reason: passed.name for passed in smelted.funnel for reason in passed.dropped}
    chosen = frozenset(reason for reason in ledger.reasons if not is_fault(stages.get(reason, "encode"), reason))
    judged = _without(ledger, chosen) if ledger.num_used else ledger
    check_threshold(judged, run.recipe.data.max_rejected, rejects_file=run.path("rejects.jsonl"))


def _without(ledger: Ledger, chosen: frozenset[str]) -> Ledger:
    at_fault = [entry for entry in ledger.rejects if entry.reason not in chosen]
    judged = Ledger(num_used=ledger.num_used, rejects=at_fault)
    judged.unlisted_rejects.update({r: num for r, num in ledger.unlisted_rejects.items() if r not in chosen})
    judged.num_read = judged.num_used + judged.num_rejected
    return judged


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


def _describe(section: DataSection, sources: Sources) -> tuple[dict[str, Any], ...]:
    """Each source as the dataset's card tells of it: path, number of files, digest of them all."""
    digests = {file.name: file.digest for file in sources.plan.files}
    found = []
    for spec in specs_of(section):
        names = [file.name for file in find_files([spec])]
        digest = sha256_json([digests.get(name) for name in names])
        found.append({"path": str(spec.path), "files": len(names), "digest": digest})
    return tuple(found)


def _inputs_digest(recipe: Recipe, base: Base, sources: Sources, passing: Passing) -> str:
    """Of everything that decides the outcome: where rows are worked on does not."""
    stages = [[stage.method.model_dump(mode="json"), stage.training.context] for stage in recipe.plan_stages()]
    template = base.template.texts if base.template else None
    told = [recipe.model.system, recipe.model.thinking, recipe.model.template, recipe.evaluation.questions is None]
    data = recipe.data.model_dump(mode="json", exclude={"engine", "workers"})
    files = [file.to_json() for plan in sources.plans for file in plan.files]
    of_encoder = [] if base.reach is None else [base.reach]
    digests = [base.tokenizer.digest, template, told, *of_encoder]
    return sha256_json([VERSION, data, stages, files, passing.key(), *digests])
