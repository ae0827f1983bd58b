"""The yaml of the demo company, read into typed facts. Says nothing about files that are made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Fact:
    """One rule: where it stands, the sentence there, the short answer, and the ways to ask for it."""

    id: str
    document: str
    file: str
    language: str
    cite: str
    section: str
    says: str
    answer: str
    value: str
    accept: tuple[str, ...]
    names: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def cited(self) -> str:
        """The answer with its source: 出差餐补每天80元。（《差旅制度》）"""
        return f"{self.answer}（{self.cite}）" if self.language == "zh" else f"{self.answer} ({self.cite})"


@dataclass(frozen=True)
class Company:
    name: dict[str, str]
    about: str
    licence: str
    frames: dict[str, list[str]]
    unanswerable: dict[str, str]
    yes_no: dict[str, list[str]]
    distinctive: list[str]
    worse: dict[str, dict[str, list[str]]]
    documents: list[dict[str, Any]]
    facts: list[Fact]
    edge: dict[str, Any]
    wrong: dict[str, list[str]]

    def fact(self, fact_id: str) -> Fact:
        return next(fact for fact in self.facts if fact.id == fact_id)

    def train_wordings(self, number: int) -> list[str]:
        """The written wordings of fact `number`, then each of its names in a neutral frame, frames taken in turn."""
        fact = self.facts[number]
        frames = self.frames[fact.language]
        framed = [frames[(number + 2 * place) % len(frames)].format(name) for place, name in enumerate(fact.names)]
        return [*fact.train, *framed]


# The order of documents, and so of all rows: as a newcomer would meet them.
ORDER = [
    "travel",
    "leave",
    "expense",
    "benefits",
    "security",
    "building",
    "product",
    "directory",
    "handbook",
    "it",
    "safety",
    "prices",
    "service",
    "onboarding",
]


def load_company(folder: Path) -> Company:
    documents = []
    facts = []
    for name in ORDER:
        book = read_yaml(folder / "facts" / f"{name}.yaml")
        head = book["document"]
        documents.append(head | {key: book[key] for key in ("intro", "closing", "notes")})
        facts += [read_fact(row, head) for row in book["facts"]]
    return Company(
        documents=documents,
        facts=facts,
        edge=read_yaml(folder / "edge.yaml"),
        wrong=read_yaml(folder / "wrong.yaml"),
        **read_yaml(folder / "company.yaml"),
    )


def read_fact(row: dict[str, Any], head: dict[str, str]) -> Fact:
    return Fact(
        document=head["id"],
        file=f"documents/{head['file']}",
        language=head["language"],
        cite=head["cite"],
        accept=tuple(row.get("accept", ())),
        names=tuple(row["names"]),
        train=tuple(row["train"]),
        test=tuple(row["test"]),
        **{key: row[key] for key in ("id", "section", "says", "answer", "value")},
    )


def read_yaml(path: Path) -> Any:
    """All scalars stay text: 9:40 is a time here, not a number of minutes."""
    return yaml.load(path.read_text("utf-8"), Loader=yaml.BaseLoader)  # noqa: S506  (builds only text, lists and maps)
