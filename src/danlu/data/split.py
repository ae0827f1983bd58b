"""Train, validation and test without leaks: whatever could give an answer away stays on one side.

Samples are tied into groups: the same document, the same prompt, the same text once case, width, punctuation and
spaces are gone, near-identical texts (`similar.py`). Whole groups are dealt out in an order that depends only on
their content and the seed, so rows added later leave earlier rows where they were, but for a few at the borders.
The certificate recounts from the parts themselves that nothing is on two sides.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from danlu.core.errors import DataError
from danlu.core.files import sha256_json
from danlu.data.sample import Document, Label, Message, Preference, Sample
from danlu.data.similar import Similarity, similar_pairs

PartName = Literal["train", "validation", "test"]
_MEANT = re.compile(r"(?<=[a-z0-9])[+#%]+|(?<!\w)[-+](?=\d)|(?P<between>(?<=\d)[\W_]+(?=\d))")
"""Marks that are no mere punctuation: c++, 5%, -5, and whatever parts two numbers (3.5 is not 35)."""
_MARKS = re.compile(r"[\W_]+")
_ROW_FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".xlsx")
THRESHOLD = 0.8
"""Jaccard similarity of character 3-grams from which texts are near-identical."""


@dataclass(frozen=True, slots=True)
class Split:
    """Every sample is in exactly one part, in the order given. `certificate` is plain JSON with a `digest`."""

    train: list[Sample]
    validation: list[Sample]
    test: list[Sample]
    certificate: dict[str, Any]


def split(
    samples: Iterable[Sample],
    test: float = 0.1,
    validation: float = 0.0,
    seed: int = 0,
    *,
    threshold: float = THRESHOLD,
) -> Split:
    """`test` and `validation` are shares of the samples. DataError when nothing would be left to train on."""
    rows = list(samples)
    if not (0 <= test < 1 and 0 <= validation < 1 and test + validation < 1):
        raise DataError("split.ratios", where="data.split", given=test + validation)
    texts = [main_text(sample) for sample in rows]
    folded = [fold(text) for text in texts]
    ties = Ties(len(rows))
    questions = [_first_question(sample) for sample in rows]
    for keys in (folded, questions, [sample.group for sample in rows], [_document_of(sample) for sample in rows]):
        ties.join_equal([key or None for key in keys])
    # nothing is held out: no leak is possible, and looking for near-twins of every row would be work for nothing
    similarity = similar_pairs(folded if test or validation else [""] * len(folded), threshold)
    for left, right in similarity.pairs:
        ties.join(left, right)
    groups = ties.groups()
    num_parts = 1 + (test > 0) + (validation > 0)
    if rows and len(groups) < num_parts:
        raise DataError("split.too_few", where="data.split", given=len(groups), expected=num_parts)
    names = _deal(rows, folded, groups, {"test": test, "validation": validation}, seed)
    parts: dict[PartName, list[int]] = {"train": [], "validation": [], "test": []}
    for index, name in enumerate(names):
        parts[name].append(index)
    facts = {"seed": seed, "ratios": {"test": test, "validation": validation}}
    certificate = facts | _recount(rows, folded, questions, groups, parts, similarity)
    certificate["digest"] = sha256_json(certificate)
    chosen = {name: [rows[index] for index in indices] for name, indices in parts.items()}
    return Split(chosen["train"], chosen["validation"], chosen["test"], certificate)


def fold(text: str) -> str:
    """Case, width, punctuation and spaces gone: what two copies of one text share. Pure punctuation stays as it is.

    Coarse on purpose: what is tied by mistake is merely kept on one side.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _MARKS.sub("", plain) or plain.strip()


def fold_finely(text: str) -> str:
    """`fold`, but marks that make another number or name stay: for rows of which only one is to be kept."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    parts, last = [], 0
    for found in _MEANT.finditer(plain):
        parts += [_MARKS.sub("", plain[last : found.start()]), "." if found["between"] else found[0]]
        last = found.end()
    return "".join([*parts, _MARKS.sub("", plain[last:])]) or plain.strip()


def main_text(sample: Sample) -> str:
    """What near-identical is asked of: a text to judge, a document, or all that the user says."""
    if isinstance(sample, Label | Document):
        return sample.text
    messages = sample.prompt if isinstance(sample, Preference) else sample.messages
    return "\n".join(message.content for message in messages if message.role == "user") or _all_text(messages)


class Ties:
    """Union-find: samples tied directly or through others are one group."""

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))

    def root(self, index: int) -> int:
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index

    def join(self, left: int, right: int) -> None:
        left, right = self.root(left), self.root(right)
        if left != right:
            self._parents[max(left, right)] = min(left, right)

    def join_equal(self, keys: Sequence[Hashable]) -> None:
        """Tie all that share a key; None is no key."""
        first: dict[Hashable, int] = {}
        for index, key in enumerate(keys):
            if key is not None:
                self.join(first.setdefault(key, index), index)

    def groups(self) -> list[list[int]]:
        members: dict[int, list[int]] = defaultdict(list)
        for index in range(len(self._parents)):
            members[self.root(index)].append(index)
        return list(members.values())


def _document_of(sample: Sample) -> str | None:
    """A document's file, where the file is one document and not a table of rows."""
    if not isinstance(sample, Document) or sample.group is not None:
        return None
    name = sample.origin.file.lower().removesuffix(".gz").removesuffix(".zst")
    return None if sample.origin.page is None and name.endswith(_ROW_FILES) else sample.origin.file


