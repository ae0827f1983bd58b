"""Rows on a card: whoever shares the batch, in whatever order rows come and go, each answer is the reference's. On a CPU
the same code runs with the written-out attention and without recording; on CUDA with kernels and records.

Tolerances: logits in fp32 1e-4 (of values around 3); in 16 bits no further from fp32 than 1.25 times the decoder itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.engines import cuda_rows
from danlu.engines.cuda_pages import PAGE, Pages
from danlu.engines.cuda_rows import OnCard, card_for
from danlu.engines.cuda_step import FROM_TIMES, padded
from danlu.engines.decoding import Decoding
from danlu.engines.engine import Sampling
from danlu.engines.lenses import Lens, attached_lens
from danlu.engines.rows import Row
from danlu.engines.sampling import draws
from danlu.engines.sampling_extras import SamplingExtras
from decoder_kit import DEVICE, NAMES, answered, course, model_of, on_card, plain, prompts, rows_of, tune, write_shapes


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_shapes(tmp_path_factory.mktemp("shapes"), context=256, window=70)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_pieces", [1, 3])
def test_the_sums_are_the_decoders(
    name: str, num_pieces: int, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every kind of block; pages are crossed, windows end within one."""
    monkeypatch.setattr(cuda_rows, "is_simple", lambda row: False)
    model = model_of(folders[name], tuned=True)
    wanted = course(plain(model), prompts(4))
    ours = course(on_card(model, with_adapter=True), prompts(4), num_pieces if name != "phi3" else 1)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
def test_in_16_bits_both_are_as_far_from_fp32(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_rows, "is_simple", lambda row: False)
    truth, model = model_of(folders[name]), model_of(folders[name], "bf16")
    with torch.no_grad():
        for mine, its in zip(truth.parameters(), model.parameters(), strict=True):
            mine.copy_(its.float())
    exact = course(plain(truth), prompts(4))
    slow, fast = (
        float((course(one, prompts(4)) - exact).pow(2).mean().sqrt()) for one in (plain(model), on_card(model))
    )
    assert 0 < fast <= 1.25 * slow


@pytest.mark.parametrize("read_tokens", [1000, 40])
@pytest.mark.parametrize("name", ["qwen3", "mistral"])
def test_likeliest_answers_are_the_reference_s(name: str, read_tokens: int, folders: dict[str, Path]) -> None:
    """Seven rows through four seats, a step ahead of the host; each ends where it would alone."""
    model = model_of(folders[name])
    card = on_card(model)
    ours = answered(card, rows_of(prompts(), 40), read_tokens=read_tokens)
    wanted = [answered(plain(model), rows_of([ids], 40 - n % 3))[0] for n, ids in enumerate(prompts())]
    assert ours == wanted and len({tuple(ids) for ids in ours}) > 5
    assert card.pages.num_used == 0 and not card.rows
    assert answered(card, rows_of(prompts(), 40)) == wanted, "and again, with pages that are known"
    card.forget(Lens("none", ()))
    assert answered(card, rows_of(prompts(), 40)) == wanted


