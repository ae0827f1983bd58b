"""The native engine on a tiny random model: batches, caches, stops, streams, scores."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from danlu.adapters.lora import LoRA
from danlu.core.errors import EngineError
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.data.tokens import Tokens
from danlu.engines import decoding, native
from danlu.engines.engine import Question, Sampling
from danlu.engines.native import NativeEngine
from danlu.model.build import load_model
from danlu.ops.attention import Bounds
from tiny_chat import QUESTIONS, TEXTS

GREEDY = Sampling(max_new_tokens=12)
DRAWN = Sampling(max_new_tokens=12, temperature=0.9, top_p=0.95, seed=3)


@pytest.fixture(params=["packed", "looped", "plain"])
def engine(
    folder: Path, encoder: Encoder, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> NativeEngine:
    """All ways to compute: with the weights packed, from the first question on, in torch and in compiled loops (where
    numba is), and the model as it is."""
    monkeypatch.setattr(native, "FEWEST_TO_PACK", 10**9 if request.param == "plain" else 1)
    monkeypatch.setattr(native, "FEWEST_TO_LOOP", 1 if request.param == "looped" else 10**9)
    return NativeEngine(load_model(folder, dtype="fp32"), encoder, name="tuned")


def ask(text: str) -> Question:
    return Question((Message("user", text),))


def questions(num: int = 20) -> list[Question]:
    return [ask(QUESTIONS[n % 4] + TEXTS[n % 3][: 3 * n]) for n in range(num)]


def plain_greedy(engine: NativeEngine, ids: list[int], num: int) -> list[int]:
    """Without cache or batch: the whole text again for each token."""
    out: list[int] = []
    while len(out) < num:
        (logits_TV,) = engine.logits([ids + out])
        out.append(int(logits_TV[-1].argmax()))
        if out[-1] in engine.encoder.stop_ids:
            break
    return out


def test_batched_and_cached_equals_one_by_one_without_a_cache(engine: NativeEngine) -> None:
    # In fp32 round-off moves logits by about 1e-5 while this model's two best are almost always further apart than
    # 1e-3, so greedy answers may be compared token by token.
    answers = engine.generate(questions(), GREEDY)
    for question, answer in zip(questions(), answers, strict=True):
        assert list(answer.ids) == plain_greedy(engine, engine.prompt_ids(question), 12)
        assert answer.num_tokens == len(answer.ids) and answer.num_prompt_tokens == len(engine.prompt_ids(question))
        assert answer.finish == ("stop" if answer.ids[-1] in (0, 2) else "length")
        assert "<|im_end|>" not in answer.text


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_an_answer_does_not_depend_on_its_neighbours(engine: NativeEngine, sampling: Sampling) -> None:
    # Drawn tokens change only where a draw lies within round-off (1e-5) of a boundary: about one in 10,000 here.
    together = [answer.ids for answer in engine.generate(questions(), sampling)]
    alone = [engine.generate([question], sampling)[0].ids for question in questions()]
    turned = [answer.ids for answer in engine.generate(questions()[::-1], sampling)][::-1]
    assert together == alone == turned and len(set(together)) > 10


def test_questions_take_the_seats_of_those_that_are_done(engine: NativeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 questions in 3 seats, answers of 1 to 12 tokens: each is answered as if it were alone, and never more than
    three are under way."""
    usual = engine.generate(questions(), GREEDY)
    monkeypatch.setattr(engine.encoder, "stop_ids", frozenset({0, 2, *(a.ids[2] for a in usual[::3])}))
    wanted = [engine.generate([question], GREEDY)[0].ids for question in questions()]
    engine.max_rows = 3
    widths: list[int] = []
    chosen = decoding.choose_each
    monkeypatch.setattr(
        decoding, "choose_each", lambda logits, rows: (widths.append(len(logits)), chosen(logits, rows))[1]
    )
    order = [number for number, _ in engine.answers(questions(), GREEDY)]
    assert sorted(order) == list(range(20)) and order != sorted(order) and max(widths) == 3
    assert [answer.ids for answer in engine.generate(questions(), GREEDY)] == wanted
    assert len({len(ids) for ids in wanted}) > 2


