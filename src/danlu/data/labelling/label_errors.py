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


def confident_joint(labels_N: Ints, probabilities_NK: Probabilities) -> Ints:
    """C[i, j]: rows labelled i that are confidently j, that is, at least as likely j as rows labelled j are on average.
    Where several classes qualify, the likeliest counts; where none does, the row is not counted."""
    thresholds_K = _thresholds(labels_N, probabilities_NK)
    num_classes = probabilities_NK.shape[1]
    confident_NK = probabilities_NK >= thresholds_K - 1e-12
    best_N = np.where(confident_NK, probabilities_NK, -1.0).argmax(axis=1)
    counted_N = confident_NK.any(axis=1)
    joint_KK = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(joint_KK, (labels_N[counted_N], best_N[counted_N]), 1)
    return joint_KK


def find_label_errors(labels_N: Ints, probabilities_NK: Probabilities) -> list[LabelError]:
    """Rows off the diagonal of the confident joint, worst first: those that are confidently of another class, and whose
    own class the model finds less likely."""
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


def noise_matrix(labels_N: Ints, probabilities_NK: Probabilities) -> npt.NDArray[np.float64]:
    """Estimated share of all rows that are labelled i and are j, calibrated so that rows sum to the labels' shares."""
    joint_KK = confident_joint(labels_N, probabilities_NK).astype(np.float64)
    given_K = np.bincount(labels_N, minlength=len(joint_KK)).astype(np.float64)
    sums_K = joint_KK.sum(axis=1)
    joint_KK[sums_K == 0] = np.eye(len(joint_KK))[sums_K == 0]
    scaled = joint_KK / joint_KK.sum(axis=1, keepdims=True) * given_K[:, None]
    shares: npt.NDArray[np.float64] = scaled / max(1.0, float(scaled.sum()))
    return shares


def _thresholds(labels_N: Ints, probabilities_NK: Probabilities) -> npt.NDArray[np.float64]:
    """Per class the mean probability of the class over the rows that carry it; a class without rows is never met."""
    assert len(labels_N) == len(probabilities_NK), "one label per row of probabilities"
    num_classes = probabilities_NK.shape[1]
    counts_K = np.bincount(labels_N, minlength=num_classes)
    own_N = probabilities_NK[np.arange(len(labels_N)), labels_N]
    sums_K = np.bincount(labels_N, weights=own_N, minlength=num_classes)
    return np.where(counts_K > 0, sums_K / np.maximum(counts_K, 1), np.inf)
