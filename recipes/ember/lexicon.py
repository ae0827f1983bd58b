"""The hand-written word lists: items with synonyms, question frames, names. Read once, frozen.

An item is a thing that an organisation fixes (a fee, a time, a place). Its synonyms name the same thing; its
`questions` ask for it in situations, without naming it. Files lie in `lexicon/`, one entry a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "lexicon"

CLASSES = {
    "amount": ("money", "moneyday", "moneymonth", "moneypage", "percent", "percent2", "times"),
    "duration": ("days", "hours", "minutes", "months", "years"),
    "clock": ("time", "span", "date", "weekday", "year"),
    "who": ("person", "dept"),
    "where": ("place", "floor", "room", "path"),
    "contact": ("phone", "email"),
    "whether": ("yesno",),
    "how": ("channel", "transport"),
    "what": ("word", "word2", "choice", "code", "version", "city", "job", "hobby", "food"),
}


@dataclass(frozen=True)
class Item:
    """One thing to be asked for. `kind` says how its value looks, `frames` which question frames fit."""

    setting: str
    kind: str
    names: tuple[str, ...]
    questions: tuple[str, ...]
    frames: str


@dataclass(frozen=True)
class Setting:
    """A sort of place with the titles of its papers and the items that it fixes."""

    name: str
    papers: tuple[str, ...]
    items: tuple[Item, ...]


def _lines(name: str) -> list[str]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [line for line in text.split("\n") if not line.startswith("#")]


@cache
def settings(lang: str) -> tuple[Setting, ...]:
    """All settings of a language (`zh` or `en`) with their items."""
    found: list[tuple[str, tuple[str, ...], list[Item]]] = []
    for line in _lines(f"{lang}_items.txt"):
        if line.startswith("["):
            name, _, papers = line.strip("[]").partition(":")
            found.append((name, tuple(paper.strip() for paper in papers.split(",")), []))
        elif line.strip():
            kind, names, *rest = (part.strip() for part in line.split("|"))
            questions = tuple(q for q in "/".join(rest).split("/") if q)
            frames = next((c for c, kinds in CLASSES.items() if kind.split(":")[0] in kinds), "measure")
            found[-1][2].append(Item(found[-1][0], kind, tuple(names.split("/")), questions, frames))
    return tuple(Setting(name, papers, tuple(items)) for name, papers, items in found)


@cache
def sections(name: str) -> dict[str, tuple[str, ...]]:
    """A file of `[section]` headings with one entry a line; leading and trailing blanks of an entry are kept."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in _lines(name):
        if line.startswith("[") and line.endswith("]"):
            current = found.setdefault(line[1:-1], [])
        else:
            current.append(line)
    blanks_mean_something = {"suffix"}
    return {
        key: tuple(entries) if key in blanks_mean_something else tuple(entry for entry in entries if entry)
        for key, entries in found.items()
    }


@cache
def words(section: str) -> tuple[str, ...]:
    """The entries of one section of `names.txt`."""
    return tuple(sections("names.txt")[section][0].split("|"))


def kinds(lang: str, setting: str) -> tuple[str, ...]:
    """What organisations of a setting are called: "…Ltd", "…School"."""
    named = f"{lang}_kind_{setting}"
    return words(named if named in sections("names.txt") else f"{lang}_kind_company")


@cache
def groups(lang: str) -> tuple[tuple[str, ...], ...]:
    """Sets of people, places or times for which a rule may be fixed apart."""
    return tuple(tuple(line.split("|")) for line in sections("names.txt")[f"{lang}_groups"])
