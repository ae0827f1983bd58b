"""The texts of a sample, taken out and put back: what cleaners and privacy work on.

`texts_of` gives them in a fixed order; `with_texts` takes as many in that order and changes nothing else:

    conversation, feedback  per message: content, reasoning (where there is one), string leaves of its tool calls'
                            arguments
    preference              the same of prompt, then chosen, then rejected
    document                text, title
    label                   text (the label is a class, not prose)

Roles, names of tools, ids of calls and tool schemas are no texts: code depends on their letters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from danlu.data.sample import Conversation, Document, Label, Message, Preference, Sample


def texts_of(sample: Sample) -> list[str]:
    """Every human-readable string of the sample; may hold empty strings, so that places stay the same."""
    if isinstance(sample, Document):
        return [sample.text, sample.title]
    if isinstance(sample, Label):
        return [sample.text]
    texts: list[str] = []
    for message in messages_of(sample):
        texts.append(message.content)
        if message.reasoning is not None:
            texts.append(message.reasoning)
        for call in message.tool_calls:
            _leaves(_arguments(call), texts)
    return texts


def with_texts(sample: Sample, texts: Sequence[str]) -> Sample:
    """The sample with these texts in the places of `texts_of`; the very same object when none differs."""
    old = texts_of(sample)
    assert len(texts) == len(old), "as many texts as were taken out"
    if old == list(texts):
        return sample
    if isinstance(sample, Document):
        return replace(sample, text=texts[0], title=texts[1])
    if isinstance(sample, Label):
        return replace(sample, text=texts[0])
    fresh = iter(texts)
    if isinstance(sample, Preference):
        prompt = tuple(_refilled(message, fresh) for message in sample.prompt)
        chosen = tuple(_refilled(message, fresh) for message in sample.chosen)
        rejected = tuple(_refilled(message, fresh) for message in sample.rejected)
        return replace(sample, prompt=prompt, chosen=chosen, rejected=rejected)
    messages = tuple([_refilled(message, fresh) for message in sample.messages])
    if isinstance(sample, Conversation):  # as below, much quicker
        return Conversation(messages, sample.origin, sample.tools, sample.group, sample.tags)
    return replace(sample, messages=messages)


def with_tags(sample: Sample, tags: dict[str, Any]) -> Sample:
    """The sample with these tags; much quicker than `replace`, which counts where every row gets one."""
    match sample:
        case Conversation():
            return Conversation(sample.messages, sample.origin, sample.tools, sample.group, tags)
        case Document():
            return Document(sample.text, sample.origin, sample.title, sample.group, tags)
        case Label():
            return Label(sample.text, sample.label, sample.origin, sample.group, tags)
    return replace(sample, tags=tags)


def messages_of(sample: Sample) -> tuple[Message, ...]:
    """All turns in order; of a preference prompt, chosen, rejected; () of a document or a label."""
    if isinstance(sample, Document | Label):
        return ()
    if isinstance(sample, Preference):
        return sample.prompt + sample.chosen + sample.rejected
    return sample.messages


def is_pair(sample: Sample | None) -> bool:
    """Whether it is a question and an answer, and nothing else but origin, group and tags, as nearly all rows are:
    `messages[0].content` and `messages[1].content` are all of its texts."""
    if type(sample) is not Conversation or len(sample.messages) != 2 or sample.tools:
        return False
    asked, answered = sample.messages
    return (
        asked.role == "user"
        and answered.role == "assistant"
        and asked.reasoning is answered.reasoning is None
        and asked.name is answered.name is None
        and asked.train is answered.train is None
        and asked.tool_call_id is answered.tool_call_id is None
        and not asked.tool_calls
        and not answered.tool_calls
    )


def answer_at(turns: Sequence[Message]) -> int:
    """Where the last answer stands, all that is asked being before it; behind the last turn where nobody answers."""
    last = len(turns) - 1
    while last >= 0 and turns[last].role != "assistant":
        last -= 1
    return last if last >= 0 else len(turns)


def _refilled(message: Message, fresh: Iterator[str]) -> Message:
    content = next(fresh)
    reasoning = None if message.reasoning is None else next(fresh)
    calls = tuple(_called(call, fresh) for call in message.tool_calls)
    if content == message.content and reasoning == message.reasoning and calls == message.tool_calls:
        return message
    if reasoning is None and not calls:
        return Message(message.role, content, message.name, None, (), message.tool_call_id, message.train)
    return replace(message, content=content, reasoning=reasoning, tool_calls=calls)


def _called(call: dict[str, Any], fresh: Iterator[str]) -> dict[str, Any]:
    function = call.get("function")
    if isinstance(function, dict) and "arguments" in function:
        return call | {"function": function | {"arguments": _filled(function["arguments"], fresh)}}
    return call | {"arguments": _filled(call["arguments"], fresh)} if "arguments" in call else call


def _arguments(call: dict[str, Any]) -> Any:
    function = call.get("function")
    if isinstance(function, dict) and "arguments" in function:
        return function["arguments"]
    return call.get("arguments")


def _leaves(value: Any, into: list[str]) -> None:
    if isinstance(value, str):
        into.append(value)
    elif isinstance(value, dict):
        for inner in value.values():
            _leaves(inner, into)
    elif isinstance(value, list | tuple):
        for inner in value:
            _leaves(inner, into)


def _filled(value: Any, fresh: Iterator[str]) -> Any:
    if isinstance(value, str):
        return next(fresh)
    if isinstance(value, dict):
        return {name: _filled(inner, fresh) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(inner, fresh) for inner in value]
    return value
