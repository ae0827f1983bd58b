"""The template contract: what must stay equal from training to serving, as one hashed JSON value.

It holds the template's text, the ids that begin and end texts, the stop set, the system prompt, the thinking mode, the
recommended sampling and golden conversations with their ids. Later stages make their own contract from the files they
are about to use and `check` it against the stored one. Not in the digest: file names and tokenizer file bytes, which
other tools rewrite without changing a single id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from danlu.core.errors import TemplateError
from danlu.core.files import sha256_json
from danlu.core.messages import say
from danlu.data.rendered import Rendered, Thinking
from danlu.data.sample import Message
from danlu.data.tokenizer import Tokenizer

VERSION = 1
_INFORMATIVE = ("source", "tokenizer_digest")
_AROUND = 30

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city / 查询城市天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Renders(Protocol):
    """What of a template a contract speaks of; `template.py` stands above this file."""

    texts: dict[str, str]
    source: str
    system: str | None
    thinking: Thinking
    end_of_turn: str | None
    stop_ids: frozenset[int]

    def render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), add_generation_prompt: bool = False
    ) -> Rendered: ...


def golden_conversations(template: Renders) -> dict[str, tuple[tuple[Message, ...], tuple[dict[str, Any], ...]]]:
    """Name to (messages, tools). Each shows one habit in which templates and tokenizers differ."""
    system = Message("system", "You answer briefly. 回答要简短。")
    ask, answer = Message("user", "出差住宿标准是多少?"), Message("assistant", "每晚不超过 400 元。")
    stop = template.end_of_turn or "</s>"
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "杭州"}}}
    return {
        "zh": ((ask, answer), ()),
        "en": ((Message("user", "  What's the capital of France? 🇫🇷\n"), Message("assistant", "Paris.")), ()),
        "turns": ((ask, answer, Message("user", "And in Beijing?"), Message("assistant", "500 yuan.")), ()),
        "system": ((system, ask, answer), ()),
        "thinking": ((ask, Message("assistant", "400 元。", reasoning="查差旅制度第三条。")), ()),
        "control": ((Message("user", f"{stop} is just text, <|im_start|>system too"), answer), ()),
        "tools": (
            (
                Message("user", "杭州天气如何?"),
                Message("assistant", "", tool_calls=(call,)),
                Message("tool", '{"sky": "晴"}', name="get_weather", tool_call_id="call_1"),
                Message("assistant", "晴。"),
            ),
            (_WEATHER,),
        ),
    }


@dataclass(frozen=True, slots=True)
class Contract:
    """`value` is plain JSON (its keys are this file's); equal contracts have equal digests."""

    value: dict[str, Any]

    @property
    def digest(self) -> str:
        return sha256_json({key: item for key, item in self.value.items() if key not in _INFORMATIVE})

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return tuple(entry["id"] for entry in self.value["stop"])

    def to_json(self) -> dict[str, Any]:
        return {**self.value, "digest": self.digest}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Contract:
        """A stored contract. TemplateError when its version is foreign or it was edited."""
        content = {key: item for key, item in value.items() if key != "digest"}
        contract = cls(content)
        if content.get("version") != VERSION:
            raise TemplateError("template.contract_version", given=content.get("version"), expected=VERSION)
        if value.get("digest") != contract.digest:
            raise TemplateError("template.contract_edited", given=value.get("digest"), expected=contract.digest)
        return contract

    def check(self, other: Contract, *, where: str = "") -> None:
        """Refuse `other` (what is about to be used) when it differs from this one (what was trained)."""
        if lines := self.differences(other):
            raise TemplateError("template.contract_broken", where=where, num=len(lines), lines="\n  ".join(lines))

    def differences(self, other: Contract) -> list[str]:
        """One readable line per differing field: its name, both sides around the first difference."""
        lines = []
        for key in sorted((self.value.keys() | other.value.keys()) - {*_INFORMATIVE, "golden", "template_digest"}):
            ours, theirs = self.value.get(key), other.value.get(key)
            if ours != theirs:
                lines.append(_line(key, ours, theirs))
        golden, fresh = self.value.get("golden", {}), other.value.get("golden", {})
        for name in sorted(golden.keys() | fresh.keys()):
            ours, theirs = golden.get(name, {}), fresh.get(name, {})
            if ours.get("text") != theirs.get("text"):
                lines.append(_line(f"golden.{name}.text", ours.get("text", ours), theirs.get("text", theirs)))
            elif ours != theirs:
                field = next(key for key in ("prompt", "ids", "weights", "refused") if ours.get(key) != theirs.get(key))
                lines.append(_line(f"golden.{name}.{field}", ours.get(field), theirs.get(field)))
        return lines


def make_contract(
    template: Renders, tokenizer: Tokenizer, sampling_defaults: Mapping[str, Any] | None = None
) -> Contract:
    """The contract of what stands on disk now."""
    names = {token: content for content, token in tokenizer.marks.items()}
    return Contract(
        {
            "version": VERSION,
            "source": template.source,
            "template": template.texts,
            "template_digest": sha256_json(template.texts),
            "tokenizer_digest": tokenizer.digest,
            "vocab_size": tokenizer.vocab_size,
            "bos": tokenizer.bos_id,
            "eos": tokenizer.eos_id,
            "adds_bos": tokenizer.adds_bos,
            "end_of_turn": template.end_of_turn,
            "stop": [{"id": token, "token": names.get(token, "")} for token in sorted(template.stop_ids)],
            "system": template.system,
            "thinking": template.thinking,
            "sampling": dict(sampling_defaults or {}),
            "golden": {name: _golden(template, tokenizer, name) for name in golden_conversations(template)},
        }
    )


def _golden(template: Renders, tokenizer: Tokenizer, name: str) -> dict[str, Any]:
    """Text, ids and weights of one golden conversation; a template that cannot say it is held to refusing it."""
    messages, tools = golden_conversations(template)[name]
    try:
        prompt = template.render(messages[:-1], tools, add_generation_prompt=True)
        rendered = template.render(messages, tools)
    except TemplateError as error:
        return {"refused": error.key}
    tokens = rendered.tokens(tokenizer)
    return {
        "text": rendered.text,
        "ids": tokens.ids.tolist(),
        "weights": "".join(map(str, tokens.weights.tolist())),
        "prompt": prompt.tokens(tokenizer).ids.tolist(),
    }


def _line(key: str, ours: Any, theirs: Any) -> str:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        inner = next(name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name))
        return _line(f"{key}.{inner}", ours.get(inner), theirs.get(inner))
    at = 0
    if isinstance(ours, str | list) and isinstance(theirs, str | list) and type(ours) is type(theirs):
        at = _first_difference(ours, theirs)
        ours, theirs = _excerpt(ours, at), _excerpt(theirs, at)
    return say("template.difference", key=key, at=at, ours=repr(ours), theirs=repr(theirs))


def _first_difference(ours: str | list[Any], theirs: str | list[Any]) -> int:
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(ours), len(theirs)))


def _excerpt(value: str | list[Any], at: int) -> str | list[Any]:
    return value[max(at - _AROUND, 0) : at + _AROUND]
