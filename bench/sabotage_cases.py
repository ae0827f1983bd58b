"""What both matrices of sabotage do alike: cases are tried one by one and written down at once, so that a run that was
stopped goes on; a table sums them up. `sabotage.py` and `sabotage_quantised.py` say what there is to try.

A case is honest where nothing was spoilt: it should be proven ("passed"), all others should not ("caught").
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

MATRIX_FAMILIES = ("llama2", "qwen2", "gemma2", "phi3")
"""Query and key of one shape, square outputs; biases; softcaps and shifted norms; fused weights."""
NUM_MODULES = 21
"""Of the first of them: each is tried at 0.9."""
HONEST = ("", "nearest")
"""Harms that are none: an export as it is, and one whose codes are rounded to nearest."""
ACTS = ("honest", "matrix", "modules", "vllm")
T = TypeVar("T")


class Key(NamedTuple):
    act: str
    family: str
    seed: int
    kind: str
    harm: str


class Cases:
    """What was tried, one line each; a case that stands there is not tried again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "cases.jsonl"
        said = self.path.read_bytes() if self.path.is_file() else b""
        whole = said[: said.rfind(b"\n") + 1]  # a kill may have torn the last line
        if whole != said:
            self.path.write_bytes(whole)
        self.rows = [json.loads(line) for line in whole.splitlines()]
        self.known = {Key(*(row[field] for field in Key._fields)) for row in self.rows}

    def add(self, key: Key, result: dict[str, Any], seconds: float) -> None:
        row = key._asdict() | result | {"seconds": round(seconds, 2)}
        self.rows.append(row)
        self.known.add(key)
        with self.path.open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(*key, "→", ", ".join(row.get("failed", [])) or row.get("nothing", "passes"), row.get("note", "")[:120],
              f"{seconds:.1f} s", flush=True)  # fmt: skip


def try_all(
    cases: Cases,
    families: Sequence[str],
    seeds: int,
    keys: Callable[[str, int], Iterable[Key]],
    open_trial: Callable[..., T],
    try_one: Callable[[T, Key], dict[str, Any]],
) -> None:
    """Whatever `keys` names of each family and seed, and stands nowhere yet; one pupil is trained for each of these."""
    for family in families:
        for seed in range(seeds):
            if not (wanted := [key for key in keys(family, seed) if key not in cases.known]):
                continue
            with tempfile.TemporaryDirectory(prefix="danlu-sabotage-") as name:
                trial = open_trial(family, Path(name), seed=seed)
                for key in wanted:
                    began = time.perf_counter()
                    cases.add(key, try_one(trial, key), time.perf_counter() - began)


def write_table(cases: Cases, path: Path, command: str, packages: Sequence[str]) -> None:
    rows = [row for row in cases.rows if "nothing" not in row]
    found = {act: sum_up([row for row in rows if row["act"] == act]) for act in ACTS}
    result = {
        "machine": machine(packages),
        "command": command,
        "acts": {act: each for act, each in found.items() if each},
    }
    path.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    for act, each in result["acts"].items():
        print(act, {name: value for name, value in each.items() if name.startswith(("num_", "only"))})
        for row in each["refused"] + each["missed"]:
            print("  WRONG", row)
    for kind, worst in result["acts"].get("honest", {}).get("noise", {}).items():
        print(kind, worst)


def sum_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one act; nothing of one that was not tried."""
    if not rows:
        return {}
    honest = [row for row in rows if row["harm"] in HONEST]
    spoilt = [row for row in rows if row["harm"] not in HONEST]
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        words = ("passed", "refused") if row["harm"] in HONEST else ("missed", "caught")
        by_kind[row["kind"]][words[bool(row["failed"])]] += 1
    found = {
        "families": sorted({row["family"] for row in rows}),
        "num_honest": len(honest), "num_refused": sum(bool(row["failed"]) for row in honest),
        "num_spoilt": len(spoilt), "num_caught": sum(bool(row["failed"]) for row in spoilt),
        "by_kind": {kind: dict(counts) for kind, counts in by_kind.items()},
        "refused": [row for row in honest if row["failed"]], "missed": [row for row in spoilt if not row["failed"]],
        "num_not_run": dict(Counter(row["kind"] for row in honest if row.get("not_run"))),
        "only_by": counts_alone(spoilt, "by"), "only_by_check": counts_alone(spoilt, "failed"),
    }  # fmt: skip
    return found | ({"noise": noise(honest)} if honest else {}) | ({"caught_by": caught_by(spoilt)} if spoilt else {})


def counts_alone(rows: list[dict[str, Any]], field: str) -> dict[str, dict[str, int]]:
    """By kind, what was seen by one alone, and by which."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if len(row.get(field, [])) == 1:
            found[row["kind"]][row[field][0]] += 1
    return {kind: dict(counts) for kind, counts in found.items()}


def noise(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The worst of each figure over all honest exports of a kind."""
    worst: dict[str, dict[str, float]] = {}
    for row in rows:
        mine = worst.setdefault(row["kind"], {})
        for name, figure in row.get("figures", {}).items():
            mine[name] = (min if name == "least_arrived" else max)(mine.get(name, figure), figure)
    return worst


def caught_by(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Harm to kind to the checks that failed, in the family that was asked for all of them."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row["family"] == MATRIX_FAMILIES[0] and row["act"] == "matrix":
            found[row["harm"]][row["kind"]] = ", ".join(row["failed"])
    return found


def machine(packages: Sequence[str]) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", *packages)}
    return {
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "commit": commit.stdout.strip(),
        "python": platform.python_version(), **versions,
    }  # fmt: skip


def arguments(description: str | None, acts: Sequence[str]) -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=acts)
    parser.add_argument("out", type=Path)
    parser.add_argument("--families", type=int, default=None, help="only the first so many")
    parser.add_argument("--skip", type=int, default=0, help="not the first so many")
    parser.add_argument("--seeds", type=int, default=1)
    return parser
