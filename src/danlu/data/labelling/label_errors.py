"""Labels that are probably wrong: confident learning (Northcutt, Jiang & Chuang, "Confident Learning: Estimating
Uncertainty in Dataset Labels", JAIR 2021), after the paper.

Own lines, not the package `cleanlab`: it is well kept and under Apache-2.0 since 2.9, but brings pandas and more for
what are forty lines of numpy. `probabilities` must come from a model that has not seen the row (`guess_unseen`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelError:
    """Row `index` has the label `given`, and probably is `likely`. `margin` in (0, 1]: how much surer the model is."""

    index: int
    given: int
    likely: int
    margin: float


def find_label_errors(labels_N: Ints, probabilities_NK: Probabilities) -> list[LabelError]:
    """Rows off the diagonal of the confident joint, worst first: those at least as likely of another class as rows with
    that label are on average (the likeliest of several), and whose own class the model finds less likely."""
    thresholds_K = _thresholds(labels_N, probabilities_NK)
    confident_NK = probabilities_NK >= thresholds_K - 1e-12
    best_N = np.where(confident_NK, probabilities_NK, -1.0).argmax(axis=1)
    rows_N = np.arange(len(labels_N))
    margins_N = probabilities_NK[rows_N, best_N] - probabilities_NK[rows_N, labels_N]
    wrong = np.flatnonzero(confident_NK.any(axis=1) & (best_N != labels_N) & (margins_N > 0))
    found = [
        LabelError(int(index), int(labels_N[index]), int(best_N[index]), round(float(margins_N[index]), 6))
        for index in wrong
    ]
    return sorted(found, key=lambda error: (-error.margin, error.index))


def _thresholds(labels_N: Ints, probabilities_NK: Probabilities) -> npt.NDArray[np.float64]:
    """Per class the mean probability of the class over the rows that carry it; a class without rows is never met."""
    assert len(labels_N) == len(probabilities_NK), "one label per row of probabilities"
    num_classes = probabilities_NK.shape[1]
    counts_K = np.bincount(labels_N, minlength=num_classes)
    own_N = probabilities_NK[np.arange(len(labels_N)), labels_N]
    sums_K = np.bincount(labels_N, weights=own_N, minlength=num_classes)
    return np.where(counts_K > 0, sums_K / np.maximum(counts_K, 1), np.inf)
