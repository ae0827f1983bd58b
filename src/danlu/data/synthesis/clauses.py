"""Whether an answer's clause says what the clause of the evidence says that it is most like: the same duty, the same
side of a bound, affirmed where it is affirmed, the same party, place or class at the same place. A yes or no is read
with its question.

Only clauses that share most of their words are held against each other; a statement wholly in other words is not
judged here. Who a pronoun stands for, and which of two sentences a right word belongs to, rules do not see.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

from danlu.data.language import HAN
from danlu.data.synthesis.duty import directions, directions_in_order, duties, duties_in_order, follows, is_denied
from danlu.data.synthesis.facts import Fault
from danlu.data.synthesis.lexicon import ALIKE, FUNCTION_CHARACTERS, FUNCTION_WORDS, OPPOSITES, SWAPPED
from danlu.data.synthesis.words import chinese_tagged, content_of, stem, tokens_of

MIN_SHARED = 0.6
"""Of a clause's words, from which on it speaks of the same thing as another."""
MIN_ALIKE = 0.75
"""Of a clause's words, from which on a "not" more or less makes it the contrary."""
MIN_EXCHANGED = 0.6
"""Of a sentence's words, from which on a word that stands elsewhere in it is taken for exchanged."""
MIN_VERBATIM = 0.8
"""Of a sentence's words, from which on it is told word for word, and another word at a place is another statement."""
_SENTENCE_END = re.compile(r"[。！？；!?;\n|]+|(?<=[a-z0-9])\.(?:\s|$)")
_CLAUSE_END = re.compile(r"[，：]|[,:](?=\s)|\bbut\b")
_HAS_HAN = re.compile(f"[{HAN}]")
_YES = re.compile(
    r"^\s*(?:是的?|对的?|可以|能|会|需要|要|有|应当|必须|允许|没错|属于|yes\b|correct\b|right\b|true\b)(?=[，。,.；;!！\s]|$)",
    re.IGNORECASE,
)
_NO = re.compile(
    r"^\s*(?:不是的?|不对|不可以|不可|不能|不会|不需要|不必|不用|不要|没有|不应当|不应|不得|不允许|不行|不属于|否|不|no\b)(?=[，。,.；;!！\s]|$)",
    re.IGNORECASE,
)  # fmt: skip
_ASKS = re.compile(
    r"[吗么][？?]?\s*$|是否|能否|可否|是不是|能不能|可不可以|要不要|会不会|有没有|需不需要"
    r"|^\s*(?:may|can|could|must|shall|should|will|would|do|does|did|is|are|was|were|has|have|need)\b",
    re.IGNORECASE,
)
_ALL = re.compile(r"\b(?:all|every|any|always)\b|所有|全部|全体|一律|任何|均", re.IGNORECASE)
_RESTRICTED = re.compile(r"\b(?:if|unless|except|only|who|when|where|whose)\b|如果|除|的，|情形", re.IGNORECASE)
_EXCEPTION = re.compile(r"除[^，。；]{2,40}?(?:以外|之外|外)|\b(?:except|unless)\b", re.IGNORECASE)
_FIGURE = re.compile(r"\d|[二三四五六七八九十百]")
_CONDITION = re.compile(r"未经|未按|非经|除非|\b(?:without|unless)\b", re.IGNORECASE)
_BEFORE_NOUN = frozenset(["a", "an", "the", "in", "at", "of", "for", "by", "from", "to", "on", "with", "via", "under"])
_AFTER_NOUN = frozenset(
    [
        "may",
        "must",
        "can",
        "shall",
        "should",
        "will",
        "is",
        "are",
        "was",
        "were",
        "has",
        "have",
        "need",
        "needs",
        "pay",
        "pays",
        "of",
    ]
)
_NOUNS = ("n", "b", "s", "a", "f", "t")
_SWAPPABLE = frozenset(word for pair in SWAPPED for word in pair)
_PAIRS = [
    re.compile(f"(?P<one>{one})|(?P<other>{other})", re.IGNORECASE) for one, other in (*OPPOSITES, *sorted(SWAPPED))
]
_ALIKE = {word: group for group in ALIKE for word in group}


