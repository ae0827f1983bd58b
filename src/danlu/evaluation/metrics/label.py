"""Label accuracy: the class that the answer settles on, compared with the right one.

It is the last one after a word of conclusion (答案：, "answer:"), else the first one named. Passed by are a denied one
("not positive") and, where another is named, a mere look ("sounds positive, but …") and the choice as it was put
("positive or negative?"). At one place the longer label wins ("very good" before "good").
An answer that names none is a parse failure: wrong, and counted apart, because it asks for another remedy than a wrong
class does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from danlu.evaluation.fold import Folded, final_answer, find, fold
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Verdict

_CONCLUSIONS = tuple(
    map(fold, ("答案", "答案是", "答案为", "答案应是", "答案应为", "结论", "结论是", "结论为", "最终答案是", "我选",
               "我选择", "answer", "answer is", "conclusion", "verdict", "verdict is", "i choose"))
)  # fmt: skip
_LOOKS = tuple(
    map(fold, ("看似", "看起来", "看上去", "表面", "貌似", "似乎", "乍看", "字面", "sounds", "seems", "looks",
               "appears", "although", "though", "despite", "literally", "on the surface", "at first"))
)  # fmt: skip
_LOOK_WIDTH = 8
"""Tokens between such a word and the label that it belittles."""
_JOINING = {fold(word) for word in ("还是", "或", "或者", "和", "与", "or", "and", "vs", "/")}


@dataclass(frozen=True, slots=True)
class _Mention:
    start: int
    end: int
    label: str


class LabelAccuracy:
    name = "label"

    def score(self, answer_text: str, item: Item) -> Verdict:
        answer = fold(final_answer(answer_text))
        label = _settled(answer, _mentions(answer, item.labels or (item.reference,)))
        if label is None:
            return Verdict(0.0, False, {"parse_failure": True})
        right = fold(label) in {fold(text) for text in (item.reference, *item.accept)}
        return Verdict(float(right), right, {"label": label})


def _mentions(answer: Folded, labels: tuple[str, ...]) -> list[_Mention]:
    """Every label that is named and not denied, in order; none within a longer one."""
    found = []
    for label in labels:
        needle, place = fold(label), -1
        while (place := find(needle, answer, start=place + 1)) >= 0:
            found.append(_Mention(place, place + len(needle), label))
    found.sort(key=lambda one: (one.start, -one.end))
    kept: list[_Mention] = []
    for one in found:
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
    return kept


def _settled(answer: Folded, named: list[_Mention]) -> str | None:
    if len({one.label for one in named}) < 2:
        return named[0].label if named else None
    concluded = [one for one in named if any(_ends(answer[: one.start], words) for words in _CONCLUSIONS)]
    put = {place for place, (one, two) in enumerate(pairwise(named))
           if one.label != two.label and answer[one.end : two.start] in _JOINING}  # fmt: skip
    asked = put | {place + 1 for place in put}
    since = [0, *(one.end for one in named)]
    meant = [
        one for place, one in enumerate(named) if place not in asked and not _is_look(answer, one, since=since[place])
    ]
    if concluded and concluded[-1] in meant:
        return concluded[-1].label
    return (meant or named)[0].label


def _ends(before: Folded, words: Folded) -> bool:
    return before[-len(words) :] == words


def _is_look(answer: Folded, one: _Mention, *, since: int) -> bool:
    before = answer[max(since, one.start - _LOOK_WIDTH) : one.start]
    return any(find(words, before) >= 0 for words in _LOOKS)
