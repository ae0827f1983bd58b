"""What a lens needs said around every conversation: the system prompt and the thinking mode it was trained with.

Training's template puts the recipe's system prompt before conversations that have none; engines know nothing of it.
The gateway dresses each chat request so before it is sent, the door check before it compares. Plain values: it travels
in the board.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Manner:
    system: str = ""
    takes_system: bool = True
    """False: the template has no place for a system turn, and its words stand before the first question."""
    drops_thinking: bool = False

    def dress(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat request as it was trained on. What needs nothing comes back as it is."""
        turns = body.get("messages")
        if not turns:
            return body
        dressed = self._turns(turns)
        if dressed is not turns:
            body = body | {"messages": dressed}
        if self.drops_thinking:
            body = body | {"chat_template_kwargs": {"enable_thinking": False}}
        return body

    def _turns(self, turns: list[Any]) -> list[Any]:
        if self.system and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": self.system}, *turns]
        is_opened = len(turns) > 1 and turns[0]["role"] == "system" and turns[1]["role"] == "user"
        if not self.takes_system and is_opened:
            said = f"{_text(turns[0]['content'])}\n\n{_text(turns[1]['content'])}"
            turns = [turns[1] | {"content": said}, *turns[2:]]
        return turns


def _text(content: Any) -> str:
    """Of OpenAI's parts the text."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())
