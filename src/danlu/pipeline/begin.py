"""begin: what `danlu run DATA` means. The data's own recipe, found again or advised and written, and what it will take.

A recipe bears a digest of the data that it was written for (`round.mark`). By it the same command finds the same recipe
again, edited or not, whatever its file is called; other data gets a recipe, and so a run, of its own. Only bases that
lie on this machine are taken: nothing is fetched that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import DataError, RecipeError
from danlu.core.files import read_json, write_text
from danlu.core.messages import listed, say
from danlu.core.progress import Progress
from danlu.data.finding import mark_of
from danlu.data.tokenizer import Tokenizer
from danlu.model.hub import EMBEDDED, find_base
from danlu.model.nearby import find_nearby
from danlu.pipeline.advise import Advice, device_of
from danlu.pipeline.plan import WORTHWHILE_TOKENS_PER_S, find_shapes
from danlu.pipeline.survey import CHARS_PER_TOKEN, Survey, survey
from danlu.pipeline.write_recipe import Line, Start, class_recipe_text, recipe_text
from danlu.planning.advice import bases
from danlu.planning.advice.bases import Base, Candidate, Task, Wish, fit, licence_of
from danlu.planning.advice.numbers import LEARNT_BY, TINY_PARAMS, Facts, choose_numbers, choose_stages, tiny_context
from danlu.planning.advice.words import Reason
from danlu.planning.cards import Card, find_card
from danlu.planning.plan import Limits, Plan, plan_stage
from danlu.recipe import Recipe
from danlu.recipe.file import run_name
from danlu.recipe.overrides import anchor_paths, apply_overrides

COMMON_CARD = "RTX 4090"
"""The card for which a base is named where this machine trains none that answers well."""
MOST_RECIPE_BYTES = 1_000_000
"""No recipe is longer; a larger file beside the data is not searched."""
MOST_QUESTIONS = 500
"""Asked per task: they tell a share within about four points, and more cost more than the training of a small base."""
FEW_OVER_RATIO = 0.02
"""Rows longer than the base's context that are not worth a word: a run says each."""
ALLOWED_REJECTS = 0.1
"""As `data.max_rejected` has it."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Everything known before the first act. `advice` is None where an earlier recipe is taken up."""

    file: Path
    recipe: Recipe
    survey: Survey
    facts: Facts
    card: Card
    plans: tuple[Plan, ...]
    advice: Advice | None
    start: Start | None
    wished: Candidate | None
    """What would be taken if every base were here; for `COMMON_CARD` where this machine is too slow for any."""

    @property
    def total_s(self) -> float | None:
        """Of training; None where a stage does not fit or its length is not known."""
        times = [plan.total_s if plan.fits else None for plan in self.plans]
        return None if None in times or not times else sum(time for time in times if time is not None)


@dataclass(frozen=True, slots=True)
class Place:
    """The recipe file of some data, there already or the first name that is free for one."""

    file: Path
    mark: str
    is_there: bool


def told_kinds(kinds: Mapping[str, int]) -> str:
    """`900 questions with answers, 2 documents`."""
    return listed(say(f"begin.kind_{kind}", num=f"{num:,}") for kind, num in kinds.items())


def place_of(paths: Sequence[Path], overrides: Sequence[str] = (), folder: Path | None = None) -> Place:
    """Where the recipe of these very files stands, or will. Another base than the recipe's makes another recipe: its
    numbers were chosen for that one."""
    folder = folder or Path()
    _refuse_inside(paths, folder)
    mark = mark_of([str(path.resolve()) for path in paths])
    base = _asked_base(overrides).get("base")
    for file in sorted(folder.glob("*.yaml"), key=lambda path: (len(path.name), path.name)):
        if _is_of(file, mark, base):
            return Place(file, mark, is_there=True)
    free = next(file for file in _names(folder, _name_of(paths[0].resolve())) if not file.exists())
    return Place(free, mark, is_there=False)


def begin(
    paths: Sequence[Path], place: Place, *, overrides: Sequence[str] = (), progress: Progress | None = None
) -> Beginning:
    """The recipe of these files, and what following it will take. DataError or RecipeError where there is nothing to
    learn from, or the recipe that is there is wrong."""
    seen = survey(paths, progress=progress)
    card, limits = device_of()
    advice = start = wished = None
    if not place.is_there:
        advice, start, wished = _advise(seen, card, limits, _asked_base(overrides))
        _write(place, advice, start, seen, paths)
    recipe = Recipe.load(place.file, overrides)
    facts = advice.facts if advice else seen.facts(CHARS_PER_TOKEN[seen.language])
    return Beginning(place.file, recipe, seen, facts, card, _plans(recipe, facts, card, limits), advice, start, wished)