@dataclass(frozen=True, slots=True)
class _Clause:
    text: str
    words: frozenset[str]
    sentence: str


def fault_of_clauses(question: str, answer: str, evidence: str) -> Fault | None:
    """The first clause of the answer that the evidence's own does not bear out; None when none was found."""
    known = _clauses(evidence)
    for said in _clauses(answer):
        near = _nearest(said, known, MIN_SHARED)
        fault = _fault_of_duty(question, said, near) or _fault_of_bound(said, near) or _fault_of_denial(said, near)
        fault = fault or _fault_of_universal(said, near)
        if fault:
            return fault
    for sentence in _sentences(answer):
        fault = _fault_of_order(sentence, evidence) or _fault_of_swap(sentence, evidence)
        if fault:
            return fault
    return _fault_of_exception(answer, evidence) or fault_of_verdict(question, answer, evidence)


def fault_of_verdict(question: str, answer: str, evidence: str) -> Fault | None:
    """A yes or no, put together with its question, against the clause that the question asks about."""
    yes, no = _YES.search(answer), _NO.search(answer)
    if not _ASKS.search(question) or not (yes or no):
        return None
    asked = [_Clause(part.text, _words(_ASKS.sub(" ", part.text)), part.sentence) for part in _clauses(question)]
    asked = [part for part in asked if duties(part.text)] or asked  # not "before the licence is given"
    known = _clauses(evidence)
    near = [(part, one) for part in asked for one in _nearest(part, known, 0.45)]
    if not near:
        near = [(part, one) for part in asked for one in _nearest(part, _whole(evidence), 0.45)]
    given = (yes or no)[0].strip()  # type: ignore[index]
    if not near:
        return Fault("verdict", {"given": given}) if yes and any(len(part.words) > 1 for part in asked) else None
    verdicts = {_agrees(part, one) for part, one in near}
    if bool(yes) in verdicts:
        return None
    words = set(content_of(_ASKS.sub(" ", question)))
    if no and not words <= set(content_of(evidence)):
        return None  # "no" to something that the clause does not say: told by contrast
    return Fault("verdict", {"given": given})


def _agrees(asked: _Clause, known: _Clause) -> bool:
    """Whether the clause says yes to what is asked."""
    parity = is_denied(asked.text) == is_denied(known.text)
    one, other = directions(asked.text), directions(known.text)
    if one and other and not one & other:
        parity = not parity
    wanted, given = duties(asked.text), duties(known.text)
    if parity and given and wanted == {"oblige"} and not follows("oblige", given):
        return False
    return parity


def _fault_of_duty(question: str, said: _Clause, near: list[_Clause]) -> Fault | None:
    known = set[str]().union(*(duties(one.text) for one in near)) or set().union(*(duties(o.sentence) for o in near))
    told = duties(said.text)
    if not known or not told or not near:
        return None
    if any(is_denied(said.text) != is_denied(one.text) and directions(one.text) for one in near):
        return None  # "must be at least" for "may not be below"
    if "forbid" in known and any(_CONDITION.search(one.sentence) for one in near):
        known = known | {"permit", "oblige"}  # "not without consent" is "may, with consent"
    if "oblige" in known and "permit" in duties(question):
        known = known | {"permit"}  # who must, also may, where that is what was asked
    for duty in sorted(told):
        if not follows(duty, known):
            return Fault("duty", {"given": duty})
    return None


def _fault_of_bound(said: _Clause, near: list[_Clause]) -> Fault | None:
    told = directions(said.text)
    known = set[bool]().union(*(directions(one.text) for one in near)) if near else set()
    # "30 days after the trip" as a duty, where "within 30 days" is one
    is_dropped = not told and known == {False} and "oblige" in duties(said.text) and _FIGURE.search(said.text)
    if is_dropped or (told and known and not told & known):
        return Fault("opposite", {"given": said.text.strip()[:60]})
    return None