@pytest.mark.parametrize("has_tastes", [False, True])
def test_drawn_rows_and_likeliest_ones_side_by_side(has_tastes: bool, folders: dict[str, Path]) -> None:
    """Drawn on the card; with a row that has penalties in the batch, by the host."""
    model = model_of(folders["qwen2"])

    def rows() -> list[Row]:
        made = rows_of(prompts(), 30)
        for row in made[::2]:
            how = ({"top_p": 0.9}, {"top_k": 5}, {})[row.number // 2 % 3]
            row.sampling = Sampling(row.num_free, temperature=0.9, seed=row.number, **how)
            row.draws = draws(row.sampling, row.prompt, row.num_free)
        if has_tastes:
            made[3].extras = SamplingExtras(frequency=0.5)
        return made

    wanted = [answered(plain(model), [row])[0] for row in rows()]
    assert answered(on_card(model), rows()) == wanted


def test_adapters_and_base_in_one_batch(folders: dict[str, Path]) -> None:
    tuned = [model_of(folders["qwen2"]) for _ in range(2)]
    for seed, model in enumerate(tuned):
        tune(model, seed)
    lenses = (None, *(attached_lens(model) for model in tuned))
    base = model_of(folders["qwen2"])
    asked = prompts(9)
    ours = answered(on_card(base), rows_of(asked, 30, lenses))
    for place, model in enumerate((base, *tuned)):
        wanted = [answered(plain(model), rows_of([ids], 30 - n % 3))[0] for n, ids in enumerate(asked)]
        assert ours[place::3] == wanted[place::3]
    again = answered(on_card(base), rows_of(asked[1:], 30, (lenses[1],)))
    assert again == [answered(plain(tuned[0]), rows_of([i], 30 - n % 3))[0] for n, i in enumerate(asked[1:])]


def test_no_weight_lies_in_memory_twice(folders: dict[str, Path]) -> None:
    """And the model is the same model afterwards, for training and for saving."""
    model = model_of(folders["qwen2"])
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    one, other = on_card(model), on_card(model)
    fused = [layer.products[0].weights[0].data_ptr() for card in (one, other) for layer in card.sums.layers]
    own = [block.self_attn.q_proj.weight.data_ptr() for block in model.model.layers]
    assert fused == own * 2
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    trained = model_of(folders["qwen2"])
    for parameter in trained.parameters():
        parameter.requires_grad_(True)
    places = [weight.data_ptr() for weight in trained.parameters()]
    card = on_card(trained)
    assert places == [weight.data_ptr() for weight in trained.parameters()], "an optimizer may hold them"
    assert answered(card, rows_of(prompts(), 20)) == answered(one, rows_of(prompts(), 20))


def test_what_prompts_begin_with_is_computed_once(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(folders["qwen2"])
    card, asked = on_card(model), prompts(4, num_shared=2 * PAGE + 5)
    sizes: list[int] = []
    through = OnCard._through
    monkeypatch.setattr(
        OnCard, "_through",
        lambda self, spans, pages: (sizes.append(sum(span.size for span in spans)), through(self, spans, pages))[1],
    )  # fmt: skip
    wanted = [answered(plain(model), rows_of([ids], 9 - n % 3))[0] for n, ids in enumerate(asked)]
    assert answered(card, rows_of(asked, 9)) == wanted
    assert sum(sizes) == sum(map(len, asked)) - 3 * 2 * PAGE
    sizes.clear()
    assert answered(card, rows_of(asked, 9)) == wanted
    assert sum(sizes) < sum(map(len, asked)) - 4 * 2 * PAGE + 1
    card.pages.forget(None)
    sizes.clear()
    answered(card, rows_of(asked[:1], 9))
    assert sum(sizes) == len(asked[0])


def test_who_is_given_up_leaves_at_once(folders: dict[str, Path]) -> None:
    model = model_of(folders["qwen2"])
    card, rows = on_card(model), rows_of(prompts(), 40)
    decoding = Decoding(card, stop_ids=frozenset(), max_rows=4, max_tokens=1000, name="it", read_tokens=50)
    decoding.add(rows)
    for _ in range(12):
        decoding.step()
    decoding.drop([rows[0], rows[3], rows[6]])
    for _ in decoding.run():
        pass
    left = [row for row in rows if row.number not in (0, 3, 6)]
    wanted = []
    for row in left:
        alone = Row(0, row.prompt, row.num_free, row.sampling)
        alone_decoding = Decoding(plain(model), stop_ids=frozenset(), max_rows=4, max_tokens=1000, name="it")
        alone_decoding.add([alone])
        for _ in alone_decoding.run():
            pass
        wanted.append(alone.ids)
    assert [row.ids for row in left] == wanted and card.pages.num_used == 0


def test_weights_that_are_no_numbers_fail_their_own_rows_only(folders: dict[str, Path]) -> None:
    tuned, base = model_of(folders["qwen2"]), model_of(folders["qwen2"])
    tune(tuned, 1)
    lens = attached_lens(tuned)
    assert lens is not None
    sides = next(pair for pair in lens.sides[0] if pair is not None)
    sides[0].fill_(float("inf"))
    bad, good = rows_of([prompts()[0]] * 2, 10, (lens, None))
    decoding = Decoding(on_card(base), stop_ids=frozenset(), max_rows=4, max_tokens=1000, name="it")
    decoding.add([bad, good])
    for _ in decoding.run():
        pass
    assert bad.finish == "error" and bad.fault is not None and good.fault is None and len(good.ids) == 9


def test_means_are_the_decoders(folders: dict[str, Path]) -> None:
    """A prompt that is read for its mean beside one that is answered."""
    model = model_of(folders["qwen2"])
    found = []
    for forward in (plain(model), on_card(model)):
        mean, written = Row(0, prompts()[1], 0, is_mean=True), Row(1, prompts()[2], 6, Sampling(6))
        decoding = Decoding(forward, stop_ids=frozenset(), max_rows=4, max_tokens=1000, name="it")
        decoding.add([mean, written])
        for _ in decoding.run():
            pass
        found.append((mean.sum_D, written.ids))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-3)
    assert found[0][1] == found[1][1]


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs CUDA")
def test_steps_are_recorded_and_repeated(folders: dict[str, Path]) -> None:
    model = model_of(folders["qwen2"], "bf16")
    card = on_card(model)
    answered(card, rows_of(prompts(), 40))
    assert card.recorder._records and all(card.recorder._times[key] == FROM_TIMES for key in card.recorder._records)
    rows = rows_of(prompts(), 12)
    assert card_for(model, rows, max_rows=5, with_adapter=True).max_rows == 5


def test_pages_are_shared_freed_and_taken_again(folders: dict[str, Path]) -> None:
    spec = model_of(folders["qwen2"]).spec
    pages = Pages(spec, 4, dtype=torch.float32, device=torch.device("cpu"))
    ids = list(range(2 * PAGE + 1))
    own = pages.take(3)
    pages.learn(own, ids, None)
    assert pages.found(ids, None) == own[:2] and pages.found(ids, "lens") == []
    assert pages.found(ids[: 2 * PAGE], None) == own[:1], "one token stays the prompt's own"
    assert pages.found([1, *ids[1:]], None) == []
    pages.release(own[:2])
    pages.release(own[:1])
    pages.release(own)
    assert pages.num_used == 0 and pages.found(ids, None) == own[:2]
    pages.release(own[:2])
    taken = pages.take(3)
    assert own[1] in taken and own[0] not in taken, "the end of what is known goes first"
    assert pages.found(ids, None) == own[:1]


@pytest.mark.parametrize(("num", "size"), [(1, 1), (3, 4), (7, 8), (9, 16), (64, 64), (65, 80), (129, 160), (250, 250)])
def test_sizes_of_steps_are_few(num: int, size: int) -> None:
    assert padded(num, 250) == size
