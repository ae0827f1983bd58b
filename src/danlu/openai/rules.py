"""Rules for JSON values: each checks a value, gives back what is forwarded, and tells its own JSON Schema, so that what
the gateway documents is what it takes. They know nothing of chat. A value that breaks one is a `RefusedError` that
names the place (`messages[3].content`) and what was expected.

Not pydantic: this runs on every request, and an unknown field must be refused with its nearest name.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from danlu.core.messages import say
from danlu.openai.refused import RefusedError, listed, quoted

Schema = dict[str, Any]


class Rule(Protocol):
    def check(self, value: Any, where: str) -> Any:
        """What is forwarded of `value`, which is not None. RefusedError."""
        ...

    def schema(self) -> Schema: ...


def wrong(where: str, value: Any, expected: str, **values: Any) -> RefusedError:
    """`expected` is a key of the catalogue: `number` with low and high."""
    text = say(f"gateway.{expected}", "en", **values)
    return RefusedError("gateway.invalid_value", param=where, name=where, given=quoted(value), expected=text)


@dataclass(frozen=True, slots=True)
class Flag:
    def check(self, value: Any, where: str) -> bool:
        if value is True or value is False:
            return bool(value)
        raise wrong(where, value, "flag")

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Whole:
    """5.0 is a whole number too, as JSON Schema says."""

    low: int
    high: int

    def check(self, value: Any, where: str) -> int:
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not self.low <= value <= self.high:
            raise wrong(where, value, "whole", low=self.low, high=self.high)
        return value

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Number:
    low: float
    high: float
    is_above: bool = False
    """Whether `low` itself is not allowed."""

    def check(self, value: Any, where: str) -> float:
        ok = type(value) in (int, float) and self.low <= value <= self.high and math.isfinite(value)
        if not ok or (self.is_above and value == self.low):
            raise wrong(where, value, "number_above" if self.is_above else "number", low=self.low, high=self.high)
        return float(value) if type(value) is float else value

    def schema(self) -> Schema:
        return {"type": "number", "exclusiveMinimum" if self.is_above else "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Text:
    """Lengths in characters. The body's own limit is what bounds long texts."""

    least: int = 0
    most: int = 0
    """0: no limit of its own."""

    def check(self, value: Any, where: str) -> str:
        if type(value) is not str:
            raise wrong(where, value, "text")
        if len(value) < self.least or (self.most and len(value) > self.most):
            raise wrong(where, value, "text_of" if self.most else "text_from", least=self.least, most=self.most)
        return value

    def schema(self) -> Schema:
        limits = ({"minLength": self.least} if self.least else {}) | ({"maxLength": self.most} if self.most else {})
        return {"type": "string"} | limits


@dataclass(frozen=True, slots=True)
class OneOf:
    values: tuple[str, ...]

    def check(self, value: Any, where: str) -> str:
        if type(value) is not str or value not in self.values:
            raise wrong(where, value, "one_of", values=listed(self.values))
        return value

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.values)}


@dataclass(frozen=True, slots=True)
class Alias:
    """A value that is another's newer name: it is taken, and `canonical` goes on."""

    value: str
    canonical: str

    def check(self, value: Any, where: str) -> str:
        if value != self.value:
            raise wrong(where, value, "one_of", values=self.value)
        return self.canonical

    def schema(self) -> Schema:
        return {"type": "string", "enum": [self.value]}


@dataclass(frozen=True, slots=True)
class ListOf:
    rule: Rule
    least: int = 0
    most: int = 1 << 20

    def check(self, value: Any, where: str) -> list[Any]:
        if type(value) is not list:
            raise wrong(where, value, "list")
        if not self.least <= len(value) <= self.most:
            raise wrong(where, len(value), "list_of", least=self.least, most=self.most)
        check = self.rule.check
        return [check(one, f"{where}[{n}]") for n, one in enumerate(value)]

    def schema(self) -> Schema:
        return {"type": "array", "items": self.rule.schema(), "minItems": self.least, "maxItems": self.most}


@dataclass(frozen=True, slots=True)
class Either:
    """Alternatives told apart by the value's type, and among lists by the type of the first thing in them."""

    ways: Mapping[type | tuple[type, type], Rule]

    def check(self, value: Any, where: str) -> Any:
        rule = self.ways.get(type(value))
        if rule is None and type(value) is list and value:
            first = int if type(value[0]) is float else type(value[0])  # 5.0 is a whole number too
            rule = self.ways.get((list, first))
        if rule is None:
            kinds = [f"array of {_NAMES[kind[1]]}s" if isinstance(kind, tuple) else _NAMES[kind] for kind in self.ways]
            raise wrong(where, value, "other_type", values=listed(kinds))
        return rule.check(value, where)

    def schema(self) -> Schema:
        return {"anyOf": [rule.schema() for rule in self.ways.values()]}


_NAMES = {str: "string", list: "array", dict: "object", int: "integer"}