# ---- the file


def _refuse_inside(paths: Sequence[Path], folder: Path) -> None:
    """A recipe, or runs, below the data would be read as data the next time."""
    for path in paths:
        if path.is_dir() and folder.resolve().is_relative_to(path.resolve()):
            whole = path.resolve()
            raise DataError("begin.inside", where=str(path), parent=str(whole.parent), name=whole.name)


def _is_of(file: Path, mark: str, base: str | None) -> bool:
    """Looked for as text, so that a recipe that somebody's edit has broken is told of rather than passed over."""
    if not file.is_file() or file.stat().st_size > MOST_RECIPE_BYTES:
        return False
    if f'mark: "{mark}"' not in file.read_text(encoding="utf-8", errors="replace"):
        return False
    return base is None or Recipe.load(file).model.base == base


def _name_of(path: Path) -> str:
    """A folder's name; a file's without all its endings: `notes.csv.gz` is `notes`."""
    return run_name(path.name if path.is_dir() else path.name.partition(".")[0])


def _names(folder: Path, name: str) -> Iterator[Path]:
    yield folder / f"{name}.yaml"
    number = 2
    while True:
        yield folder / f"{name}-{number}.yaml"
        number += 1


def _write(place: Place, advice: Advice, start: Start, seen: Survey, paths: Sequence[Path]) -> None:
    """Paths stand in it as they were given where it lies where they were given, else whole."""
    sources = paths if place.file.parent == Path() else [path.resolve() for path in paths]
    if _is_encoder(advice.chosen):
        write_text(place.file, class_recipe_text(advice, place.file.stem, sources, start, place.mark))
        return
    reading, asking = _reading(advice, start, seen), _asking(advice)
    text = recipe_text(advice, place.file.stem, sources, start, reading=reading, asking=asking, mark=place.mark)
    write_text(place.file, text)


def _reading(advice: Advice, start: Start, seen: Survey) -> list[Line]:
    """What becomes of rows that the base's context cannot hold."""
    context = next(number.value for number in advice.numbers if number.key == "training.context")
    if set(advice.facts.kinds) == {"document"} or advice.facts.longest_tokens <= context:
        return []
    lines = [Line("over_length", "split", Reason("over_length", {"context": f"{context:,}"}))]
    ratio = over_ratio(advice.facts, seen, context)
    if ratio > FEW_OVER_RATIO:
        told = {"share": f"{ratio:.0%}", "base": start.base, "context": f"{context:,}"}
        lines.append(Line("max_rejected", min(0.99, round(ratio + 0.2, 2)), Reason("over_many", told)))
    return lines


def over_ratio(facts: Facts, seen: Survey, context: int) -> float:
    """About what share of the rows is longer than this context."""
    per_token = seen.told["lengths"]["total"] / max(1, facts.num_tokens)
    return seen.over_ratio(context * per_token)


def _asking(advice: Advice) -> list[Line]:
    if advice.facts.num_rows * 0.1 <= MOST_QUESTIONS:
        return []
    return [Line("max_items", MOST_QUESTIONS, Reason("max_items", {"num": MOST_QUESTIONS}))]


# ---- the advice


def _advise(
    seen: Survey, card: Card, limits: Limits, asked: Mapping[str, Any]
) -> tuple[Advice, Start, Candidate | None]:
    """(advice, the base, what would be taken if every base were here)."""
    language = seen.language
    guess = seen.facts(CHARS_PER_TOKEN[language])
    task: Task = "classify" if set(guess.kinds) == {"label"} else "answer"
    wish = Wish(task, language, "commercial", guess.context, guess.num_tokens)
    candidates = bases.rank(wish, card, limits)
    wished = next((one for one in candidates if _is_worthwhile(one)), None) or _on_common_card(wish)
    chosen, start = _choose(candidates, wish, card, limits, asked)
    facts = _measured(seen, start, guess)
    context = facts.context
    if start.num_params < TINY_PARAMS:
        is_cut = set(facts.kinds) == {"document"}
        context = tiny_context(facts.longest_tokens if not is_cut else chosen.base.context, chosen.base.context)
    elif chosen.base.context:
        context = min(context, chosen.base.context)
    stages, reasons = choose_stages(facts)
    if _is_encoder(chosen):
        if "label" not in facts.kinds:
            raise RecipeError("begin.encoder_wants_labels", where="model.base", given=told_kinds(facts.kinds))
        reasons = []
    if not any(LEARNT_BY.get(kind) in stages for kind in facts.kinds):
        raise RecipeError("begin.nothing_learns", given=told_kinds(facts.kinds))
    numbers = choose_numbers(facts, stages, context, num_params=start.num_params)
    is_same = wished is not None and wished.base.name == chosen.base.name
    stages = ("classify",) if _is_encoder(chosen) else stages
    advice = Advice(wish, card, facts, tuple(candidates), stages, tuple(reasons), tuple(numbers), chosen)
    return advice, start, None if is_same else wished


