"""The suite for personal data: what it asks for is held here, at a smaller size."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("seed", [1, 7])
def test_checksum_kinds_hold_recall_and_precision(seed: int) -> None:
    """Valid values found at 0.99, off-by-one digits and hard negatives left alone at 0.98."""
    bench, suite = importlib.import_module("pii"), importlib.import_module("pii_suite")
    rows = suite.suite(seed, num_each=40)
    assert rows == suite.suite(seed, num_each=40) and {row["group"] for row in rows} == {
        "valid",
        "bad_check",
        "hard_negative",
    }
    for row in rows:
        for _, start, end in row["spans"]:
            assert row["text"][start:end].strip()
    scores = bench.score(rows, bench.ours(rows))
    for kind in suite.CHECKSUM_KINDS:
        assert scores[kind]["recall"] >= 0.99 and scores[kind]["precision"] >= 0.98, (kind, scores[kind])


def test_a_score_counts_what_is_wrong() -> None:
    bench = importlib.import_module("pii")
    rows = [{"text": "x" * 20, "spans": [["email", 0, 5], ["email", 6, 9]], "group": "valid"}]
    (told,) = bench.score(rows, [{("email", 0, 5), ("email", 7, 9), ("ip", 10, 12)}], {"email"}).values()
    assert (told["hit"], told["missed"], told["wrong"]) == (1, 1, 1)
    assert (told["recall"], told["precision"], told["overlap_recall"]) == (0.5, 0.5, 1.0)
