"""Within one row: a name found once is found everywhere, and a surname with a title is the person of that surname.

`患者张伟…张先生说…张伟出院` speaks of one person three times; only the first has a cue. Across rows nothing is
concluded: two rows may speak of two people of one surname.
"""

from __future__ import annotations

from collections.abc import Sequence

from danlu.data.privacy.finding import Finding
from danlu.data.privacy.scan import settle
from danlu.data.privacy.words import words

_NO_NAMES = frozenset().union(*words("no_names_en"))


def complete(texts: Sequence[str], found: list[list[Finding]]) -> list[list[Finding]]:
    """The findings with all further mentions of their full names; partial names carry the full name as their value."""
    full = {hit.value: hit for hits in found for hit in hits if hit.kind == "name" and _is_full(hit.value)}
    if not full:
        return found
    partial = _surnames(full)
    return [
        settle(
            [_resolved(hit, partial) for hit in hits] + _further(text, hits, full) + _surname_alone(text, partial, full)
        )
        for text, hits in zip(texts, found, strict=True)
    ]


def _is_full(name: str) -> bool:
    return len(name) > 1 if not name.isascii() else " " in name


def _surnames(full: dict[str, Finding]) -> dict[str, str]:
    """Surname to the one full name that has it; two people of a surname cannot be told apart."""
    named: dict[str, str] = {}
    for name in full:
        surname = name.split()[-1] if name.isascii() else name[0]
        named[surname] = "" if surname in named else name
    return {surname: name for surname, name in named.items() if name}


def _resolved(hit: Finding, partial: dict[str, str]) -> Finding:
    if hit.kind != "name" or hit.value not in partial:
        return hit
    return hit._replace(value=partial[hit.value])


def _surname_alone(text: str, partial: dict[str, str], full: dict[str, Finding]) -> list[Finding]:
    """`Mr. John Smith … Smith was admitted`: an English surname by itself, where it is no word of every day."""
    more = []
    for surname, name in partial.items():
        if not name.isascii() or len(surname) < 3 or not surname[0].isupper() or surname in _NO_NAMES:
            continue
        at = text.find(surname)
        while at >= 0:
            end = at + len(surname)
            if not (text[end : end + 1].isalnum() or text[max(0, at - 1) : at].isalnum()):
                more.append(Finding(at, end, "name", 0.55, full[name].detector, name))
            at = text.find(surname, end)
    return more


def _further(text: str, hits: list[Finding], full: dict[str, Finding]) -> list[Finding]:
    more = []
    taken = {hit.start for hit in hits}
    for name, hit in full.items():
        at = text.find(name)
        while at >= 0:
            end = at + len(name)
            is_word = not name.isascii() or not (text[end : end + 1].isalnum() or text[max(0, at - 1) : at].isalnum())
            if at not in taken and is_word:
                more.append(Finding(at, end, "name", min(hit.score, 0.6), hit.detector, name))
            at = text.find(name, end)
    return more
