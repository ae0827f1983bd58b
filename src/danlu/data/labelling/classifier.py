"""A plain classifier over character n-grams that doubts: the model in the loop while there is no trained one yet.

Logistic regression from scikit-learn (extra `select`), on the vectors of `quality/vectors.py`. It is no product: it
says which labels are doubtful and which rows would teach it most, in seconds on any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.core.errors import DataError
from danlu.data.quality.vectors import Vectors

Probabilities = npt.NDArray[np.float64]
MIN_PER_CLASS = 2
FOLDS = 5
DIRECTIONS = 100
SIZES = (1, 2)
"""Character n-grams whose vectors suit both uses; longer ones say little of short texts."""


@dataclass(frozen=True, slots=True)
class Guess:
    """`probabilities` (N, K) of the classes in `classes`, in that order."""

    classes: tuple[str, ...]
    probabilities: Probabilities


class PlainClassifier:
    """Learns from few labels what the whole pool's wording supports: logistic regression in the space of the pool's
    strongest hundred directions (latent semantic analysis), which needs no labels, so twenty labels go a long way."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self._rows_ND = _latent(_matrix(vectors))

    def learn(self, labels: Sequence[str | None]) -> Guess:
        """Learn from the rows that have a label, guess all rows. DataError with fewer than two classes."""
        known = [index for index, label in enumerate(labels) if label is not None]
        classes = tuple(sorted({str(labels[index]) for index in known}))
        if len(classes) < 2:
            raise DataError("select.too_few_classes", given=len(classes))
        places = {name: place for place, name in enumerate(classes)}
        model = _model(1.0, balanced=True)  # few labels are rarely drawn in the classes' true shares
        model.fit(self._rows_ND[known], [places[str(labels[index])] for index in known])
        return Guess(classes, np.asarray(model.predict_proba(self._rows_ND), dtype=np.float64))


def guess_unseen(vectors: Vectors, labels: Sequence[str], *, folds: int = FOLDS) -> Guess:
    """Probabilities of every row from a model that has not seen it (cross-validation): what label errors need.

    Folds are dealt per class in order, so each has a share of each; classes of one row cannot be judged: DataError."""
    counts = Counter(labels)
    classes = tuple(sorted(counts))
    if len(classes) < 2:
        raise DataError("select.too_few_classes", given=len(classes))
    rare = min(classes, key=lambda name: (counts[name], name))
    if counts[rare] < MIN_PER_CLASS:
        raise DataError("select.class_too_small", given=rare, rows=counts[rare], expected=MIN_PER_CLASS)
    places = {name: place for place, name in enumerate(classes)}
    truth = np.array([places[label] for label in labels])
    dealt = np.zeros(len(labels), np.int64)
    num_folds = min(folds, min(counts.values()))
    for place in range(len(classes)):
        members = np.flatnonzero(truth == place)
        dealt[members] = np.arange(len(members)) % num_folds
    matrix = _matrix(vectors)
    probabilities = np.zeros((len(labels), len(classes)))
    for fold in range(num_folds):
        model = _model(10.0)
        model.fit(matrix[dealt != fold], truth[dealt != fold])
        held = dealt == fold
        probabilities[np.ix_(held, model.classes_)] = model.predict_proba(matrix[held])
    return Guess(classes, probabilities)


def _sklearn() -> Any:
    try:
        import sklearn.decomposition  # lazy: a second to load, and an extra
        import sklearn.linear_model
    except ImportError as error:
        raise DataError("select.no_sklearn") from error
    return sklearn


def _model(strength: float, *, balanced: bool = False) -> Any:
    return _sklearn().linear_model.LogisticRegression(
        C=strength, max_iter=300, class_weight="balanced" if balanced else None
    )


def _latent(matrix: Any) -> Any:
    """Rows in the pool's strongest directions, of length 1. The first direction is what all texts share: left out."""
    num = min(DIRECTIONS, min(matrix.shape) - 1)
    if num < 2:
        return matrix
    found = _sklearn().decomposition.TruncatedSVD(num, n_iter=3, random_state=0).fit_transform(matrix)[:, 1:]
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(found.dtype).tiny)


def _matrix(vectors: Vectors) -> Any:
    """As scipy knows it, without the columns that no row uses: they cost nothing in the data, much in the model."""
    try:
        import scipy.sparse  # lazy: comes with scikit-learn
    except ImportError as error:
        raise DataError("select.no_sklearn") from error
    used, places = np.unique(vectors.places, return_inverse=True)
    return scipy.sparse.csr_matrix((vectors.values, places, vectors.starts), shape=(len(vectors), len(used)))
