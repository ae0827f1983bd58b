"""From sources to parts: every row read, cleaned, masked, compared, and put into train, validation or test.

plan > pass (read, row stages, signatures, privacy) > twins > synthesis, passed and compared too > split > augmentation,
passed too and held against what is held out
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from danlu.core.messages import say
from danlu.core.progress import Progress
from danlu.data.certificate import TRAIN, UNUSED, VALIDATION
from danlu.data.finding import SourceSpec
from danlu.data.flow.account import MOST_LISTED, Verdicts
from danlu.data.flow.conveyor import Conveyed, convey
from danlu.data.flow.crew import Crew
from danlu.data.flow.marks import Passed, add_up
from danlu.data.flow.passing import Passing, ShardFacts, pass_samples
from danlu.data.flow.piece import AnyPiece, Places, joined
from danlu.data.flow.plan import Plan, plan_shards
from danlu.data.flow.store import Store
from danlu.data.ledger import Ledger
from danlu.data.split import split_columns
from danlu.data.twins import Decision, Settings, decide
from danlu.pipeline.beside import leave_out_like_held_out
from danlu.pipeline.parts import Part, Parts
from danlu.pipeline.passing import makes_samples
from danlu.pipeline.replay import file_of
from danlu.pipeline.synthesize import synthesize, vary
from danlu.recipe.data import DataSection
from danlu.recipe.recipe import Recipe

STORE = ".furnace"
"""Beside the runs: finished shards and replies of teachers, which many runs may use."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read: the plan of the sources, that of `data.validation`, of `data.synthesis.seeds`, and of the file that
    is replayed."""

    plan: Plan
    watched: Plan | None = None
    seeds: Plan | None = None
    general: Plan | None = None
    crew: Crew | None = None
    """Workers that got ready meanwhile."""

    @classmethod
    def of(cls, section: DataSection, told: Progress, crew: Crew | None = None) -> Sources:
        """Find and digest all files; `crew` is told of those that will be passed."""
        watched = plan_shards([SourceSpec(section.validation)]) if section.validation else None
        wants_seeds = makes_samples(section) and section.synthesis.seeds
        seeds = plan_shards([SourceSpec(section.synthesis.seeds)]) if wants_seeds and section.synthesis.seeds else None
        replayed = file_of(section.replay)
        general = plan_shards([SourceSpec(replayed)]) if replayed else None
        plan = plan_shards(specs_of(section), expect=crew.expect if crew else None, progress=told)
        return cls(plan, watched, seeds, general, crew)

    @property
    def plans(self) -> list[Plan]:
        return [plan for plan in (self.plan, self.watched, self.seeds, self.general) if plan is not None]


@dataclass(slots=True)
class Smelted:
    """All rows in their parts, and what is told of how they came there."""

    parts: Parts
    conveyed: list[Conveyed]
    decision: Decision
    funnel: list[Passed]
    made: list[AnyPiece] = field(default_factory=list)
    """Pieces of rows that no file holds."""
    ledger: Ledger = field(default_factory=Ledger)
    """Of the reading alone: fates are folded in when encoding has told its own."""


def specs_of(section: DataSection) -> list[SourceSpec]:
    return [
        SourceSpec(source.path, None if source.format == "auto" else source.format, source.columns or None)
        for source in section.sources
    ]


def smelt(recipe: Recipe, sources: Sources, passing: Passing, folder: Path, store: Store, told: Progress) -> Smelted:
    """Everything between the files and the encoder. `folder` is the run's, for what synthesis leaves."""
    section = recipe.data
    main = _convey(sources.plan, passing, store, section, told, sources.crew)
    watched = _convey(sources.watched, passing, store, section, told) if sources.watched else None
    read = [main, watched] if watched else [main]
    pieces = list(main.pieces)
    ledger = _ledger_of(read)
    alive, decision, verdicts = _compare(pieces, section)
    funnel = [*add_up([one.funnel for one in read]), _compared(int(alive.sum()), verdicts)]
    made: list[AnyPiece] = []
    if makes_samples(section) and alive.any():
        rows = Parts(list(pieces), _everything(verdicts), verdicts, {})
        seeds = _convey(sources.seeds, passing, store, section, told).pieces if sources.seeds else []
        made, said = _synthesize(recipe, rows, seeds, passing, folder, store, ledger, told)
        pieces += made
        funnel.append(_count_made(ledger, "synthesis", made, said))
        alive, decision, verdicts = _compare(pieces, section)
    part, certificate = _split(pieces, decision, verdicts, recipe, has_watched=watched is not None)
    parts = Parts(pieces, part, verdicts, certificate)
    if watched is not None:
        parts.add(watched.pieces, VALIDATION)
    told.note(say("pipeline.split", **{name: parts.count(name) for name in ("train", "validation", "test")}))
    variants = _vary(recipe, parts, passing, store, ledger, funnel, told)
    return Smelted(parts, read, decision, funnel, [*made, *variants], ledger)


