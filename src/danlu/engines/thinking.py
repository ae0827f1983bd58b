"""A thinking trace before an answer, taken out of a text that arrives in pieces. Torch-free."""

from __future__ import annotations

from typing import Literal

THINK, END_THINK = "<think>", "</think>"


class ThinkingDropper:
    """Takes a leading `<think>…</think>` (and the blank space after it) out of a text that arrives in pieces."""

    def __init__(self) -> None:
        self._held = ""
        self._state: Literal["start", "thinking", "gap", "answer"] = "start"

    def feed(self, piece: str) -> str:
        if self._state == "answer":
            return piece
        self._held += piece
        if self._state == "start":
            head = self._held.lstrip()
            if THINK.startswith(head[: len(THINK)]) and len(head) < len(THINK):
                return ""  # still undecided
            self._state = "thinking" if head.startswith(THINK) else "answer"
            if self._state == "answer":
                held, self._held = self._held, ""
                return held
        if self._state == "thinking":
            _, mark, rest = self._held.partition(END_THINK)
            if not mark:
                return ""
            self._held, self._state = rest, "gap"
        self._held = self._held.lstrip()
        if not self._held:
            return ""
        held, self._held, self._state = self._held, "", "answer"
        return held

    def close(self) -> str:
        """What was held back and turned out to be no thinking trace."""
        return self._held if self._state == "start" else ""


def drop_thinking(text: str) -> str:
    dropper = ThinkingDropper()
    return dropper.feed(text) + dropper.close()
