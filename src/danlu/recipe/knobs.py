"""The list of all knobs: every dotted name a recipe may hold, with kind of value, range, default and help."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True, slots=True)
class Knob:
    """One decision: `section` is the chapter class that holds it (LoRASection for adapter.rank)."""

    key: str
    kind: str
    default: Any
    help: str
    bounds: str
    section: type[BaseModel]
    kinds: tuple[str, ...] = ()
    """The kinds of its chapter that have it; () where the chapter has no kinds."""


def all_knobs(recipe: type[BaseModel]) -> dict[str, Knob]:
    """Every leaf knob by dotted name, in reading order. Variants of a chapter (lora, full) share its name."""
    knobs: dict[str, Knob] = {}
    for key, field, section in _walk(recipe, ""):
        known = knobs.get(key)
        if known is None:
            default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
            bounds, help_text = _bounds(field), field.description or ""
            knobs[key] = Knob(
                key, _type_text(field.annotation), default, help_text, bounds, section, _kinds(section)
            )  # fmt: skip
        elif key.endswith(".kind"):  # adapter.kind: 'lora' | 'full'
            both = f"{known.kind} | {_type_text(field.annotation)}"
            knobs[key] = replace(known, kind=both, help=f"{known.help} {field.description or ''}")
        elif fresh := [kind for kind in _kinds(section) if kind not in known.kinds]:  # method.beta, of dpo and of grpo
            other = f"{fresh[0]}: {found}" if (found := _bounds(field)) != known.bounds else ""
            bounds = "; ".join(filter(None, (known.bounds, other)))
            knobs[key] = replace(known, kinds=(*known.kinds, *fresh), bounds=bounds)
    return knobs


def _kinds(section: type[BaseModel]) -> tuple[str, ...]:
    kind = section.model_fields.get("kind")
    return (kind.default,) if kind is not None and isinstance(kind.default, str) else ()


def section_at(recipe: type[BaseModel], chapter: str) -> list[str]:
    """Names of the keys directly under a chapter ("" is the recipe itself), over all its variants."""
    sections: list[type[BaseModel]] = [recipe]
    for part in [p for p in chapter.split(".") if p and not p.isdigit()]:
        sections = [
            inner for s in sections if part in s.model_fields for inner in _sections_in(s.model_fields[part].annotation)
        ]
    return list(dict.fromkeys(name for section in sections for name in section.model_fields))


def _walk(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo, type[BaseModel]]]:
    for name, field in section.model_fields.items():
        # stages repeat the chapters method and training; they are one knob
        inner = [] if name == "stages" else _sections_in(field.annotation)
        if not inner:
            yield prefix + name, field, section
        for variant in inner:
            yield from _walk(variant, f"{prefix}{name}.")


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The section classes a field may hold, through unions, tuples and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for argument in typing.get_args(annotation) for inner in _sections_in(argument)]


def _type_text(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " | ".join(repr(value) for value in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_text(a) for a in typing.get_args(annotation))
    if origin is typing.Annotated:
        return _type_text(typing.get_args(annotation)[0])
    if annotation is type(None):
        return "null"
    if origin is tuple:
        return f"list of {_type_text(typing.get_args(annotation)[0])}"
    return getattr(annotation, "__name__", str(annotation)) if origin is None else str(annotation)


def _bounds(field: FieldInfo) -> str:
    signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    found = [
        f"{sign} {value}"
        for rule in field.metadata
        for name, sign in signs
        if (value := getattr(rule, name, None)) is not None
    ]
    return ", ".join(found)
