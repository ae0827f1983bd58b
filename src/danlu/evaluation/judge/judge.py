"""The judge: asks a model, reads its JSON (mended where it can be), and counts what it could not read.

Sources: Zheng et al. 2023 (position bias, both orders), Dubois et al. 2024 (length-controlled win rate).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from danlu.core.messages import say
from danlu.data.sample import Message
from danlu.data.synthesis.replies import parse_object
from danlu.engines.engine import Answer, Engine, Question, Sampling
from danlu.evaluation.items import Item
from danlu.evaluation.judge.wording import Spoken, pair_question, rate_question

Side = Literal["first", "second", "tie"]
Watch = Callable[[int], None]

# A word that begins with A or B names nobody ("winner: both"), and a scale's ends are no score ("score (1-5): 3").
_WINNER = re.compile(
    r"(?:winner|胜者|更好的是|赢家)(?:\W{0,12}|\s+is\s+|[是为：:\s]{1,4})(?:(?:answer|response|回答)\s*)?"
    r"(A|B|tie|平局)(?![a-z])",
    re.IGNORECASE,
)
_SCORE = re.compile(
    r"(?:score|得分|评分|分数)\D{0,12}([1-5])(?!\d|\.\d|\s*[-–—~～到至]\s*\d|\s*[)）]?\s*[:：=])", re.IGNORECASE
)
_TIES = {"tie", "平局", "draw", "equal", "both"}
_MOST_READ = 8_000
"""Characters of a reply that are searched for JSON."""


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """Of two answers to one item. `votes`: what was said with the first answer shown first, and shown second; None is
    a reply that could not be read. Two that disagree are a tie."""

    item: str
    votes: tuple[Side | None, Side | None]
    reasons: tuple[str, str] = ("", "")
    is_asked: bool = True
    """False where the answers were equal: a tie that tells nothing about the judge."""

    @property
    def winner(self) -> Side | None:
        """None when neither reply could be read: the item then counts for nobody."""
        read = [vote for vote in self.votes if vote is not None]
        if len(read) < 2:
            return None
        return read[0] if read[0] == read[1] else "tie"

    @property
    def is_consistent(self) -> bool:
        return self.votes[0] is not None and self.votes[0] == self.votes[1]

    def to_json(self) -> dict[str, Any]:
        return {"item": self.item, "winner": self.winner, "votes": list(self.votes), "reasons": list(self.reasons),
                "asked": self.is_asked}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rating:
    """Of one answer; `score` None is a reply that could not be read."""

    item: str
    score: int | None
    reason: str = ""

    @property
    def value(self) -> float:
        """1 to 5 as 0 to 1; what could not be read is worth nothing."""
        return 0.0 if self.score is None else (self.score - 1) / 4


@dataclass(slots=True)
class Reading:
    """How the judge's replies could be read."""

    num_asked: int = 0
    num_mended: int = 0
    num_again: int = 0
    num_unread: int = 0
    num_failed: int = 0
    """Of the unread, those to which no reply came at all."""

    def to_json(self) -> dict[str, int]:
        return {"asked": self.num_asked, "mended": self.num_mended, "asked_again": self.num_again,
                "unread": self.num_unread, "failed": self.num_failed}  # fmt: skip