def _fault_of_denial(said: _Clause, near: list[_Clause]) -> Fault | None:
    close = [one for one in near if _shared(said, one) >= MIN_ALIKE and _shared(one, said) >= MIN_SHARED]
    if close and all(is_denied(one.text) != is_denied(said.text) and
                     not _is_turned(said.text, one.text) for one in close):  # fmt: skip
        return Fault("negation", {"given": said.text.strip()[:60]})
    return None


def _is_turned(one: str, other: str) -> bool:
    """Whether the two name different sides of a bound, so that a "not" between them may be right."""
    first, second = directions(one), directions(other)
    return bool(first or second) and first != second


def _fault_of_universal(said: _Clause, near: list[_Clause]) -> Fault | None:
    """ "All claims" where the evidence speaks of some."""
    found = _ALL.search(said.text)
    if not found or not near or any(_ALL.search(one.sentence) for one in near):
        return None
    if all(directions(o.text) - directions(said.text) or
           (_RESTRICTED.search(o.sentence) and not _RESTRICTED.search(said.sentence)) for o in near):  # fmt: skip
        return Fault("opposite", {"given": found[0]})
    return None


def _fault_of_exception(answer: str, evidence: str) -> Fault | None:
    """A sentence told nearly word for word without the exception that it begins with."""
    for sentence in _sentences(evidence):
        found = _EXCEPTION.search(sentence)
        if not found or _EXCEPTION.search(answer):
            continue
        rest = _words(sentence[: found.start()] + " " + sentence[found.end() :])
        if len(rest) > 3 and len(rest & _words(answer)) > 0.9 * len(rest):
            return Fault("exception", {"given": found[0][:60]})
    return None


def _fault_of_order(said: str, evidence: str) -> Fault | None:
    """A sentence told word for word but for one small word, where the evidence has both kinds of it: may and must."""
    told = _Clause(said, _words(said), said)
    near = [one for one in _whole(evidence) if min(_shared(told, one), _shared(one, told)) >= MIN_VERBATIM]
    faults = [_differs(said, one.text) for one in near]
    return faults[0] if faults and all(faults) else None


def _differs(said: str, known: str) -> Fault | None:
    for reason, listed in (("duty", duties_in_order), ("opposite", directions_in_order)):
        mine, theirs = listed(said), listed(known)
        if len(mine) == len(theirs) and mine != theirs:
            return Fault(reason, {"given": said[:60]})
    for pair in _PAIRS:
        here, there = ([found.lastgroup for found in pair.finditer(text)] for text in (said, known))
        if len(here) == len(there) and here != there:
            return Fault("opposite", {"given": said[:60]})
    return None


@functools.lru_cache(maxsize=256)
def _whole(text: str) -> tuple[_Clause, ...]:
    """Sentences, uncut."""
    return tuple(_Clause(one, _words(one), one) for one in _sentences(text))


def _fault_of_swap(said: str, evidence: str) -> Fault | None:
    """A party, place or class put where the evidence, in otherwise the same sentence, names another."""
    is_chinese = _HAS_HAN.search(said) is not None
    mine = _tagged(said) if is_chinese else [(word, "") for word in tokens_of(said)]
    words = [_key(word) for word, _ in mine]
    best: tuple[float, Fault | None] = (0.0, None)
    for sentence in _sentences(evidence):
        theirs = [word for word, _ in _tagged(sentence)] if is_chinese else tokens_of(sentence)
        keys = [_key(word) for word in theirs]
        matcher = SequenceMatcher(None, words, keys, autojunk=False)
        matched = sum(block.size for block in matcher.get_matching_blocks())
        share = matched / max(1, len(words))
        if share <= best[0] or matched < 3 or share < MIN_SHARED:
            continue
        faults = [
            fault
            for kind, a, b, c, d in matcher.get_opcodes()
            if kind == "replace" and (fault := _swapped(mine, a, b, theirs, c, d, share, is_chinese))
        ]
        best = (share, faults[0] if faults else None)
    return best[1]


