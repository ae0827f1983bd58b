"""What several voters who err say together: Dawid & Skene (1979), fitted by EM, for labelling functions and for people.

Each voter has an error matrix of its own and may abstain; abstaining tells nothing about the class. The Snorkel manner
of weak supervision (Ratner et al. 2017) without the package: `snorkel` has had no release since February 2024 and needs
torch, tensorboard and pandas. Votes of a voter are assumed independent of the others' once the class is known.

Shapes: N rows, V voters, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ABSTAIN = -1
Votes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_PRIOR = 0.8
"""What a voter is taken to be worth before anything is seen: right so often, wrong evenly."""
_PRIOR_ROWS = 2.0
"""The weight of that prior, in rows per class: it keeps voters of a few votes from being trusted blindly."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """What EM found out."""

    probabilities: Floats
    """(N, K) of each row's class; the shares of the classes where nobody voted."""
    errors: Floats
    """(V, K, K): [v, i, j] is how often voter v says j where it is i."""
    shares: Floats
    """(K)"""
    num_rounds: int

    @property
    def accuracies(self) -> Floats:
        """(V) How often each voter is right when it votes, over the estimated classes."""
        right: Floats = np.einsum("k,vkk->v", self.shares, self.errors)
        return right


def agree(votes_NV: Votes, num_classes: int, *, max_rounds: int = 100, tolerance: float = 1e-5) -> Consensus:
    """EM until the probabilities move less than `tolerance`. Starts from the shares of votes, so no dice are rolled."""
    assert votes_NV.ndim == 2 and votes_NV.max(initial=ABSTAIN) < num_classes, "votes are classes or ABSTAIN"
    num_rows, num_voters = votes_NV.shape
    said_NVK = np.zeros((num_rows, num_voters, num_classes))
    rows, voters = np.nonzero(votes_NV != ABSTAIN)
    said_NVK[rows, voters, votes_NV[rows, voters]] = 1.0
    has_votes_N = (votes_NV != ABSTAIN).any(axis=1)
    beliefs_NK = said_NVK.sum(axis=1) + 1e-3
    beliefs_NK /= beliefs_NK.sum(axis=1, keepdims=True)
    prior_KK = np.full((num_classes, num_classes), (1 - _PRIOR) / max(1, num_classes - 1))
    np.fill_diagonal(prior_KK, _PRIOR)
    errors_VKK = np.repeat(prior_KK[None], num_voters, axis=0)
    shares_K = np.full(num_classes, 1 / num_classes)
    num_rounds = 0
    while num_rounds < max_rounds:
        num_rounds += 1
        seen_NK = beliefs_NK[has_votes_N]
        shares_K = (seen_NK.sum(axis=0) + 1.0) / (len(seen_NK) + num_classes)
        counts_VKK = np.einsum("nk,nvj->vkj", seen_NK, said_NVK[has_votes_N]) + _PRIOR_ROWS * prior_KK
        errors_VKK = counts_VKK / counts_VKK.sum(axis=2, keepdims=True)
        logs_NK = np.log(shares_K) + np.einsum("nvj,vkj->nk", said_NVK, np.log(errors_VKK))
        logs_NK -= logs_NK.max(axis=1, keepdims=True)
        fresh_NK = np.exp(logs_NK)
        fresh_NK /= fresh_NK.sum(axis=1, keepdims=True)
        moved = float(np.abs(fresh_NK - beliefs_NK).max(initial=0.0))
        beliefs_NK = fresh_NK
        if moved < tolerance:
            break
    return Consensus(beliefs_NK, errors_VKK, shares_K, num_rounds)


def majority(votes_NV: Votes, num_classes: int) -> Votes:
    """The most frequent vote of each row, ABSTAIN where nobody voted or two classes tie."""
    counts_NK = np.stack([(votes_NV == place).sum(axis=1) for place in range(num_classes)], axis=1)
    best_N = counts_NK.argmax(axis=1)
    most_N = counts_NK.max(axis=1)
    is_tied_N = (counts_NK == most_N[:, None]).sum(axis=1) > 1
    return np.where((most_N == 0) | is_tied_N, ABSTAIN, best_N).astype(np.int64)
