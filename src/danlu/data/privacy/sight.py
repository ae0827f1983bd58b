"""Everything of a sample that is written anywhere: what privacy looks through, and what `forget` finds in again.

`texts_of` gives the prose; here is the rest, each place with the words that stand before it (a column's name, a key):
names of turns, ids and names of calls, keys and numbers of their arguments, tool schemas, a label, tags and their keys.
The group is apart: rows of one group must come to one group, whatever else stands in them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from danlu.data.sample import Conversation, Document, Label, Message, Preference, Sample
from danlu.data.texts import messages_of, texts_of, with_tags

OURS = frozenset({"level", "level_found", "flags", "masked", "made_by", "scores"})
"""Tags that no file can set as it likes (`danlu.data.formats.format.RESERVED`): they hold nothing a person wrote."""
_OWN_ID = re.compile("s_[0-9a-f]{32}")
_IDS = frozenset({"id", "group", "fact", "document", "pair", "parents"})
_LEAST = 1_000_000
"""Numbers below have too few digits to be anybody's."""


class Place(NamedTuple):
    """`text` behind `cue`. `is_id`: other places refer to it, so that different values must stay different."""

    cue: str
    text: str
    is_id: bool = False


See = Callable[[str, Any, bool], Any]
"""(cue, value, is_id) -> what stands there from now on."""


def cue_of(name: str) -> str:
    """How a column's name leads to its value, in words that detectors know: `客户姓名：`, `phone number: `."""
    return f"{name}：" if not name.isascii() else f"{name.replace('_', ' ').replace('-', ' ')}: " if name else ""


def cues_of(sample: Sample) -> list[str] | None:
    """The cue of each text of `texts_of`; None where none has one, as in rows without tool calls."""
    if isinstance(sample, Document | Label) or not any(turn.tool_calls for turn in messages_of(sample)):
        return None
    cues: list[str] = []
    for turn in messages_of(sample):
        cues += [""] if turn.reasoning is None else ["", ""]
        for call in turn.tool_calls:
            function = call.get("function")
            holder = function if isinstance(function, dict) and "arguments" in function else call
            _leaf_cues(holder.get("arguments"), "", cues)
    return cues


def _leaf_cues(value: Any, name: str, into: list[str]) -> None:
    if isinstance(value, str):
        into.append(cue_of(name))
    elif isinstance(value, dict):
        for key, inner in value.items():
            _leaf_cues(inner, str(key), into)
    elif isinstance(value, list | tuple):
        for inner in value:
            _leaf_cues(inner, name, into)


def is_plain(sample: Sample) -> bool:
    """Whether texts, group and tags are all there is, as in nearly all rows."""
    if isinstance(sample, Document):
        return True
    return isinstance(sample, Conversation) and not sample.tools and is_bare(sample.messages)


def is_bare(turns: Sequence[Message]) -> bool:
    """Whether roles and texts are all there is."""
    for turn in turns:  # noqa: SIM110  a generator costs more than the turns
        if turn.tool_calls or turn.name or turn.tool_call_id:
            return False
    return True


def places_of(sample: Sample) -> list[Place]:
    """All places but those of `texts_of` and the group."""
    if not sample.tags and isinstance(sample, Document):
        return []
    places: list[Place] = []

    def see(cue: str, value: Any, is_id: bool) -> Any:
        places.append(Place(cue, _shown(value), is_id))
        return value

    seen_again(sample, see)
    return places


def everything_of(sample: Sample) -> list[str]:
    """All letters of a sample, for who searches: texts, then the rest with its cues, then the group."""
    cues = cues_of(sample)
    texts = texts_of(sample)
    cued = texts if cues is None else [cue + text for cue, text in zip(cues, texts, strict=True)]
    return [*cued, *(place.cue + place.text for place in places_of(sample)), sample.group or ""]


