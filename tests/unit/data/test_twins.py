"""Likeness: folding by table equals folding by Unicode, and sketches agree as the sets of grams overlap."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins_kit import HAN, chat, documents, grams, similarity, varied

from danlu.data.cleaners.cleaner import Batch
from danlu.data.cleaners.contaminated import Contaminated
from danlu.data.twins import (
    EXACT,
    KEEP,
    decide,
    fold,
    fold_finely,
    signatures,
)
from danlu.data.twins.folding import fold_all, fold_words, simplified
from danlu.data.twins.likeness import Texts, jaccard
from danlu.data.twins.minhash import Spans, _minima, agreement, gram_keys, least_agreement, sign

TROUBLE = "ab12９９+-#%.…， ：\n\t_Ａ好的é\u0301ß㎡①½😀👍🏽𠀀𝐀🄰٣가각ﾞﬁ\u200bİ"


@given(st.lists(st.text(st.sampled_from(TROUBLE), max_size=14) | st.text(max_size=8), max_size=8))
@settings(max_examples=300)
def test_the_table_folds_as_unicode_does(texts: list[str]) -> None:
    found = fold_all(texts)
    words, at = fold_words(texts)
    for row, text in enumerate(texts):
        plain = unicodedata.normalize("NFKC", text).casefold().translate(simplified())
        coarse = "".join(char for char in plain if char.isalnum())
        own = found.coarse[found.coarse_at[row] : found.coarse_at[row + 1]]
        fine = found.fine[found.fine_at[row] : found.fine_at[row + 1]]
        assert own.tobytes().decode("utf-16-le", "surrogatepass") == coarse
        assert fine.tobytes().decode("utf-16-le", "surrogatepass") == fold_finely(text) + "\n"
        assert words[at[row] : at[row + 1]].tobytes().decode("utf-16-le", "surrogatepass") == coarse + "\n"
        assert fold(text) == (coarse or plain.strip())


def test_traditional_and_simplified_are_one_text_whatever_is_installed() -> None:
    table = simplified()
    assert len(table) > 2900 and not set(table) & set(table.values())
    traditional, plain = "臺灣居民來往大陸，應當攜帶甚麼證件？看著辦。", "台湾居民来往大陆应当携带什么证件看着办"
    assert fold(traditional.replace("甚麼", "什麼")) == plain
    rows = [
        chat("勞動合同期滿後,誰應當支付經濟補償？", "用人單位應當按照本法的規定支付。"),
        chat("劳动合同期满后，谁应当支付经济补偿？", "用人单位应当按照本法的规定支付。", 2),
    ]
    verdict = decide([signatures(rows)])
    assert verdict.verdict.tolist() == [KEEP, EXACT] and len(set(verdict.cluster.tolist())) == 1
    assert not Contaminated(rows[1:]).judge(Batch([chat("勞動者可以做什麼？", "可以解除合同。")]))
    assert Contaminated(rows[1:]).judge(Batch(rows[:1]))


def test_every_character_folds_by_table_as_by_unicode() -> None:
    texts = ["a" + chr(code) + "1" + chr(code) + "2가" for code in range(0x110000) if code % 3 == 0]
    found = fold_all(texts)
    fine = found.fine.tobytes().decode("utf-16-le", "surrogatepass")
    assert fine == "".join(fold_finely(text) + "\n" for text in texts)


@pytest.mark.parametrize("ratio", [0.02, 0.05, 0.08])
def test_min_hashes_agree_as_often_as_sets_overlap(ratio: float) -> None:
    """Mean error near zero and spread of a binomial: multiplications are random enough."""
    draw, errors = random.Random(0), []
    for _ in range(150):
        text = "".join(draw.choices(HAN, k=draw.randint(30, 300)))
        other = varied(draw, text, ratio)
        mins = []
        for one in (text, other):
            units = np.frombuffer(one.encode("utf-16-le"), np.uint16)
            mins.append(_minima(units, np.array([len(units)]), np.array([0]), 3)[0][:, 0])
        true = similarity(text, other)
        spread = max((true * (1 - true) / len(mins[0])) ** 0.5, 1e-3)
        errors.append(((mins[0] == mins[1]).mean() - true) / spread)
    assert abs(np.mean(errors)) < 0.35 and 0.7 < np.std(errors) < 1.35


def test_sketches_agree_as_sets_overlap_and_let_no_twin_pass_by() -> None:
    draw, errors = random.Random(9), []
    for _ in range(300):
        text = "".join(draw.choices(HAN, k=draw.randint(20, 400)))
        other = varied(draw, text, draw.choice([0.02, 0.05, 0.1, 0.3]))
        sketches = []
        for one in (text, other):
            units = np.frombuffer(one.encode("utf-16-le"), np.uint16)
            whole, _ = sign(units, Spans(np.array([0]), np.array([len(units)]), np.array([0])), 3)
            sketches.append(whole.sketch)
        agreed, true = int(agreement(*sketches)[0]), similarity(text, other)
        errors.append(agreed / 125 - (1 + true) / 2)
        assert true < 0.7 or agreed >= least_agreement(0.7)
    assert abs(np.mean(errors)) < 0.01 and np.std(errors) < 0.05


def test_a_text_is_signed_alike_alone_in_a_crowd_and_as_head_of_another() -> None:
    draw = random.Random(1)
    texts = ["".join(draw.choices(HAN, k=draw.randint(1, 400))) for _ in range(400)]
    units = np.frombuffer("".join(texts).encode("utf-16-le"), np.uint16)
    length = np.array([len(text) for text in texts])
    start = np.cumsum(length) - length
    head = np.where(length > 12, length // 2, 0)
    for gram in (3, 5):
        whole, heads = sign(units, Spans(start, length, head), gram)
        alone = [sign(units, Spans(start[row : row + 1], length[row : row + 1], np.zeros(1, int)), gram)[0].bands[0]
                 for row in range(len(texts))]  # fmt: skip
        assert (whole.bands == np.array(alone)).all()
        of_heads, _ = sign(units, Spans(start[head > 0], head[head > 0], np.zeros((head > 0).sum(), int)), gram)
        assert (heads.bands == of_heads.bands).all() and (heads.sketch == of_heads.sketch).all()


@given(
    st.lists(st.text("abc好的", min_size=1, max_size=16), min_size=2, max_size=10),
    st.sampled_from([3, 5]),
)
@settings(max_examples=150)
def test_jaccard_is_that_of_the_definition(texts: list[str], gram: int) -> None:
    found = Texts([signatures(documents(texts))])
    left, right = np.meshgrid(np.arange(len(texts)), np.arange(len(texts)))
    if gram == 5:  # such grams are for documents; shorter ones are no question
        texts = [text if len(text) >= 5 else text * 5 for text in texts]
        found = Texts([signatures(documents(texts))])
    ratios = jaccard(found, left.ravel(), right.ravel(), gram=gram)
    for one, other, ratio in zip(left.ravel(), right.ravel(), ratios, strict=True):
        wanted, given_ = grams(texts[one], gram), grams(texts[other], gram)
        assert ratio == pytest.approx(len(wanted & given_) / len(wanted | given_))


def test_long_grams_differ_as_their_texts_do() -> None:
    draw = random.Random(3)
    units = np.frombuffer("".join(draw.choices(HAN, k=20_000)).encode("utf-16-le"), np.uint16)
    keys = gram_keys(units, 5)
    assert len(np.unique(keys)) == len({units[at : at + 5].tobytes() for at in range(len(units) - 4)})
