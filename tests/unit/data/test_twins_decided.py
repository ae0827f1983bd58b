"""What becomes of rows that are alike: who stays, what is a conflict, what is tied, and that none is lost without its like."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review_files import HOTELS, SHOPPING, reviews
from twins_kit import HAN, chat, documents, family, grams, similarity, varied

from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Origin, Preference, Sample
from danlu.data.twins import (
    EXACT,
    KEEP,
    NEAR,
    Settings,
    decide,
    fold,
    signatures,
)
from danlu.data.twins.columns import GRAM_BORDER, LAYOUT, NUM_BANDS
from danlu.data.twins.groups import Ties, kept_of
from danlu.data.twins.linking import Link


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=50))
@settings(max_examples=200)
def test_groups_and_keepers_are_those_of_the_definition(pairs: list[tuple[int, int]]) -> None:
    edges = sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})
    better, worse = (np.array([edge[side] for edge in edges], np.int64) for side in (0, 1))
    stays: list[bool] = []
    for row in range(20):
        stays.append(not any(stays[one] for one, other in edges if other == row))
    assert kept_of(20, worse, better).tolist() == stays
    ties, labels = Ties(20), list(range(20))
    ties.join(better, worse)
    for _ in range(20):
        for one, other in edges:
            labels[one] = labels[other] = min(labels[one], labels[other])
    assert ties.first.tolist() == labels


@pytest.mark.parametrize("seed", range(2))
def test_no_near_twin_survives_and_none_is_lost_without_one(seed: int) -> None:
    """Recall and precision on planted twins of all lengths, across the border of gram sizes too."""
    texts = family(seed, 500, [4, 12, 40, 120, 300, 450, 490, 510, 600, 700])
    decision = decide([signatures(documents(texts))])
    folded = [fold(text) for text in texts]
    for row in np.flatnonzero(decision.verdict != KEEP):
        twin = decision.twin[row]
        assert decision.verdict[twin] == KEEP
        ratio = similarity(folded[row], folded[twin])
        assert ratio >= 0.7 and decision.similarity[row] == pytest.approx(ratio)
    sets = [(grams(text, 3), grams(text, 5)) for text in folded]
    num_pairs = num_apart = num_surviving = 0
    for one in range(len(texts)):
        for other in range(one):
            which = int(min(len(folded[one]), len(folded[other])) >= GRAM_BORDER)
            left, right = sets[one][which], sets[other][which]
            if 0.6 < len(left) / len(right) < 1.7 and len(left & right) >= 0.7 * len(left | right):
                num_pairs += 1
                num_apart += decision.cluster[one] != decision.cluster[other]
                num_surviving += decision.verdict[one] == decision.verdict[other] == KEEP
    assert num_pairs > 150 and num_apart <= 0.01 * num_pairs and num_surviving <= 0.01 * num_pairs


def test_shards_and_their_storage_change_nothing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rows: list[Sample] = [*documents(family(7, 150, [30, 400, 700]))]
    rows += [chat(text, text[::-1], line) for line, text in enumerate(family(8, 150, [20, 80]))]
    whole = decide([signatures(rows)])
    parts = []
    for number, first in enumerate(range(0, len(rows), 70)):
        for name, column in signatures(rows[first : first + 70]).items():
            np.save(tmp_path / f"{number}-{name}.npy", column, allow_pickle=False)
        parts.append({name: np.load(tmp_path / f"{number}-{name}.npy", mmap_mode="r") for name in LAYOUT})
    cut = decide(parts)
    for name in ("verdict", "twin", "similarity", "cluster"):
        assert (getattr(whole, name) == getattr(cut, name)).all()
    assert whole.conflicts == cut.conflicts and whole.counts == cut.counts and whole.largest == cut.largest


def test_columns_are_as_laid_out() -> None:
    rows: list[Sample] = [*documents(["好", "", "???"]), chat("问题一二三", "答"), Label("文本", "正", Origin("l", 1))]
    columns = signatures(rows, [f"s_{number}" for number in range(5)])
    assert set(columns) == set(LAYOUT)
    sizes = {"N": 5, "N+1": 6, "M": len(columns["entry_row"]), "T": len(columns["tie_row"])}
    for name, (dtype, shape) in LAYOUT.items():
        assert dtype == "str" or columns[name].dtype == dtype, name
        assert columns[name].shape[0] == sizes.get(shape.split()[0], columns[name].shape[0]), name
        assert not columns[name].dtype.hasobject
    assert columns["bands"].shape[1] == NUM_BANDS
    assert decide([]).counts["rows"] == 0 and decide([signatures([])]).counts["rows"] == 0


def test_the_best_then_the_longest_then_the_first_twin_is_kept() -> None:
    text = "".join(HAN[:200])
    rows: list[Document] = documents([text, text + "再", text + "多一些", text + "多一点"])
    rows[1] = Document(rows[1].text, rows[1].origin, tags={"scores": {"quality": 0.9}})
    rows[0] = Document(rows[0].text, rows[0].origin, tags={"scores": {"quality": 0.9}, "flags": ["truncated"]})
    assert decide([signatures(rows)]).twin.tolist() == [1, 1, 1, 1]
    assert decide([signatures(rows[2:])]).twin.tolist() == [0, 0]


def test_a_chain_of_likenesses_loses_nothing_at_its_far_end() -> None:
    """A is like B and B like C, but C is not like A: C has no twin that is kept, so it stays."""
    a = "".join(HAN[:100])
    b = "".join(HAN[:90]) + "".join(HAN[500:510])
    c = "".join(HAN[:80]) + "".join(HAN[600:610]) + "".join(HAN[500:510])
    texts = [a + "尾", b, c]
    ratios = [similarity(texts[0], b), similarity(b, c), similarity(texts[0], c)]
    decision = decide([signatures(documents(texts))], settings=Settings(threshold=min(ratios[:2])))
    assert ratios[2] < min(ratios[:2])
    assert decision.verdict.tolist() == [KEEP, NEAR, KEEP] and len(set(decision.cluster.tolist())) == 1


def test_a_crowd_of_copies_leaves_one_and_a_crowd_of_forms_leaves_all() -> None:
    draw = random.Random(4)
    base = "".join(draw.choices(HAN, k=120))
    copies = [varied(draw, base, 0.02) for _ in range(600)]
    form = "".join(draw.choices(HAN, k=60))
    forms = [form + "".join(draw.choices(HAN, k=40)) for _ in range(600)]
    decision = decide([signatures(documents([*copies, *forms]))])
    assert (decision.verdict[:600] == KEEP).sum() <= 3
    assert (decision.verdict[600:] == KEEP).all()


def test_a_form_filled_in_many_times_is_no_crowd_of_twins() -> None:
    """A prompt of 100 characters with a text of 15 in it, thousands of times, was one row in the end."""
    draw = random.Random(11)
    form = "".join(draw.choices(HAN, k=100))
    rows = [chat(form + "".join(draw.choices(HAN, k=15)), draw.choice(["正面", "负面"]), line) for line in range(400)]
    decision = decide([signatures(rows)])
    assert (decision.verdict == KEEP).mean() > 0.99
    assert len(set(decision.cluster.tolist())) > 350
    base = "".join(draw.choices(HAN, k=115))
    copies = [chat(varied(draw, base, 0.02), "正面", line) for line in range(400)]
    decision = decide([signatures(copies)])
    assert (decision.verdict == KEEP).mean() < 0.2 and len(set(decision.cluster.tolist())) < 20


def test_links_in_a_crowd_are_those_of_comparing_all() -> None:
    """Star by star: in the end no two rows that stay are alike."""
    draw = random.Random(5)
    sets = [set(draw.sample(range(40), 20)) for _ in range(60)]
    bands = np.zeros((60, NUM_BANDS), np.uint32)  # all in one bucket, in every band

    def compare(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        pairs = zip(first, second, strict=True)
        return np.array(
            [len(sets[one] & sets[other]) / len(sets[one] | sets[other]) for one, other in pairs], np.float32
        )

    link = Link(bands, np.zeros((60, 2), np.uint64), 0.35, compare)
    link.link(np.arange(60))
    better, worse, _ = link.pairs()
    stays = np.flatnonzero(kept_of(60, worse, better))
    while True:
        link.link(stays)
        better, worse, _ = link.pairs()
        again = np.flatnonzero(kept_of(60, worse, better))
        if (again == stays).all():
            break
        stays = again
    for row in range(60):
        if row not in stays:
            assert any(one in stays and other == row for one, other in zip(better, worse, strict=True))


def test_numbers_and_names_make_rows_different_and_marks_do_not() -> None:
    rows = documents(["餐补3.5元，请于5-10天内报销", "餐补35元，请于510天内报销", "餐补 3.5 元；请于5-10天内报销！"])
    decision = decide([signatures(rows)], settings=Settings(threshold=1.0))
    assert decision.verdict.tolist() == [EXACT, NEAR, KEEP]  # the longest is kept; 35 is not 3.5 to the letter


def test_kinds_roles_systems_and_labels_are_no_exact_twins() -> None:
    question, answer = Message("user", "报销几天到账？"), Message("assistant", "三个工作日。")
    system = Message("system", "你是财务。")
    rows: list[Sample] = [
        Conversation((question, answer), Origin("a", 1)),
        Conversation((system, question, answer), Origin("a", 2)),
        Preference((question,), (answer,), (Message("assistant", "不知道"),), Origin("a", 3)),
        Feedback((question, answer), True, Origin("a", 4)),
        Feedback((question, answer), False, Origin("a", 5)),
        Label("很好的酒店", "1", Origin("a", 6)),
        Label("很好的酒店", "0", Origin("a", 7)),
        Conversation((question, answer), Origin("b", 1)),
    ]
    decision = decide([signatures(rows)], settings=Settings(threshold=1.0))
    assert np.flatnonzero(decision.verdict == EXACT).tolist() == [7]
    assert {conflict.rows for conflict in decision.conflicts} == {(3, 4), (5, 6)}


def test_one_question_with_two_answers_is_a_conflict_and_no_twin() -> None:
    long_question = "请问" + "".join(HAN[:80]) + "，是否可以报销？"
    rows = [chat(long_question, "可以。"), chat(long_question, "不可以。", 2), chat(long_question, "可以", 3)]
    decision = decide([signatures(rows)])
    assert decision.verdict.tolist() == [KEEP, KEEP, EXACT]
    assert [conflict.rows for conflict in decision.conflicts] == [(0, 1)]
    assert len(set(decision.cluster.tolist())) == 1


def test_a_flipped_label_on_nearly_the_same_text_is_a_near_conflict() -> None:
    text = "".join(HAN[:60])
    rows = [
        Label(text, "1", Origin("l", 1)),
        Label(text + "呀", "0", Origin("l", 2)),
        Label(text + "哦", "1", Origin("l", 3)),
    ]
    decision = decide([signatures(rows)])
    assert (decision.verdict == KEEP).sum() == 2
    assert any(conflict.is_near for conflict in decision.conflicts)


def test_a_shared_system_prompt_makes_no_twins() -> None:
    system = Message("system", "".join(HAN[:400]))
    draw = random.Random(6)
    rows = [
        Conversation(
            (system, Message("user", "".join(draw.choices(HAN, k=20))), Message("assistant", "好")), Origin("s", n)
        )
        for n in range(50)
    ]
    decision = decide([signatures(rows)])
    assert (decision.verdict == KEEP).all() and len(set(decision.cluster.tolist())) == 50


def test_near_questions_are_tied_and_their_rows_kept() -> None:
    one = "公司的年假制度是怎么规定的，新员工入职第一年有几天年假，病假和事假又怎么算？"
    other = one.replace("怎么规定", "怎样规定")
    draw = random.Random(7)
    rows = [chat(one, "".join(draw.choices(HAN, k=200))), chat(other, "".join(draw.choices(HAN, k=200)), 2)]
    decision = decide([signatures(rows)])
    assert (decision.verdict == KEEP).all() and decision.cluster[0] == decision.cluster[1]


def test_rows_that_were_dropped_take_no_part() -> None:
    rows = documents(["".join(HAN[:50])] * 3)
    decision = decide([signatures(rows)], kept=np.array([False, True, True]))
    assert decision.verdict.tolist() == [KEEP, KEEP, EXACT] and decision.counts["rows"] == 2


def test_without_links_only_the_letter_counts() -> None:
    text = "".join(HAN[:50])
    decision = decide([signatures(documents([text + "。", text, text + "也"]))], link=False)
    assert decision.verdict.tolist() == [KEEP, EXACT, KEEP] and decision.counts["compared"] == 0


def test_all_twins_of_the_hotel_file_in_the_shopping_file() -> None:
    """6,866 of 7,350 hotel reviews have an exact twin among the shopping reviews."""
    texts = reviews(SHOPPING, HOTELS)
    decision = decide([signatures(texts[first : first + 20_000]) for first in range(0, len(texts), 20_000)])
    num_shopping = sum(row.origin.file == SHOPPING for row in texts)
    assert len(texts) - num_shopping == 7350
    side = np.arange(len(texts)) >= num_shopping
    has_hotel, has_shop = (set(decision.cluster[is_in].tolist()) for is_in in (side, ~side))
    tied = [row for row in range(num_shopping, len(texts)) if int(decision.cluster[row]) in has_shop]
    assert len(tied) >= 6866 and has_hotel & has_shop
    shopping = {fold(row.text) for row in texts[:num_shopping]}
    twins = [row for row in range(num_shopping, len(texts)) if fold(texts[row].text) in shopping]
    assert len(twins) == 6866 and set(twins) <= set(tied)


@pytest.mark.parametrize(
    "form",
    [
        "The locker of the night shift stands in corridor {} beside the stairs.",
        "会议室位于办公楼东侧，门牌号是{}，请提前十分钟到场。",
    ],
)
def test_one_form_with_other_figures_is_no_copy(form: str) -> None:
    """Facts that differ in a number alone are what such data is about; they only must not be parted."""
    texts = [form.format(number) for number in (31, 36, 31)]
    decision = decide([signatures(documents(texts))])
    assert decision.verdict.tolist() == [0, 0, EXACT]
    assert decision.cluster[0] == decision.cluster[1]
    worded = [texts[0], texts[0].replace("beside", "near").replace("提前", "提早")]
    assert sorted(decide([signatures(documents(worded))]).verdict.tolist()) == [0, NEAR]
