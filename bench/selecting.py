"""Does `danlu select` choose better than chance? Rounds of 50 labels on real reviews, a plain classifier as the model.

    python bench/selecting.py                 # about two minutes on one core; writes bench/results/select.json

Three tasks of `../shared/data/reviews_zh`: the product of a shopping review (10 classes), the mood of a hotel review
and of a delivery review (2 classes). The plain classifier was chosen on the first two with seeds 0 and 1; what is
published are other seeds. Per seed: a pool of 3,000 rows, 2,000 test rows, 20 random rows labelled, then rounds of 50
chosen by chance, by doubt alone, or as `danlu select` does. Also: of labels flipped on purpose, how many are found.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from danlu.data.labelling.choosing import choose, entropy, nearness
from danlu.data.labelling.classifier import SIZES, PlainClassifier, guess_unseen
from danlu.data.labelling.label_errors import find_label_errors
from danlu.data.quality.vectors import Vectors, vectors_of

DATA = Path("../shared/data/reviews_zh")
START, BATCH, POOL, TEST = 20, 50, 3000, 2000
Rows = list[tuple[str, str]]


def read(name: str, text: str, label: str) -> Rows:
    with gzip.open(DATA / name, "rb") as file:
        rows = csv.DictReader(io.StringIO(file.read().decode("utf-8-sig")))
        return [(row[text].strip(), row[label]) for row in rows if (row[text] or "").strip()]


TASKS: dict[str, Callable[[], Rows]] = {
    "product (10 classes)": lambda: read("online_shopping_10_cats.csv.gz", "review", "cat"),
    "hotel mood (2 classes)": lambda: read("ChnSentiCorp_htl_all.csv.gz", "review", "label"),
    "delivery mood (2 classes)": lambda: read("waimai_10k.csv.gz", "review", "label"),
}


def accuracy(model: PlainClassifier, labels: list[str], known: list[int], test: range) -> tuple[float, Any]:
    shown = [labels[index] if index in set(known) else None for index in range(len(labels))]
    guess = model.learn(shown)
    best = guess.probabilities.argmax(axis=1)
    return float(np.mean([guess.classes[best[index]] == labels[index] for index in test])), guess


def pick(way: str, vectors: Vectors, guess: Any, known: list[int], dice: random.Random) -> list[int]:
    free = sorted(set(range(POOL)) - set(known))
    if way == "chance":
        return dice.sample(free, BATCH)
    doubts = entropy(guess.probabilities)[:POOL]
    doubts[known] = 0
    if way == "doubt":
        return [int(index) for index in np.argsort(-doubts, kind="stable")[:BATCH]]
    pool = Vectors(
        vectors.starts[: POOL + 1], vectors.places[: vectors.starts[POOL]], vectors.values[: vectors.starts[POOL]],
        vectors.num_dims,
    )  # fmt: skip
    return [choice.index for choice in choose(pool, doubts, BATCH, labelled=nearness(pool, known))]


def learn_curve(way: str, rows: Rows, seed: int, rounds: int) -> list[float]:
    dice = random.Random(seed)
    drawn = dice.sample(rows, POOL + TEST)
    texts, labels = [text[:400] for text, _ in drawn], [label for _, label in drawn]
    vectors = vectors_of(texts, sizes=SIZES)
    model = PlainClassifier(vectors)
    known = dice.sample(range(POOL), START)
    while len({labels[index] for index in known}) < 2:
        known = dice.sample(range(POOL), START)
    curve = []
    for _ in range(rounds + 1):
        score, guess = accuracy(model, labels, known, range(POOL, POOL + TEST))
        curve.append(score)
        known += pick(way, vectors, guess, known, dice)
    return curve


def flipped(rows: Rows, seed: int, share: float) -> dict[str, float]:
    """Labels flipped on purpose: how many of the found are flipped, how many of the flipped are found."""
    dice = random.Random(seed)
    drawn = dice.sample(rows, POOL)
    labels = [label for _, label in drawn]
    classes = sorted(set(labels))
    wrong = set(dice.sample(range(POOL), round(share * POOL)))
    given = [dice.choice([c for c in classes if c != label]) if i in wrong else label for i, label in enumerate(labels)]
    guess = guess_unseen(vectors_of([text[:400] for text, _ in drawn], sizes=SIZES), given)
    numbers = np.array([guess.classes.index(label) for label in given])
    found = [error.index for error in find_label_errors(numbers, guess.probabilities)]
    first = found[: len(wrong)]
    return {
        "flipped": len(wrong), "named": len(found), "precision": len(set(found) & wrong) / max(1, len(found)),
        "recall": len(set(found) & wrong) / len(wrong), "precision_of_the_first": len(set(first) & wrong) / len(wrong),
        "by_chance": share,
    }  # fmt: skip


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--seeds", type=int, default=4)
    asked.add_argument("--rounds", type=int, default=6)
    asked.add_argument("--out", type=Path, default=Path("bench/results/select.json"))
    given = asked.parse_args()
    started = time.perf_counter()
    told: dict[str, Any] = {"labels": [START + BATCH * r for r in range(given.rounds + 1)], "tasks": {}, "flipped": {}}
    for task, load in TASKS.items():
        rows = load()
        told["tasks"][task] = {}
        for way in ("chance", "doubt", "danlu select"):
            curves = [learn_curve(way, rows, seed, given.rounds) for seed in range(10, 10 + given.seeds)]
            mean = [round(statistics.mean(scores), 4) for scores in zip(*curves, strict=True)]
            areas = [round(statistics.mean(curve[1:]), 4) for curve in curves]
            told["tasks"][task][way] = {"mean_accuracy": mean, "mean_over_rounds_by_seed": areas}
            print(f"{task:24} {way:14}", " ".join(f"{score:.3f}" for score in mean), flush=True)
        told["flipped"][task] = {str(share): flipped(rows, 7, share) for share in (0.05, 0.1, 0.2)}
        for share, result in told["flipped"][task].items():
            print(f"{task:24} {share} flipped", {name: round(value, 3) for name, value in result.items()}, flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    told |= {"commit": commit.stdout.strip(), "seeds": given.seeds, "seconds": round(time.perf_counter() - started, 1)}
    given.out.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
