"""Whether an answer says more than its evidence: figures, units, names, negations, opposites, words from nowhere.

Rules, no model: they err towards refusing, for a refused item costs a little money and an invented fact costs trust.
What rules cannot see (a true figure put to the wrong person within one sentence) is what the optional judge is for.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from danlu.data.language import HAN
from danlu.data.synthesis.lexicon import (
    ARTICLES,
    CHINESE_NOT,
    FUNCTION_CHARACTERS,
    FUNCTION_WORDS,
    OPPOSITES,
    SURNAMES,
    UNITS,
)  # fmt: skip
from danlu.data.synthesis.words import Reading, chinese_names, content_of, stem, tokens_of

Folded = tuple[str, ...]

_LONGEST_UNIT = max(map(len, UNITS))
_CHINESE_NOT = re.compile("|".join(map(re.escape, CHINESE_NOT)))
_ENGLISH_NOT = re.compile(
    r"\b(?:no longer|(?:not|no)(?!,| (?:only|more|less|later|earlier|fewer)\b)|never|cannot|without|neither|nor"
    r"|[a-z]+n['’]t)\b",
    re.IGNORECASE,
)
_OPPOSITES = [(re.compile(one, re.IGNORECASE), re.compile(other, re.IGNORECASE)) for one, other in OPPOSITES]
_RATE = re.compile(
    r"(?:每个?|一)(小时|分钟|天|日|晚|周|月|季度|年|次|人|件|页|公里)(?=[^一二三四五六七八九十])"
    r"|\b(?:a|an|per|each|every) (hour|minute|day|night|week|month|quarter|year|person|item|page|kilometre|kilometer)\b"
    r"|\b(?:per|each|every) (trip|journey|flight|claim|stay|meal|room|order|project)\b"
)
_HAS_FIGURE = re.compile(
    r"\d|[二两三四五六七八九十百]|一[日天周年次个]|\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve)\b",
    re.IGNORECASE,
)
_WEEK = "一二三四五六日天"
_WEEKDAY = re.compile(r"(?:周|星期|礼拜)([一二三四五六日天])")
_DAYS_FROM_TO = re.compile(r"(?:周|星期|礼拜)([一二三四五六日天])[至到~—-]+(?:周|星期|礼拜)?([一二三四五六日天])")
_DENYING = ("un", "non", "in", "im", "ir", "dis")
_BOUNDS = [
    (
        re.compile(r"至少|不少于|不低于|最少|\b(?:at least|no less than|not less than)\b", re.IGNORECASE),
        re.compile(r"至少|少于|不低于|最少|最低|以上|下限|起|满|达到|超过|\b(?:least|less|minimum|from|over|more|exceed\w*)\b",
                   re.IGNORECASE),
    ),
    (
        re.compile(r"至多|最多|不超过|不多于|\b(?:at most|no more than|not more than|up to)\b", re.IGNORECASE),
        re.compile(r"至多|最多|超过|多于|最高|不高于|以下|以内|之内|上限|封顶|限|内|"
                   r"\b(?:most|more|up to|maximum|limit\w*|within|under|below|less|exceed\w*|cap)\b", re.IGNORECASE),
    ),
]  # fmt: skip
"""A bound in the answer, and what of it must be in the evidence in some words."""
_LATIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_.+#/@&'’][A-Za-z0-9]+)*[+#]*|\d+[A-Za-z][A-Za-z0-9]*")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;。！？：；\n\"“(（\-*•]\s*)$")
MAX_INVENTED_CHARACTERS, MAX_INVENTED_WORDS = 6, 4
"""So many in a row from nowhere are a statement of their own."""
_SEPARATORS = re.compile(r"[|\n\t，。；、：！？（）()《》]")
_SENTENCE_END = re.compile(r"[。！？；!?;\n]+|(?<=[a-z])\.\s")
_NAME_BEFORE = re.compile(
    rf"(?:由|找|向|联系|经理|主任|主管|总监|部长|处长|科长|院长|校长|董事长|负责人|联系人|医生|大夫|老师|教授|作者)"
    rf"[是为：: ]?([{HAN}]{{2,3}})"
)
_NAME_AFTER = re.compile(rf"([{HAN}]{{1,3}})(先生|女士|小姐|同志|经理|主任|老师|医生|教授|总监|院长)")
_PLACE_KINDS = re.compile(
    r"公司|集团|银行|大学|学院|医院|协会|委员会|办公室|事务所|研究院|中心|平台|系统|部门|省|市|县|镇|路|街|[^全内外局干]部(?=[^分门队署])"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why something is refused: a key `why_<reason>` of the room `synthesis`, and what fills it."""

    reason: str
    values: dict[str, Any] = field(default_factory=dict)