def _first_question(sample: Sample) -> str | None:
    """How a conversation opens; two that open alike may give each other's answers away."""
    if isinstance(sample, Label | Document):
        return None
    messages = sample.prompt if isinstance(sample, Preference) else sample.messages
    return next((fold(message.content) or None for message in messages if message.role == "user"), None)


def _all_text(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages)


def _deal(
    rows: Sequence[Sample],
    folded: Sequence[str],
    groups: Sequence[Sequence[int]],
    ratios: dict[str, float],
    seed: int,
) -> list[PartName]:
    """A part for each sample. Labels are dealt out one class after the other, so each part has its share of each."""
    strata: dict[str, list[tuple[str, Sequence[int]]]] = defaultdict(list)
    for members in groups:
        labels = Counter(sample.label if isinstance(sample := rows[index], Label) else "" for index in members)
        stratum = min(labels, key=lambda label: (-labels[label], label))
        strata[stratum].append((_lot(members, rows, folded, seed), members))
    names: list[PartName] = ["train"] * len(rows)
    owed = {"test": 0.0, "validation": 0.0}
    for stratum in sorted(strata):
        lots = sorted(strata[stratum], key=lambda entry: entry[0])
        size = sum(len(members) for _, members in lots)
        for name in ("test", "validation"):
            owed[name] += ratios[name] * size
        free = lots
        for name in ("test", "validation"):
            room, free, kept = round(owed[name]), [], free
            for lot, members in kept:
                # A group larger than what is still owed is left for the next: test sets do not overshoot.
                if len(members) <= room:
                    room -= len(members)
                    owed[name] -= len(members)
                    for index in members:
                        names[index] = "test" if name == "test" else "validation"
                else:
                    free.append((lot, members))
    return names


def _lot(members: Sequence[int], rows: Sequence[Sample], folded: Sequence[str], seed: int) -> str:
    """A group's place in the draw: the smallest hash of its members' texts, so a member added rarely moves it."""
    return min(
        hashlib.blake2b(f"{seed}\x00{rows[index].group or ''}\x00{folded[index]}".encode(), digest_size=12).hexdigest()
        for index in members
    )


def _recount(
    rows: Sequence[Sample],
    folded: Sequence[str],
    questions: Sequence[str | None],
    groups: Sequence[Sequence[int]],
    parts: dict[PartName, list[int]],
    similarity: Similarity,
) -> dict[str, Any]:
    """Recounted from the parts, not from the groups that made them."""
    names: dict[int, PartName] = {index: name for name, indices in parts.items() for index in indices}
    held_out = [*parts["validation"], *parts["test"]]
    nearest, left, right = similarity.nearest(held_out, parts["train"])
    return {
        "version": 1,
        "threshold": similarity.threshold,
        "samples": len(rows),
        "groups": len(groups),
        "largest_group": max(map(len, groups), default=0),
        "parts": {
            name: {
                "samples": len(indices),
                "groups": sum(names[members[0]] == name for members in groups),
                "labels": _labels(rows, indices),
                "digest": sha256_json(sorted(f"{rows[index].origin} {folded[index]}" for index in indices)),
            }
            for name, indices in parts.items()
        },
        "twins_across": _across(folded, names),
        "near_twins_across": sum(names[one] != names[other] for one, other in similarity.pairs),
        "questions_across": _across(questions, names),
        "documents_across": _across([sample.group or _document_of(sample) for sample in rows], names),
        "max_similarity": {
            "value": round(nearest, 4),
            "held_out": str(rows[left].origin) if left is not None else "",
            "train": str(rows[right].origin) if right is not None else "",
            "asked": similarity.num_asked,
            "of": len(held_out),
        },
        "crowded_grams": similarity.num_crowded,
    }


def _across(keys: Sequence[Hashable], names: dict[int, PartName]) -> int:
    """How many keys are found in more than one part."""
    seen: dict[Hashable, set[PartName]] = defaultdict(set)
    for index, key in enumerate(keys):
        if key is not None and key != "":
            seen[key].add(names[index])
    return sum(len(found) > 1 for found in seen.values())


def _labels(rows: Sequence[Sample], indices: Sequence[int]) -> dict[str, int]:
    return dict(sorted(Counter(sample.label for index in indices if isinstance(sample := rows[index], Label)).items()))
