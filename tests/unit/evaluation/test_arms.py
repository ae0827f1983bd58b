"""Retrieval against independent oracles, prompts that fit, and a recommendation that chance does not make."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.errors import EvaluationError
from danlu.data.sample import Message
from danlu.engines.engine import Question
from danlu.engines.remote import Endpoint
from danlu.evaluation.arms.asking import Asking
from danlu.evaluation.arms.bm25 import BM25, words
from danlu.evaluation.arms.mix import Measured, fitted, mixes, recommend
from danlu.evaluation.arms.retrieval import Embedder, Passage, Reranker, Retriever, fused
from danlu.evaluation.items import load_questions
from teacher_kit import Act, serving

ZH = "差旅补贴每天八十元发票抬头写公司全称部门经理审批员工年假病假需要医院证明报销单三个工作日内提交"
EN = "travel allowance is eighty yuan a day anything above needs approval of the manager leave report invoice".split()


def drawn(rng: random.Random, length: int) -> str:
    """Chinese, English, or both in one text, with numbers."""
    parts = []
    for _ in range(length):
        kind = rng.random()
        if kind < 0.5:
            start = rng.randrange(len(ZH) - 4)
            parts.append(ZH[start : start + rng.randint(1, 4)])
        else:
            parts.append(f" {rng.choice(EN)} " if kind < 0.9 else f" {rng.randint(1, 99)}元 ")
    return "".join(parts)


def by_hand(query: list[str], corpus: list[list[str]], k1: float, b: float) -> list[float]:
    """The formula, passage by passage, in fp64."""
    mean = sum(map(len, corpus)) / len(corpus)
    scores = []
    for passage in corpus:
        total = 0.0
        for word in query:
            n = sum(word in other for other in corpus)
            idf = math.log(1 + (len(corpus) - n + 0.5) / (n + 0.5))
            tf = passage.count(word)
            total += idf * tf / (tf + k1 * (1 - b + b * (len(passage) / mean if mean else 1)))
        scores.append(total)
    return scores


def test_bm25_is_the_formula_and_the_librarys_on_random_texts() -> None:
    """600 queries in both languages; the library computes in fp32."""
    bm25s = pytest.importorskip("bm25s", reason="bm25s, the oracle, is in the extra `test`")
    rng = random.Random(0)
    num_cases = 0
    for _ in range(60):
        corpus = [words(drawn(rng, rng.randint(1, 30))) or ["空"] for _ in range(rng.randint(2, 25))]
        k1, b = rng.choice([(1.2, 0.75), (1.5, 0.75), (0.9, 0.4), (2.0, 0.0), (1.2, 1.0)])
        ours = BM25(corpus, k1=k1, b=b)
        theirs = bm25s.BM25(method="lucene", k1=k1, b=b)
        theirs.index([list(passage) for passage in corpus], show_progress=False)
        known = set(theirs.vocab_dict)
        for _ in range(10):
            query = words(drawn(rng, rng.randint(1, 6)))
            wanted = by_hand(query, corpus, k1, b)
            assert np.allclose(ours.scores(query), wanted, rtol=0, atol=1e-9)
            asked = [word for word in query if word in known]
            library = theirs.get_scores(asked) if asked else np.zeros(len(corpus))
            assert np.allclose(ours.scores(query), library, rtol=1e-4, atol=1e-5)
            best = sorted(range(len(corpus)), key=lambda place: (-ours.scores(query)[place], place))
            wanted_order = [place for place in best if ours.scores(query)[place] > 0][:5]
            assert [place for place, _ in ours.search(query, 5)] == wanted_order
            num_cases += 1
    assert num_cases == 600


@given(st.text(max_size=60), st.lists(st.text(max_size=40), min_size=1, max_size=6))
def test_any_text_can_be_searched(query: str, texts: list[str]) -> None:
    index = BM25([words(text) for text in texts])
    asked = words(query)
    assert index.scores(asked).min(initial=0.0) >= 0
    for _, score in index.search(asked, 3):
        assert 0 < index.certainty(asked, score) <= 1


def test_chinese_is_read_in_pairs_and_spellings_meet() -> None:
    assert words("出差补贴八十元") == ["出差", "差补", "补贴", "80", "元"]
    assert words("allowance: 80 yuan") == ["allowance", "80", "元"] and words("") == []
    index = BM25([words("餐补每天八十元"), words("The travel allowance is 60 yuan"), words("年假五天")])
    assert index.search(words("哪里写着80元？"), 1)[0][0] == 0
    assert index.search(words("TRAVEL allowances?"), 1)[0][0] == 1 and index.search(words("你好"), 1) == []


def test_no_pair_reaches_over_a_pause() -> None:
    assert words("天气。很好，每天80元") == ["天气", "很好", "每天", "80", "元"]
    assert words("出差：“补贴”") == ["出差", "补贴"]
    assert words("共１，０００元") == words("共1,000元") == ["共", "1000", "元"]  # this comma parts no words


def test_fusion_is_by_rank() -> None:
    assert fused([3, 1, 2], [1, 3, 9]) == [1, 3, 2, 9] or fused([3, 1, 2], [1, 3, 9]) == [3, 1, 2, 9]
    assert fused([1], [1], [2]) == [1, 2] and fused([], []) == []


PASSAGES = [Passage("餐补每天 80 元。", "a.docx", ("差旅制度", "餐补")), Passage("年假五天。", "b.docx", ("假期",)),
            Passage("发票抬头写公司全称。", "c.docx")]  # fmt: skip


def test_headings_are_searched_too() -> None:
    found = Retriever(PASSAGES).find("差旅制度里吃饭的钱", 2)
    assert found.passages[0].document == "a.docx" and 0 < found.certainty < 1
    assert PASSAGES[0].shown == "差旅制度\n餐补每天 80 元。"  # what the text says itself is not said twice
    with pytest.raises(EvaluationError) as caught:
        Retriever([])
    assert caught.value.key == "arms.no_passages"


def test_vectors_and_reranker_come_from_an_endpoint_and_are_paid_once(tmp_path: Path) -> None:
    def script(body: dict[str, object]) -> Act:
        if "input" in body:
            texts = body["input"]
            assert isinstance(texts, list)
            rows = [{"index": n, "embedding": [1.0 if "假" in text else 0.0, 0.5, 0.1]} for n, text in enumerate(texts)]
            return Act(200, json.dumps({"data": rows[::-1]}).encode())
        documents = body["documents"]
        assert isinstance(documents, list)
        rows = [{"index": n, "relevance_score": float("发票" in text)} for n, text in enumerate(documents)][:2]
        return Act(200, json.dumps({"results": rows}).encode())

    with serving(script) as server:
        endpoint = Endpoint(server.url, "bge")
        near = Retriever(PASSAGES, embedder=Embedder(endpoint, tmp_path))
        assert near.find("假期多长", 1).passages[0].document == "b.docx"
        num_asked = len(server.bodies)
        Retriever(PASSAGES, embedder=Embedder(endpoint, tmp_path)).find("假期多长", 1)
        assert len(server.bodies) == num_asked  # all known
        again = Retriever(PASSAGES, reranker=Reranker(endpoint)).find("发票 年假 餐补", 3)
        assert len(again.passages) == 3
    with (
        serving(lambda body: Act(200, b'{"data": [{"index": 0}]}')) as server,
        pytest.raises(EvaluationError) as caught,
    ):
        Retriever(PASSAGES, embedder=Embedder(Endpoint(server.url, "bge")))
    assert caught.value.key == "arms.bad_reply"
    with serving(lambda body: Act(404, b"{}")) as server, pytest.raises(Exception, match="404"):
        Reranker(Endpoint(server.url, "x")).order("q", ["a"])


@pytest.mark.parametrize("rows", [
    [(0, [1.0, 2.0]), (1, [1.0]), (2, [1.0, 2.0])], [(0, [1.0]), (0, [1.0]), (2, [1.0])], [(0, [1.0]), (1, [2.0])],
    [(0, []), (1, []), (2, [])], [(0, ["1e999"]), (1, [1.0]), (2, [1.0])],
])  # fmt: skip
def test_vectors_that_are_none_are_refused(rows: list[tuple[int, list[float]]]) -> None:
    reply = json.dumps({"data": [{"index": index, "embedding": vector} for index, vector in rows]}).encode()
    with serving(lambda body: Act(200, reply)) as server, pytest.raises(EvaluationError) as caught:
        Retriever(PASSAGES, embedder=Embedder(Endpoint(server.url, "bge")))
    assert caught.value.key == "arms.bad_reply"


def test_a_model_changed_behind_its_name_is_told(tmp_path: Path) -> None:
    def sized(num: int) -> Callable[[dict[str, Any]], Act]:
        return lambda body: Act(200, json.dumps(
            {"data": [{"index": n, "embedding": [1.0] * num} for n, _ in enumerate(body["input"])]}
        ).encode())  # fmt: skip

    with serving(sized(3)) as server:
        Embedder(Endpoint(server.url, "bge"), tmp_path).vectors(["a", "b"])
        server.script = sized(4)
        with pytest.raises(EvaluationError) as caught:
            Embedder(Endpoint(server.url, "bge"), tmp_path).vectors(["a", "c"])
    assert caught.value.key == "arms.bad_reply"


ITEM = load_questions([{"question": "餐补多少？", "answer": "80元", "system": "用中文回答"}]).items[0]


def count(question: Question) -> int:
    return sum(len(turn.content) for turn in question.messages)


def test_prompts_fit_and_passages_are_left_out_from_the_end() -> None:
    examples = tuple((Message("user", f"问{n}" * 20), Message("assistant", f"答{n}" * 20)) for n in range(4))
    wide, narrow = Asking(count, 10_000, examples), Asking(count, 150, examples)
    assert len(wide.prompt(ITEM).messages) == 10 and len(narrow.prompt(ITEM).messages) < 6
    assert count(narrow.prompt(ITEM)) <= 150 and "用中文回答" in narrow.prompt(ITEM).messages[0].content
    asked, num = wide.rag(ITEM, PASSAGES)
    assert num == 3 and all(passage.text in asked.messages[-1].content for passage in PASSAGES)
    tight, num = Asking(count, 85, ()).rag(ITEM, PASSAGES)
    assert num == 1 and PASSAGES[0].text in tight.messages[-1].content and count(tight) <= 85
    none, num = Asking(count, 5, ()).rag(ITEM, PASSAGES)
    assert num == 0 and "餐补多少？" in none.messages[-1].content
    assert wide.tuned(ITEM) == ITEM.question


def arms(rng: np.random.Generator, num: int, **shares: float) -> dict[str, Measured]:
    costs = {"prompt": 1.0, "tuned": 0.5, "rag": 3.0, "both": 3.2}
    return {name: Measured(tuple((rng.random(num) < share).tolist()), costs[name]) for name, share in shares.items()}


def test_the_cheapest_that_is_no_worse_is_chosen() -> None:
    rng = np.random.default_rng(0)
    right = (rng.random(200) < 0.8).tolist()
    worse = [flag and n % 3 > 0 for n, flag in enumerate(right)]
    told = recommend(
        {"prompt": Measured(tuple(worse), 0.1), "rag": Measured(tuple(right), 3.0), "tuned": Measured(tuple(right), 0.5)},
        rng.random(200).tolist(), list(range(200)),
    )  # fmt: skip
    assert told["chosen"]["name"] == "tuned" and told["best"]["accuracy"] >= told["chosen"]["accuracy"] - 0.02


def test_a_mix_wins_where_retrieval_knows_when_it_is_sure() -> None:
    """Retrieval is right where its passage is sure, tuning elsewhere: neither alone comes near the mix."""
    rng = np.random.default_rng(1)
    certainty = rng.random(300)
    rag = tuple(bool(c > 0.45) for c in certainty)
    tuned = tuple(bool(c <= 0.5) for c in certainty)
    told = recommend({"rag": Measured(rag, 3.0), "tuned": Measured(tuned, 0.5)}, certainty.tolist(), list(range(300)))
    assert told["chosen"]["name"] == "rag + tuned" and 0.4 < told["chosen"]["threshold"] < 0.52
    assert told["chosen"]["accuracy"] > 0.97 and sum(told["chosen"]["shares"].values()) == pytest.approx(1)


def test_noise_makes_no_mix_better_than_its_parts() -> None:
    """Certainty that says nothing: over 40 draws the mix is on average no better than the better of its parts."""
    gains = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        measured = arms(rng, 120, rag=0.6, tuned=0.6)
        found = mixes(measured, rng.random(120).tolist(), list(range(120)))  # type: ignore[arg-type]
        gains += [np.mean(way.right) - 0.6 for way in found]
    assert abs(float(np.mean(gains))) < 0.02


def test_thresholds_part_no_equal_ones() -> None:
    levels = np.asarray([0.2, 0.2, 0.2, 0.9])
    assert fitted(levels, np.asarray([0.0, 1, 0, 1]), np.asarray([1.0, 0, 1, 0])) == pytest.approx(0.55)
    assert fitted(levels, np.ones(4), np.zeros(4)) == 0.0 and fitted(levels, np.zeros(4), np.ones(4)) == math.inf
    assert fitted(np.zeros(0), np.zeros(0), np.zeros(0)) == 0.0
    assert Counter(fitted(levels, np.zeros(4), np.zeros(4)) for _ in range(3)) == {0.0: 3}
