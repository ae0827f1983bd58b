"""Several stages, one account: a row is used when one stage used it, and refused once when none did."""

from hypothesis import given
from hypothesis import strategies as st

from danlu.data.ledger import Ledger
from danlu.pipeline.fates import Fates, merge_stages


def stage(tried: list[int], refused: list[int], changed: tuple[int, ...] = ()) -> Fates:
    fates = Fates()
    for line in tried:
        fates.tried["a.jsonl", line] += 1
    for line in refused:
        fates.ledger.revoke("a.jsonl", line, "encode_over_length", tokens=9, context=4)
    for line in changed:
        fates.ledger.change("a.jsonl", line, "encode_noncharacter")
    fates.ledger.counts["tokens"] += 10
    return fates


def read(num_rows: int) -> Ledger:
    ledger = Ledger()
    ledger.use(num_rows)
    return ledger


def test_refused_in_both_stages_is_one_rejection() -> None:
    ledger = read(3)
    merge_stages(ledger, [stage([1, 2, 3], [2]), stage([1, 2, 3], [2])])
    assert (ledger.num_used, len(ledger.rejects), ledger.num_changed) == (2, 1, 0)
    ledger.check()
    assert ledger.counts["tokens"] == 20


def test_refused_in_one_and_used_in_the_other_is_a_change() -> None:
    ledger = read(3)
    merge_stages(ledger, [stage([1, 2, 3], [2]), stage([1, 2, 3], [])])
    assert (ledger.num_used, len(ledger.rejects), ledger.num_changed) == (3, 0, 1)


def test_refused_by_the_only_stage_that_wanted_it() -> None:
    ledger = read(4)
    merge_stages(ledger, [stage([1, 2], [2]), stage([3, 4], [])])
    assert [(entry.line, entry.reason) for entry in ledger.rejects] == [(2, "encode_over_length")]


def test_the_same_change_is_told_once() -> None:
    ledger = read(2)
    merge_stages(ledger, [stage([1, 2], [], (1,)), stage([1, 2], [], (1,))])
    assert len(ledger.changes) == 1


@given(st.lists(st.tuples(st.lists(st.integers(1, 5), max_size=12), st.integers(0, 2**12 - 1)), min_size=1, max_size=3))
def test_no_account_ever_breaks(stages: list[tuple[list[int], int]]) -> None:
    """Whatever stages tried and refused, also several samples on one line: read = used + rejected, and no row is refused
    more often than it was read."""
    most = max((sum(tried.count(line) for line in range(1, 6)) for tried, _ in stages), default=0)
    ledger = read(5 * most)
    merge_stages(
        ledger, [stage(tried, [line for i, line in enumerate(tried) if mask >> i & 1]) for tried, mask in stages]
    )
    ledger.check()
    assert ledger.num_used >= 0
    for line in range(1, 6):
        assert sum(entry.line == line for entry in ledger.rejects) <= max(tried.count(line) for tried, _ in stages)
