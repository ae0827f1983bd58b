"""Quantised bases on a card: answers and logits are those of the model as it is, with an adapter beside the codes and
without. On a CPU weights are dequantised for every product; on CUDA few rows are multiplied by codes.

Tolerances: logits in fp32 1e-4 (of values around 3), where nothing but the order of sums differs; in bf16 no further
from fp32 sums of the same codes than 1.25 times the model itself. fp8 rounds activations anew in every layer, so that
a last bit may move a code (it errs by up to 6 %), and a card's own product of codes passes through bf16: 10 % in norm.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.adapters.lora import LoRA
from danlu.engines import cuda_rows
from danlu.engines.cuda_codes import Codes
from danlu.engines.lenses import attached_lens, is_plain_decoder
from danlu.model.decoder import Decoder
from danlu.model.quantized import keep_dequantized, quantized_layers
from danlu.model.quantizers.quantizer import Quantize
from danlu.ops import nf4
from decoder_kit import DEVICE, answered, course, model_of, on_card, plain, prompts, rows_of, tune, write_shapes

SHAPES = ("qwen2", "gemma2", "phi3")
"""With biases in q, k and v; with sandwich norms; with q, k and v as one in the checkpoint."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wide enough for q, k and v to have scales of scales of their own."""
    folder = tmp_path_factory.mktemp("shapes")
    return write_shapes(folder, context=256, window=70, hidden_size=256, intermediate_size=320)