@dataclass(slots=True)
class Judge:
    """`engine` is any engine; `rubric` takes the place of danlu's own."""

    engine: Engine
    rubric: str = ""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=256))
    reading: Reading = field(default_factory=Reading)

    def compare(
        self, items: Sequence[Item], first: Sequence[str], second: Sequence[str], *, watch: Watch | None = None
    ) -> list[PairVerdict]:
        """Both orders of each pair. Equal answers are a tie without being asked about."""
        asked: list[Question] = []
        places: list[int] = []
        for place, (item, one, other) in enumerate(zip(items, first, second, strict=True)):
            if one.strip() == other.strip():
                if watch is not None:
                    watch(2)
                continue
            spoken = spoken_of(item)
            asked.append(pair_question(spoken, item.text, item.reference, one, other, self.rubric))
            asked.append(pair_question(spoken, item.text, item.reference, other, one, self.rubric))
            places.append(place)
        replies = self._replies(asked, _winner_of, watch)
        found = [PairVerdict(item.id, ("tie", "tie"), is_asked=False) for item in items]
        for number, place in enumerate(places):
            (shown, reason), (turned, other_reason) = replies[2 * number : 2 * number + 2]
            votes = (_side(shown, is_turned=False), _side(turned, is_turned=True))
            found[place] = PairVerdict(items[place].id, votes, (reason, other_reason))
        return found

    def rate(self, items: Sequence[Item], answers: Sequence[str], *, watch: Watch | None = None) -> list[Rating]:
        asked = [
            rate_question(spoken_of(item), item.text, item.reference, answer, self.rubric)
            for item, answer in zip(items, answers, strict=True)
        ]
        replies = self._replies(asked, _score_of, watch)
        return [
            Rating(item.id, None if said is None else int(said), reason)
            for item, (said, reason) in zip(items, replies, strict=True)
        ]

    def _replies(
        self, asked: Sequence[Question], read: Callable[[dict[str, Any]], str | None], watch: Watch | None
    ) -> list[tuple[str | None, str]]:
        """(what it decided, why). What cannot be read is asked for once more, with the reply it was in."""
        self.reading.num_asked += len(asked)
        answers = self.engine.generate(asked, self.sampling, watch=watch)
        found = [self._read(answer, read) for answer in answers]
        self.reading.num_failed += sum(answer.finish == "error" for answer in answers)
        unread = [place for place, (said, _) in enumerate(found) if said is None and answers[place].finish != "error"]
        if unread:
            self.reading.num_again += len(unread)
            again = [_again(asked[place], answers[place]) for place in unread]
            for place, answer in zip(unread, self.engine.generate(again, self.sampling), strict=True):
                self.reading.num_failed += answer.finish == "error"
                found[place] = self._read(answer, read)
        self.reading.num_unread += sum(said is None for said, _ in found)
        return found

    def _read(self, answer: Answer, read: Callable[[dict[str, Any]], str | None]) -> tuple[str | None, str]:
        if answer.finish == "error":
            return None, answer.error
        whole = [value for value in _objects(answer.text) if read(value) is not None]
        if len({read(value) for value in whole}) > 1:
            return None, answer.text.strip()[:400]  # an answer's own JSON, quoted beside the verdict: which is which?
        value = whole[-1] if whole else parse_object(answer.text)
        if value is not None and (said := read(value)) is not None:
            return said, str(value.get("reason") or value.get("理由") or "")[:400]
        pattern = _WINNER if read is _winner_of else _SCORE
        matches = [next(group for group in match.groups() if group) for match in pattern.finditer(answer.text)]
        said = read({"winner": matches[-1], "score": matches[-1]}) if len(set(matches)) == 1 else None
        self.reading.num_mended += said is not None
        return said, answer.text.strip()[:400]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object that stands whole in a reply, outermost ones only."""
    text = text[:_MOST_READ]
    decoder = json.JSONDecoder()
    place = text.find("{")
    while place >= 0:
        try:
            value, place = decoder.raw_decode(text, place)
        except (json.JSONDecodeError, RecursionError):
            place += 1
        else:
            yield value
        place = text.find("{", place)


def spoken_of(item: Item) -> Spoken:
    return "zh" if item.language == "zh" else "en"


def _winner_of(value: dict[str, Any]) -> str | None:
    said = str(value.get("winner") or value.get("胜者") or "").strip().strip("\"'“”.。").lower()
    said = re.sub(r"^(?:answer|回答|response)\s*", "", said)
    return "tie" if said in _TIES else said.upper() if said in ("a", "b") else None


def _score_of(value: dict[str, Any]) -> str | None:
    match = re.fullmatch(r"\s*([1-5])(?:\.0+)?\s*(?:/\s*5|分)?\s*", str(value.get("score", value.get("得分", ""))))
    return match[1] if match else None


def _side(said: str | None, *, is_turned: bool) -> Side | None:
    if said is None or said == "tie":
        return "tie" if said else None
    return "first" if (said == "A") != is_turned else "second"


def _again(question: Question, answer: Answer) -> Question:
    spoken: Spoken = "zh" if re.search("[\u4e00-\u9fff]", question.messages[0].content) else "en"
    turns = (*question.messages, Message("assistant", answer.text), Message("user", say("judge.again", spoken)))
    return replace(question, messages=turns)