def fault_of_answer(answer: str, evidence: str, about: str, reading: Reading, *, support: float) -> Fault | None:
    """What an answer claims that its evidence does not hold; None when nothing was found.

    `evidence` are the cited spans. `about` is what the answer may name besides: the document's title and headings and
    the question, which was held to the passage before. Figures must stand in the evidence itself. `support` is the
    least share of the answer's content words that evidence or `about` must hold.
    """
    return (
        fault_of_figures(reading.fold(answer), reading.fold(_SEPARATORS.sub(" ^ ", evidence)))
        or _fault_of_rates(answer, evidence, about)
        or _fault_of_weekdays(answer, evidence)
        or fault_of_names(answer, f"{evidence}\n{about}")
        or fault_of_negation(answer, evidence)
        or _fault_of_prefixes(answer, evidence)
        or fault_of_opposites(answer, evidence)
        or _fault_of_support(answer, f"{evidence}\n{about}", support)
    )


def figures(folded: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(number, unit) of folded text; the unit is "" where none follows."""
    for index, token in enumerate(folded):
        if token.lstrip("-")[:1].isdigit():
            yield token, _unit_at(folded, index + 1)


def fault_of_figures(answer: Folded, evidence: Folded) -> Fault | None:
    """Every number of the answer stands in the evidence, with the same unit or with none (a table's column head). A
    Chinese character that follows a number there is its unit, known or not: "第七届" is no July."""
    known: dict[str, set[str]] = {}
    for index, token in enumerate(evidence):
        if token.lstrip("-")[:1].isdigit():
            after = evidence[index + 1 : index + 2]
            follows = after[0] if after and re.fullmatch(f"[{HAN}]", after[0]) else ""
            known.setdefault(token, set()).add(_unit_at(evidence, index + 1) or follows)
    for index, number in enumerate(answer):
        if not number.lstrip("-")[:1].isdigit():
            continue
        after = answer[index + 1 : index + 2]
        if number == "1" and after and after[0] in ARTICLES and number not in known:
            continue
        if number not in known:
            return Fault("figure", {"given": number})
        unit = _unit_at(answer, index + 1)
        if unit and not known[number] & {unit, ""}:
            return Fault("unit", {"given": f"{number} {unit}", "found": ", ".join(sorted(known[number]))})
    return None


def _fault_of_rates(answer: str, evidence: str, about: str) -> Fault | None:
    """ "80 euros a night" is not 80 euros a week, and 80 euros are not 80 a night: what a figure is counted by stands
    in the evidence too, or in a heading or the question where the evidence names none."""
    known = _rates(evidence)
    if not _HAS_FIGURE.search(answer):
        return None
    for rate in sorted(_rates(answer) - known):
        if known or rate not in _rates(about):
            return Fault("unit", {"given": rate, "found": ", ".join(sorted(known))})
    return None


def _fault_of_weekdays(answer: str, evidence: str) -> Fault | None:
    """周三 is no figure to the fold, and 三 alone carries no content. 周一至周五 holds 周三."""
    known = {found[1] for found in _WEEKDAY.finditer(evidence)}
    for found in _DAYS_FROM_TO.finditer(evidence):
        first, last = _WEEK.index(found[1]), _WEEK.index(found[2])
        known |= set(_WEEK[first : last + 1])
    for found in _WEEKDAY.finditer(answer):
        if found[1] not in known and not (found[1] in "日天" and known & set("日天")):
            return Fault("figure", {"given": found[0]})
    return None


def _rates(text: str) -> set[str]:
    units = [found[1] or found[2] or found[3] for found in _RATE.finditer(text.casefold())]
    return {UNITS.get(tuple(unit), UNITS.get((unit,), unit)) for unit in units}


def fault_of_names(answer: str, source: str) -> Fault | None:
    """Latin names and codes, people and organisations of the answer are named in the source."""
    words, packed = _view(source)
    for name in _latin_names(answer):
        parts = [stem(part) for part in tokens_of(name)]
        if not all(part in words for part in parts) and _packed(name) not in packed:
            return Fault("name", {"given": name})
    for pattern in (_NAME_BEFORE, _NAME_AFTER):
        for found in pattern.finditer(answer):
            if person := _person(found[1], source, title=found[2] if pattern is _NAME_AFTER else ""):
                return Fault("name", {"given": person})
    if re.search(f"[{HAN}]", answer):
        for word in chinese_names(answer):
            if _packed(word) not in packed:
                return Fault("name", {"given": word})
    for found in _PLACE_KINDS.finditer(answer):
        before = re.search(rf"[{HAN}]{{0,2}}$", answer[: found.start()])
        named = re.split(f"[{''.join(FUNCTION_CHARACTERS)}]", before[0] if before else "")[-1]
        if named and named + found[0] not in packed and (len(named) < 2 or named not in packed):
            return Fault("name", {"given": named + found[0]})
    return None


def fault_of_negation(answer: str, evidence: str) -> Fault | None:
    """What the evidence only denies, the answer does not affirm; what it never denies, the answer does not deny."""
    for pattern in (_CHINESE_NOT, _ENGLISH_NOT):
        is_chinese = pattern is _CHINESE_NOT
        if not is_chinese and not re.search("[a-zA-Z]{3}", evidence):
            continue
        for denied in _denied(evidence, pattern, is_chinese=is_chinese):
            if _affirms(answer, denied, pattern) and not _affirms(evidence, denied, pattern):
                return Fault("negation", {"given": denied})
        for denied in _denied(answer, pattern, is_chinese=is_chinese):
            if _affirms(evidence, denied, pattern) and denied not in _denied(evidence, pattern, is_chinese=is_chinese):
                return Fault("negation", {"given": denied})
    return None


def _fault_of_prefixes(answer: str, evidence: str) -> Fault | None:
    """ "Unpaid" is not "paid"."""
    said, known = (set(tokens_of(re.sub(r"(?i)\bnon-", "non", text))) for text in (answer, evidence))
    for here, there in ((said, known), (known, said)):
        for word in sorted(here - there):
            for prefix in _DENYING:
                rest = word.removeprefix(prefix)
                if rest != word and len(rest) > 3 and rest in there and rest not in here:
                    return Fault("negation", {"given": word})
    return None


def fault_of_opposites(answer: str, evidence: str) -> Fault | None:
    """ "At least" does not become "at most"."""
    for one, other in _OPPOSITES:
        for here, there in ((one, other), (other, one)):
            said = here.search(answer)
            if said and not here.search(evidence) and there.search(evidence) and not there.search(answer):
                return Fault("opposite", {"given": said[0]})
    for said_so, allowed in _BOUNDS:
        said = said_so.search(answer)
        if said and not allowed.search(evidence):
            return Fault("opposite", {"given": said[0]})
    return None


def fault_of_core(question: str, answer: str, evidence: str, reading: Reading) -> Fault | None:
    """What an answer adds to its question is the answer; none of it in the evidence is an invention, however much of
    the question was repeated around it. Figures, which were checked by themselves, are answer enough."""
    if set(figures(reading.fold(answer))) - set(figures(reading.fold(question))):
        return None
    added = [word for word in content_of(answer) if word not in set(content_of(question))]
    if added and not set(added) & set(content_of(evidence)):
        return Fault("unsupported", {"given": _joined(dict.fromkeys(added))})
    return None


def _fault_of_support(answer: str, source: str, least: float) -> Fault | None:
    """Content words from nowhere: too many of the whole, half of one sentence, or several in a row."""
    known = set(content_of(source))
    for part, share in [(answer, least), *((sentence, 0.5) for sentence in _SENTENCE_END.split(answer))]:
        content = content_of(part)
        missing = [word for word in content if word not in known]
        if len(missing) > (1 - share) * len(content) and len(missing) > (1 if part is answer else 2):
            return Fault("unsupported", {"given": _joined(dict.fromkeys(missing))})
    run = _longest_run(answer, source, known)
    if len(run) >= (MAX_INVENTED_CHARACTERS if len(run[:1] and run[0]) == 1 else MAX_INVENTED_WORDS):
        return Fault("unsupported", {"given": _joined(run)})
    return None


def _joined(words: Iterable[str]) -> str:
    listed = list(words)
    return ("" if all(len(word) == 1 for word in listed) else " ").join(listed)[:80]


def _longest_run(answer: str, source: str, known: set[str]) -> list[str]:
    """The longest run of content from nowhere, function words passed over. A Chinese character is supported as part of
    a pair that stands in the source, for single characters stand everywhere."""
    packed = _packed(source)
    best: list[str] = []
    run: list[str] = []
    for sentence in _SENTENCE_END.split(answer.casefold()):
        tokens = tokens_of(sentence)
        for place, token in enumerate(tokens):
            if token in FUNCTION_CHARACTERS or token in FUNCTION_WORDS:
                continue
            around = [*tokens[max(0, place - 1) : place], token, *tokens[place + 1 : place + 2]]
            pairs = [one + other for one, other in pairwise(around) if _is_han(one) and _is_han(other)]
            is_known = any(pair in packed for pair in pairs) if pairs else stem(token) in known
            run = [] if is_known or token[0].isdigit() else [*run, token]
            best = max(best, run, key=len)
        run = []
    return best


@functools.lru_cache(maxsize=64)
def _view(source: str) -> tuple[frozenset[str], str]:
    """Stems of a source's words, and its letters without marks; a passage is looked at for many answers."""
    return frozenset(stem(word) for word in tokens_of(source)), _packed(source)


def _packed(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def _is_han(token: str) -> bool:
    """A Chinese character with content of its own."""
    return len(token) == 1 and token not in FUNCTION_CHARACTERS and re.fullmatch(f"[{HAN}]", token) is not None


def _unit_at(folded: Sequence[str], index: int) -> str:
    for size in range(_LONGEST_UNIT, 0, -1):
        if name := UNITS.get(tuple(folded[index : index + size])):
            return name
    return ""


def _latin_names(text: str) -> Iterator[str]:
    """Latin words that name something: capitals, digits or signs inside; in Chinese text every longer Latin word."""
    is_chinese = re.search(f"[{HAN}]", text) is not None
    previous_end = -1
    for found in _LATIN_NAME.finditer(text):
        word = found[0].removesuffix("'s").removesuffix("’s")
        starts = _SENTENCE_START.search(text[: found.start()]) is not None
        follows_capital = previous_end >= 0 and text[previous_end : found.start()] == " "
        previous_end = found.end() if word[:1].isupper() else -1
        if word.casefold() in FUNCTION_WORDS:
            continue
        is_coded = any(c.isdigit() or c in "_@#+/" or (c.isupper() and place) for place, c in enumerate(word))
        is_capital = word[:1].isupper() and (not starts or follows_capital)
        if is_coded or is_capital or (is_chinese and len(word) > 1):
            yield word


def _person(given: str, source: str, *, title: str) -> str:
    """A personal name among these characters that the source does not hold, or "". With a `title` behind it the name
    stands at their end (王经理), else at their beginning (由王伟)."""
    for size in (3, 2):
        name = given[-size:] if title else given[:size]
        if len(name) == size and name[0] in SURNAMES:
            return "" if name[:2] in source else name
    if title and given[-1] in SURNAMES and given[-1] + title not in source:
        return given[-1] + title
    return ""


def _denied(text: str, pattern: re.Pattern[str], *, is_chinese: bool) -> list[str]:
    """What follows each negation: two Chinese characters, or the next content word."""
    found = []
    for negation in pattern.finditer(text):
        rest = text[negation.end() :]
        if is_chinese:
            after = re.match(f"[{HAN}]{{1,2}}", rest)
            if after and after[0] not in FUNCTION_CHARACTERS:
                found.append(after[0])
        else:
            for word in re.findall(r"[A-Za-z]+", rest)[:3]:
                if word.casefold() not in FUNCTION_WORDS:
                    found.append(word.casefold())
                    break
    return found


def _affirms(text: str, what: str, pattern: re.Pattern[str]) -> bool:
    """Whether the text says this somewhere without a negation shortly before it."""
    lowered = text.casefold()
    for found in re.finditer(re.escape(what.casefold()), lowered):
        before = lowered[max(0, found.start() - (8 if what.isascii() is False else 24)) : found.start()]
        clause = re.split(r"[，。；,.;!?！？\n]", before)[-1]
        if not pattern.search(clause):
            return True
    return False
