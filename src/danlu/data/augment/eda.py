"""EDA (Wei and Zou 2019), narrowed to what keeps meaning: synonyms from a table, dropping fillers, moving an adverb.

The paper inserts, deletes and swaps any words. Here numbers, names, negations and words of the answer are never
touched, only words that carry no fact are dropped, and only adverbs change places. Chinese is cut by rjieba.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from importlib import resources
from itertools import pairwise

from danlu.data.augment.augmenter import Asking, Variable
from danlu.data.language import HAN, language_of
from danlu.data.synthesis.lexicon import ADVERBS, FILLERS
from danlu.data.synthesis.words import chinese_words

_ENGLISH_PIECES = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*|\s+|[^A-Za-z\s]+")
_QUOTED = re.compile(r"“[^”]*”|\"[^\"]*\"|《[^》]*》|「[^」]*」|`[^`]*`|【[^】]*】")
TRIES = 8


class Eda:
    needs_teacher = False

    def vary(self, variables: Sequence[Variable], copies: int, strength: float, asking: Asking) -> list[list[str]]:
        return [_variants(variable, copies, strength) for variable in variables]


def _variants(variable: Variable, copies: int, strength: float) -> list[str]:
    language = language_of(variable.text)
    if language == "other":
        return []
    pieces = words(variable.text)
    fixed = _fixed_places(variable, pieces)
    draw = random.Random(variable.seed)  # noqa: S311 - wording, no secret
    num = max(1, round(strength * sum(bool(piece.strip()) for piece in pieces)))
    found: dict[str, None] = {}
    for turn in range(TRIES * copies):
        ways = [_with_synonyms, _without_fillers, _with_moved_adverb]
        way = ways[turn % 3]
        made = "".join(way(list(pieces), fixed, num, language, draw))
        made = re.sub(r"  +", " ", made).strip()
        if made and made != variable.text:
            found.setdefault(made)
        if len(found) >= 2 * copies:
            break
    return list(found)


def words(text: str) -> list[str]:
    """The text in words; joined again it is the text."""
    if language_of(text) != "zh":
        return _ENGLISH_PIECES.findall(text)
    return chinese_words(text)


def _fixed_places(variable: Variable, pieces: Sequence[str]) -> frozenset[int]:
    """Words that are never touched: of the answer, in quotation marks or titles, names by their capital, and any with a
    digit."""
    quoted = [found.span() for found in _QUOTED.finditer(variable.text)]
    protected = variable.protected.casefold()
    fixed, start = set(), 0
    for place, piece in enumerate(pieces):
        inside = any(left <= start < right for left, right in quoted)
        is_name = piece[:1].isupper() and place > 0
        is_answered = len(piece.strip()) > 1 and _holds(protected, piece.casefold())
        if inside or is_name or is_answered or any(character.isdigit() for character in piece):
            fixed.add(place)
        start += len(piece)
    return frozenset(fixed)


def _holds(text: str, word: str) -> bool:
    if re.search(f"[{HAN}]", word):
        return word in text
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


def _with_synonyms(pieces: list[str], fixed: frozenset[int], num: int, language: str, draw: random.Random) -> list[str]:
    table = synonyms(language)
    places = [place for place, piece in enumerate(pieces) if place not in fixed and piece.casefold() in table]
    for place in draw.sample(places, min(num, len(places))):
        word = pieces[place]
        other = draw.choice([candidate for candidate in table[word.casefold()] if candidate != word.casefold()])
        pieces[place] = other.capitalize() if word[:1].isupper() else other
    return pieces


def _without_fillers(
    pieces: list[str], fixed: frozenset[int], num: int, language: str, draw: random.Random
) -> list[str]:
    places = [
        place for place, piece in enumerate(pieces) if place not in fixed and piece.casefold() in FILLERS[language]
    ]
    for place in draw.sample(places, min(num, len(places))):
        pieces[place] = ""
    return pieces


def _with_moved_adverb(
    pieces: list[str], fixed: frozenset[int], num: int, language: str, draw: random.Random
) -> list[str]:
    solid = [place for place, piece in enumerate(pieces) if piece.strip()]
    pairs = [
        (left, right)
        for left, right in pairwise(solid)
        if not {left, right} & fixed
        and pieces[left].casefold() in ADVERBS[language]
        and pieces[right].isalpha()
        and pieces[right].casefold() not in ADVERBS[language] | FILLERS[language]
    ]
    for left, right in pairs[: max(1, num)] if draw.random() < 0.9 else pairs[:1]:
        pieces[left], pieces[right] = pieces[right], pieces[left]
    return pieces


@functools.cache
def synonyms(language: str) -> dict[str, tuple[str, ...]]:
    """Each word of the table to its group. A word in several groups has all of their words."""
    content = resources.files("danlu.assets").joinpath("synthesis", f"synonyms.{language}.txt").read_text("utf-8")
    table: dict[str, tuple[str, ...]] = {}
    for line in content.splitlines():
        group = () if line.startswith("#") else tuple(line.split())
        for word in group:
            table[word] = tuple(dict.fromkeys(table.get(word, ()) + group))
    return table
