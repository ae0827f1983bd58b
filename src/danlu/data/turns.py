"""Turns of a conversation: what roles are called, what order they may stand in, how parts and tool calls are written.

Used by every format that holds messages. The order is the one chat templates expect: an optional system message, then
user and assistant by turns, tool results after a call. Two turns of one role in a row are joined and said so;
anything else out of order refuses the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from danlu.data.calls import call_of, write_call
from danlu.data.rows import Changes, RowError, kind_of, loads_list, text_of
from danlu.data.sample import Message, Role, plain_message, replace

ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "系统": "system",
    "user": "user", "human": "user", "prompter": "user", "customer": "user",
    "用户": "user", "客户": "user", "问": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant",
    "ai": "assistant", "bing": "assistant", "助手": "assistant", "客服": "assistant", "答": "assistant",
    "function_call": "assistant", "function-call": "assistant", "tool_call": "assistant",
    "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool", "tool_response": "tool",
    "ipython": "tool", "工具": "tool",
}  # fmt: skip
CALL_ROLES = {"function_call", "function-call", "tool_call"}


def role_of(given: Any) -> Role:
    role = ROLES.get(given.strip().lower()) if isinstance(given, str) else None
    if role is None:
        raise RowError("unknown_role", role=str(given)[:40], known="system, user, assistant, tool")
    return role


def content_of(content: Any, changes: Changes) -> tuple[str, str | None, list[Any]]:
    """(text, reasoning, calls) of a message's content: a string, or a list of typed parts as vendors write them."""
    if not isinstance(content, list):
        return text_of(content, "content", changes), None, []
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[Any] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, Mapping):
            raise RowError("wrong_type", part="content", kind=kind_of(part), expected="text")
        kind = part.get("type", "text")
        value = part.get("text", part.get("value"))
        if kind in ("text", "input_text", "output_text"):
            texts.append(text_of(value, "content", changes))
        elif kind in ("reasoning", "thinking"):
            reasoning.append(text_of(part.get("thinking", value), "reasoning", changes))
        elif kind in ("tool_call", "tool_calls"):
            calls.extend(loads_list(value))
        else:
            raise RowError("not_text", kind=str(kind)[:40])
    return "".join(texts), "".join(reasoning) or None, calls


def train_of(turn: Mapping[str, Any]) -> bool | None:
    """The turn's own loss mask: `weight` or `loss_weight` 0 or 1, or `train` true or false."""
    for key in ("train", "weight", "loss_weight", "trainable"):
        value = turn.get(key)
        if value is None:
            continue
        if value in (0, 1):  # False and True among them
            return bool(value)
        raise RowError("partial_weight", part=key, value=str(value)[:20])
    return None


def parse_turns(given: Any, changes: Changes, system: Any = None) -> list[Message]:
    """Turns as they stand, by OpenAI's keys or ShareGPT's, a separate system text first."""
    if isinstance(given, str):
        given = loads_list(given, "messages")
    if not isinstance(given, list):
        raise RowError("wrong_type", part="messages", kind=kind_of(given), expected="list")
    return system_of(system, changes) + [parse_turn(turn, changes) for turn in given]


def system_of(value: Any, changes: Changes) -> list[Message]:
    """A system text as a turn; an empty one is none."""
    text = text_of(value, "system", changes)
    return [Message("system", text)] if text.strip() else []


def parse_turn(turn: Any, changes: Changes) -> Message:
    """One turn: `role`/`content` or `from`/`value`. A `function_call` turn holds its calls as JSON."""
    if not isinstance(turn, Mapping):
        raise RowError("wrong_type", part="messages", kind=kind_of(turn), expected="object")
    sender = turn.get("role", turn.get("from"))
    role = role_of(sender)
    content, reasoning, calls = content_of(turn.get("content", turn.get("value", turn.get("text"))), changes)
    if str(sender).strip().lower() in CALL_ROLES:
        content, calls = "", loads_list(content)
        if not calls:
            raise RowError("bad_tool", detail="")
    calls = calls + loads_list(turn.get("tool_calls"))
    if not calls and isinstance(turn.get("function_call"), Mapping):
        calls = [turn["function_call"]]
    thoughts = (turn.get(key) for key in ("reasoning_content", "reasoning", "thinking"))
    thought = next((text for text in thoughts if isinstance(text, str) and text), reasoning)
    name, call_id = turn.get("name"), turn.get("tool_call_id")
    return Message(
        role, content,
        name=name if isinstance(name, str) else None,
        reasoning=thought,
        tool_calls=tuple(call_of(call) for call in calls),
        tool_call_id=call_id if isinstance(call_id, str) else None,
        train=train_of(turn),
    )  # fmt: skip


