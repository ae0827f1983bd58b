"""Real data: sentiment of Chinese reviews, ember against naive Bayes on one seeded, leak-free split.

    python bench/reviews.py ../shared/data/reviews_zh OUT [--seed 3407] [--device auto]

Both see the same training labels and the same test rows. ember first reads the training reviews without their labels
(continued pretraining), then learns 2,000 labels, or all of them. Naive Bayes: characters and character pairs,
multinomial, add-one smoothing. Twins (also near-identical ones, across the three files) are never on two sides.
Writes OUT/results.json; results with hardware and commit are committed beside this file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import danlu
from danlu.cli.voice import Voice
from danlu.data.ledger import Ledger
from danlu.data.sample import Label
from danlu.data.sources import read
from danlu.data.split import split
from danlu.evaluation.stats import proportion
from danlu.pipeline.device import choose_device, describe_hardware

FILES = ("waimai_10k.csv.gz", "ChnSentiCorp_htl_all.csv.gz", "online_shopping_10_cats.csv.gz")
NAMES = {"1": "好评", "0": "差评"}
FEW = 2000
MAX_CHARS = 400
"""Of a review that ember reads; naive Bayes reads all of it."""


def grams(text: str) -> Counter[str]:
    text = unicodedata.normalize("NFKC", text).lower()
    return Counter(text) + Counter(a + b for a, b in itertools.pairwise(text))


def naive_bayes(train: list[Label], test: list[Label]) -> list[bool]:
    """Whether each test row is judged right."""
    counts: dict[str, Counter[str]] = {label: Counter() for label in NAMES.values()}
    for row in train:
        counts[row.label].update(grams(row.text))
    vocabulary = set().union(*counts.values())
    prior = Counter(row.label for row in train)
    total = {label: sum(found.values()) + len(vocabulary) for label, found in counts.items()}
    right = []
    for row in test:
        found = {gram: num for gram, num in grams(row.text).items() if gram in vocabulary}
        scores = {
            label: np.log(prior[label] / len(train))
            + sum(num * np.log((counts[label][gram] + 1) / total[label]) for gram, num in found.items())
            for label in counts
        }
        right.append(max(scores, key=lambda label: scores[label]) == row.label)
    return right


def recipe(folder: Path, name: str, train_file: Path, epochs: float) -> danlu.Recipe:
    return danlu.Recipe.from_tree(
        {
            "name": name,
            "model": {"base": "ember"},
            "adapter": {"kind": "full"},
            "data": {
                "sources": [str(folder / "unlabelled.jsonl"), str(train_file)],
                "validation": str(folder / "validation.jsonl"),
                "split": {"test": 0.0, "validation": 0.0},
                "duplicates": "keep",
            },
            "stages": [
                {"kind": "pretrain", "training": {"epochs": 3, "lr": 1e-3, "batch_tokens": 32_768, "patience": 0}},
                {"kind": "sft", "training": {"epochs": epochs, "lr": 3e-4, "batch_tokens": 8192, "patience": 3}},
            ],
            "training": {"context": 512, "schedule": "cosine", "eval_every": 0.5, "weight_decay": 0.05},
            "evaluation": {"tasks": ["domain"], "questions": str(folder / "test.jsonl"), "max_new_tokens": 4},
            "exports": [],
        }
    )


def write_rows(path: Path, rows: list[Label], *, labelled: bool = True) -> Path:
    lines = [{"text": row.text[:MAX_CHARS]} | ({"label": row.label} if labelled else {}) for row in rows]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def share(right: list[bool]) -> dict[str, Any]:
    estimate = proportion(list(right), [str(i) for i in range(len(right))])
    return {"accuracy": round(estimate.value, 4), "interval": [round(estimate.low, 4), round(estimate.high, 4)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reviews", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=3407)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    samples = read([given.reviews / name for name in FILES], Ledger())
    rows = [danlu_label for row in samples if isinstance(row, Label) for danlu_label in [_named(row)]]
    parts = split(rows, test=0.05, validation=0.01, seed=given.seed)
    train, watched, test = (
        [row for row in part if isinstance(row, Label)] for part in (parts.train, parts.validation, parts.test)
    )
    order = np.random.default_rng(given.seed).permutation(len(train))
    few = [train[i] for i in order[:FEW]]
    print(
        f"{len(train)} train, {len(watched)} watched, {len(test)} test; certificate {parts.certificate['digest'][:12]}"
    )
    write_rows(given.out / "unlabelled.jsonl", train, labelled=False)
    write_rows(given.out / "validation.jsonl", watched)
    write_rows(given.out / "test.jsonl", test)
    results: dict[str, Any] = {
        "split": {
            key: parts.certificate[key] for key in ("seed", "digest", "twins_across", "near_twins_across", "groups")
        },
        "rows": {"train": len(train), "validation": len(watched), "test": len(test)},
        "hardware": describe_hardware(choose_device(given.device)),
        "rungs": {},
    }
    for name, chosen, epochs in ((f"{FEW} labels", few, 6.0), ("all labels", train, 3.0)):
        began = time.perf_counter()
        bayes = share(naive_bayes(chosen, test))
        print(name, "naive Bayes", bayes, f"{time.perf_counter() - began:.0f} s", flush=True)
        began = time.perf_counter()
        file = write_rows(given.out / f"train-{len(chosen)}.jsonl", chosen)
        run = danlu.Run.create(recipe(given.out, f"reviews-{len(chosen)}", file, epochs), given.out / "runs")
        voice = Voice()
        danlu.train(run, device=given.device, progress=voice.progress)
        report = danlu.evaluate(run, device=given.device, progress=voice.progress)
        tuned = {"accuracy": round(report.tuned["accuracy"], 4), "interval": report.tuned["interval"]}
        seconds = round(time.perf_counter() - began)
        results["rungs"][name] = {"naive_bayes": bayes, "ember": tuned, "ember_seconds": seconds}
        print(name, "ember", tuned, f"{seconds} s", flush=True)
        (given.out / "results.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def _named(row: Label) -> Label:
    return Label(row.text.lstrip("\ufeff"), NAMES[row.label], row.origin)


if __name__ == "__main__":
    main()
