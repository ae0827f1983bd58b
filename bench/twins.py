"""Twins: cost per row and memory from 10 thousand to 3 million rows, recall and precision of what is found.

    python bench/twins.py ../shared/data OUT.json [--rows 10000 100000 1000000] [--workers 2]

Rows are conversations of about 750 bytes of Chinese: sentences of the shopping reviews recombined by a seed, 5 % of
them exact twins of an earlier row and 10 % near ones (some characters or half a sentence changed). Each size runs in
processes of its own: shards of 20,000 rows are signed, cleaned and stored by `--workers` processes, then decided and
split in one. CPU time of all processes, peak memory of each. Quality is counted on the smallest size, pair by pair
against sets of 3-grams in plain Python, and on the hotel reviews that also stand among the shopping reviews.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import multiprocessing
import platform
import random
import re
import resource
import subprocess
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from danlu.data.cleaners import build
from danlu.data.sample import Conversation, Label, Message, Origin, Sample
from danlu.data.split import split_columns
from danlu.data.twins import KEEP, decide, fold, signatures
from danlu.data.twins.columns import LAYOUT
from danlu.recipe.cleaning import CleaningSection

SHARD = 20_000
EXACT, NEAR = 0.05, 0.10
HOTEL, SHOPPING = "ChnSentiCorp_htl_all", "online_shopping_10_cats"


def reviews(data: Path, name: str) -> list[tuple[str, str]]:
    with gzip.open(data / "reviews_zh" / f"{name}.csv.gz", "rb") as file:
        return [(row["review"] or "", row["label"]) for row in csv.DictReader(io.TextIOWrapper(file, "utf-8"))]


def sentences(data: Path) -> list[str]:
    found = {part for text, _ in reviews(data, SHOPPING) for part in re.split(r"(?<=[。！？；，])", text)}
    return sorted(part for part in found if 8 <= len(part) < 60)


def rows_of(shard: int, size: int, known: list[str]) -> list[Sample]:
    """One shard of seeded rows; twins are of rows of the same shard."""
    draw = random.Random(shard)
    texts: list[tuple[str, str]] = []
    for _ in range(size):
        luck = draw.random()
        if texts and luck < EXACT + NEAR:
            question, answer = texts[draw.randrange(len(texts))]
            if luck >= EXACT:
                for _ in range(draw.randint(1, 3)):
                    at = draw.randrange(len(answer))
                    answer = answer[:at] + draw.choice(known)[: draw.randint(1, 9)] + answer[at + draw.randint(0, 8) :]
        else:
            question, answer = "".join(draw.choices(known, k=3)), "".join(draw.choices(known, k=17))
        texts.append((question, answer))
    return [
        Conversation(
            (Message("user", question), Message("assistant", answer)), Origin("rows.jsonl", shard * SHARD + at)
        )
        for at, (question, answer) in enumerate(texts, 1)
    ]


def sign(job: tuple[int, int, Path, Path]) -> dict[str, float]:
    """Sign and clean one shard; CPU seconds of each, bytes of text and of columns."""
    shard, size, data, folder = job
    rows = rows_of(shard, size, _known(data))
    stages = build(CleaningSection())
    signatures(rows[:10])
    for stage in stages:
        stage(rows[:10])  # tables are made once in a process
    begin = time.process_time()
    columns = signatures(rows)
    signed = time.process_time()
    for stage in stages:
        rows = [row for row, _ in stage(rows) if row is not None]
    cleaned = time.process_time()
    (folder / f"{shard:05}").mkdir(parents=True)
    for name, column in columns.items():
        np.save(folder / f"{shard:05}" / f"{name}.npy", column, allow_pickle=False)
    num_bytes = sum(len(turn.content.encode()) for row in rows for turn in row.messages)
    return {
        "signatures_s": signed - begin, "cleaning_s": cleaned - signed,
        "text_bytes": num_bytes * size / len(rows),
        "column_bytes": float(sum(column.nbytes for column in columns.values())),
        "peak_gib": _peak_gib(),
    }  # fmt: skip


_sentences: list[str] = []


def _known(data: Path) -> list[str]:
    if not _sentences:
        _sentences.extend(sentences(data))
    return _sentences


def judge(folder: Path, keep: str) -> dict[str, Any]:
    """Decide over the stored columns, and split."""
    shards = [
        {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in LAYOUT} for path in sorted(folder.iterdir())
    ]
    begin, wall = time.process_time(), time.perf_counter()
    decision = decide(shards)
    decided = time.process_time()
    part, certificate = split_columns(
        shards, decision, kept=decision.verdict == KEEP, test=0.1, validation=0.05, seed=7
    )
    done = time.process_time()
    if keep:
        np.savez(keep, verdict=decision.verdict, twin=decision.twin, cluster=decision.cluster)
    return {
        "decide_s": decided - begin, "split_s": done - decided, "wall_s": time.perf_counter() - wall,
        "peak_gib": _peak_gib(), "counts": decision.counts, "parts": np.bincount(part, minlength=3)[:3].tolist(),
        "certificate": {name: certificate[name] for name in certificate if name.endswith("_across")}
        | {"max_similarity": certificate["max_similarity"]["value"],
           "answers_in_train": certificate["answers_in_train"]},
    }  # fmt: skip


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(num_rows: int, data: Path, workers: int) -> dict[str, Any]:
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = [(at // SHARD, min(SHARD, num_rows - at), data, folder) for at in range(0, num_rows, SHARD)]
        with ProcessPoolExecutor(workers, spawn) as pool:
            signed = list(pool.map(sign, jobs))
        with ProcessPoolExecutor(1, spawn) as pool:
            judged = pool.submit(judge, folder, "").result()
    total = {
        key: sum(one[key] for one in signed) for key in ("signatures_s", "cleaning_s", "text_bytes", "column_bytes")
    }
    per_row = {f"{key[:-2]}_us": round(1e6 * total[key] / num_rows, 2) for key in ("signatures_s", "cleaning_s")}
    per_row |= {f"{key[:-2]}_us": round(1e6 * judged[key] / num_rows, 2) for key in ("decide_s", "split_s")}
    sizes = {f"{key}_per_row": round(total[key] / num_rows) for key in ("text_bytes", "column_bytes")}
    peaks = {"peak_gib_worker": max(one["peak_gib"] for one in signed), "peak_gib_decide": judged.pop("peak_gib")}
    rounded = {key: round(value, 2) if isinstance(value, float) else value for key, value in (judged | peaks).items()}
    return {"rows": num_rows, **per_row, **sizes, **rounded}


def quality(data: Path, num_rows: int) -> dict[str, Any]:
    """Recall over all pairs with J >= 0.7 (found: in one cluster), precision over all rows left out."""
    rows = rows_of(0, num_rows, _known(data))
    decision = decide([signatures(rows)])
    folded = [fold(row.messages[0].content) + fold(row.messages[1].content) for row in rows]
    sets = [{text[at : at + 3] for at in range(len(text) - 2)} for text in folded]
    holders: dict[str, list[int]] = defaultdict(list)
    num_pairs = num_tied = num_surviving = 0
    for row, own in enumerate(sets):
        shared: dict[int, int] = defaultdict(int)
        for gram in own:
            for other in holders[gram]:
                shared[other] += 1
            holders[gram].append(row)
        for other, both in shared.items():
            if both >= 0.7 * (len(own) + len(sets[other]) - both):
                num_pairs += 1
                num_tied += decision.cluster[row] == decision.cluster[other]
                num_surviving += decision.verdict[row] == decision.verdict[other] == KEEP
    out = [(row, int(decision.twin[row])) for row in np.flatnonzero(decision.verdict != KEEP)]
    right = sum(len(sets[one] & sets[other]) >= 0.7 * len(sets[one] | sets[other]) for one, other in out)
    return {"rows": num_rows, "pairs_at_0.7": num_pairs, "recall": round(num_tied / num_pairs, 5),
            "pairs_that_survive": int(num_surviving), "left_out": len(out), "precision": right / len(out)}  # fmt: skip


def hotels(data: Path) -> dict[str, Any]:
    rows: list[Sample] = []
    for name in (SHOPPING, HOTEL):
        rows += [Label(text, label, Origin(name, line)) for line, (text, label) in enumerate(reviews(data, name), 2)]
    begin = time.process_time()
    decision = decide([signatures(rows)])
    spent = time.process_time() - begin
    shop = {int(decision.cluster[at]) for at, row in enumerate(rows) if row.origin.file == SHOPPING}
    texts = {fold(row.text) for row in rows if row.origin.file == SHOPPING and isinstance(row, Label)}
    hotel = [at for at, row in enumerate(rows) if row.origin.file == HOTEL]
    twins = [at for at in hotel if fold(rows[at].text) in texts]
    found = sum(int(decision.cluster[at]) in shop for at in twins)
    return {"hotel_rows": len(hotel), "exact_twins": len(twins), "found": found,
            "tied_at_all": sum(int(decision.cluster[at]) in shop for at in hotel),
            "conflicts": decision.counts["conflicts"], "cpu_s": round(spent, 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    result: dict[str, Any] = {
        "command": f"python bench/twins.py ../shared/data OUT --rows {' '.join(map(str, given.rows))}",
        "commit": commit,
        "hardware": f"{platform.machine()}, {given.workers} processes, shared with other work; numpy {np.__version__}",
        "hotel_reviews": hotels(given.data),
        "quality": quality(given.data, min(10_000, min(given.rows))),
        "sizes": [],
    }
    for num_rows in given.rows:
        result["sizes"].append(measure(num_rows, given.data, given.workers))
        print(json.dumps(result["sizes"][-1]), flush=True)
        given.out.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
