"""Rules of form: what an answer must look like, whatever it says. Each rule is one small predicate.

Letters of an answer are counted as a reader counts them: `chars` without spaces and punctuation in neither language's
favour (every character but white space), `words` as Latin words and single Chinese characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from danlu.core.errors import EvaluationError
from danlu.core.messages import listed
from danlu.core.shelf import nearest
from danlu.data.language import language_of
from danlu.evaluation.fold import CJK
from danlu.evaluation.jsons import NoJsonError, faults_of, find_json, read_json

_BULLET = re.compile(
    r"^[ \t]*(?:[-*+•·●▪◦–—]|\(?\d{1,2}[.)、．）]|（\d{1,2}）|[①-⑳]|[一二三四五六七八九十]{1,2}、)[ \t]*\S",
    re.MULTILINE,
)
_NUMBERED = re.compile(
    r"^[ \t]*(?:\(?\d{1,2}[.)、．）]|（\d{1,2}）|[①-⑳]|[一二三四五六七八九十]{1,2}、)[ \t]*\S", re.MULTILINE
)
_SENTENCE = re.compile(
    r"[^。！？!?.…\n]*[^\W_][^。！？!?.…\n]*(?:\.(?=\w)[^。！？!?.…\n]*)*(?:[。！？!?…]+|\.(?!\w)|\n|$)"
)
_ABBREVIATION = re.compile(
    r"\b(?:Dr|Mr|Mrs|Ms|Prof|St|vs|No|approx)\.(?=\s)|\b(?:[A-Za-z]\.){2,}(?=\s+[a-z]|[,;)])|\betc\.(?=\s+[a-z]|[,;)])"
)
_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+(?:['’\-‑][^\W_{CJK}]+)*")
_SOURCE = re.compile(r"(?<=[。！？!?.…])\s*(?:（[^（）]{0,80}）|\([^()]{0,80}\))")
_TABLE_RULE = re.compile(r"^\s*\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?\s*$", re.MULTILINE)
_PROSE_BEFORE = re.compile(
    r"^\s*(?:(?:sure|certainly|of course|okay|ok|here(?:'s| is| are)|below (?:is|are)|the (?:json|answer|list|output)"
    r" is)\b[^\n]*"
    r"|(?:当然|好的|可以|以下|下面|这是|根据)[^\n]*[:：,，。!！])\s*\n",
    re.IGNORECASE,
)
_PROSE_AFTER = re.compile(
    r"\n\s*(?:(?:i hope|hope this|let me know|feel free|please let)\b[^\n]*"
    r"|(?:希望|如果您|如有|请告诉我|如需)[^\n]*)\s*$",
    re.IGNORECASE,
)
_FENCED = re.compile(r"^\s*```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```\s*$", re.DOTALL)
_MARKS = re.compile(r"[*_`#>]")

Rule = Callable[[str, Any, str], bool]


def broken_rules(text: str, rules: Mapping[str, Any], *, where: str) -> list[str]:
    """Names of the rules that a text breaks, in the rules' order. Raises EvaluationError for a rule that is none."""
    for name in rules:
        if name not in RULES:
            raise EvaluationError(
                "evaluation.unknown_rule",
                where=where,
                given=name,
                nearest=nearest(name, RULES),
                known=listed(RULES),
            )
    try:
        return [name for name, wanted in rules.items() if not RULES[name](text, wanted, where)]
    except EvaluationError:
        raise
    except (TypeError, ValueError, re.error) as error:  # a count that is no number, a list that is none
        raise EvaluationError(
            "evaluation.bad_rule", where=where, given=str(dict(rules))[:120], reason=str(error)
        ) from error


def loosened(text: str) -> str:
    """The text without what a patient reader looks past: a fence around it, "Sure, here is", "Hope this helps"."""
    text = _PROSE_AFTER.sub("", _PROSE_BEFORE.sub("", text, count=1), count=1)
    fenced = _FENCED.match(text)
    return (fenced[1] if fenced else text).strip()


def num_chars(text: str) -> int:
    """Characters, white space left out."""
    return len(re.sub(r"\s", "", text))


def num_sentences(text: str) -> int:
    """Sentences, told by their ends: 。！？ and lines. A full stop in a number or a name is none, nor is a source in
    brackets behind the end, nor an abbreviation's stop (Dr. Smith, e.g. five, the U.S. is)."""
    whole = _ABBREVIATION.sub(lambda short: short[0].replace(".", ""), _SOURCE.sub("", text))
    return sum(1 for _ in _SENTENCE.finditer(whole))


