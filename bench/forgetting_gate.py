"""How often the forgetting gate ships: simulated models of known loss, 360 general questions in six categories of 60.

    python bench/forgetting_gate.py        # seconds; writes bench/results/forgetting-gate.json

`churn` is the share of answers that change; `loss` what is truly lost. Why a category is not asked for the same proof
as the whole: with sixty questions no model would ever pass it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from danlu.evaluation.loss import kept, loss_bounds

MODELS = 2000
CASES = ((0.02, 0.0), (0.04, 0.0), (0.06, 0.0), (0.04, 0.02), (0.06, 0.04), (0.08, 0.05))
MARGIN, CATEGORY_MARGIN = 0.02, 0.05
CATEGORIES, ITEMS = 6, 60


def main() -> None:
    rng = np.random.default_rng(0)
    known: dict[tuple[int, int, int], bool] = {}

    def proven(gained: int, lost: int, num_items: int, margin: float) -> bool:
        key = gained, lost, num_items
        if key not in known:
            known[key] = kept(loss_bounds(gained, lost, num_items), margin) == "kept"
        return known[key]

    rows = []
    for churn, loss in CASES:
        gain, fall = (churn - loss) / 2, (churn + loss) / 2
        drawn = rng.multinomial(ITEMS, [gain, fall, 1 - gain - fall], size=(MODELS, CATEGORIES))
        whole = drawn.sum(axis=1)
        overall = np.array([proven(int(g), int(f), CATEGORIES * ITEMS, MARGIN) for g, f, _ in whole])
        every = np.array([all(proven(int(g), int(f), ITEMS, CATEGORY_MARGIN) for g, f, _ in one) for one in drawn])
        measured = ((drawn[:, :, 0] - drawn[:, :, 1]) / ITEMS >= -CATEGORY_MARGIN).all(axis=1)
        rows.append({
            "churn": churn, "loss": loss, "overall_kept": float(overall.mean()),
            "every_category_proven": float(every.mean()), "no_category_fell": float(measured.mean()),
            "ships": float((overall & measured).mean()),
        })  # fmt: skip
    for row in rows:
        print(" ".join(f"{name} {value:.2f}" for name, value in row.items()))
    path = Path(__file__).parent / "results" / "forgetting-gate.json"
    path.write_text(
        json.dumps({"models": MODELS, "margin": MARGIN, "category_margin": CATEGORY_MARGIN, "rows": rows}, indent=1)
        + "\n"
    )


if __name__ == "__main__":
    main()
