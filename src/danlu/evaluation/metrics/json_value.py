"""JSON: the answer is one JSON value (`json`), and says what the reference says (`json_fields`).

`json` is right when the whole answer parses, strictly, and keeps the item's `rules: {"schema": {...}}` where there is
one. `json_fields` looks for the one value in the answer and compares it, leaf by leaf, with the reference's: value is
the F1 of the leaves (path and content), right when all agree. Numbers are numbers (80 is 80.0), strings are folded as
answers are; the order of keys does not matter, that of lists does. No JSON at all is a parse failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any

from danlu.core.errors import EvaluationError
from danlu.evaluation.fold import final_answer, fold
from danlu.evaluation.items import Item
from danlu.evaluation.jsons import NoJsonError, faults_of, find_json, read_json
from danlu.evaluation.metrics.metric import Verdict


class JsonAnswer:
    name = "json"

    def score(self, answer_text: str, item: Item) -> Verdict:
        answer = final_answer(answer_text)
        try:
            value = read_json(answer)
        except NoJsonError as error:
            return Verdict(0.0, False, {"parse_failure": True, "reason": str(error), "loose": _holds_json(answer)})
        if "schema" not in item.rules:
            return Verdict(1.0, True)
        faults = faults_of(value, item.rules["schema"], where=f"item {item.id}")
        return Verdict(float(not faults), not faults, {"schema_faults": faults} if faults else {})


class JsonFields:
    name = "json_fields"

    def score(self, answer_text: str, item: Item) -> Verdict:
        try:
            wanted = Counter(_leaves(find_json(item.reference)))
        except NoJsonError as error:
            raise EvaluationError(
                "evaluation.reference_no_json", where=f"item {item.id}", given=item.reference[:80]
            ) from error
        try:
            said = Counter(_leaves(find_json(final_answer(answer_text))))
        except NoJsonError as error:
            return Verdict(0.0, False, {"parse_failure": True, "reason": str(error)})
        common = (said & wanted).total()
        details = {"missing": _paths(wanted - said), "extra": _paths(said - wanted)}
        value = 2 * common / (said.total() + wanted.total())
        return Verdict(value, said == wanted, {name: paths for name, paths in details.items() if paths})


def _holds_json(answer: str) -> bool:
    try:
        find_json(answer)
    except NoJsonError:
        return False
    return True


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Hashable]]:
    """Path and comparable content of each leaf; an empty object or list is a leaf."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, (*path, key))
    elif isinstance(value, list) and value:
        for number, part in enumerate(value):
            yield from _leaves(part, (*path, number))
    elif isinstance(value, str):
        yield path, ("text", fold(value) or value)
    elif isinstance(value, bool) or value is None:
        yield path, ("literal", value)
    elif isinstance(value, int | float):
        yield path, ("number", value)  # 80 == 80.0, and both hash alike
    else:
        yield path, ("empty", type(value).__name__)


def _paths(leaves: Counter[Any]) -> list[str]:
    return [".".join(map(str, path)) for path, _ in list(leaves)[:10]]