def _choose(
    candidates: Sequence[Candidate], wish: Wish, card: Card, limits: Limits, asked: Mapping[str, Any]
) -> tuple[Candidate, Start]:
    """The base that was asked for; else the best that lies here and is quick enough; else the embedded one."""
    if asked.get("base") not in (None, EMBEDDED):
        return _of_any_shape(asked, wish, card, limits)
    if "base" not in asked:
        for one in candidates:
            if _is_worthwhile(one) and (near := find_nearby(one.base.ids)):
                reason = Reason("is_here", {"place": near.base})
                return one, Start(near.base, near.hub, one.quantize, one.plan.num_params, reason)
    chosen, start = _of_any_shape({"base": EMBEDDED}, wish, card, limits)
    return chosen, Start(start.base, start.hub, start.quantize, start.num_params, Reason("embedded"))


def _of_any_shape(asked: Mapping[str, Any], wish: Wish, card: Card, limits: Limits) -> tuple[Candidate, Start]:
    """A base that the table may not know, as its own config.json has it."""
    recipe = Recipe.from_tree({"model": dict(asked)})
    shapes, _ = find_shapes(recipe)
    name, hub = recipe.model.base, recipe.model.hub
    known = bases.find(name)
    licence = licence_of("apache-2.0") if name == EMBEDDED else known.licence if known else None
    context = _context_of(recipe) or (known.context if known else 0)
    base = Base(name, {hub: name}, licence or bases.Licence("", "yes", {}, ""), context=context, shapes=shapes)
    quantize, plan = fit(base, shapes, wish, card, limits)
    candidate = Candidate(base, plan, quantize, 0, (), ())
    return candidate, Start(name, hub, quantize, plan.num_params, Reason("asked_for"))


def _is_encoder(one: Candidate | None) -> bool:
    return one is not None and one.base.shapes is not None and one.base.shapes.is_encoder


def _context_of(recipe: Recipe) -> int:
    """Of the base's config.json where that is here; 0 where nobody knows."""
    try:
        folder = find_base(recipe.model.base, needs_weights=False, is_offline=True)
        return int(read_json(folder / "config.json").get("max_position_embeddings", 0))
    except (OSError, orjson.JSONDecodeError, TypeError, ValueError):
        return 0


def _is_worthwhile(one: Candidate) -> bool:
    return not one.against and (one.plan.tokens_per_s or 0) >= WORTHWHILE_TOKENS_PER_S


def _on_common_card(wish: Wish) -> Candidate | None:
    card = find_card(COMMON_CARD)
    assert card is not None, "of the table"
    return next((one for one in bases.rank(wish, card, Limits.of(card)) if _is_worthwhile(one)), None)


def _measured(seen: Survey, start: Start, guess: Facts) -> Facts:
    """Lengths in the base's own tokens, where its tokenizer is here."""
    try:
        folder = find_base(start.base, hub=start.hub, is_offline=True, needs_weights=False)  # type: ignore[arg-type]
        return seen.facts(seen.chars_per_token(Tokenizer.load(folder)))
    except (OSError, ValueError):  # it will be fetched, or is no base: the check says so
        return guess


def _asked_base(overrides: Sequence[str]) -> dict[str, Any]:
    """What the overrides say of the base; {} where they leave it open."""
    model = anchor_paths(apply_overrides({}, overrides), Path.cwd()).get("model", {})
    known = model if isinstance(model, dict) else {}
    return {key: known[key] for key in ("base", "hub", "revision", "mirror") if key in known and "base" in known}


# ---- what it will take


def _plans(recipe: Recipe, facts: Facts, card: Card, limits: Limits) -> tuple[Plan, ...]:
    """One per stage, with as many steps as the data's tokens make; none where nothing is known of the base's shape."""
    try:
        shapes, _ = find_shapes(recipe)
    except RecipeError:  # the check says what is wrong with it
        return ()
    plans = []
    for index, stage in enumerate(recipe.plan_stages()):
        tokens = facts.tokens_for(stage.method.accepts) * (1 - recipe.data.split.test - recipe.data.split.validation)
        tokens *= 1 + recipe.data.replay.ratio
        steps = max(1, round(stage.training.epochs * tokens / stage.training.batch_tokens))
        num_steps = None if stage.training.max_steps is not None else steps
        plans.append(plan_stage(recipe, index, shapes, card, num_steps=num_steps, limits=limits))
    return tuple(plans)
