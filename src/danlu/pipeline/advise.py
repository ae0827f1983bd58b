"""advise: a base, a method and numbers for a task, a language, a card and the data at hand; and what is wrong with a
script that somebody means to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import orjson

from danlu.core.errors import RecipeError
from danlu.core.messages import listed
from danlu.core.progress import Progress
from danlu.pipeline.plan import pinned_bytes, this_card, this_cpu
from danlu.pipeline.survey import CHARS_PER_TOKEN, survey
from danlu.planning.advice import bases
from danlu.planning.advice.bases import Base, Candidate, Language, Purpose, Task, Wish
from danlu.planning.advice.numbers import Facts, Number, choose_numbers, choose_stages
from danlu.planning.advice.script import Finding, review_script
from danlu.planning.advice.words import Reason
from danlu.planning.cards import CARDS, Card, find_card
from danlu.planning.plan import Limits


@dataclass(frozen=True, slots=True)
class Advice:
    """`candidates` best first; `chosen` is the first that nothing speaks against, None where there is none."""

    wish: Wish
    card: Card
    facts: Facts
    candidates: tuple[Candidate, ...]
    stages: tuple[str, ...]
    reasons: tuple[Reason, ...]
    numbers: tuple[Number, ...]
    asked: Candidate | None = None
    """The base that was asked after."""

    @property
    def chosen(self) -> Candidate | None:
        if self.asked is not None:
            return self.asked
        return next((one for one in self.candidates if not one.against), None)

    def to_json(self) -> dict[str, Any]:
        chosen = self.chosen
        return {
            "wish": {"task": self.wish.task, "language": self.wish.language, "purpose": self.wish.purpose},
            "card": self.card.to_json(),
            "data": {"kinds": self.facts.kinds, "tokens": self.facts.num_tokens, "longest": self.facts.longest_tokens},
            "base": chosen.to_json() if chosen else None,
            "candidates": [one.to_json() for one in self.candidates],
            "stages": list(self.stages),
            "reasons": [reason.to_json() for reason in self.reasons],
            "numbers": [number.to_json() for number in self.numbers],
            "table": bases.about(),
        }


def advise(
    *, task: str = "answer", language: str = "zh", purpose: str = "commercial", data: Sequence[Path] = (),
    card: str | None = None, memory_gib: float | None = None, base: str | None = None,
    progress: Progress | None = None,
) -> Advice:  # fmt: skip
    """Advice for a wish. RecipeError for a base that is asked after and may not, or cannot, be used so."""
    chosen: Task = _one_of(task, get_args(Task), "--task")
    spoken: Language = _one_of(language, get_args(Language), "--language")
    meant: Purpose = _one_of(purpose, get_args(Purpose), "--purpose")
    device, limits = device_of(card, memory_gib)
    facts = _facts(data, spoken, progress)
    wish = Wish(chosen, spoken, meant, facts.context, facts.num_tokens)
    stages, reasons = choose_stages(facts)
    asked = _asked(base, wish, device, limits) if base else None
    candidates = bases.rank(wish, device, limits)
    numbers = choose_numbers(facts, stages, facts.context)
    return Advice(wish, device, facts, tuple(candidates), stages, tuple(reasons), tuple(numbers), asked)


def _one_of(given: str, known: tuple[Any, ...], where: str) -> Any:
    if given not in known:
        raise RecipeError("advice.unknown_choice", where=where, given=given, known=listed(known))
    return given


def review(path: Path) -> list[Finding]:
    """What there is to say about a training script (.py, or the code of a notebook)."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RecipeError("advice.no_script", where=str(path), given=error.strerror or "") from error
    return review_script(_code_of(text.decode("utf-8-sig", errors="replace"), path), path.name)


def device_of(name: str | None = None, memory_gib: float | None = None) -> tuple[Card, Limits]:
    """The card named, or this machine's, or its CPU; with as much memory as is said."""
    card = this_cpu() if name is not None and name.lower() == "cpu" else None
    if name is not None and card is None and (card := find_card(name)) is None:
        raise RecipeError("planning.unknown_card", where="--card", given=name, known=listed(CARDS))
    is_here = card is None
    card = card or this_card() or (find_card("RTX 4090") if memory_gib is not None else None) or this_cpu()
    if memory_gib is not None:
        card = replace(card, memory_bytes=int(memory_gib * 2**30))
    return card, Limits.of(card, host_bytes=pinned_bytes() if is_here and card.kind == "cuda" else None)


def _facts(data: Sequence[Path], language: Language, progress: Progress | None) -> Facts:
    return survey(data, progress=progress).facts(CHARS_PER_TOKEN[language]) if data else Facts()


def _asked(name: str, wish: Wish, card: Card, limits: Limits) -> Candidate:
    base: Base | None = bases.find(name)
    if base is None:
        near = listed(one.name for one in bases.table()[:8])
        raise RecipeError("advice.unknown_base", where="--base", given=name, known=near)
    if not base.licence.allows(wish.purpose):
        raise RecipeError(
            "advice.not_commercial", where="--base", given=name, licence=base.licence.name,
            note=base.licence.told(), source=base.licence.source, instead=_instead(wish, card, limits),
        )  # fmt: skip
    if base.shapes is None:
        raise RecipeError("advice.licence_alone", where="--base", given=name, licence=base.licence.name)
    return bases.judge(base, wish, card, limits)


def _instead(wish: Wish, card: Card, limits: Limits) -> str:
    fitting = [one.base.ids["huggingface"] for one in bases.rank(wish, card, limits) if not one.against]
    return listed(fitting[:3]) or "-"


def _code_of(text: str, path: Path) -> str:
    """The code cells of a notebook, one after the other; other files as they are."""
    if path.suffix != ".ipynb":
        return text
    try:
        cells = orjson.loads(text)["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError("advice.not_python", where=str(path), given=str(error)) from error
