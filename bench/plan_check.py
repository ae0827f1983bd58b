"""Predicted beside measured: the planner against the engine, over shapes, contexts, policies and memory caps.

    python bench/plan_check.py OUT.json unseen             shapes that no constant was read off, under 280 s on one H200
    python bench/plan_check.py OUT.json                    all cases on this GPU
    python bench/plan_check.py OUT.json 7b-light 0.5b-2k   some of them (`plan_cases.py`)
    python bench/plan_check.py --plans unseen              what would be run, without a GPU
    python bench/plan_check.py OUT.json --again            judge an earlier OUT.json by today's constants, without a GPU
    python bench/plan_check.py --against bench/results/steps-h200.json    the same for steps of bench/step.py

Weights are drawn on the device, ids are random, documents equally long. A case with a cap is planned for that much
memory and runs under `torch.cuda.set_per_process_memory_fraction`. Memory is what the allocator held at most; the
device's own part (context, kernels) is measured once. Bars: peak within 5 %, step within 15 %.

At the end stand the errors, and for each part of a step the factor that would bring predictions nearest to what was
measured: what `planning/rates.py` and `planning/cards.py` should change by. They need not be followed to the letter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent))
from measured_steps import PEAK_BAR, TIME_BAR, points_of, table
from plan_cases import UNSEEN, Case, G, named

from danlu.planning.cards import CARDS, find_card
from danlu.planning.memory import predict_memory
from danlu.planning.policy import Mix
from danlu.planning.time import predict_time

# ---- the judgement


def judge(found: dict[str, Any]) -> tuple[float, float]:
    """(peak, time) predicted over measured, minus one."""
    peak = found["measured"]["reserved_bytes"] + found["context_bytes"]
    step = found["predicted"]["step_s"] / found["measured"]["step_s"]
    return found["predicted"]["total_bytes"] / peak - 1, step - 1


def _line(found: dict[str, Any]) -> str:
    name = found["case"]["name"]
    if "error" in found:
        return f"{name:16} {found['error']}"
    peak, step = judge(found)
    measured, guess = found["measured"], found["predicted"]
    held = (measured["reserved_bytes"] + found["context_bytes"]) / G
    return (
        f"{name:16} peak {held:6.2f} GiB, predicted {guess['total_bytes'] / G:6.2f} ({peak:+.1%}); allocated "
        f"{measured['allocated_bytes'] / G:6.2f}, predicted {guess['allocated_bytes'] / G:6.2f}; step "
        f"{measured['step_s'] * 1e3:7.1f} ms, predicted {guess['step_s'] * 1e3:7.1f} ({step:+.1%})  {found['policies']}"
    )


def summarise(done: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors against the bars, and the factors that would mend the times."""
    good = [found for found in done if "measured" in found]
    errors = {found["case"]["name"]: judge(found) for found in good}
    unseen = [errors[case.name] for case in UNSEEN if case.name in errors]
    reserved = [f["measured"]["reserved_bytes"] / f["measured"]["allocated_bytes"] for f in good]
    return {
        "num_cases": len(good),
        "peak_errors": {name: round(peak, 4) for name, (peak, _) in errors.items()},
        "time_errors": {name: round(step, 4) for name, (_, step) in errors.items()},
        "within_peak_bar": sum(abs(peak) <= PEAK_BAR for peak, _ in errors.values()),
        "within_time_bar": sum(abs(step) <= TIME_BAR for _, step in errors.values()),
        "num_unseen": len(unseen),
        "unseen_within_peak_bar": sum(abs(peak) <= PEAK_BAR for peak, _ in unseen),
        "unseen_within_time_bar": sum(abs(step) <= TIME_BAR for _, step in unseen),
        "not_measured": {found["case"]["name"]: found["error"] for found in done if "error" in found},
        "allocated_minus_predicted_mib": {
            f["case"]["name"]: round((f["measured"]["allocated_bytes"] - f["predicted"]["allocated_bytes"]) / 2**20)
            for f in good
        },
        "reserved_over_allocated": round(statistics.median(reserved), 4) if reserved else None,
        "context_mib": round(good[0]["context_bytes"] / 2**20) if good else None,
        "time_factors": _factors(good),
    }


def _factors(good: list[dict[str, Any]]) -> dict[str, float]:
    """For each part of a step the factor f that makes Σ (Σ_parts f · part / measured - 1)² least, drawn towards 1."""
    names = [name for name in good[0]["predicted"]["time"] if name != "total_s"] if good else []
    names = [name for name in names if any(f["predicted"]["time"][name] > 1e-4 for f in good)]
    if len(good) < 4:
        return {}
    shares = np.array([[f["predicted"]["time"][n] / f["measured"]["step_s"] for n in names] for f in good])
    pull = 0.05 * np.eye(len(names))
    solved = np.linalg.lstsq(
        np.vstack([shares, pull]), np.concatenate([np.ones(len(good)), 0.05 * np.ones(len(names))]), rcond=None
    )[0]
    return {name: round(float(value), 3) for name, value in zip(names, solved, strict=True)}


def tell_plans(cases: list[Case]) -> None:
    """What would be run on an H200."""
    for case in cases:
        plan = case.plan(CARDS["H200"])
        assert plan.time is not None, "planned on a card"
        print(
            f"{case.name:20} {plan.total_bytes / G:6.2f} GiB of {case.cap_gib or 139.8:5.1f}, step "
            f"{plan.time.total_s * 1e3:6.0f} ms, fits: {plan.fits}  {plan.mix.to_json()}"
        )


def judge_again(done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same measurements beside what today's constants predict."""
    from plan_bench import predicted

    for found in done:
        case, card = Case(**found["case"]), find_card(found.get("card", ""))
        if "measured" not in found or card is None:
            continue
        plan = case.plan(card)  # the mix that ran, whatever would be chosen now
        mix = Mix.counted(found["policies"])
        work = plan.work
        found["predicted"] = predicted(
            replace(plan, mix=mix, memory=predict_memory(work, mix), time=predict_time(work, mix, card))
        )
        print(_line(found))
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("cases", nargs="*", help="names, or unseen, or calibrated; all where none are given")
    parser.add_argument("--plans", action="store_true", help="no GPU: tell what would be run")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds; cases that begin later are left out")
    parser.add_argument("--again", action="store_true", help="no GPU: judge OUT by today's constants")
    parser.add_argument("--against", type=Path, metavar="FILE", help="no GPU: steps measured by bench/step.py")
    given = parser.parse_args()
    if given.against:
        print(table(list(points_of(given.against))))
        return
    if given.plans:
        tell_plans(named([str(given.out), *given.cases] if given.out else []))
        return
    if given.out is None:
        parser.error("OUT is missing")
    if given.again:
        done = judge_again(json.loads(given.out.read_text())["cases"])
    else:
        from plan_bench import run_cases

        from danlu.pipeline.device import choose_device

        choose_device("cuda")  # segments that grow, as in training
        done = run_cases(named(given.cases), given.budget, _line)
    summary = summarise(done)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"summary": summary, "cases": done}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
