"""Does the gate cry wolf, and what can it find? Base and tuned model simulated, the truth known, our tests asked.

    python bench/nulls.py                     # about seven minutes on a quiet core; writes bench/results/nulls.json

Questions come in documents. A document is hard or easy for both models, and one of the two may happen to do better on
it; under a true null these turns cancel out over documents (`even`: each way alike; `skewed`: one document in ten gains
much, the others lose a little). Told for each plan: how often a difference is claimed that is not there, by danlu
(`compare`, the gate's check of the gain), by the naive way (every question on its own: exact McNemar, plain bootstrap),
for right-or-wrong answers, for scores, and for a corpus score (macro F1); how often a loss of just the margin passes as
"not inferior"; how often intervals hold the truth, in four ways of making them; and how often a true gain is found
beside what `detectable` promised.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from scipy.special import ndtr

from danlu.evaluation.confusion import classes_of, tally_of
from danlu.evaluation.gate import Gate
from danlu.evaluation.stats import compare, compare_tallies, mcnemar
from danlu.evaluation.stats.groups import by_group, redraw_ratio
from danlu.evaluation.stats.intervals import interval_of

Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
MIN_GAIN = 0.01  # any gain that is told from nothing


@dataclass(frozen=True)
class Plan:
    """documents x questions; `sizes` uneven: from 1 question to 4 times the mean."""

    documents: int
    questions: int
    turn: str = "even"
    is_uneven: bool = False
    spread: float = 0.8
    """How far documents lie apart in difficulty, and (times 0.75) in which model they favour; probit scale."""

    @property
    def name(self) -> str:
        uneven = ", uneven" if self.is_uneven else ""
        apart = ", far apart" if self.spread > 1 else ""
        return f"{self.documents} documents x {self.questions}{uneven}{apart}, {self.turn}"


PLANS = [
    Plan(50, 10), Plan(50, 10, "skewed"), Plan(20, 10), Plan(20, 10, "skewed"), Plan(12, 10), Plan(100, 5),
    Plan(30, 10, is_uneven=True), Plan(30, 10, "skewed", is_uneven=True), Plan(8, 25), Plan(300, 1),
    Plan(50, 10, spread=2.0), Plan(20, 25, spread=2.0),
]  # fmt: skip


@dataclass(frozen=True)
class Draw:
    base: Floats
    tuned: Floats
    groups: npt.NDArray[np.int64]


def probit(values: Floats) -> Floats:
    """The normal distribution function."""
    return np.asarray(ndtr(values))


def turns(plan: Plan, rng: np.random.Generator) -> Floats:
    """Which model each document favours, in probits; odd in distribution where even, of mean nothing where skewed."""
    if plan.turn == "even":
        return rng.normal(0, 0.75 * plan.spread, plan.documents)
    lucky = rng.random(plan.documents) < 0.1
    return np.where(lucky, 9.0, -1.0) * 0.25 * plan.spread


def draw(plan: Plan, rng: np.random.Generator, *, shift: float = 0.0, kind: str = "right") -> Draw:
    """Answers of both models to all questions; `shift`: what the tuned one is better by, in probits."""
    sizes = np.full(plan.documents, plan.questions)
    if plan.is_uneven:
        sizes = np.clip(np.rint(rng.lognormal(np.log(plan.questions) - 0.4, 0.9, plan.documents)), 1, 40).astype(int)
    groups = np.repeat(np.arange(plan.documents), sizes)
    ease = 0.3 + rng.normal(0, plan.spread, plan.documents)[groups] + rng.normal(0, 1, len(groups))
    turn = turns(plan, rng)[groups]
    sides = (probit(ease - turn / 2), probit(ease + turn / 2 + shift))
    if kind == "right":
        base, tuned = ((rng.random(len(groups)) < side).astype(np.float64) for side in sides)
    else:
        base, tuned = (rng.beta(0.3 + 8 * side, 0.3 + 8 * (1 - side)) for side in sides)
    return Draw(base, tuned, groups)


def true_difference(plan: Plan, *, shift: float = 0.0, kind: str = "right") -> float:
    """Expected, over 200 000 documents; skewed turns cancel out in probits, not in shares, so this is centred on."""
    rng = np.random.default_rng(99)
    large = Plan(200_000, 1, plan.turn, spread=plan.spread)
    ease = 0.3 + rng.normal(0, np.hypot(1, plan.spread), large.documents)
    turn = turns(large, rng)
    gain = float((probit(ease + turn / 2 + shift) - probit(ease - turn / 2)).mean())
    return gain if kind == "right" else gain * 8 / 8.6  # the mean of the beta distribution


def shift_for(plan: Plan, gain: float, *, kind: str = "right") -> float:
    """The shift in probits that makes a true difference of `gain`."""
    if gain == 0 and plan.turn == "even":
        return 0.0  # by symmetry
    low, high = -2.0, 3.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if true_difference(plan, shift=middle, kind=kind) < gain else (low, middle)
    return (low + high) / 2


def naive_interval(drawn: Draw, seed: int) -> tuple[float, float]:
    """Plain percentiles, every question on its own. Gains and losses are drawn as counts: the same, and faster."""
    differences = drawn.tuned - drawn.base
    rng, size = np.random.default_rng(seed), len(differences)
    if np.isin(differences, (-1, 0, 1)).all():
        shares = [(differences == change).mean() for change in (-1, 0, 1)]
        counts = rng.multinomial(size, shares, size=RESAMPLES)
        means = (counts[:, 2] - counts[:, 0]) / size
    else:
        means = redraw_ratio(differences, np.ones(size), rng, RESAMPLES)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def false_alarms(plan: Plan, trials: int) -> dict[str, Any]:
    """Shares of trials in which a difference is claimed under the null."""
    claims: Counter[str] = Counter()
    gate = Gate(min_gain=MIN_GAIN, max_forget=None)
    shift = shift_for(plan, 0.0)
    rng = np.random.default_rng(1)
    for trial in range(trials):
        drawn = draw(plan, rng, shift=shift)
        ours = compare(drawn.base, drawn.tuned, drawn.groups.tolist(), seed=trial, resamples=RESAMPLES)
        gained, lost = int((drawn.tuned > drawn.base).sum()), int((drawn.tuned < drawn.base).sum())
        low, high = naive_interval(drawn, trial)
        claims["danlu"] += ours.direction != "no_evidence"
        claims["danlu: p alone"] += ours.p < 0.05
        claims["danlu: interval alone"] += ours.low > 0 or ours.high < 0
        claims["gate: gain passed"] += gate.judge({"difference": ours.to_json()}).decision == "ship"
        claims["naive McNemar"] += mcnemar(gained, lost) < 0.05
        claims["naive bootstrap"] += low > 0 or high < 0
    return {name: round(count / trials, 4) for name, count in claims.items()}


def scores_and_corpus(plan: Plan, trials: int) -> dict[str, Any]:
    """The same for scores between 0 and 1, and for macro F1 of a two-class task."""
    claims: Counter[str] = Counter()
    rng = np.random.default_rng(2)
    shift = shift_for(plan, 0.0, kind="score")
    for trial in range(trials):
        drawn = draw(plan, rng, shift=shift, kind="score")
        ours = compare(drawn.base, drawn.tuned, drawn.groups.tolist(), seed=trial, resamples=RESAMPLES)
        low, high = naive_interval(drawn, trial)
        claims["scores: danlu"] += ours.direction != "no_evidence"
        claims["scores: naive bootstrap"] += low > 0 or high < 0
        drawn = draw(plan, rng)
        true = np.where(rng.random(len(drawn.groups)) < 0.35, "praise", "blame").tolist()
        other = {"praise": "blame", "blame": "praise"}
        named = [
            [t if right else other[t] for t, right in zip(true, side, strict=True)]
            for side in (drawn.base, drawn.tuned)
        ]
        classes = classes_of(true, *named)
        tallies = [tally_of(true, side, classes, "macro_f1") for side in named]
        corpus = compare_tallies(tallies[0], tallies[1], drawn.groups.tolist(), span=1, seed=trial, resamples=RESAMPLES)
        alone = compare_tallies(tallies[0], tallies[1], span=1, seed=trial, resamples=RESAMPLES)
        claims["macro F1: danlu"] += corpus.direction != "no_evidence"
        claims["macro F1: naive randomisation"] += alone.p < 0.05
    return {name: round(count / trials, 4) for name, count in claims.items()}


def margins(plan: Plan, trials: int, margin: float = 0.05) -> dict[str, Any]:
    """How often a true loss of just the margin passes as not inferior (2.5 % promised), and no loss at all does."""
    told: dict[str, Any] = {"margin": margin}
    rng = np.random.default_rng(3)
    for name, gain in (("passes at a loss of the margin", -margin), ("passes at no loss", 0.0)):
        shift, passed = shift_for(plan, gain), 0
        for trial in range(trials):
            drawn = draw(plan, rng, shift=shift)
            passed += bool(
                compare(
                    drawn.base, drawn.tuned, drawn.groups.tolist(), margin=margin, seed=trial, resamples=RESAMPLES
                ).not_inferior
            )
        told[name] = round(passed / trials, 4)
    return told


def coverage(plan: Plan, trials: int, *, kind: str) -> dict[str, Any]:
    """How often a 95 % interval of the difference holds the truth, and how wide it is on average."""
    rng = np.random.default_rng(4)
    shift = 0.4
    truth = true_difference(plan, shift=shift, kind=kind)
    held: Counter[str] = Counter()
    width: Counter[str] = Counter()
    for trial in range(trials):
        drawn = draw(plan, rng, shift=shift, kind=kind)
        for name, (low, high) in _four_ways(drawn, trial):
            held[name] += low <= truth <= high
            width[name] += high - low
    return {name: {"held": round(held[name] / trials, 4), "width": round(width[name] / trials, 4)} for name in held}


def _four_ways(drawn: Draw, seed: int) -> Iterator[tuple[str, tuple[float, float]]]:
    sums, sizes = by_group(drawn.tuned - drawn.base, drawn.groups.tolist())
    means = redraw_ratio(sums, sizes, np.random.default_rng(seed), RESAMPLES)
    point = float(sums.sum() / sizes.sum())
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)
    for name, jack, expanded in (
        ("percentile", None, False), ("percentile, expanded", None, True),
        ("BCa", left_out, False), ("BCa, expanded", left_out, True),
    ):  # fmt: skip
        yield name, interval_of(means, point, jack, num_groups=len(sums), expanded=expanded)


def power(plan: Plan, trials: int, gains: list[float]) -> list[dict[str, Any]]:
    """How often a true gain is found, beside the one that `detectable` said could be found four times in five."""
    rows = []
    rng = np.random.default_rng(5)
    for gain in gains:
        shift, found, promised = shift_for(plan, gain), 0, []
        for trial in range(trials):
            drawn = draw(plan, rng, shift=shift)
            ours = compare(drawn.base, drawn.tuned, drawn.groups.tolist(), seed=trial, resamples=RESAMPLES)
            found += ours.direction == "better"
            promised.append(ours.detectable)
        rows.append({"gain": gain, "found": round(found / trials, 4), "detectable": round(float(np.mean(promised)), 4)})
    return rows


def found_at(rows: list[dict[str, Any]], wanted: float = 0.8) -> float | None:
    """The gain that is found so often, between the measured points."""
    for first, second in itertools.pairwise(rows):
        if first["found"] <= wanted <= second["found"]:
            share = (wanted - first["found"]) / max(1e-9, second["found"] - first["found"])
            return round(first["gain"] + share * (second["gain"] - first["gain"]), 4)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("bench/results/nulls.json"))
    given = parser.parse_args()
    started = time.perf_counter()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    few = max(1, given.trials // 4)
    gains = [0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2]
    told: dict[str, Any] = {"false_alarms": {}, "coverage": {}, "power": {}}
    for plan in PLANS:
        told["false_alarms"][plan.name] = false_alarms(plan, given.trials)
        print(plan.name, told["false_alarms"][plan.name], flush=True)
    told["scores_and_corpus"] = {plan.name: scores_and_corpus(plan, few * 2) for plan in (PLANS[0], PLANS[2])}
    print(told["scores_and_corpus"], flush=True)
    told["not_inferior"] = {plan.name: margins(plan, few * 2) for plan in (PLANS[0], PLANS[2], PLANS[9])}
    print(told["not_inferior"], flush=True)
    for documents in (8, 12, 20, 50):
        for kind in ("right", "score"):
            plan = Plan(documents, 10, "skewed")
            told["coverage"][f"{plan.name}, {kind}"] = coverage(plan, few * 2, kind=kind)
            print(documents, kind, told["coverage"][f"{plan.name}, {kind}"], flush=True)
    for plan in (PLANS[0], PLANS[2], PLANS[9], Plan(100, 10)):
        rows = power(plan, few, gains)
        told["power"][plan.name] = {"curve": rows, "found_4_of_5_at": found_at(rows)}
        print(plan.name, told["power"][plan.name], flush=True)
    told |= {
        "trials": given.trials, "resamples": RESAMPLES,
        "standard_error_at_5_percent": round((0.05 * 0.95 / given.trials) ** 0.5, 4),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "commit": commit.stdout.strip(), "command": "python bench/nulls.py",
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
