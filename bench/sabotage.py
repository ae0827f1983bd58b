"""Is every spoilt export told from every honest one, by the program that reads it?

Briefly trained models of many families are exported in every format and read by whoever reads it: an adapter by PEFT, a
merged folder by transformers, GGUF and LoRA-GGUF by llama.cpp. `honest` counts false alarms over exports as they are;
`matrix` spoils one thing at a time and asks whether the reader's checks alone fail (what our own reading of the files
would have found besides is not counted); `modules` takes a tenth from each module in turn. One line of JSON a case goes
to OUT/cases.jsonl, so a run that was stopped goes on; `table` sums up.

    python bench/sabotage.py honest|matrix|modules|table OUT [--families N] [--skip N] [--seeds N]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch

from danlu.core.errors import DanluError
from danlu.exports.parity import Check
from sabotage_kit import FAMILIES, HARMS, KINDS, Harm, applies, one_module
from sabotage_trial import Trial

MATRIX_FAMILIES = ("llama2", "qwen2", "gemma2", "phi3")
"""Query and key of one shape, square outputs; biases; softcaps and shifted norms; fused weights."""


def honest(trial: Trial, kind: str) -> dict[str, Any]:
    return told(trial.honest(kind))


def spoilt(trial: Trial, kind: str, harm: Harm, *, until_failed: bool) -> dict[str, Any]:
    try:
        checks = trial.spoilt(kind, harm, until_failed=until_failed)
    except DanluError as error:  # the reader, or the writer itself, would not
        return {"failed": ["refused"], "note": error.text[:200]}
    return {"nothing": "nothing to spoil in this family"} if checks is None else told(checks)


def told(checks: list[Check]) -> dict[str, Any]:
    failed = [check for check in checks if check.verdict == "fail"]
    found = {check.name.partition("_")[2]: check for check in checks}
    figures: dict[str, Any] = {}
    if "logits" in found and found["logits"].numbers:
        numbers = found["logits"].numbers
        figures |= {key: numbers[key] for key in ("mean_kl", "floor_mean_kl", "max_abs", "floor_max_abs")}
    if "modules" in found:
        numbers = found["modules"].numbers
        figures |= {key: numbers[key] for key in ("least_arrived", "most_arrived", "largest_noise", "num_unshown")}
    if "stops" in found:
        figures["num_stops"] = found["stops"].numbers["num_stops"]
    idle = [check.name for check in checks if check.verdict == "not run"]
    return {"failed": [check.name.partition("_")[2] for check in failed], "not_run": idle, "figures": figures,
            "note": "; ".join(check.note for check in failed)[:300]}  # fmt: skip


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
        self.known = {self._key(row) for row in self.rows}

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["act"], row["family"], row["seed"], row["kind"], row["harm"]

    def missing(self, keys: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return [key for key in keys if key not in self.known]

    def add(self, key: tuple[Any, ...], result: dict[str, Any], seconds: float) -> None:
        row = dict(zip(("act", "family", "seed", "kind", "harm"), key, strict=True)) | result
        row["seconds"] = round(seconds, 2)
        self.rows.append(row)
        self.known.add(key)
        with self.path.open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(*key, "→", ", ".join(row.get("failed", [])) or row.get("nothing", "passes"), row.get("note", "")[:120],
              f"{seconds:.1f} s", flush=True)  # fmt: skip


def go(act: str, cases: Cases, families: list[str], seeds: int) -> None:
    for family in families:
        for seed in range(seeds):
            wanted = cases.missing(list(keys(act, family, seed)))
            if not wanted:
                continue
            with tempfile.TemporaryDirectory(prefix="danlu-sabotage-") as name:
                trial = Trial(family, Path(name), seed=seed)
                for key in wanted:
                    began = time.perf_counter()
                    result = act_out(act, trial, key)
                    cases.add(key, result, time.perf_counter() - began)


def keys(act: str, family: str, seed: int) -> Iterator[tuple[Any, ...]]:
    harms: dict[str, list[str]] = {
        "honest": [""], "matrix": list(HARMS), "modules": [f"module {number} at 0.9" for number in range(21)],
    }  # fmt: skip
    for kind in KINDS:
        for harm in harms[act]:
            if act != "matrix" or applies(harm, kind):
                yield act, family, seed, kind, harm


def act_out(act: str, trial: Trial, key: tuple[Any, ...]) -> dict[str, Any]:
    _, family, _, kind, name = key
    if act == "honest":
        return honest(trial, kind)
    harm = HARMS[name] if act == "matrix" else one_module(0.9, int(name.split()[1]))
    until_failed = act == "matrix" and family != MATRIX_FAMILIES[0]  # which checks see it is asked of one family
    return spoilt(trial, kind, harm, until_failed=until_failed)


def table(cases: Cases, folder: Path) -> None:
    rows = [row for row in cases.rows if "nothing" not in row]
    result: dict[str, Any] = {"machine": machine(), "acts": {}}
    for act in ("honest", "matrix", "modules"):
        chosen = [row for row in rows if row["act"] == act]
        if not chosen:
            continue
        by_kind: dict[str, Counter[str]] = defaultdict(Counter)
        for row in chosen:
            by_kind[row["kind"]]["failed" if row["failed"] else "passed"] += 1
        result["acts"][act] = {
            "families": sorted({row["family"] for row in chosen}), "num_cases": len(chosen),
            "num_failed": sum(bool(row["failed"]) for row in chosen),
            "by_kind": {kind: dict(counts) for kind, counts in by_kind.items()},
            "wrong": [row for row in chosen if bool(row["failed"]) == (act == "honest")],
        }  # fmt: skip
        if act == "honest":
            result["acts"][act]["noise"] = noise(chosen)
        if act == "matrix":
            result["acts"][act]["caught_by"] = caught_by(chosen)
    (folder / "sabotage.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    for act, found in result["acts"].items():
        print(act, found["num_cases"], "cases,", found["num_failed"], "failed,", len(found["wrong"]), "wrong")
        for row in found["wrong"]:
            print("  WRONG", row)
    for kind, worst in result["acts"].get("honest", {}).get("noise", {}).items():
        print(kind, worst)


def noise(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The worst of each figure over all honest exports of a kind."""
    worst: dict[str, dict[str, float]] = {}
    for row in rows:
        mine = worst.setdefault(row["kind"], {})
        for name, figure in row.get("figures", {}).items():
            pick = min if name == "least_arrived" else max
            mine[name] = pick(mine.get(name, figure), figure)
    return worst


def caught_by(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Harm to kind to the checks that failed, in the family that was asked for all of them."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row["family"] == MATRIX_FAMILIES[0]:
            found[row["harm"]][row["kind"]] = ", ".join(row["failed"])
    return found


def machine() -> dict[str, Any]:
    import peft
    import transformers

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "commit": commit.stdout.strip(),
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "peft": peft.__version__, "xllamacpp": importlib.metadata.version("xllamacpp"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=["honest", "matrix", "modules", "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--families", type=int, default=0, help="only the first so many")
    parser.add_argument("--skip", type=int, default=0, help="not the first so many")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = Cases(given.out)
    known = {"honest": FAMILIES, "matrix": MATRIX_FAMILIES, "modules": MATRIX_FAMILIES[:1]}
    if given.act != "table":
        families = list(known[given.act])
        go(given.act, cases, families[given.skip : given.families or len(families)], given.seeds)
    table(cases, given.out)


if __name__ == "__main__":
    main()
