"""Advice as a recipe file for people: each value with its reason behind it, to be read and edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from danlu.core.errors import RecipeError
from danlu.core.files import write_text
from danlu.core.messages import say
from danlu.pipeline.advise import Advice
from danlu.planning.advice.bases import Way
from danlu.planning.advice.numbers import TINY_PARAMS, Number, rate_of
from danlu.planning.advice.words import Reason


@dataclass(frozen=True, slots=True)
class Start:
    """The base as a recipe names it, and why it is this one."""

    base: str
    hub: str
    quantize: Way
    num_params: int
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """`key: value   # reason` of one chapter."""

    key: str
    value: Any
    reason: Reason | None = None

    def text(self) -> str:
        why = f"   # {self.reason.text()}" if self.reason else ""
        return f"  {self.key}: {as_yaml(self.value)}{why}"


def write_recipe(advice: Advice, name: str, data: Sequence[Path], path: Path) -> None:
    """The advice as a recipe that fetches the base that was chosen."""
    chosen = advice.chosen
    if chosen is None:
        raise RecipeError("advice.nothing_fits", where="--write", card=advice.card.name, task=advice.wish.task)
    hub = "modelscope" if advice.wish.language == "zh" and "modelscope" in chosen.base.ids else "huggingface"
    start = Start(chosen.base.ids[hub], hub, chosen.quantize, chosen.plan.num_params)
    write_text(path, recipe_text(advice, name, data or [Path("data/")], start))


def recipe_text(
    advice: Advice, name: str, data: Sequence[Path], start: Start, *, reading: Sequence[Line] = (),
    asking: Sequence[Line] = (), mark: str | None = None,
) -> str:  # fmt: skip
    """`reading` and `asking` are further lines of chapters `data` and `evaluation`; `mark` says of which data it is."""
    lines = [f"# {say('begin.head')}"] if mark else []
    lines += [f"name: {as_yaml(name)}", "", "model:", Line("base", start.base, start.reason).text()]
    if start.hub != "huggingface":
        lines.append(Line("hub", start.hub).text())
    if start.quantize != "none":
        lines.append(Line("quantize", start.quantize).text())
    for chapter in ("adapter", "training"):
        lines += ["", f"{chapter}:"] + ["  kind: lora"] * (chapter == "adapter")
        lines += [_line(number).text() for number in advice.numbers if _belongs(number, chapter, advice.stages)]
    lines += ["", "data:", "  sources:", *(f"    - {as_yaml(str(source))}" for source in data)]
    lines += [line.text() for line in reading]
    ratio = next(number for number in advice.numbers if number.key == "data.replay.ratio")
    lines += [f"  replay: {{ratio: {ratio.value}}}   # {ratio.reason.text()}"]
    if set(advice.facts.kinds) == {"document"}:
        lines += [f"  # {line}".rstrip() for line in say("begin.offer_synthesis").splitlines()]
    lines += ["", *_method(advice.stages, is_tiny=start.num_params < TINY_PARAMS)]
    if asking:
        lines += ["", "evaluation:", *(line.text() for line in asking)]
    if mark:
        lines += ["", f"gate: {{min_gain: 0.05, max_forget: 0.15}}   # {say('begin.why_gate')}"]
        lines += [f"exports: [adapter, merged]   # {say('begin.why_exports')}"]
        lines += ["", f'round: {{mark: "{mark}"}}   # {say("begin.why_mark")}']
    return "\n".join(lines) + "\n"


def class_recipe_text(advice: Advice, name: str, data: Sequence[Path], start: Start, mark: str) -> str:
    """For a base that is an encoder, which names classes and does nothing else: all of it trains, at the method's own
    rate, and there is neither general talk to forget nor an adapter to export."""
    context = next(number.value for number in advice.numbers if number.key == "training.context")
    lines = [f"# {say('begin.head')}", f"name: {as_yaml(name)}", "", "model:"]
    lines += [Line("base", start.base, start.reason).text()]
    if start.hub != "huggingface":
        lines.append(Line("hub", start.hub).text())
    lines += ["", f"training:\n  context: {context}"]
    lines += ["", "data:", "  sources:", *(f"    - {as_yaml(str(source))}" for source in data)]
    lines += ["", "method: {kind: classify}"]
    lines += ["", f"gate: {{min_gain: 0.05}}   # {say('begin.why_class_gate')}", "exports: [merged]"]
    lines += ["", f'round: {{mark: "{mark}"}}   # {say("begin.why_mark")}']
    return "\n".join(lines) + "\n"


def as_yaml(value: Any) -> str:
    """A plain value as YAML writes it, quoted where it has to be; never 2e-05, which YAML 1.1 takes for text."""
    if isinstance(value, float):
        return f"{value:g}" if "e" not in f"{value:g}" else f"{value:.10f}".rstrip("0")
    text: str = yaml.safe_dump(value, allow_unicode=True, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def _belongs(number: Number, chapter: str, stages: Sequence[str]) -> bool:
    """A chain has a rate for each of its stages."""
    return number.key.startswith(f"{chapter}.") and not (number.key == "training.lr" and len(stages) > 1)


def _line(number: Number) -> Line:
    return Line(number.key.rpartition(".")[2], number.value, number.reason)


def _method(stages: Sequence[str], *, is_tiny: bool) -> list[str]:
    if len(stages) == 1:
        return [f"method: {{kind: {stages[0]}}}"]
    rates = ((stage, as_yaml(rate_of(stage, is_tiny=is_tiny))) for stage in stages)
    return ["stages:", *(f"  - {{kind: {stage}, training: {{lr: {rate}}}}}" for stage, rate in rates)]
