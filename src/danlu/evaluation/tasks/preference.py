"""Preference: on held-out pairs, does the model lean to the better answer?

Three readings, each as the share of pairs where chosen beats rejected (a tie counts half): `implicit_reward`, how much
training moved chosen over rejected (log-ratio tuned/base: DPO's own reward, Rafailov et al. 2023); `raw`, the plain
log-probability, which favours the shorter answer; `normalised`, per token, which does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.data.sample import Sample
from danlu.data.tokens import Tokens
from danlu.engines.engine import Engine
from danlu.evaluation.stats import bootstrap, proportion
from danlu.evaluation.tasks.task import Result


@dataclass(frozen=True, slots=True)
class Pair:
    """The same prompt continued better and worse, as tokens."""

    id: str
    chosen: Tokens
    rejected: Tokens
    group: str = ""


def pairs_from(samples: Iterable[Sample], encode: Callable[[Sample], Sequence[Tokens]]) -> tuple[Pair, ...]:
    """Preference samples as token pairs; what `encode` (the encoder with its ledger) refused is left out."""
    pairs = []
    for sample in samples:
        tokens = encode(sample) if sample.kind == "preference" else ()
        if len(tokens) == 2:
            pairs.append(Pair(str(sample.origin), tokens[0], tokens[1], group=sample.group or ""))
    return tuple(pairs)


class Preference:
    name = "preference"
    steps_per_item = 2

    def run(self, engine: Engine, items: Sequence[Pair], *, watch: Callable[[int], None] | None = None) -> list[Result]:
        scores = engine.score([tokens for item in items for tokens in (item.chosen, item.rejected)])
        results = []
        for item, chosen, rejected in zip(items, scores[0::2], scores[1::2], strict=True):
            details = {
                "chosen": chosen.total, "rejected": rejected.total,
                "chosen_tokens": len(chosen.log_probs), "rejected_tokens": len(rejected.log_probs),
            }  # fmt: skip
            margin = _per_token(details, "chosen") - _per_token(details, "rejected")
            results.append(Result(item.id, _win(margin), margin > 0, (), details))
        if watch is not None:
            watch(2 * len(items))
        return results

    def compare(self, items: Sequence[Pair], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
        groups = [item.group or item.id for item in items]
        rewards = [_margin(after) - _margin(before) for before, after in zip(base, tuned, strict=True)]
        section: dict[str, Any] = {
            "num_pairs": len(items), "mean_reward_margin": sum(rewards) / len(rewards),
            "implicit_reward": _share([_win(reward) for reward in rewards], groups),
        }  # fmt: skip
        for side, results in (("base", base), ("tuned", tuned)):
            section[side] = {
                "raw": _share([_win(_margin(result)) for result in results], groups),
                "normalised": _share([result.value for result in results], groups),
            }
        return section


def _share(wins: Sequence[float], groups: Sequence[str]) -> dict[str, Any]:
    """Without ties the Wilson interval, which does not collapse when all pairs are won."""
    if 0.5 in wins:
        return bootstrap(wins, groups).to_json()
    return proportion([win == 1 for win in wins], groups).to_json()


def _win(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)


def _margin(result: Result) -> float:
    return float(result.details["chosen"]) - float(result.details["rejected"])


def _per_token(details: dict[str, Any], side: str) -> float:
    return float(details[side]) / max(1, int(details[f"{side}_tokens"]))
