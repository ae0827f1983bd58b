"""There and back through another language: Chinese by English, English by Chinese, with the teacher as translator."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from danlu.data.augment.augmenter import Asking, Variable
from danlu.data.language import Language, language_of
from danlu.data.synthesis.prompts import messages, told
from danlu.data.synthesis.teacher import Ask, Clearance

TEMPERATURE = 0.7


class BackTranslation:
    needs_teacher = True

    def vary(self, variables: Sequence[Variable], copies: int, strength: float, asking: Asking) -> list[list[str]]:
        """One candidate per copy; each goes its own way out, with other dice."""
        open_ways = [
            (place, variable, copy)
            for place, variable in enumerate(variables)
            for copy in range(copies)
            if language_of(variable.text) != "other"
        ]
        out = asking([_ask(variable.text, _pivot(variable), variable, copy) for _, variable, copy in open_ways])
        abroad = [
            (place, variable, copy, reply.text.strip())
            for (place, variable, copy), reply in zip(open_ways, out, strict=True)
            if reply.finish == "stop" and language_of(reply.text) == _pivot(variable)
        ]
        back = asking([_ask(text, language_of(variable.text), variable, copy) for _, variable, copy, text in abroad])
        found: list[list[str]] = [[] for _ in variables]
        for (place, _, _, _), reply in zip(abroad, back, strict=True):
            if reply.finish == "stop":
                found[place].append(reply.text.strip())
        return found


def _pivot(variable: Variable) -> Language:
    return "en" if language_of(variable.text) == "zh" else "zh"


def _ask(text: str, target: Language, variable: Variable, copy: int) -> Ask:
    spoken: Language = "en" if target == "zh" else "zh"
    names: dict[Language, dict[Language, str]] = {
        "zh": {"zh": "中文", "en": "英文"}, "en": {"zh": "Chinese", "en": "English"},
    }  # fmt: skip
    system = told(spoken, "translate", language=names[spoken][target])
    clearance: Clearance = variable.clearance
    dice = zlib.crc32(f"{variable.seed}:{copy}".encode())
    return Ask(messages(system, text), clearance, min(8192, 120 + 3 * len(text)), TEMPERATURE, dice)