def _json(text: str, wanted: Any, where: str) -> bool:
    """`true`: one JSON value; "object" or "array": of that kind."""
    try:
        value = read_json(text)
    except NoJsonError:
        return not wanted
    kinds = {"object": dict, "array": list}
    return isinstance(value, kinds[wanted]) if wanted in kinds else bool(wanted)


def _schema(text: str, wanted: Any, where: str) -> bool:
    """The JSON in the answer keeps the schema."""
    try:
        return not faults_of(find_json(text), wanted, where=where)
    except NoJsonError:
        return False


def _keys(text: str, wanted: Any, where: str) -> bool:
    """The JSON object has these keys and no others; of a list, each element."""
    try:
        value = find_json(text)
    except NoJsonError:
        return False
    rows = value if isinstance(value, list) and value else [value]
    return all(isinstance(row, dict) and row.keys() == set(wanted) for row in rows)


def _language(text: str, wanted: Any, where: str) -> bool:
    return str(wanted) == language_of(text)


def _no_extra(text: str, wanted: Any, where: str) -> bool:
    """Nothing around the answer: no greeting before, no offer after, no fence."""
    return (loosened(text) == text.strip()) is bool(wanted)


def _plain(text: str, wanted: Any, where: str) -> bool:
    """No Markdown: no emphasis, headings, fences, tables or list marks."""
    marked = re.search(r"\*\*|__|^#{1,6} |```|`[^`\n]+`|^\s*[-*+] |^> ", text, re.MULTILINE) or _TABLE_RULE.search(text)
    return (marked is None) is bool(wanted)


def _lines(text: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip())


def _paragraphs(text: str) -> int:
    return sum(1 for part in re.split(r"\n\s*\n", text) if part.strip())


def _count(count: Callable[[str], int]) -> Rule:
    return lambda text, wanted, where: count(text) == int(wanted)


def _most(count: Callable[[str], int]) -> Rule:
    return lambda text, wanted, where: count(text) <= int(wanted)


def _least(count: Callable[[str], int]) -> Rule:
    return lambda text, wanted, where: count(text) >= int(wanted)


def _all(text: str, wanted: Any) -> list[bool]:
    return [str(part).casefold() in text.casefold() for part in ([wanted] if isinstance(wanted, str) else wanted)]


def _num_words(text: str) -> int:
    """As a reader counts: "It's" and "well-known" are one word each."""
    return len(_WORD.findall(unicodedata.normalize("NFKC", text)))


def _num_bullets(text: str) -> int:
    return len(_BULLET.findall(text))


RULES: dict[str, Rule] = {
    "json": _json,
    "schema": _schema,
    "keys": _keys,
    "bullets": _count(_num_bullets),
    "numbered": _count(lambda text: len(_NUMBERED.findall(text))),
    "lines": _count(_lines),
    "paragraphs": _count(_paragraphs),
    "sentences": _count(num_sentences),
    "max_sentences": _most(num_sentences),
    "chars": _count(num_chars),
    "max_chars": _most(num_chars),
    "min_chars": _least(num_chars),
    "words": _count(_num_words),
    "max_words": _most(_num_words),
    "min_words": _least(_num_words),
    "language": _language,
    "no_extra": _no_extra,
    "plain": _plain,
    "table": lambda text, wanted, where: (_TABLE_RULE.search(text) is not None) is bool(wanted),
    "starts_with": lambda text, wanted, where: text.strip().casefold().startswith(str(wanted).casefold()),
    "ends_with": lambda text, wanted, where: text.strip().casefold().endswith(str(wanted).casefold()),
    "includes": lambda text, wanted, where: all(_all(text, wanted)),
    "excludes": lambda text, wanted, where: not any(_all(text, wanted)),
    "regex": lambda text, wanted, where: re.fullmatch(str(wanted), text.strip(), re.DOTALL) is not None,
    "one_of": lambda text, wanted, where: (
        _MARKS.sub("", text).strip().strip("。.!！“”\"'「」") in [str(part) for part in wanted]
    ),
    "upper": lambda text, wanted, where: (text == text.upper()) is bool(wanted),
    "lower": lambda text, wanted, where: (text == text.lower()) is bool(wanted),
}
"""What may stand in an item's `rules` for the metric `format`."""