def extras_of(message: Message) -> dict[str, Any]:
    """What both dialects write beside role and text, under OpenAI's names."""
    extras = {"reasoning_content": message.reasoning, "name": message.name, "tool_call_id": message.tool_call_id}
    out: dict[str, Any] = {key: value for key, value in extras.items() if value is not None}
    return out if message.train is None else {**out, "weight": int(message.train)}


def write_openai(message: Message) -> dict[str, Any]:
    """The OpenAI shape: arguments of calls as JSON text."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [write_call(call) for call in message.tool_calls]
    return turn | extras_of(message)


def ordered(messages: Sequence[Message], changes: Changes, *, prompt: bool = False) -> tuple[Message, ...]:
    """The turns in a shape that can be trained on: ends with an assistant, or, as a `prompt`, with a user or tool
    turn."""
    if not prompt and _is_plain_pair(messages):
        return tuple(messages)
    joined = _joined([turn for turn in messages if turn.role != "system" or turn.content.strip()], changes)
    if not joined:
        raise RowError("empty_conversation")
    if not prompt:
        joined = _without_open_end(joined, changes)
    before: Role | None = None
    for number, turn in enumerate(joined, start=1):
        _check_turn(turn, before, number)
        before = turn.role
    if prompt and before not in ("user", "tool"):
        raise RowError("prompt_ends_wrong", role=str(before))
    return tuple(joined)


_PLAIN_KEYS = {("role", "content"), ("from", "value"), ("content", "role"), ("value", "from")}


def plain_turns(given: list[Any]) -> tuple[Message, ...] | None:
    """Turns of a role and a text, in an order that can be trained on; None where anything has to be looked at."""
    made: list[Message] = []
    before: Role | None = None
    for turn in given:
        if type(turn) is not dict or tuple(turn) not in _PLAIN_KEYS:
            return None
        sender, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if type(sender) is not str or type(text) is not str or not text or text.isspace():
            return None
        role = ROLES.get(sender)
        if role is None or role == "tool" or sender in CALL_ROLES or role not in _FOLLOWS[before]:
            return None
        made.append(plain_message(role, text))
        before = role
    return tuple(made) if before == "assistant" else None


def _is_plain_pair(messages: Sequence[Message]) -> bool:
    """A question and an answer, as most rows are: nothing to join, to cut or to refuse."""
    if len(messages) != 2:
        return False
    asked, told = messages
    spoken = asked.role == "user" and told.role == "assistant"
    return (
        spoken and not asked.content.isspace() and not told.content.isspace() and bool(asked.content and told.content)
    )


_FOLLOWS: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}  # fmt: skip


def _check_turn(turn: Message, before: Role | None, number: int) -> None:
    if turn.role not in _FOLLOWS[before]:
        expected = " / ".join(_FOLLOWS[before])
        raise RowError("role_order", turn=number, role=turn.role, before=before or "start", expected=expected)
    if turn.role == "user" and not turn.content.strip():
        raise RowError("empty_question", turn=number)
    if turn.role == "assistant" and not turn.content.strip() and not turn.tool_calls:
        raise RowError("empty_answer", turn=number)


def _joined(messages: Sequence[Message], changes: Changes) -> list[Message]:
    """Neighbours of one role as one turn, where nothing but text would be joined."""
    out: list[Message] = []
    for turn in messages:
        last = out[-1] if out else None
        plain = last is not None and not (
            last.tool_calls or turn.tool_calls or turn.reasoning or turn.name != last.name
        )
        if last is not None and plain and turn.role == last.role != "tool" and turn.train == last.train:
            out[-1] = replace(last, content=f"{last.content}\n{turn.content}")
            changes.append(("turns_joined", {"role": turn.role}))
        else:
            out.append(turn)
    return out


def _without_open_end(messages: list[Message], changes: Changes) -> list[Message]:
    """Turns behind the last answer teach nothing: they are cut, as long as an answer is left."""
    answers = [index for index, turn in enumerate(messages) if turn.role == "assistant"]
    if not answers:
        raise RowError("no_answer")
    dropped = len(messages) - 1 - answers[-1]
    if dropped and any(turn.role == "user" for turn in messages[: answers[-1]]):
        changes.append(("open_end_dropped", {"num": dropped}))
        return messages[: answers[-1] + 1]
    return messages