@pytest.fixture
def by_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row's tokens are chosen by the host, so that logits are there to be looked at."""
    monkeypatch.setattr(cuda_rows, "is_simple", lambda row: False)


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("quantize", ["nf4", "int8"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_sums_are_the_model_s(
    name: str, quantize: Quantize, tuned: bool, folders: dict[str, Path], by_host: None
) -> None:
    model = model_of(folders[name], tuned=tuned, quantize=quantize)
    wanted = course(plain(model), prompts(4))
    torch.testing.assert_close(course(on_card(model, with_adapter=True), prompts(4)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tuned", [False, True])
def test_fp8_sums_are_the_model_s_but_for_codes_on_the_edge(
    tuned: bool, folders: dict[str, Path], by_host: None
) -> None:
    model = model_of(folders["qwen2"], tuned=tuned, quantize="fp8")
    wanted = course(plain(model), prompts(4))
    ours = course(on_card(model, with_adapter=True), prompts(4))
    assert float((ours - wanted).norm() / wanted.norm()) < 0.1


@pytest.mark.parametrize("quantize", ["nf4", "int8", "fp8"])
@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
def test_in_bf16_both_are_as_far_from_fp32(
    name: str, quantize: Quantize, folders: dict[str, Path], by_host: None
) -> None:
    truth, model = model_of(folders[name]), model_of(folders[name], "bf16", quantize=quantize)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            truth.get_parameter(path).copy_(parameter.float())
        for path, layer in model.named_modules():
            if layer in quantized_layers(model):
                truth.get_parameter(f"{path}.weight").copy_(layer.dequantized(dtype=torch.float32))
    exact = course(plain(truth), prompts(4))
    slow, fast = (
        float((course(one, prompts(4)) - exact).pow(2).mean().sqrt()) for one in (plain(model), on_card(model))
    )
    assert 0 < fast <= 1.25 * slow


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_likeliest_answers_are_the_reference_s(quantize: Quantize, folders: dict[str, Path]) -> None:
    """A base with two adapters, in one batch; seven rows through four seats."""
    tuned = [model_of(folders["qwen2"], quantize=quantize) for _ in range(2)]
    for seed, model in enumerate(tuned):
        tune(model, seed)
    lenses = (None, *(attached_lens(model) for model in tuned))
    base, asked = model_of(folders["qwen2"], quantize=quantize), prompts()
    ours = answered(on_card(base), rows_of(asked, 30, lenses))
    assert len({tuple(ids) for ids in ours}) > 5
    for place, model in enumerate((base, *tuned)):
        wanted = [answered(plain(model), rows_of([ids], 30 - n % 3))[0] for n, ids in enumerate(asked)]
        assert ours[place::3] == wanted[place::3]


def addresses(model: Decoder) -> list[int]:
    return [layer.codes.data_ptr() for layer in quantized_layers(model)]


@pytest.mark.parametrize("quantize", ["nf4", "int8", "fp8"])
def test_codes_lie_in_memory_once(quantize: Quantize, folders: dict[str, Path]) -> None:
    """They are moved below one another the first time only, and are the same codes; what trains is left where it is."""
    model = model_of(folders["qwen2"], quantize=quantize)
    before = [layer.dequantized() for layer in quantized_layers(model)]
    on_card(model)
    moved = addresses(model)
    q, k, v = (getattr(model.model.layers[0].self_attn, f"{part}_proj") for part in "qkv")
    assert [k.codes.data_ptr(), v.codes.data_ptr()] == [
        q.codes.data_ptr() + q.codes.nbytes, k.codes.data_ptr() + k.codes.nbytes
    ]  # fmt: skip
    again = on_card(model)
    assert addresses(model) == moved
    assert all(torch.equal(w, layer.dequantized()) for w, layer in zip(before, quantized_layers(model), strict=True))
    trained = model_of(folders["qwen2"], quantize=quantize)
    LoRA(rank=2).attach(trained)
    trained.quick = lambda *given: None  # type: ignore[assignment] - whatever computes the training's forward
    places = addresses(trained)
    apart = on_card(trained)
    assert addresses(trained) == places
    assert answered(apart, rows_of(prompts(3), 12)) == answered(again, rows_of(prompts(3), 12))


def test_weights_that_are_kept_dequantised_are_read(folders: dict[str, Path]) -> None:
    model = model_of(folders["qwen2"], quantize="nf4")
    wanted = answered(on_card(model), rows_of(prompts(), 20))
    keep_dequantized(model)
    card = on_card(model)
    products = [product for layer in card.sums.layers for product in layer.products]
    assert all(isinstance(product, Codes) and not len(product.scratch.room) for product in products)
    assert answered(card, rows_of(prompts(), 20)) == wanted


def test_codes_in_other_blocks_are_dequantised(folders: dict[str, Path]) -> None:
    """As checkpoints may have them; and a layer that a checkpoint left out stands beside those in codes."""
    model = model_of(folders["qwen2"], quantize="nf4")
    for layer in quantized_layers(model):
        flat = layer.dequantized(dtype=torch.float32).view(-1, 128)
        absmax = flat.abs().amax(-1)
        codes = (flat / absmax[:, None])[..., None].sub(nf4.values_on(flat.device)).abs().argmin(-1).byte().view(-1)
        layer.packed = nf4.NF4(codes[::2] << 4 | codes[1::2], absmax, layer.packed.shape, 128)
    attention = model.model.layers[1].self_attn
    bare = torch.nn.Linear(256, 256, device=model.device, dtype=model.dtype).requires_grad_(False)
    attention.q_proj = bare
    assert is_plain_decoder(model)
    wanted = [answered(plain(model), rows_of([ids], 20 - n % 3))[0] for n, ids in enumerate(prompts())]
    assert answered(on_card(model), rows_of(prompts(), 20)) == wanted


def test_what_is_no_plain_decoder_is_not_taken(folders: dict[str, Path]) -> None:
    model = model_of(folders["qwen2"], quantize="int8")
    tune(model, 1)
    assert is_plain_decoder(model)
    model.model.layers[0].mlp.extra = torch.nn.Linear(4, 4)
    assert not is_plain_decoder(model)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs CUDA")
@pytest.mark.parametrize("quantize", ["nf4", "int8", "fp8"])
def test_steps_with_codes_are_recorded(quantize: Quantize, folders: dict[str, Path]) -> None:
    model = model_of(folders["qwen2"], "bf16", tuned=True, quantize=quantize)
    one, other = (on_card(model, with_adapter=True) for _ in range(2))
    found = answered(one, rows_of(prompts(), 40))
    assert one.recorder._records
    assert answered(other, rows_of(prompts(), 40)) == found, "sums are taken in the same order each time"
