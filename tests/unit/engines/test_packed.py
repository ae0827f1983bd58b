"""Packed weights compute what the decoder computes: every kind of block, with and without an adapter, prompts that
share a beginning, in fp32 to round-off and in bf16 no further from fp32 than the decoder itself."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

import decoder_kit
from danlu.data.twins.compiled import has_numba
from danlu.engines import looped
from danlu.engines import packed as packing
from danlu.engines.lenses import Lens
from danlu.engines.packed import Packed, packed
from danlu.engines.plain import Plain
from danlu.engines.rows import Row, Span
from danlu.model.decoder import Decoder
from danlu.model.model import Model
from danlu.model.quantized import put, quantized_layers
from danlu.model.quantizers.quantizer import Quantize, QuantizedLinear
from decoder_kit import NAMES, write_shapes


@pytest.fixture(params=["torch", "loops", "both"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The ways to compute what lies between products; "both": attention over more than a few tokens in torch."""
    if request.param != "torch" and not has_numba():
        pytest.skip("numba is optional")
    if request.param == "both":
        monkeypatch.setattr(looped, "MOST_MEETINGS", 30 * 64)
    return bool(request.param != "torch")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_shapes(tmp_path_factory.mktemp("shapes"), context=64, window=6)


def model_of(folder: Path, dtype: str = "fp32", *, tuned: bool = True) -> Decoder:
    return decoder_kit.model_of(folder, dtype, tuned=tuned, device="cpu")


