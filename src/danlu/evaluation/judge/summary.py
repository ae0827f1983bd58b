"""What many verdicts come to: win rate with its interval and test, without length's part, and the judge's faults."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from danlu.evaluation.judge.judge import PairVerdict, Rating
from danlu.evaluation.stats import compare

KINDRED = {
    "qwen": ("qwen", "qwq", "tongyi", "通义"), "llama": ("llama", "vicuna", "alpaca"), "gemma": ("gemma", "gemini"),
    "mistral": ("mistral", "mixtral"), "phi": ("phi",), "deepseek": ("deepseek",),
    "gpt": ("gpt", "o1", "o3", "o4", "openai"),
    "claude": ("claude",), "glm": ("glm", "chatglm", "zhipu", "智谱"), "yi": ("yi",), "internlm": ("internlm",),
    "baichuan": ("baichuan", "百川"), "kimi": ("kimi", "moonshot"), "doubao": ("doubao", "豆包", "seed"),
    "ernie": ("ernie", "文心"), "hunyuan": ("hunyuan", "混元"), "minimax": ("minimax", "abab"), "ember": ("ember",),
}  # fmt: skip
"""Names that a maker's models go by: a judge likes what its own kin writes (Panickssery et al. 2024)."""


def family_of(model: str) -> str:
    """The maker's name for a model's, or its first word where it is not known."""
    words = re.findall(r"[a-z]+\d?|[\u4e00-\u9fff]+", model.lower().rpartition("/")[2]) or [model.lower()]
    for family, names in KINDRED.items():
        if any(word.rstrip("0123456789") in names or word in names for word in words):
            return family
    return str(words[0])


def pair_summary(
    verdicts: Sequence[PairVerdict], lengths: Sequence[tuple[int, int]], clusters: Sequence[Hashable]
) -> dict[str, Any]:
    """`second` is the tuned side. A tie is half a win for both; what could not be read is left out and counted."""
    kept = [place for place, verdict in enumerate(verdicts) if verdict.winner is not None]
    told = [verdicts[place] for place in kept if verdicts[place].is_asked]  # equal answers show no bias
    shown: dict[str, Any] = {
        "num_items": len(verdicts), "num_unread": len(verdicts) - len(kept),
        "num_equal": sum(not verdict.is_asked for verdict in verdicts),
        "wins": sum(verdict.winner == "second" for verdict in verdicts),
        "losses": sum(verdict.winner == "first" for verdict in verdicts),
        "ties": sum(verdict.winner == "tie" for verdict in verdicts),
        "same_in_both_orders": _share([verdict.is_consistent for verdict in told]),
        "first_shown_preferred": _first_shown(told),
    }  # fmt: skip
    if not kept:
        return shown
    points = [{"second": 1.0, "tie": 0.5, "first": 0.0}[str(verdicts[place].winner)] for place in kept]
    comparison = compare([1 - point for point in points], points, [clusters[place] for place in kept])
    shown["win_rate"] = float(np.mean(points))
    shown["difference"] = comparison.to_json()
    shown["win_rate_at_equal_length"] = at_equal_length(points, [lengths[place] for place in kept])
    return shown


def rating_summary(base: Sequence[Rating], tuned: Sequence[Rating], clusters: Sequence[Hashable]) -> dict[str, Any]:
    """Mean scores, and the paired difference of items that were read on both sides."""
    kept = [n for n, (a, b) in enumerate(zip(base, tuned, strict=True)) if a.score is not None and b.score is not None]
    shown: dict[str, Any] = {"num_items": len(base), "num_unread": len(base) - len(kept)}
    if kept:
        shown["base"], shown["tuned"] = (
            {"mean": float(np.mean([float(side[n].score or 0) for n in kept]))} for side in (base, tuned)
        )
        groups = [clusters[n] for n in kept]
        shown["difference"] = compare([base[n].value for n in kept], [tuned[n].value for n in kept], groups).to_json()
    return shown


def at_equal_length(points: Sequence[float], lengths: Sequence[tuple[int, int]]) -> float:
    """The win rate that a logistic fit on the difference in length gives where there is none (after Dubois et al. 2024,
    without their terms for models and questions). A weak prior keeps it finite where length alone decides."""
    differences = np.asarray([second - first for first, second in lengths], dtype=np.float64)
    spread = float(differences.std())
    if spread == 0:
        return float(np.mean(points))
    design = np.stack((np.ones(len(points)), np.tanh(differences / spread)), axis=1)
    wanted, prior = np.asarray(points, dtype=np.float64), np.diag([0.01, 0.1])
    weights = np.zeros(2)
    for _ in range(50):
        predicted = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (wanted - predicted) - prior @ weights
        bend = design.T @ (design * (predicted * (1 - predicted))[:, None]) + prior
        step = np.linalg.solve(bend, slope)
        weights = weights + step
        if float(np.abs(step).max()) < 1e-10:
            break
    return 1 / (1 + math.exp(-float(weights[0])))


def _first_shown(verdicts: Sequence[PairVerdict]) -> float | None:
    """Of the votes that named a side, how many named the one shown first; 0.5 is fair."""
    votes = [
        (vote == "first") != bool(turned)
        for verdict in verdicts for turned, vote in enumerate(verdict.votes) if vote in ("first", "second")
    ]  # fmt: skip
    return _share(votes)


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
