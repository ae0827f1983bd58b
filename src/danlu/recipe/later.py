"""Knobs that came after runs had been named by their recipe's digest, and what that digest is taken of.

A run is found again by the digest of its recipe. Were each new knob part of it, the same file would start a new run
after every upgrade. So a knob that came later counts only where it stands at another value than it came with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LATER: dict[str, Any] = {
    "adapter.layers": None,
    "adapter.dora": False,
    "evaluation.judge": None,
    "evaluation.suites": [],
    "gate.min_win_rate": None,
    "gate.max_suite_loss": 0.05,
}
"""Each with the value it came with, by which runs of before behave. An entry is never edited: a knob whose default is
changed afterwards then differs from it, and its runs are new ones."""


NEVER = frozenset({"training.devices"})
"""Knobs that decide how soon something comes out and not what: with other cards a run goes on."""


def counted(tree: Any, later: Mapping[str, Any] = LATER, *, prefix: str = "") -> Any:
    """A resolved recipe (or what stands in it under `prefix`) without the later knobs that stand as they came, and
    without those that never count."""
    if isinstance(tree, list):
        return [counted(one, later, prefix=prefix) for one in tree]
    if not isinstance(tree, dict):
        return tree
    kept = {key: value for key, value in tree.items() if (name := prefix + key) not in later or value != later[name]}
    kept = {key: value for key, value in kept.items() if prefix + key not in NEVER}
    # stages repeat the chapters method and training: their knobs bear those chapters' names
    return {
        key: counted(value, later, prefix="" if (name := prefix + key) == "stages" else f"{name}.")
        for key, value in kept.items()
    }