def prompts(num_shared: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    first = torch.randint(3, 90, (num_shared,), generator=generator)
    return [torch.cat((first, torch.randint(3, 90, (n,), generator=generator))).tolist() for n in (3, 9, 1, 5)]


@torch.inference_mode()
def course(
    forward: Plain | Packed,
    asked: list[list[int]],
    *,
    lenses: tuple[Lens | None, ...] = (None,) * 4,
    num_pieces: int = 1,
) -> torch.Tensor:
    """logits_RV of each row's first tokens and of nine more, in the rows' order; rows leave and come on the way, a row
    outgrows its table, and prompts come whole or in pieces."""
    rows = [Row(number, ids, 48, lens=lens) for number, (ids, lens) in enumerate(zip(asked, lenses, strict=True))]
    found: dict[tuple[int, int], torch.Tensor] = {}

    def run(spans: list[Span]) -> None:
        due, hidden = forward.run(spans)
        for row, logits in zip(due, forward.logits(hidden).double(), strict=True):
            found[row.number, len(row.ids)] = logits
            row.ids.append((7 * len(row.ids) + 11 * row.number + 5) % 90)  # whatever the model says: the same for both

    for some in (rows[:3], rows[3:]):
        forward.begin(some)
        if num_pieces == 1:
            run([Span(row, row.num_done, len(row.prompt)) for row in some])
            continue
        for row in some:
            while row.num_done < len(row.prompt):
                run(
                    [
                        Span(
                            row,
                            row.num_done,
                            min(len(row.prompt), row.num_done + max(1, len(row.prompt) // num_pieces)),
                        )
                    ]
                )
    for step in range(9):
        if step == 4:
            forward.leave([rows[0]])
        run([])
    assert len({number for number, _ in found}) == 4 and len(found) >= 40 - 5
    return torch.stack([found[key] for key in sorted(found) if key[1] < (5 if key[0] == 0 else 10)])


def plain(model: Model) -> Plain:
    return Plain(model, 6, 64, contextlib.nullcontext)


@pytest.mark.parametrize("num_shared", [0, 20])
@pytest.mark.parametrize("name", NAMES)
def test_the_sums_are_the_decoders(name: str, num_shared: int, loops: bool, folders: dict[str, Path]) -> None:
    model = model_of(folders[name])
    quick = packed(model, with_adapter=True, loops=loops)
    assert quick is not None
    wanted = course(plain(model), prompts(num_shared))
    torch.testing.assert_close(course(quick, prompts(num_shared)), wanted, rtol=1e-4, atol=1e-4)
    assert bool(quick.prefixes) == (num_shared > packing.SHARED_FROM)


def test_the_adapter_is_packed_in_or_left_out(loops: bool, folders: dict[str, Path]) -> None:
    model, bare = model_of(folders["qwen3"]), model_of(folders["qwen3"], tuned=False)
    asked = prompts(0)
    quick = packed(model, with_adapter=False, loops=loops)
    assert quick is not None
    torch.testing.assert_close(course(quick, asked), course(plain(bare), asked), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(course(quick, asked), course(plain(model), asked), atol=0.05)


def test_in_bf16_both_are_as_far_from_fp32(loops: bool, folders: dict[str, Path]) -> None:
    asked = prompts(20)
    truth, model = model_of(folders["qwen2"]), model_of(folders["qwen2"], "bf16")
    with torch.no_grad():
        for mine, its in zip(truth.parameters(), model.parameters(), strict=True):
            mine.copy_(its.float())
    quick = packed(model, with_adapter=True, loops=loops)
    assert quick is not None
    exact = course(plain(truth), asked)
    slow, fast = (float((course(one, asked) - exact).pow(2).mean().sqrt()) for one in (plain(model), quick))
    assert 0 < fast <= 1.2 * slow


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_quantised_base_is_packed_as_what_its_codes_stand_for(
    quantize: Quantize, loops: bool, folders: dict[str, Path]
) -> None:
    model, asked = quantised(folders["qwen3"], quantize, tuned=True), prompts(20)
    quick = packed(model, with_adapter=True, loops=loops)
    assert quick is not None
    wanted = course(plain(model), asked)
    torch.testing.assert_close(course(quick, asked), wanted, rtol=1e-4, atol=1e-4)
    bare = packed(model, with_adapter=False, loops=loops)
    assert bare is not None and not torch.allclose(course(bare, asked), wanted, atol=0.05)


def test_fp8_rounds_what_it_multiplies_when_packed_too(loops: bool, folders: dict[str, Path]) -> None:
    """An input whose last bit differs may get another code, so what is left between the two is part of what rounding
    inputs does. Without that the packed product would be as far off as the whole of it."""
    model, asked = quantised(folders["llama"], "fp8"), prompts(20)  # with biases
    quick = packed(model, with_adapter=True, loops=loops)
    assert quick is not None
    wanted = course(plain(model), asked)
    apart = (course(quick, asked) - wanted).pow(2).mean().sqrt()
    unrounded = quantised(folders["llama"], "fp8")
    for layer in quantized_layers(unrounded):
        put(unrounded, next(n for n, m in unrounded.named_modules() if m is layer), as_linear(layer))
    assert apart < 0.3 * (course(plain(unrounded), asked) - wanted).pow(2).mean().sqrt()


def test_fp8_in_bf16_is_as_far_from_fp32_as_its_layers(loops: bool, folders: dict[str, Path]) -> None:
    truth, model, asked = quantised(folders["llama"], "fp8"), quantised(folders["llama"], "fp8", "bf16"), prompts(20)
    with torch.no_grad():
        for mine, its in zip(truth.parameters(), model.parameters(), strict=True):
            mine.copy_(its.float())
    for mine, its in zip(quantized_layers(truth), quantized_layers(model), strict=True):
        mine.packed = its.packed
    quick = packed(model, with_adapter=True, loops=loops)
    assert quick is not None
    exact = course(plain(truth), asked)
    slow, fast = (float((course(one, asked) - exact).pow(2).mean().sqrt()) for one in (plain(model), quick))
    assert 0 < fast <= 1.2 * slow


def test_a_server_gives_a_quantised_bases_codes_up_for_the_packed_weights(folders: dict[str, Path]) -> None:
    asked = prompts(0)
    wanted = course(plain(quantised(folders["qwen2"], "nf4")), asked)
    model = quantised(folders["qwen2"], "nf4")
    quick = packed(model, with_adapter=False, owns=True, loops=False)
    assert quick is not None and not any("packed" in vars(layer) for layer in quantized_layers(model))
    torch.testing.assert_close(course(quick, asked), wanted, rtol=1e-4, atol=1e-4)


def quantised(folder: Path, quantize: Quantize, dtype: str = "fp32", *, tuned: bool = False) -> Decoder:
    return decoder_kit.model_of(folder, dtype, tuned=tuned, quantize=quantize, device="cpu")


def as_linear(layer: QuantizedLinear) -> torch.nn.Linear:
    """What its codes stand for."""
    linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, dtype=layer.dtype)
    linear.weight.data, linear.bias = layer.dequantized(dtype=layer.dtype), layer.bias
    return linear.requires_grad_(False)


def test_a_server_has_its_loops_before_anybody_asks(folders: dict[str, Path]) -> None:
    """Compiling them took the first request 8 s."""
    pytest.importorskip("numba")
    from danlu.engines import loops as kernels

    quick = packed(model_of(folders["gemma2"], "bf16", tuned=False), with_adapter=False, owns=True)
    assert quick is not None and not quick.prefixes and not any(quick.tables)
    all_loops = (kernels.add_norm, kernels.gate, kernels.attend)
    known = [list(loop.signatures) for loop in all_loops]  # type: ignore[attr-defined]
    course(quick, prompts(0))
    assert all(known) and known == [list(loop.signatures) for loop in all_loops]  # type: ignore[attr-defined]


def test_what_cannot_be_packed_is_left_as_it_is(folders: dict[str, Path]) -> None:
    model = model_of(folders["qwen2"])
    assert packed(model.to(torch.float64), with_adapter=True) is None
    coded = quantised(folders["qwen2"], "fp8", tuned=True)  # its layers round what pairs must have as it is
    assert packed(coded, with_adapter=True) is None and packed(coded, with_adapter=False) is not None
    assert isinstance(model, Decoder)
    odd = model_of(folders["qwen2"])
    odd.model.layers[0].mlp.extra = torch.nn.Linear(4, 4)  # a layer that the packing does not know of
    assert packed(odd, with_adapter=True) is None