def seen_again(sample: Sample, see: See) -> Sample:
    """The sample with what `see` gives in the places of `places_of`, asked in their order."""
    if isinstance(sample, Label):
        label = see("", sample.label, False)
        sample = sample if label == sample.label else replace(sample, label=label)
    elif isinstance(sample, Preference):
        prompt, chosen = _turns(sample.prompt, see), _turns(sample.chosen, see)
        rejected, tools = _turns(sample.rejected, see), _tools(sample.tools, see)
        sample = replace(sample, prompt=prompt, chosen=chosen, rejected=rejected, tools=tools)
    elif not isinstance(sample, Document):
        turns = sample.messages
        if sample.tools or any(turn.tool_calls or turn.name or turn.tool_call_id for turn in turns):
            sample = replace(sample, messages=_turns(turns, see), tools=_tools(sample.tools, see))
    if not sample.tags:
        return sample
    own = {name: value for name, value in sample.tags.items() if name in OURS}
    if len(own) == len(sample.tags):
        return sample
    fresh = _tree({name: value for name, value in sample.tags.items() if name not in OURS}, "", see)
    return sample if own | fresh == sample.tags else with_tags(sample, own | fresh)


def _turns(turns: Sequence[Message], see: See) -> tuple[Message, ...]:
    return tuple(_turn(turn, see) for turn in turns)


def _turn(turn: Message, see: See) -> Message:
    if not (turn.name or turn.tool_call_id or turn.tool_calls):
        return turn
    name, call_id = turn.name, turn.tool_call_id
    if name:
        name = see("" if turn.role == "tool" else cue_of("name" if name.isascii() else "姓名"), name, False)
    if call_id:
        call_id = see("", call_id, True)
    calls = tuple(_call(call, see) for call in turn.tool_calls)
    return replace(turn, name=name, tool_call_id=call_id, tool_calls=calls)


def _call(call: dict[str, Any], see: See) -> dict[str, Any]:
    function = call.get("function")
    is_inner = isinstance(function, dict) and "arguments" in function
    fresh: dict[str, Any] = {}
    for name, value in call.items():
        if name == "function" and isinstance(value, dict):
            fresh[name] = {
                key: _tree(inner, key, see, has_texts=key != "arguments") if key != "name" else _function(inner, see)
                for key, inner in value.items()
            }
        elif name == "arguments":
            fresh[name] = _tree(value, "", see, has_texts=is_inner)
        elif name == "name":
            fresh[name] = _function(value, see)
        else:
            fresh[name] = _tree(value, name, see)
    return fresh


def _tools(tools: Sequence[dict[str, Any]], see: See) -> tuple[dict[str, Any], ...]:
    return tuple({name: _schema(name, value, see) for name, value in tool.items()} for tool in tools)


def _schema(name: str, value: Any, see: See) -> Any:
    """One entry of a tool; a function's own name is read last, and without a cue."""
    if not isinstance(value, dict):
        return _tree(value, "", see)
    fresh = _tree({key: inner for key, inner in value.items() if key != "name"}, name, see)
    return fresh | {"name": _function(value["name"], see)} if "name" in value else fresh


def _function(value: Any, see: See) -> Any:
    """A function's name: read without a cue, in its schema, its calls and its results alike."""
    return see("", value, False) if isinstance(value, str) else value


def _tree(value: Any, name: str, see: See, *, has_texts: bool = True) -> Any:
    """`has_texts`: strings are places too, which those of arguments are not: `texts_of` has them."""
    if isinstance(value, str):
        if not has_texts or not value or (value.startswith("s_") and _OWN_ID.fullmatch(value)):
            return value
        return see(cue_of(name), value, name.casefold() in _IDS)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return see(cue_of(name), value, name.casefold() in _IDS) if abs(value) >= _LEAST else value
    if isinstance(value, Mapping):
        fresh: dict[str, Any] = {}
        for key, inner in value.items():
            seen = see("", key, False) if isinstance(key, str) else key
            while seen in fresh:  # two headers of one token
                seen = f"{seen}_"
            fresh[seen] = _tree(inner, str(key), see, has_texts=has_texts)
        return fresh
    if isinstance(value, list | tuple):
        return [_tree(inner, name, see, has_texts=has_texts) for inner in value]
    return value


def _shown(value: Any) -> str:
    """A number with the digits it has: 13920126704.0 and 1.3920126704e10 are one."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)


def as_before(value: Any, text: str) -> Any:
    """The value where its text stayed; a number where all of it is digits still; a string otherwise."""
    if text == _shown(value):
        return value
    is_number = isinstance(value, int | float) and text.isascii() and text.isdigit() and text[0] != "0"
    return int(text) if is_number else text


def digest_of(words: str, alias: Callable[..., bytes]) -> str:
    """A group or an id that holds a value, as one that holds none: equal ones stay equal, others stay apart."""
    return "g_" + hashlib.blake2b(alias("group", words), digest_size=12).hexdigest()