def _convey(
    plan: Plan, passing: Passing, store: Store, section: DataSection, told: Progress, crew: Crew | None = None
) -> Conveyed:
    ready = crew.executor if crew else None
    return convey(plan, passing, store, engine=section.engine, num_workers=section.workers, ready=ready, progress=told)


def _ledger_of(read: Sequence[Conveyed]) -> Ledger:
    ledger = Ledger(most=MOST_LISTED)
    for one in read:
        ledger.merge(one.ledger())
    return ledger


def _count_made(ledger: Ledger, stage: str, pieces: Sequence[AnyPiece], said: ShardFacts) -> Passed:
    """Rows that no file holds are rows too: each of them ends as used or rejected. Their own line in the funnel."""
    ledger.num_read += said.num_read
    ledger.num_used += sum(map(len, pieces))
    ledger.counts["rows_made" if stage == "synthesis" else "rows_varied"] += said.num_read
    passed = Passed(stage, said.num_read, int(joined(pieces, "alive").sum()))
    for station in said.funnel:
        passed.dropped.update(station.dropped)
    return passed


def _compare(pieces: Sequence[AnyPiece], section: DataSection) -> tuple[Any, Decision, Verdicts]:
    """Twins over the columns of all pieces; what becomes of them is the recipe's word."""
    alive = np.asarray(joined(pieces, "alive"), bool)
    looks = section.split.test > 0 or section.split.validation > 0
    near = section.cleaning.near_duplicates
    settings = Settings(threshold=section.cleaning.similarity)
    decision = decide([piece.columns for piece in pieces], settings=settings, kept=alive, link=looks or near != "keep")
    return alive, decision, Verdicts.of(alive, decision, exact=section.duplicates, near=near)


def _compared(rows_in: int, verdicts: Verdicts) -> Passed:
    passed = Passed("twins", rows_in, int(verdicts.stays.sum()))
    for name, code in (("duplicate", 2), ("near_duplicate", 3)):
        if num := int((verdicts.left_out == code).sum()):
            passed.dropped[name] = num
        if num := int((verdicts.flagged == code).sum()):
            passed.flagged[name] = num
    return passed


def _everything(verdicts: Verdicts) -> Any:
    """A part for rows before there is a split: all that stay."""
    return np.where(verdicts.stays, TRAIN, UNUSED).astype(np.uint8)


def _split(
    pieces: Sequence[AnyPiece], decision: Decision, verdicts: Verdicts, recipe: Recipe, *, has_watched: bool
) -> tuple[Any, dict[str, Any]]:
    ratios = recipe.data.split
    return split_columns(
        [piece.columns for piece in pieces],
        decision,
        kept=verdicts.stays,
        test=ratios.test if recipe.evaluation.questions is None else 0.0,
        validation=0.0 if has_watched else ratios.validation,
        seed=ratios.seed,
        name_of=Places.of(pieces).name,
    )


def _synthesize(
    recipe: Recipe,
    rows: Parts,
    seeds: Sequence[AnyPiece],
    passing: Passing,
    folder: Path,
    store: Store,
    ledger: Ledger,
    told: Progress,
) -> tuple[list[AnyPiece], ShardFacts]:
    """What a teacher makes of the documents that stay goes the way of all rows. Example tasks are no rows."""
    kinds = ("document", "conversation") if recipe.data.synthesis.preferences else ("document",)
    documents = list(rows.samples("train", kinds))  # pairs are made of answers of one's own, too
    examples = [row.sample for piece in seeds for _, row in piece.rows() if row.sample is not None]
    counted = Ledger()
    fresh = synthesize(recipe, documents, examples, folder / "synthesis", store.folder / "replies", counted, told)
    ledger.remarks += counted.remarks
    said = ShardFacts()
    return list(pass_samples(fresh, passing, said)), said


def _vary(
    recipe: Recipe,
    parts: Parts,
    passing: Passing,
    store: Store,
    ledger: Ledger,
    funnel: list[Passed],
    told: Progress,
) -> list[AnyPiece]:
    """Variants of train rows go the way of all rows into train, but for those that are like a held-out row."""
    if not recipe.data.augment.methods:
        return []
    said, first = ShardFacts(), len(parts.part)
    fresh = vary(recipe, Part(parts, "train"), store.folder / "replies", told)
    pieces: list[AnyPiece] = list(pass_samples(fresh, passing, said))
    if pieces:
        parts.add(pieces, TRAIN)
        num = leave_out_like_held_out(parts, first, Settings(threshold=recipe.data.cleaning.similarity))
        parts.certify(
            variants={"made": said.num_read, "like_held_out": num, "train": int((parts.part[first:] == TRAIN).sum())}
        )
        passed = _count_made(ledger, "augment", pieces, said)
        passed.rows_out -= num
        if num:
            passed.dropped["like_held_out"] = num
        funnel.append(passed)
    return pieces
