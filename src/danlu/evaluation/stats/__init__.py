"""Statistics of an evaluation: intervals, paired tests, agreement. numpy only, deterministic by seed.

Questions about one fact or one document rise and fall together, so whole groups are drawn, flipped or swapped, never
single items: treating ten questions on one document as ten independent ones makes chance look like progress. How often
each test cries wolf, and what it can find, is measured in `bench/nulls.py`.
"""

from __future__ import annotations

from danlu.evaluation.stats.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha
from danlu.evaluation.stats.corpus import CorpusComparison, Tally, compare_tallies, estimate_tally
from danlu.evaluation.stats.intervals import Estimate, bootstrap, proportion, wilson
from danlu.evaluation.stats.paired import Comparison, Direction, compare, holm, mcnemar, mcnemar_mid, sign_flip
from danlu.evaluation.stats.power import detectable_difference, detectable_mean, items_needed

__all__ = [
    "Comparison",
    "CorpusComparison",
    "Direction",
    "Estimate",
    "Tally",
    "bootstrap",
    "cohen_kappa",
    "compare",
    "compare_tallies",
    "detectable_difference",
    "detectable_mean",
    "estimate_tally",
    "fleiss_kappa",
    "holm",
    "items_needed",
    "krippendorff_alpha",
    "mcnemar",
    "mcnemar_mid",
    "proportion",
    "sign_flip",
    "wilson",
]
