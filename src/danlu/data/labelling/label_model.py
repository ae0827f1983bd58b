"""What several voters who err say together: Dawid & Skene (1979), fitted by EM, for labelling functions and for people.

Each voter has an error matrix of its own and may abstain. Of a person who was not asked, silence tells nothing; of a
rule that was tried on every row it tells much, above all where a rule knows one class only: then silence is one more
thing that a voter can say. The Snorkel manner of weak supervision (Ratner et al. 2017) without the package: `snorkel`
has had no release since February 2024 and needs torch, tensorboard and pandas. Voters are taken to be independent of
each other once the class is known.

Shapes: N rows, V voters, K classes, S things to say (the classes, and silence).
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
_PRIOR_SHARE = 0.05
"""The weight of that prior, in rows per class and in shares of all rows: voters of a few votes are not trusted blindly,
and the classes cannot drift away from what the votes call them."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """What EM found out."""

    probabilities: Floats
    """(N, K) of each row's class; the shares of the classes where nobody voted."""
    errors: Floats
    """(V, K, K): [v, i, j] is how often voter v says j where it is i; what is missing to 1 is silence."""
    shares: Floats
    """(K)"""
    num_rounds: int

    @property
    def accuracies(self) -> Floats:
        """(V) How often each voter is right when it votes, over the estimated classes."""
        right_V = np.einsum("k,vkk->v", self.shares, self.errors)
        loud_V = np.einsum("k,vks->v", self.shares, self.errors)
        accuracies: Floats = right_V / np.maximum(loud_V, 1e-12)
        return accuracies


def agree(
    votes_NV: Votes, num_classes: int, *, silence_tells: bool = False, max_rounds: int = 100, tolerance: float = 1e-5
) -> Consensus:
    """EM until the probabilities move less than `tolerance`. Starts from the shares of votes, so no dice are rolled.
    `silence_tells`: every voter has looked at every row (rules); else a voter without a vote was not asked (people)."""
    assert votes_NV.ndim == 2 and votes_NV.max(initial=ABSTAIN) < num_classes, "votes are classes or ABSTAIN"
    said_NVS = _said(votes_NV, num_classes, silence_tells=silence_tells)
    prior_VKS = _prior(said_NVS, num_classes)
    weight = _PRIOR_ROWS + _PRIOR_SHARE * len(votes_NV) / num_classes
    has_votes_N = (votes_NV != ABSTAIN).any(axis=1)
    beliefs_NK = said_NVS[:, :, :num_classes].sum(axis=1) + 1e-3
    beliefs_NK /= beliefs_NK.sum(axis=1, keepdims=True)
    errors_VKS, shares_K, num_rounds = prior_VKS, np.full(num_classes, 1 / num_classes), 0
    while num_rounds < max_rounds:
        num_rounds += 1
        seen_NK, told_NVS = beliefs_NK[has_votes_N], said_NVS[has_votes_N]
        shares_K = (seen_NK.sum(axis=0) + 1.0) / (len(seen_NK) + num_classes)
        counts_VKS = np.einsum("nk,nvs->vks", seen_NK, told_NVS) + weight * prior_VKS
        errors_VKS = counts_VKS / counts_VKS.sum(axis=2, keepdims=True)
        logs_NK = np.log(shares_K) + np.einsum("nvs,vks->nk", said_NVS, np.log(errors_VKS))
        logs_NK[~has_votes_N] = np.log(shares_K)  # silence of all says nothing that could be trusted
        fresh_NK = np.exp(logs_NK - logs_NK.max(axis=1, keepdims=True))
        fresh_NK /= fresh_NK.sum(axis=1, keepdims=True)
        moved = float(np.abs(fresh_NK - beliefs_NK).max(initial=0.0))
        beliefs_NK = fresh_NK
        if moved < tolerance:
            break
    return Consensus(beliefs_NK, errors_VKS[:, :, :num_classes], shares_K, num_rounds)


def _said(votes_NV: Votes, num_classes: int, *, silence_tells: bool) -> Floats:
    """One-hot of what each voter said of each row; all zero where silence tells nothing."""
    num_rows, num_voters = votes_NV.shape
    said_NVS = np.zeros((num_rows, num_voters, num_classes + silence_tells))
    rows, voters = np.nonzero(votes_NV != ABSTAIN)
    said_NVS[rows, voters, votes_NV[rows, voters]] = 1.0
    if silence_tells:
        said_NVS[:, :, num_classes] = votes_NV == ABSTAIN
    return said_NVS


def _prior(said_NVS: Floats, num_classes: int) -> Floats:
    """What each voter is expected to say of each class: as often as it speaks at all, and mostly right."""
    num_voters, num_said = said_NVS.shape[1:]
    right_KK = np.full((num_classes, num_classes), (1 - _PRIOR) / max(1, num_classes - 1))
    np.fill_diagonal(right_KK, _PRIOR)
    if num_said == num_classes:
        return np.repeat(right_KK[None], num_voters, axis=0)
    spoken_VK = said_NVS[:, :, :num_classes].mean(axis=0)  # how often it says each class
    prior_VKS = np.zeros((num_voters, num_classes, num_said))
    prior_VKS[:, :, :num_classes] = np.clip(spoken_VK[:, None, :] * right_KK[None] * num_classes, 1e-6, 0.9)
    loud_VK = prior_VKS.sum(axis=2)
    prior_VKS[:, :, :num_classes] *= np.minimum(1.0, 0.95 / np.maximum(loud_VK, 1e-9))[:, :, None]
    prior_VKS[:, :, num_classes] = 1 - prior_VKS[:, :, :num_classes].sum(axis=2)
    return prior_VKS