def test_seats_shared_out_to_threads_are_the_same_seats(engine: NativeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to share them: the same answers, times that add up, and torch's threads as they were."""
    usual = [answer.ids for answer in engine.generate(questions(), GREEDY)]
    monkeypatch.setattr(native, "ROWS_PER_HAND", 5)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        began = time.perf_counter()
        answers = engine.generate(questions(), GREEDY)
        assert [answer.ids for answer in answers] == usual
        assert sum(answer.seconds for answer in answers) <= time.perf_counter() - began
        stopped = engine.answers(questions(), GREEDY)
        next(stopped)
        stopped.close()
        assert torch.get_num_threads() == 3
        engine.model.get_parameter("model.norm.weight").data[3] = float("nan")
        with pytest.raises(EngineError, match="not a number"):
            engine.generate(questions(), GREEDY)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_shares_of_time_add_up(engine: NativeEngine) -> None:
    began = time.perf_counter()
    answers = engine.generate(questions(), GREEDY)
    assert 0 < sum(answer.seconds for answer in answers) <= time.perf_counter() - began


def test_another_seed_is_another_answer(engine: NativeEngine) -> None:
    first, again, other = (
        [a.text for a in engine.generate(questions(6), Sampling(8, 1.0, seed=seed))] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_rows_leave_when_they_are_done(engine: NativeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = engine.generate(questions(), GREEDY)
    monkeypatch.setattr(engine.encoder, "stop_ids", frozenset({0, 2, *(a.ids[1] for a in usual[:8])}))
    sizes: list[int] = []
    step = decoding.Decoding.step
    monkeypatch.setattr(
        decoding.Decoding, "step", lambda self: (lambda rows: (sizes.append(len(rows)), rows)[1])(step(self))
    )
    seen: list[int] = []
    answers = engine.generate(questions(), GREEDY, watch=seen.append)
    assert sum(seen) == 20 and len(sizes) <= 12 and min(sizes) < sizes[0] <= 20, sizes
    for answer, longer in zip(answers, usual, strict=True):
        assert longer.ids[: len(answer.ids)] == answer.ids
        assert (answer.finish == "stop") == (answer.ids[-1] in engine.encoder.stop_ids)


def test_small_batches_give_the_same_answers(engine: NativeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = [a.ids for a in engine.generate(questions(), GREEDY)]
    monkeypatch.setattr(native, "BATCH_TOKENS", 300)
    assert [a.ids for a in engine.generate(questions(), GREEDY)] == usual


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, Sampling(12, stop=("e",))], ids=["greedy", "drawn", "stopped"])
def test_stream_is_generate_in_pieces(engine: NativeEngine, sampling: Sampling) -> None:
    for question in questions(8):
        (answer,) = engine.generate([question], sampling)
        assert "".join(engine.stream(question, sampling)) == answer.text


def test_stop_strings_end_an_answer_before_them(engine: NativeEngine) -> None:
    whole = engine.generate(questions(), GREEDY)
    cut = engine.generate(questions(), Sampling(12, stop=("a", "the")))
    assert any(a.text != b.text for a, b in zip(whole, cut, strict=True))
    for a, b in zip(whole, cut, strict=True):
        assert a.text.startswith(b.text) and "a" not in b.text and "the" not in b.text
        assert (b.finish == "stop") or b.text == a.text


def test_a_prompt_without_room_spoils_one_answer_only(engine: NativeEngine) -> None:
    long = ask("补贴八十元 " * 400)
    good, bad = engine.generate([ask("hi"), long], GREEDY)
    assert good.finish != "error" and bad.finish == "error" and "512" in bad.error
    with pytest.raises(EngineError) as caught:
        next(engine.stream(long, GREEDY))
    assert caught.value.key == "engine.prompt_too_long"


def test_answers_end_where_the_context_does(engine: NativeEngine) -> None:
    num = 500 - len(engine.prompt_ids(ask("")))
    text = "天" * 3000
    while len(engine.prompt_ids(ask(text))) > num:
        text = text[:-7]
    (answer,) = engine.generate([ask(text)], Sampling(max_new_tokens=100))
    assert answer.num_prompt_tokens + answer.num_tokens <= 512


def test_scores_are_the_log_probabilities_of_supervised_tokens(
    engine: NativeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    samples = [
        Tokens(rng.integers(3, 500, n).astype(np.int32), (rng.random(n) < 0.5).astype(np.uint8))
        for n in (1, 9, 30, 4, 17)
    ]
    samples.append(Tokens(np.zeros(0, np.int32), np.zeros(0, np.uint8)))
    monkeypatch.setattr(native, "SCORE_TOKENS", 40)
    for sample, score in zip(samples, engine.score(samples), strict=True):
        assert len(score.log_probs) == sample.num_supervised
        if len(sample) > 1:
            (logits_TV,) = engine.logits([sample.ids.tolist()])
            all_log_probs = (
                logits_TV[:-1].log_softmax(-1).gather(1, torch.tensor(sample.ids[1:, None], dtype=torch.long))[:, 0]
            )
            expected = all_log_probs[torch.tensor(sample.weights[1:], dtype=torch.bool)]
            assert np.allclose(score.log_probs, expected, atol=1e-4)


def test_base_answers_without_the_adapter_even_between_a_stream_s_pieces(
    folder: Path, encoder: Encoder, engine: NativeEngine
) -> None:
    model = load_model(folder, dtype="fp32")
    adapter = LoRA(rank=4).attach(model)
    with torch.no_grad():
        for name, weight in adapter.parameters().items():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
    tuned = NativeEngine(model, encoder, name="tuned", adapter=adapter)
    base = tuned.base()
    want_tuned, want_base = tuned.generate(questions(4), GREEDY), engine.generate(questions(4), GREEDY)
    assert [a.ids for a in want_tuned] != [a.ids for a in want_base]
    assert [a.ids for a in base.generate(questions(4), GREEDY)] == [a.ids for a in want_base]
    assert base.digest == model.digest != tuned.digest
    stream = base.stream(questions(4)[0], GREEDY)
    pieces = [next(stream, "")]
    assert tuned.generate(questions(4), GREEDY)[0].ids == want_tuned[0].ids
    assert "".join([*pieces, *stream]) == want_base[0].text
    with pytest.raises(EngineError) as caught:
        engine.base()
    assert caught.value.key == "engine.no_adapter"


def test_weights_that_are_not_numbers_are_named(engine: NativeEngine) -> None:
    engine.model.get_parameter("model.norm.weight").data[3] = float("nan")
    with pytest.raises(EngineError) as caught:
        engine.generate([ask("hi")], GREEDY)
    assert caught.value.key == "engine.non_finite"


def test_flat_logits_do_not_mix_texts(engine: NativeEngine) -> None:
    texts = [engine.prompt_ids(question) for question in questions(5)]
    for alone, together in zip((next(engine.logits([ids])) for ids in texts), engine.logits(texts), strict=True):
        assert torch.allclose(alone, together, atol=1e-4)
    assert Bounds.of([len(ids) for ids in texts]).num_documents == 5
