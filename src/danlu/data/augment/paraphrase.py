"""A teacher's other wordings: what helps most where augmentation helps at all (arXiv 2402.14895)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from danlu.data.augment.augmenter import Asking, Variable
from danlu.data.language import language_of
from danlu.data.synthesis.paraphrases import ask_wordings, read_wordings
from danlu.data.synthesis.prompts import messages, told
from danlu.data.synthesis.teacher import Ask

TEMPERATURE = 0.8


class Paraphrase:
    needs_teacher = True

    def vary(self, variables: Sequence[Variable], copies: int, strength: float, asking: Asking) -> list[list[str]]:
        replies = asking([_ask(variable, copies) for variable in variables])
        return [(read_wordings(reply.text) or []) if reply.finish == "stop" else [] for reply in replies]


def _ask(variable: Variable, copies: int) -> Ask:
    dice = zlib.crc32(variable.seed.encode())
    if variable.is_question:
        return ask_wordings(variable.text, copies, variable.clearance, temperature=TEMPERATURE, seed=dice)
    language = language_of(variable.text)
    user = told(language, "reword_wanted", count=copies, text=variable.text)
    room = 120 + copies * (60 + 2 * len(variable.text))
    return Ask(messages(told(language, "reword"), user), variable.clearance, min(room, 8192), TEMPERATURE, dice)
