"""sweep: the same recipe with other values, each a run of its own, ranked by what it answers on the validation part.

Not by loss, which is no answer, and never on the test part, which is to judge the one that is taken. Trials lie in the
sweep's folder as ordinary runs: a sweep that was stopped, or killed, finds what is done and goes on. `sweep.json` has
the table, `sweep.html` shows it, `best.yaml` is the recipe to run.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from danlu.core.errors import DanluError, EvaluationError
from danlu.core.files import sha256_json, write_json, write_text
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.evaluation.ranking import Candidate, Placed, figures, rank
from danlu.evaluation.ranking_html import render_ranking
from danlu.pipeline.evaluate import evaluate_validation
from danlu.pipeline.prepare import prepare
from danlu.pipeline.train import train
from danlu.pipeline.trials import Wish, combinations, num_going_on, rungs_of, shortened, trial_recipe
from danlu.recipe import Recipe
from danlu.run.run import Run

TABLE, PAGE, BEST, TRIALS = "sweep.json", "sweep.html", "best.yaml", "trials"


@dataclass(frozen=True, slots=True)
class Swept:
    """`placed` best first; `dropped` went out in an earlier rung, `failed` could not be trained, each with why."""

    folder: Path
    wish: Wish
    placed: list[Placed]
    base: float
    num_items: int
    dropped: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def num_alike(self) -> int:
        """How many, the best among them, cannot be told apart from it."""
        return sum(not one.is_apart for one in self.placed)

    def to_json(self) -> dict[str, Any]:
        return self.wish.to_json() | {
            "ranking": [one.to_json() for one in self.placed], "num_alike": self.num_alike, "base": self.base,
            "num_items": self.num_items, "dropped": self.dropped, "failed": self.failed, "part": "validation",
            "best": str(self.folder / BEST), "page": str(self.folder / PAGE),
        }  # fmt: skip


def sweep(
    recipe: Recipe, wish: Wish, runs: Path = Path("runs"), *, device: str = "auto", progress: Progress | None = None
) -> Swept:
    """Every trial trained and asked; the same wish again finds its results. EvaluationError when none could be."""
    progress = progress or Silent()
    chosen = combinations(wish.over, wish.by, trials=wish.trials, seed=wish.seed)
    recipes = {_name(number): trial_recipe(recipe, values) for number, values in enumerate(chosen, 1)}
    settings = {_name(number): values for number, values in enumerate(chosen, 1)}
    folder = runs / f"{recipe.name}-sweep-{sha256_json([recipe.digest, wish.to_json()])[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    dropped: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    rungs = rungs_of(len(chosen)) if wish.by == "halving" else [1.0]
    placed: list[Placed] = []
    found: dict[str, dict[str, Any]] = {}
    for share in rungs:
        names = [one.candidate.name for one in placed[: num_going_on(len(placed))]] if placed else list(recipes)
        dropped += [one.to_json() | {"share": told_share} for one, told_share in _left(placed, names, found)]
        given = {name: shortened(recipes[name], share) for name in names}
        found = {name: result | {"share": share} for name, result in _tried(folder, given, wish, device, progress)}
        failed += [
            {"trial": name, "settings": dict(settings[name]), "error": result["error"]}
            for name, result in found.items()
            if "error" in result
        ]
        whole = {name: result for name, result in found.items() if "error" not in result}
        if not whole:
            raise EvaluationError("sweep.none", where=str(folder), given=len(found), said=failed[-1]["error"])
        placed = rank([Candidate.of(name, settings[name], result) for name, result in whole.items()])
    first = found[placed[0].candidate.name]
    swept = Swept(folder, wish, placed, first["base"], first["num_items"], dropped, failed)
    _keep(swept, recipe)
    return swept


def _left(
    placed: Sequence[Placed], names: Sequence[str], found: Mapping[str, dict[str, Any]]
) -> Iterator[tuple[Placed, float]]:
    """Those of the last rung that do not go on."""
    for one in placed:
        if one.candidate.name not in names:
            yield one, found[one.candidate.name]["share"]


def _tried(
    folder: Path, recipes: Mapping[str, Recipe], wish: Wish, device: str, progress: Progress
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, what came of it), in order; several at once only where that was asked for."""
    if wish.parallel < 2:
        for place, (name, recipe) in enumerate(recipes.items(), 1):
            progress.note(say("sweep.trying", trial=name, place=place, num=len(recipes)))
            yield name, try_one(folder, recipe, device, progress)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(wish.parallel, mp_context=context) as pool:
        waiting = {name: pool.submit(try_one, folder, recipe, device) for name, recipe in recipes.items()}
        for place, (name, result) in enumerate(waiting.items(), 1):
            progress.note(say("sweep.trying", trial=name, place=place, num=len(recipes)))
            try:
                found = result.result()
            except BrokenProcessPool as error:  # the others end with it, and nothing says whose process it was
                raise EvaluationError("sweep.killed", where=str(folder), parallel=wish.parallel) from error
            yield name, found


def try_one(folder: Path, recipe: Recipe, device: str, progress: Progress | None = None) -> dict[str, Any]:
    """One trial: a run of its own, prepared, trained and asked, or what it left when it was; `error` where it could not
    be."""
    progress = progress or Silent()
    run = Run.create(recipe, folder / TRIALS)
    began = time.perf_counter()
    try:
        prepared = prepare(run, progress=progress)
        last = train(run, prepared, device=device, progress=progress)[-1]
        inputs = sha256_json([recipe.digest, [stage.digest for stage in prepared.stages], last.facts])
        if (known := run.finished("trial", inputs)) is not None:
            return known
        found = figures(evaluate_validation(run, last.folder, device=device, progress=progress))
    except DanluError as error:
        return {"error": error.text, "run": run.name}
    return run.finish("trial", inputs, found | {"run": run.name, "seconds": time.perf_counter() - began})


def _keep(swept: Swept, recipe: Recipe) -> None:
    best = swept.placed[0].candidate
    tree = trial_recipe(recipe, dict(best.settings)).model_dump(mode="json", exclude_unset=True)
    exports = recipe.model_dump(mode="json", exclude_unset=True).get("exports")
    tree = {key: value for key, value in tree.items() if key != "exports"} | ({"exports": exports} if exports else {})
    head = say("sweep.best_head", trials=len(swept.placed) + len(swept.dropped) + len(swept.failed))
    write_text(swept.folder / BEST, f"# {head}\n" + yaml.safe_dump(tree, allow_unicode=True, sort_keys=False))
    write_json(swept.folder / TABLE, swept.to_json())
    write_text(swept.folder / PAGE, render_ranking(swept.to_json(), recipe.name))


def _name(number: int) -> str:
    return f"t{number:03d}"
