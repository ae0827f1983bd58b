"""JSON as answers hold it: strictly the whole answer, or the one value inside fences or prose; and its schema.

Strict is RFC 8259: no NaN, no comments, and no key twice, which readers resolve differently.
"""

from __future__ import annotations

import json
import re
from typing import Any

from danlu.core.errors import EvaluationError

_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_OPENING = re.compile(r"[\[{]")


class NoJsonError(ValueError):
    """The text is not one JSON value; the message says where it stops being one."""


def read_json(text: str) -> Any:
    """The value of a text that is one JSON value and nothing else. Raises NoJsonError."""
    try:
        return json.loads(text.strip(), object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except RecursionError as error:
        raise NoJsonError("nested too deeply") from error
    except ValueError as error:  # also an integer of thousands of digits
        raise NoJsonError(str(error)[:120]) from error


def find_json(text: str) -> Any:
    """The value of a text that is JSON, or holds it in a fence or between prose: of several the longest, for "[1]" is a
    source. Raises NoJsonError."""
    candidates = [text, *(match[1] for match in _FENCE.finditer(text))]
    for candidate in candidates:
        try:
            return read_json(candidate)
        except NoJsonError:
            continue
    decoder = json.JSONDecoder(object_pairs_hook=_no_twins, parse_constant=_no_constant)
    found: list[tuple[int, Any]] = []
    end = 0
    for opening in list(_OPENING.finditer(text))[:200]:
        if opening.start() < end:
            continue
        try:
            value, end = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            continue
        found.append((end - opening.start(), value))
    if not found:
        raise NoJsonError("no JSON in the answer")
    return max(found, key=lambda one: one[0])[1]


def faults_of(value: Any, schema: Any, *, where: str) -> list[str]:
    """What of a JSON value breaks a JSON Schema, at most five faults as `path: rule`.

    Nothing is fetched: a `$ref` to another document does not resolve. Raises EvaluationError on a faulty schema.
    """
    try:
        import jsonschema  # only answers with a schema need it
        import referencing.jsonschema
    except ImportError as error:
        raise EvaluationError("evaluation.needs_extra", where=where, given="jsonschema") from error
    if not isinstance(schema, dict | bool):
        raise EvaluationError("evaluation.bad_schema", where=where, given=str(schema)[:80], reason="-")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
        faults = kind(schema, registry=referencing.jsonschema.EMPTY_REGISTRY).iter_errors(value)
        found = sorted(faults, key=lambda fault: list(map(str, fault.path)))
    except (jsonschema.SchemaError, referencing.exceptions.Unresolvable) as error:
        raise EvaluationError(
            "evaluation.bad_schema", where=where, given=str(schema)[:80], reason=str(error)[:120]
        ) from error
    return [f"{'.'.join(['$', *map(str, fault.path)])}: {fault.validator}" for fault in found[:5]]


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise NoJsonError("a key stands twice")
    return made


def _no_constant(name: str) -> Any:
    raise NoJsonError(f"{name} is no JSON")
