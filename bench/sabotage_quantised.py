"""Is every spoilt export in codes (fp8, int8, awq, gptq) told from every honest one?

As `sabotage.py`, for the formats that have no rule saying what each number becomes. Two witnesses are counted apart:
our own decoding of the files held to what was trained (`files`), and the program that reads them, transformers with
compressed-tensors or auto-round's products (`reader`), which must say what our decoding says. A miss is listed with how
far the spoilt model lay from what was trained, beside the noise. `all`: for each family honest exports (of four bits
both auto-round's codes and nearest ones), for four of them the whole matrix, for the first each module at 0.9. `vllm`
asks vLLM itself for a sample, and needs the python of its environment.

    python bench/sabotage_quantised.py all|vllm|table OUT [--families N] [--skip N] [--vllm PYTHON]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sabotage import MATRIX_FAMILIES, Cases, machine  # first: it says where tests/ is, and how many threads

# isort: split
import torch

from danlu.core.errors import DanluError
from danlu.exports.parity import Check
from sabotage_codes import EIGHT, KINDS, CodedTrial, harms_of
from sabotage_kit import FAMILIES, one_module

VLLM_FAMILY = "qwen3"
"""vLLM on a CPU wants heads of 32 at least."""
VLLM_HARMS = {
    "fp8": ("scales of two layers swapped",), "int8": ("the end of turns lost",),
    "awq": ("groups twice as large in the header",), "gptq": ("zero points as version 2 has them",),
}  # fmt: skip
READERS = ("transformers_", "autoround_")
FIRST = MATRIX_FAMILIES[0]
Key = tuple[str, str, int, str, str]
"""act, family, seed, kind, harm"""


def keys(act: str, family: str, seed: int) -> Iterator[Key]:
    for kind in KINDS:
        names = {
            "honest": ["", "nearest"], "matrix": list(harms_of(kind)), "vllm": ["", *VLLM_HARMS[kind]],
            "modules": [f"module {number} at 0.9" for number in range(21)],
        }[act]  # fmt: skip
        for name in names:
            if act != "honest" or not (name and kind in EIGHT):  # eight bits are the nearest ones
                yield act, family, seed, kind, name


def act_out(trial: CodedTrial, key: Key) -> dict[str, Any]:
    act, _, _, kind, name = key
    if name in ("", "nearest"):
        return told(trial.honest(kind) if not name else trial.nearest(kind))
    harm = one_module(0.9, int(name.split()[1])) if act == "modules" else harms_of(kind)[name]
    try:
        checks = trial.spoilt(kind, harm)
    except DanluError as error:  # the writer, or our own reading of the files, would not
        return {"failed": ["refused"], "by": ["files"], "note": error.text[:200]}
    return {"nothing": "nothing to spoil in this family"} if checks is None else told(checks)


def told(checks: list[Check]) -> dict[str, Any]:
    failed = [check for check in checks if check.verdict == "fail"]
    by = {next((name[:-1] for name in (*READERS, "vllm_") if each.name.startswith(name)), "files") for each in failed}
    figures: dict[str, Any] = {}
    for check in checks:
        if check.name == "file_modules":
            keys_ = ("least_arrived", "most_arrived", "num_unshown")
            figures |= {name: check.numbers[name] for name in keys_ if name in check.numbers}
        if check.name.endswith("_logits") and check.numbers:
            part = check.name.removesuffix("_logits")
            figures[f"{part}_kl"], figures[f"{part}_floor"] = (
                check.numbers["mean_kl"], check.numbers["floor_mean_kl"],
            )  # fmt: skip
            figures[f"{part}_allowed"] = check.limits["mean_kl"]
    return {"failed": [each.name for each in failed], "by": sorted(by), "figures": figures,
            "not_run": [each.name for each in checks if each.verdict == "not run"],
            "note": "; ".join(each.note for each in failed)[:200]}  # fmt: skip


def acts_of(act: str, family: str) -> list[str]:
    if act == "vllm":
        return [act]
    return ["honest", *(["matrix"] if family in MATRIX_FAMILIES else []), *(["modules"] if family == FIRST else [])]


def go(act: str, cases: Cases, families: list[str], seeds: int, python: str | None) -> None:
    for family in families:
        for seed in range(seeds):
            all_keys = [key for each in acts_of(act, family) for key in keys(each, family, seed)]
            if not (wanted := cases.missing(all_keys)):
                continue
            with tempfile.TemporaryDirectory(prefix="danlu-sabotage-") as name:
                trial = CodedTrial(family, Path(name), seed=seed, python=python)
                for key in wanted:
                    began = time.perf_counter()
                    cases.add(key, act_out(trial, key), time.perf_counter() - began)


def table(cases: Cases, folder: Path, command: str) -> None:
    rows = [row for row in cases.rows if "nothing" not in row]
    packages = {name: importlib.metadata.version(name) for name in ("compressed-tensors", "auto-round")}
    result: dict[str, Any] = {"machine": machine() | packages, "command": command, "acts": {}}
    for act in ("honest", "matrix", "modules", "vllm"):
        chosen = [row for row in rows if row["act"] == act]
        if not chosen:
            continue
        honest = [row for row in chosen if row["harm"] in ("", "nearest")]
        spoilt = [row for row in chosen if row not in honest]
        by_kind: dict[str, Counter[str]] = defaultdict(Counter)
        for row in chosen:
            is_honest = row["harm"] in ("", "nearest")
            word = ("refused" if row["failed"] else "passed") if is_honest else "caught" if row["failed"] else "missed"
            by_kind[row["kind"]][word] += 1
        result["acts"][act] = {
            "families": sorted({row["family"] for row in chosen}), "num_honest": len(honest),
            "num_refused": sum(bool(row["failed"]) for row in honest), "num_spoilt": len(spoilt),
            "num_caught": sum(bool(row["failed"]) for row in spoilt),
            "by_kind": {kind: dict(counts) for kind, counts in by_kind.items()},
            "refused": [row for row in honest if row["failed"]],
            "missed": [row for row in spoilt if not row["failed"]],
            "num_too_noisy": dict(Counter(row["kind"] for row in honest if row.get("not_run"))),
            "only_by": dict(Counter(row["by"][0] for row in spoilt if len(row["by"]) == 1)),
            "only_by_check": dict(Counter(row["failed"][0] for row in spoilt if len(row["failed"]) == 1)),
        }  # fmt: skip
        if act == "honest":
            result["acts"][act]["noise"] = noise(honest)
        if act == "matrix":
            result["acts"][act]["caught_by"] = caught_by(spoilt)
    (folder / "sabotage-quantised.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    for act, found in result["acts"].items():
        print(act, {name: value for name, value in found.items() if name.startswith(("num_", "only"))})
        for row in found["refused"] + found["missed"]:
            print("  WRONG", row)


def noise(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The worst of each figure over all honest exports of a kind."""
    worst: dict[str, dict[str, float]] = {}
    for row in rows:
        mine = worst.setdefault(row["kind"], {})
        for name, figure in row["figures"].items():
            mine[name] = (min if name == "least_arrived" else max)(mine.get(name, figure), figure)
    return worst


def caught_by(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Harm to kind to the checks that failed, in the first family."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row["family"] == FIRST:
            found[row["harm"]][row["kind"]] = ", ".join(row["failed"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=["all", "vllm", "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--families", type=int, default=0, help="only the first so many")
    parser.add_argument("--skip", type=int, default=0, help="not the first so many")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--vllm", default=None, help="the python of vLLM's environment")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = Cases(given.out)
    others = [family for family in FAMILIES if family not in MATRIX_FAMILIES]
    known = {"all": [*MATRIX_FAMILIES, *others], "vllm": [VLLM_FAMILY], "table": []}
    families = known[given.act]
    go(given.act, cases, families[given.skip : given.families or len(families)], given.seeds, given.vllm)
    table(cases, given.out, "python bench/sabotage_quantised.py all OUT, then vllm OUT --vllm PYTHON")


if __name__ == "__main__":
    main()
