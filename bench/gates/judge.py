"""Which gates a model's runs pass. A gate that cannot be judged says why."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

NEAR = 0.005
"""Approximations may end at most 0.5 % above bf16's held-out loss."""
FOUR_BITS = 0.02
"""What rounding a base to NF4 may cost in held-out loss: a price of the format, published here, and no question of
danlu's arithmetic, which is judged against PEFT on the same rounded weights. Dettmers et al. 2023 (QLoRA,
arXiv:2305.14314, section 4) find tuning through NF4 with double quantisation as good as through 16 bits by scores of
tasks, on models of 80 million to 65 billion weights; they claim nothing for the loss of a model of 25 million. On ember
it was 0.95 % when first measured; the limit is twice that, so that a worse rounding is noticed."""
WINDOW = 20
GRADIENT = 1.25
"""danlu's gradient may be this much farther from fp32's than PEFT's is; both compute in bf16."""
SEEDS = ("danlu, seed 0", "danlu, seed 1", "danlu, seed 2")
PEER = "PEFT, seed 0"
NF4, NF4_PEER = "NF4 base", "PEFT, weights rounded to NF4"
APPROXIMATIONS = {
    "fp8 base": SEEDS[0], "int8 base": SEEDS[0], "8-bit states": SEEDS[0],
    "full, 8-bit states": "full", "full, no masters, 8-bit states": "full", "full, masters apart": "full",
}  # fmt: skip


def judge(runs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every gate as {gate, value, limit, passed} or {gate, skipped}."""
    pairs = {"": (SEEDS[0], PEER), ", NF4 on the same weights": (NF4, NF4_PEER)}
    gates = []
    for suffix, pair in pairs.items():
        needs = tuple(dict.fromkeys((*SEEDS, *pair)))
        gates.append(_guarded(runs, f"curve of PEFT{suffix}", needs, lambda found, pair=pair: _curve(found, *pair)))
        gates.append(
            _guarded(runs, f"held-out loss of PEFT{suffix}", needs, lambda found, pair=pair: _held_out(found, *pair))
        )
    gates.append(
        _guarded(runs, "cost of 4 bits", (SEEDS[0], NF4), lambda found: (_near(found, SEEDS[0], NF4)[0], FOUR_BITS))
    )
    for name, base in APPROXIMATIONS.items():
        gates.append(_guarded(runs, name, (base, name), lambda found, pair=(base, name): _near(found, *pair)))
    gates.append(_guarded(runs, "gradient of step 1", ("gradient",), _gradient))
    return gates


def _guarded(runs: dict[str, Any], gate: str, needs: Sequence[str], value: Any) -> dict[str, Any]:
    missing = [f"{name}: {runs[name]['error'] if name in runs else 'not run'}" for name in needs if _is_out(runs, name)]
    if missing:
        return {"gate": gate, "skipped": "; ".join(missing)[:400]}
    found, limit = value(runs)
    return {"gate": gate, "value": round(found, 6), "limit": round(limit, 6), "passed": found <= limit}


def _is_out(runs: dict[str, Any], name: str) -> bool:
    return name not in runs or "error" in runs[name]


def _curve(runs: dict[str, Any], own: str, peer: str) -> tuple[float, float]:
    """Mean distance of smoothed curves: danlu and PEFT from one seed, against the farthest two seeds of danlu."""
    curves = {name: smooth(runs[name]["losses"]) for name in (*SEEDS, own, peer)}
    spread = max(distance(curves[a], curves[b]) for a, b in itertools.combinations(SEEDS, 2))
    return distance(curves[own], curves[peer]), spread


def _held_out(runs: dict[str, Any], own: str, peer: str) -> tuple[float, float]:
    """PEFT's held-out loss against danlu's from the same seed; the limit is what seeds differ by, at least 0.1 %."""
    ends = [runs[name]["held_out"] for name in SEEDS]
    return abs(runs[peer]["held_out"] - runs[own]["held_out"]), max(max(ends) - min(ends), 0.001 * ends[0])


def _near(runs: dict[str, Any], base: str, name: str) -> tuple[float, float]:
    """How far an approximation's held-out loss ends above the exact run's, as a share."""
    return runs[name]["held_out"] / runs[base]["held_out"] - 1, NEAR


def _gradient(runs: dict[str, Any]) -> tuple[float, float]:
    found = runs["gradient"]
    return found["danlu"]["relative_error"], GRADIENT * found["peft"]["relative_error"]


def smooth(losses: Sequence[float]) -> list[float]:
    window = min(WINDOW, len(losses))
    return [statistics.fmean(losses[at : at + window]) for at in range(len(losses) - window + 1)]


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    return statistics.fmean(abs(a - b) for a, b in zip(one, other, strict=True))


def table(model: str, found: dict[str, Any]) -> str:
    """What is printed."""
    lines = [
        "",
        f"### {model}",
        "| run | held-out before | after | first loss | last 20 | s |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in found["runs"].items():
        if "losses" in run:
            ends = f"{run['losses'][0]:.4f} | {statistics.fmean(run['losses'][-WINDOW:]):.4f}"
            lines.append(
                f"| {name} | {run['held_out_before']:.4f} | {run['held_out']:.4f} | {ends} | {run['seconds']:.0f} |"
            )
        else:
            facts = run.get("error") or {key: run[key] for key in ("danlu", "peft")}
            lines.append(f"| {name} | {facts} | | | | {run.get('seconds', '')} |")
    lines += ["", "| gate | value | limit | |", "|---|---|---|---|"]
    for gate in found["gates"]:
        if "skipped" in gate:
            lines.append(f"| {gate['gate']} | | | skipped: {gate['skipped'][:160]} |")
        else:
            verdict = "pass" if gate["passed"] else "**FAIL**"
            lines.append(f"| {gate['gate']} | {gate['value']:.5f} | {gate['limit']:.5f} | {verdict} |")
    return "\n".join(lines)
