"""What a chat template writes around the words: before the first turn, between two roles, after the last.

Learnt from the template itself by rendering sentinels, and then held to it on other conversations, because not every
template can be told so: one that puts the system prompt before the last question is refused. Tools are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from danlu.core.errors import ExportError, TemplateError
from danlu.data.sample import Message
from danlu.data.template import Template

Role = Literal["system", "user", "assistant"]
Place = tuple[str, Role]
"""The role before ("" of the first turn) and a turn's own."""
_PLACES: dict[Place, tuple[tuple[Role, ...], int]] = {
    ("", "user"): (("user",), 0), ("", "system"): (("system", "user"), 0), ("system", "user"): (("system", "user"), 1),
    ("user", "assistant"): (("user", "assistant", "user"), 1),
    ("assistant", "user"): (("user", "assistant", "user"), 2),
}  # fmt: skip
WORDS = ("k7Qz0", "k7Qz1", "k7Qz2", "k7Qz3")
_CHATS: tuple[tuple[Role, ...], ...] = (
    ("user",), ("user", "assistant", "user"), ("user", "assistant", "user", "assistant", "user"), ("system", "user"),
    ("system", "user", "assistant", "user"), ("system", "user", "assistant", "user", "assistant", "user"),
)  # fmt: skip
_CONTENTS = (
    "出差住宿标准是多少?",
    "How much is it?\nTell me {{ briefly }}.",
    "  spaces \n",
    "　全角\u00a0",
    '400 "yuan"',
    "x",
)


@dataclass(frozen=True, slots=True)
class Turns:
    """`heads` by the first role, `gaps` by two roles that follow each other, `tails` by the last.
    `trimmed_before` and `trimmed_after`: (role before, role) of words that lose the whitespace on that side."""

    heads: dict[Role, str]
    gaps: dict[tuple[Role, Role], str]
    tails: dict[Role, str]
    trimmed_before: frozenset[Place]
    trimmed_after: frozenset[Place]

    def write(self, messages: Sequence[tuple[Role, str]]) -> str:
        """What Go will write; the generation prompt stands at the end."""
        text = self.heads[messages[0][0]]
        for at, (role, content) in enumerate(messages):
            place = (messages[at - 1][0] if at else "", role)
            content = content.lstrip() if place in self.trimmed_before else content
            text += content.rstrip() if place in self.trimmed_after else content
            text += self.tails[role] if at + 1 == len(messages) else self.gaps[role, messages[at + 1][0]]
        return text


def learn(template: Template, *, leave_out: str = "") -> Turns:
    """The turns of a template that is given no system prompt of its own. `leave_out` is a BOS that the program which
    will render this puts first by itself. ExportError when what was learnt does not tell the template's text."""
    head, tail = _around(template, ("user",))
    parts = _around(template, ("user", "assistant", "user"))
    heads: dict[Role, str] = {"user": head}
    gaps: dict[tuple[Role, Role], str] = {("user", "assistant"): parts[1], ("assistant", "user"): parts[2]}
    opening, between, _ = _around(template, ("system", "user"))
    heads["system"], gaps["system", "user"] = opening, between
    if leave_out:
        heads = {role: text.removeprefix(leave_out) for role, text in heads.items()}
    before = frozenset(place for place in _PLACES if _trims(template, place, " {}"))
    after = frozenset(place for place in _PLACES if _trims(template, place, "{} "))
    turns = Turns(heads, gaps, {"user": tail}, before, after)
    check(turns, template, leave_out=leave_out)
    return turns


def check(turns: Turns, template: Template, *, leave_out: str = "") -> None:
    """Other conversations, with words that only an exact rendering survives."""
    for roles in _CHATS:
        for shift in range(len(_CONTENTS)):
            chat = [(role, _CONTENTS[(at + shift) % len(_CONTENTS)]) for at, role in enumerate(roles)]
            expected = _render(template, chat).removeprefix(leave_out)
            found = turns.write(chat)
            if found != expected:
                at = next((n for n, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), 0)
                raise ExportError(
                    "ollama.cannot_say", where="chat_template", roles=" ".join(roles),
                    given=repr(found[max(0, at - 30) : at + 30]), expected=repr(expected[max(0, at - 30) : at + 30]),
                )  # fmt: skip


def _around(template: Template, roles: Sequence[Role]) -> list[str]:
    """The texts before, between and after sentinels in these roles' turns."""
    text = _render(template, [(role, WORDS[at]) for at, role in enumerate(roles)])
    parts = []
    for at in range(len(roles)):
        before, found, text = text.partition(WORDS[at])
        if not found:
            raise ExportError(
                "ollama.cannot_say",
                where="chat_template",
                roles=" ".join(roles),
                given=repr(before[-60:]),
                expected=WORDS[at],
            )
        parts.append(before)
    return [*parts, text]


def _trims(template: Template, place: Place, spaced: str) -> bool:
    """Whether a space there makes no difference."""
    roles, at = _PLACES[place]
    bare = [(role, WORDS[n]) for n, role in enumerate(roles)]
    chat = [(role, spaced.format(word) if n == at else word) for n, (role, word) in enumerate(bare)]
    return _render(template, chat) == _render(template, bare)


def _render(template: Template, chat: Sequence[tuple[Role, str]]) -> str:
    try:
        return template.render([Message(role, content) for role, content in chat], add_generation_prompt=True).text
    except TemplateError as error:
        raise ExportError(
            "ollama.cannot_say",
            where="chat_template",
            roles=" ".join(role for role, _ in chat),
            given=error.text,
            expected="-",
        ) from error
