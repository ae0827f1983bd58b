"""From sources to parts: every row read, cleaned, masked, compared, and put into train, validation or test.

plan > pass (read, row stages, signatures, privacy) > near-duplicates > synthesis, passed and compared too > split >
augmentation, passed too and held against what is held out
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
from danlu.data.flow.account import DUPLICATE, MOST_LISTED, NEAR_DUPLICATE, Verdicts
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
    def of(cls, section: DataSection, progress: Progress, crew: Crew | None = None) -> Sources:
        """Find and digest all files; `crew` is told of those that will be passed."""
        watched = plan_shards([SourceSpec(section.validation)]) if section.validation else None
        wants_seeds = makes_samples(section) and section.synthesis.seeds
        seeds = plan_shards([SourceSpec(section.synthesis.seeds)]) if wants_seeds and section.synthesis.seeds else None
        replayed = file_of(section.replay)
        general = plan_shards([SourceSpec(replayed)]) if replayed else None
        plan = plan_shards(specs_of(section), expect=crew.expect if crew else None, progress=progress)
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


def smelt(
    recipe: Recipe, sources: Sources, passing: Passing, folder: Path, store: Store, progress: Progress
) -> Smelted:
    """Everything between the files and the encoder. `folder` is the run's, for what synthesis leaves."""
    return _Smelting(recipe, passing, folder, store, progress).smelt(sources)


@dataclass(slots=True)
class _Smelting:
    """One way from files to parts: what every row goes through, and the account of what came of it."""

    recipe: Recipe
    passing: Passing
    folder: Path
    store: Store
    progress: Progress
    ledger: Ledger = field(default_factory=lambda: Ledger(most=MOST_LISTED))
    funnel: list[Passed] = field(default_factory=list)

    def smelt(self, sources: Sources) -> Smelted:
        main = self._convey(sources.plan, sources.crew)
        watched = self._convey(sources.watched) if sources.watched else None
        read = [main, watched] if watched else [main]
        for one in read:
            self.ledger.merge(one.ledger())
        pieces = list(main.pieces)
        alive, decision, verdicts = _compare(pieces, self.recipe.data)
        self.funnel = [*add_up([one.funnel for one in read]), _compared(int(alive.sum()), verdicts)]
        made: list[AnyPiece] = []
        if makes_samples(self.recipe.data) and alive.any():
            rows = Parts(list(pieces), _everything(verdicts), verdicts, {})
            made = self._synthesize(rows, self._convey(sources.seeds).pieces if sources.seeds else [])
            pieces += made
            alive, decision, verdicts = _compare(pieces, self.recipe.data)
        part, certificate = _split(pieces, decision, verdicts, self.recipe, has_watched=watched is not None)
        parts = Parts(pieces, part, verdicts, certificate)
        if watched is not None:
            parts.add(watched.pieces, VALIDATION)
        counts = {name: parts.count(name) for name in ("train", "validation", "test")}
        self.progress.note(say("pipeline.split", **counts))
        return Smelted(parts, read, decision, self.funnel, [*made, *self._vary(parts)], self.ledger)

    def _convey(self, plan: Plan, crew: Crew | None = None) -> Conveyed:
        section = self.recipe.data
        return convey(
            plan, self.passing, self.store, engine=section.engine, num_workers=section.workers,
            ready=crew.executor if crew else None, progress=self.progress,
        )  # fmt: skip

    def _synthesize(self, rows: Parts, seeds: Sequence[AnyPiece]) -> list[AnyPiece]:
        """What a teacher makes of the documents that stay goes the way of all rows. Example tasks are no rows."""
        kinds = ("document", "conversation") if self.recipe.data.synthesis.preferences else ("document",)
        documents = list(rows.samples("train", kinds))  # pairs are made of answers of one's own, too
        examples = [row.sample for piece in seeds for _, row in piece.rows() if row.sample is not None]
        counted, facts = Ledger(), ShardFacts()
        replies = self.store.folder / "replies"
        fresh = synthesize(self.recipe, documents, examples, self.folder / "synthesis", replies, counted, self.progress)
        self.ledger.remarks += counted.remarks
        pieces: list[AnyPiece] = list(pass_samples(fresh, self.passing, facts))
        self.funnel.append(self._count_made("synthesis", pieces, facts))
        return pieces

    def _vary(self, parts: Parts) -> list[AnyPiece]:
        """Variants of train rows go the way of all rows into train, but for those that are like a held-out row."""
        if not self.recipe.data.augment.methods:
            return []
        facts, first = ShardFacts(), len(parts.part)
        fresh = vary(self.recipe, Part(parts, "train"), self.store.folder / "replies", self.progress)
        pieces: list[AnyPiece] = list(pass_samples(fresh, self.passing, facts))
        if pieces:
            parts.add(pieces, TRAIN)
            num = leave_out_like_held_out(parts, first, Settings(threshold=self.recipe.data.cleaning.similarity))
            trained = int((parts.part[first:] == TRAIN).sum())
            parts.certify(variants={"made": facts.num_read, "like_held_out": num, "train": trained})
            passed = self._count_made("augment", pieces, facts)
            passed.rows_out -= num
            if num:
                passed.dropped["like_held_out"] = num
            self.funnel.append(passed)
        return pieces

    def _count_made(self, stage: str, pieces: Sequence[AnyPiece], facts: ShardFacts) -> Passed:
        """Rows that no file holds are rows too: each of them ends as used or rejected. Their own line in the funnel."""
        self.ledger.num_read += facts.num_read
        self.ledger.num_used += sum(map(len, pieces))
        self.ledger.counts["rows_made" if stage == "synthesis" else "rows_varied"] += facts.num_read
        passed = Passed(stage, facts.num_read, int(joined(pieces, "alive").sum()))
        for station in facts.funnel:
            passed.dropped.update(station.dropped)
        return passed


def _compare(pieces: Sequence[AnyPiece], section: DataSection) -> tuple[Any, Decision, Verdicts]:
    """Duplicates and near-duplicates by the columns of all pieces; what becomes of them is the recipe's word."""
    alive = np.asarray(joined(pieces, "alive"), bool)
    looks = section.split.test > 0 or section.split.validation > 0
    near = section.cleaning.near_duplicates
    settings = Settings(threshold=section.cleaning.similarity)
    decision = decide([piece.columns for piece in pieces], settings=settings, kept=alive, link=looks or near != "keep")
    return alive, decision, Verdicts.of(alive, decision, exact=section.duplicates, near=near)


def _compared(rows_in: int, verdicts: Verdicts) -> Passed:
    passed = Passed("twins", rows_in, int(verdicts.stays.sum()))
    for name, code in (("duplicate", DUPLICATE), ("near_duplicate", NEAR_DUPLICATE)):
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
