"""Split over columns: parents and proofs stay with their children, dropped rows take no part, the certificate recounts."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.certificate import crossing
from danlu.data.identity import sample_id
from danlu.data.sample import Conversation, Document, Label, Message, Origin, Sample
from danlu.data.split import TEST, TRAIN, UNUSED, VALIDATION, split, split_columns
from danlu.data.twins import KEEP, decide, signatures

HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]


def text(draw: random.Random, length: int = 60) -> str:
    return "".join(draw.choices(HAN, k=length))


def chat(question: str, answer: str, line: int, **tags: object) -> Conversation:
    turns = (Message("user", question), Message("assistant", answer))
    return Conversation(turns, Origin("c.jsonl", line), tags=dict(tags))


def in_shards(rows: Sequence[Sample], size: int) -> list[dict[str, np.ndarray]]:
    ids = [sample_id(row) for row in rows]
    return [signatures(rows[at : at + size], ids[at : at + size]) for at in range(0, len(rows), size)]


def test_children_stay_with_their_parents_documents_and_proofs() -> None:
    draw = random.Random(1)
    rows: list[Sample] = []
    for number in range(40):
        origin = Origin(f"d{number}.pdf", 1, page=1, document=f"digest{number}")
        passage = Document(text(draw, 200), origin)
        rows.append(passage)
        rows.append(Document(text(draw, 200), Origin(f"d{number}.pdf", 1, page=2, document=f"digest{number}")))
        rows.append(chat(text(draw), text(draw), len(rows), parents=[sample_id(passage)]))
        proof = {"document": f"digest{number}", "start": 0, "end": 4, "text": ""}
        rows.append(chat(text(draw), text(draw), len(rows), evidence=[proof]))
        rows.append(chat(text(draw), text(draw), len(rows), parents=[sample_id(rows[-1])]))
    shards = in_shards(rows, 33)
    part, certificate = split_columns(shards, decide(shards), test=0.2, validation=0.1, seed=3)
    groups = part.reshape(40, 5)
    assert (groups == groups[:, :1]).all() and set(part.tolist()) == {TRAIN, VALIDATION, TEST}
    assert certificate["groups"] == 40 and certificate["documents_across"] == 0


def test_dropped_rows_take_no_part_but_still_tie() -> None:
    """A was left out as the twin of B; what A's group holds stays with B all the same."""
    draw = random.Random(2)
    rows: list[Sample] = []
    for number in range(60):
        body = text(draw)
        rows += [
            Document(body + "甲乙", Origin("a.jsonl", 3 * number)),
            Document(body, Origin("b.jsonl", 3 * number), group=f"g{number}"),
        ]
        rows.append(Document(text(draw), Origin("c.jsonl", 3 * number), group=f"g{number}"))
    shards = in_shards(rows, 50)
    decision = decide(shards)
    kept = decision.verdict == KEEP
    part, certificate = split_columns(shards, decision, kept=kept, test=0.3, seed=1)
    assert (part[~kept] == UNUSED).all() and kept.sum() == 120 == certificate["samples"]
    assert (part[0::3] == part[2::3]).all()


@given(st.integers(0, 5), st.floats(0.05, 0.4), st.floats(0, 0.3))
@settings(max_examples=30)
def test_shares_are_met_and_shards_do_not_matter(seed: int, test: float, validation: float) -> None:
    draw = random.Random(seed)
    rows: list[Sample] = [Label(text(draw, 20), draw.choice("abc"), Origin("l.csv", line)) for line in range(200)]
    one, many = in_shards(rows, 200), in_shards(rows, 17)
    decision = decide(one)
    part, certificate = split_columns(one, decision, test=test, validation=validation, seed=seed)
    again = split_columns(many, decide(many), test=test, validation=validation, seed=seed)
    assert (part == again.part).all() and certificate == again.certificate
    assert abs((part == TEST).sum() - 200 * test) <= 2 and abs((part == VALIDATION).sum() - 200 * validation) <= 2
    labels = [
        sum(counts.values()) for counts in (certificate["parts"][name]["labels"] for name in certificate["parts"])
    ]
    assert sum(labels) == 200
    straight = split(rows, test=test, validation=validation, seed=seed, threshold=0.7)
    assert [str(row.origin) for row in straight.test] == [str(rows[at].origin) for at in np.flatnonzero(part == TEST)]


def test_answers_that_stand_in_the_training_text_are_counted() -> None:
    draw = random.Random(4)
    shared = [text(draw, 40) for _ in range(10)]
    rows: list[Sample] = [
        chat(text(draw), text(draw) + answer + text(draw), line) for line, answer in enumerate(shared)
    ]
    rows += [chat(text(draw), answer, 100 + line) for line, answer in enumerate(shared)]
    rows += [chat(text(draw), text(draw, 40), 200 + line) for line in range(10)]
    shards = in_shards(rows, 7)
    decision = decide(shards)
    part, certificate = split_columns(shards, decision, test=0.5, seed=1, name_of=lambda row: f"row {row}")
    assert certificate["version"] == 3, "an earlier one counted grams across two rows"
    found = certificate["answers_in_train"]
    leaked = [row for row in range(10, 20) if part[row] == TEST and part[row - 10] == TRAIN]
    assert leaked and set(found["named"]) == {f"row {row}" for row in leaked}
    assert found["over_half"] == len(leaked) and found["highest"] == 1.0 and found["asked"] == (part == TEST).sum()


def test_a_twin_across_the_border_is_seen_by_whoever_recounts() -> None:
    """The certificate does not believe the groups: a row put on the wrong side by hand is found."""
    draw = random.Random(5)
    rows: list[Sample] = [Document(text(draw), Origin("a.jsonl", line)) for line in range(30)]
    rows.append(Document(rows[0].text[:-2] + "改动", Origin("a.jsonl", 31)))  # type: ignore[union-attr]
    shards = in_shards(rows, 31)
    decision = decide(shards)
    part = np.zeros(31, np.uint8)
    part[0] = TEST
    held_out, train = crossing(shards, part, decision.settings).too_close(decision)
    assert held_out.tolist() == [0] and train.tolist() == [30]
    dealt = split_columns(shards, decision, test=0.3, seed=2)
    assert dealt.part[0] == dealt.part[30] and dealt.certificate["near_twins_across"] == 0


def test_a_crowd_of_forms_can_be_parted() -> None:
    """All rows of one template were one group, and nothing was left to test on."""
    draw = random.Random(6)
    form = text(draw, 70)
    rows: list[Sample] = [Document(form + text(draw, 9), Origin("f.jsonl", line)) for line in range(300)]
    rows += [Document(text(draw), Origin("f.jsonl", 1000 + line)) for line in range(300)]
    shards = in_shards(rows, 100)
    decision = decide(shards)
    _, certificate = split_columns(shards, decision, test=0.2, seed=2)
    assert certificate["near_twins_across"] == 0 and certificate["max_similarity"]["value"] < 0.7
    assert certificate["forms_across"] > 0 and certificate["parts"]["test"]["samples"] == 120
