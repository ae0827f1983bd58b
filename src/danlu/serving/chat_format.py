"""What a lens needs done to every conversation: its system prompt and thinking mode, as they were trained; and control
tokens in words broken up, where the engine would take them for real ones.

Training's template puts the recipe's system prompt before conversations that have none; engines know nothing of it.
The gateway applies it to each chat request before it is sent, the door check before it compares. Plain values: it
travels in the board.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

from danlu.openai.turns import text_of

BREAK = "\u200b"
"""Zero-width space, put after a literal's first character: people see the same, the tokenizer does not."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    system: str = ""
    takes_system: bool = True
    """False: the template has no place for a system turn, and its words stand before the first question."""
    drops_thinking: bool = False
    marks: tuple[str, ...] = ()
    """Literals of control tokens to break up; none for an engine that reads them as text anyway."""

    def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat request as it was trained on. What needs nothing comes back as it is."""
        turns = body.get("messages")
        if not turns:
            return body
        dressed = self._opened(self._unmarked(turns))
        if dressed is not turns:
            body = body | {"messages": dressed}
        if self.drops_thinking:
            body = body | {"chat_template_kwargs": {"enable_thinking": False}}
        return body

    def _opened(self, turns: list[Any]) -> list[Any]:
        if self.system and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": self.system}, *turns]
        is_opened = len(turns) > 1 and turns[0]["role"] == "system" and turns[1]["role"] == "user"
        if not self.takes_system and is_opened:
            said = f"{text_of(turns[0]['content'])}\n\n{text_of(turns[1]['content'])}"
            turns = [turns[1] | {"content": said}, *turns[2:]]
        return turns

    def _unmarked(self, turns: list[Any]) -> list[Any]:
        if not self.marks:
            return turns
        found = [_without(turn, _pattern(self.marks)) for turn in turns]
        return found if any(new is not old for new, old in zip(found, turns, strict=True)) else turns


@functools.lru_cache(64)
def _pattern(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True)))


def _without(value: Any, marks: re.Pattern[str]) -> Any:
    """The same object where there is nothing to break."""
    if isinstance(value, str):
        return marks.sub(lambda found: found[0][0] + BREAK + found[0][1:], value) if marks.search(value) else value
    if isinstance(value, dict):
        new = {key: _without(item, marks) for key, item in value.items()}
        return new if any(new[key] is not value[key] for key in value) else value
    if isinstance(value, list):
        items = [_without(item, marks) for item in value]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value