@dataclass(frozen=True, slots=True)
class Record:
    """An object of known fields. Null is the same as absent. `ignored` fields may be there and go no further;
    `unsupported` ones may hold their neutral value only, since leaving them out would change the answer."""

    fields: Mapping[str, Rule]
    required: tuple[str, ...] = ()
    ignored: Mapping[str, Rule] = field(default_factory=dict)
    unsupported: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)
    """For names that other servers know: what to write here."""

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise wrong(where, value, "object")
        kept: dict[str, Any] = {}
        fields, start = self.fields, f"{where}." if where else ""
        for name, one in value.items():
            rule = fields.get(name)
            if rule is None:
                self._check_other(name, one, start)
            elif one is not None:
                kept[name] = rule.check(one, start + name)
        for name in self.required:
            if name not in kept:
                raise RefusedError("gateway.missing_parameter", param=start + name, name=start + name)
        return kept

    def _check_other(self, name: str, value: Any, start: str) -> None:
        if name in self.ignored:
            if value is not None:
                self.ignored[name].check(value, start + name)
        elif name in self.unsupported:
            neutral = self.unsupported[name]
            if value is not None and not any(type(value) is type(one) and value == one for one in neutral):
                raise RefusedError("gateway.unsupported_parameter", param=start + name, name=start + name)
        else:
            raise self._unknown(name, start)

    def _unknown(self, name: str, start: str) -> RefusedError:
        param = quoted(start + name)[1:-1]
        known = self.hints.get(name)
        near = [known] if known else difflib.get_close_matches(name[:64], list(self.fields), n=1, cutoff=0.6)
        if near:
            return RefusedError("gateway.unknown_parameter_near", param=param, name=param, near=near[0])
        return RefusedError("gateway.unknown_parameter", param=param, name=param)

    def schema(self) -> Schema:
        known: dict[str, Schema] = {name: _or_null(rule.schema()) for name, rule in self.fields.items()}
        for name in self.required:
            known[name] = self.fields[name].schema()
        known |= {
            name: _or_null(rule.schema()) | {"description": "accepted, without effect"}
            for name, rule in self.ignored.items()
        }
        known |= {
            name: {"enum": [None, *neutral], "description": "not supported: this value only"}
            for name, neutral in self.unsupported.items()
        }
        found: Schema = {"type": "object", "properties": known, "additionalProperties": False}
        return found | ({"required": list(self.required)} if self.required else {})


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


@dataclass(frozen=True, slots=True)
class ByField:
    """Records told apart by one of their fields: messages by `role`."""

    name: str
    records: Mapping[str, Record]
    refused: Mapping[str, str] = field(default_factory=dict)
    """Values that get an error of their own: value -> catalogue key."""

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise wrong(where, value, "object")
        told = value.get(self.name)
        record = self.records.get(told) if type(told) is str else None
        if record is not None:
            return record.check(value, where)
        param = f"{where}.{self.name}"
        if type(told) is str and told in self.refused:
            raise RefusedError(self.refused[told], param=where, name=where, given=told)
        if told is None:
            raise RefusedError("gateway.missing_parameter", param=param, name=param)
        raise wrong(param, told, "one_of", values=listed(self.records))

    def schema(self) -> Schema:
        # the same record under several values is told once
        groups: dict[int, tuple[Record, list[str]]] = {}
        for told, record in self.records.items():
            groups.setdefault(id(record), (record, []))[1].append(told)
        ways = []
        for record, values in groups.values():
            one = record.schema()
            one["properties"][self.name] = {"type": "string", "enum": values}
            ways.append(one)
        return ways[0] if len(ways) == 1 else {"anyOf": ways}


@dataclass(frozen=True, slots=True)
class Free:
    """Any JSON object, nested no deeper than `most_depth`: a JSON Schema, a tool's parameters."""

    most_depth: int

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise wrong(where, value, "object")
        level: Sequence[Any] = [value]
        for _ in range(self.most_depth):
            level = [one for box in level for one in (box.values() if type(box) is dict else box)]
            level = [one for one in level if type(one) is dict or type(one) is list]
            if not level:
                return value
        raise RefusedError("gateway.too_deep", param=where, name=where, most=self.most_depth)

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": True}


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object whose names are whole numbers as text, as `logit_bias`."""

    rule: Rule
    most: int

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise wrong(where, value, "object")
        if len(value) > self.most:
            raise wrong(where, len(value), "list_of", least=0, most=self.most)
        for name in value:
            if not (name.isascii() and name.isdigit() and len(name) <= 9):
                raise wrong(where, name, "token_id")
        return {name: self.rule.check(one, f"{where}.{name}") for name, one in value.items()}

    def schema(self) -> Schema:
        names = {"pattern": "^[0-9]{1,9}$"}
        return {
            "type": "object", "additionalProperties": self.rule.schema(), "propertyNames": names,
            "maxProperties": self.most,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Anything:
    """For fields that go no further."""

    def check(self, value: Any, where: str) -> Any:
        return value

    def schema(self) -> Schema:
        return {}