def _swapped(
    mine: list[tuple[str, str]],
    start: int,
    end: int,
    theirs: list[str],
    first: int,
    last: int,
    share: float,
    is_chinese: bool,
) -> Fault | None:
    """The fault of `mine[start:end]` standing where the evidence has `theirs[first:last]`."""
    dropped = [
        word for word in theirs[first:last] if word in _SWAPPABLE or (_is_content(word) and len(word) > is_chinese)
    ]
    said = {_key(word) for word, _ in mine}
    if not dropped or (share < MIN_EXCHANGED and any(_key(word) in said for word in dropped)):
        return None
    for place in range(start, end):
        word, kind = mine[place]
        if not (_is_content(word) or word in _SWAPPABLE) or any(_is_alike(word, other) for other in dropped):
            continue
        if any((word, other) in SWAPPED for other in dropped):
            return Fault("swapped", {"given": word, "found": " ".join(dropped)[:60]})
        if share < MIN_VERBATIM and word in theirs and not any(other in [one for one, _ in mine] for other in dropped):
            continue  # said of another part of the same sentence: shortened, not exchanged
        if is_chinese:
            names = kind.startswith(_NOUNS) and len(word) > 1
        else:
            before = mine[place - 1][0] if place else "the"
            after = mine[place + 1][0] if place + 1 < len(mine) else ""
            names = before in _BEFORE_NOUN or after in _AFTER_NOUN
        if names:
            return Fault("swapped", {"given": word, "found": " ".join(dropped)[:60]})
    return None


def _is_alike(one: str, other: str) -> bool:
    """Synonyms, or one word within the other."""
    if one in other or other in one or (_HAS_HAN.search(one) and set(one) & set(other) and len(one) == len(other) == 2):
        return one in other or other in one or other in _ALIKE.get(one, ())
    return _key(other) in {_key(word) for word in _ALIKE.get(_key(one), _ALIKE.get(one, ()))}


def _is_content(word: str) -> bool:
    if word[0].isdigit() or word in FUNCTION_WORDS:
        return False
    return not all(character in FUNCTION_CHARACTERS for character in word)


def _key(word: str) -> str:
    return stem(word.casefold())


def _nearest(said: _Clause, known: tuple[_Clause, ...], least: float) -> list[_Clause]:
    """The clauses that share most of its words, near ties included."""
    if len(said.words) < 2:
        return []
    shares = [(_shared(said, one), one) for one in known]
    best = max((share for share, _ in shares), default=0.0)
    return [one for share, one in shares if share >= least and share >= 0.9 * best]


def _shared(one: _Clause, other: _Clause) -> float:
    return len(one.words & other.words) / max(1, len(one.words))


def _words(text: str) -> frozenset[str]:
    """English stems, and pairs of neighbouring Chinese characters: single ones stand everywhere."""
    content = content_of(text)
    pairs = {one + other for one, other in pairwise(content) if _HAS_HAN.match(one) and _HAS_HAN.match(other)}
    return frozenset(pairs | {word for word in content if not _HAS_HAN.match(word)})


def _sentences(text: str) -> list[str]:
    return [part for part in _SENTENCE_END.split(text) if part and part.strip()]


@functools.lru_cache(maxsize=256)
def _clauses(text: str) -> tuple[_Clause, ...]:
    return tuple(
        _Clause(part, _words(part), sentence)
        for sentence in _sentences(text)
        for part in _CLAUSE_END.split(sentence)
        if part.strip()
    )


@functools.lru_cache(maxsize=256)
def _tagged(text: str) -> list[tuple[str, str]]:
    return [(word, kind) for word, kind in chinese_tagged(text) if kind != "x" and word.strip()]
