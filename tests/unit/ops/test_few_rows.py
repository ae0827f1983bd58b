"""Products of a few rows with weights in codes: kernels against fp32 references, in every form that codes come in.

Tolerances, as a norm's share: fp32 1e-5; in 16 bits a value's rounding, 2^-8 for bf16 (rows and outputs are rounded,
and NF4's sixteen values once) and 2^-10 for fp16. Triton's interpreter multiplies bf16 as integers: fp32 and fp16
there. Where a card picks values' bytes the same words are picked here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu.ops import byte_product, fp8, int8, nf4, nf4_product
from danlu.ops.adjoining import adjoined, moved_together
from danlu.ops.few_rows import Tiling, tiling
from danlu.ops.kernels import IS_INTERPRETED
from danlu.ops.nf4_product import below_one_another, moved

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-10}
DTYPES = [dtype for dtype in TOLERANCE if not (IS_INTERPRETED and dtype == torch.bfloat16)]
SIZES = [(1, 64, 64), (3, 192, 100), (16, 320, 96), (17, 128, 130), (40, 256, 48), (64, 192, 64)]
"""Rows, inputs, outputs."""
BYTE_SIZES = [(1, 128, 64), (3, 384, 100), (16, 640, 96), (17, 256, 144), (64, 256, 64), (2, 112, 48)]
"""The kernel does not take the last."""
WHOLE = Tiling(rows=8, outputs=32, share=99, num_shares=1, num_warps=2, num_stages=2)
PARTS = Tiling(rows=16, outputs=32, share=2, num_shares=5, num_warps=2, num_stages=3)
"""Programs for all five, though few weights here have so many chunks."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(num_rows: int, width: int, dtype: torch.dtype, device: str) -> Tensor:
    """Leading columns of a wider buffer."""
    return drawn(num_rows, width + 16, seed=width).to(device, dtype)[:, :width]


def assert_close(ours: Tensor, exact: Tensor) -> None:
    assert ours.shape == exact.shape and ours.dtype == exact.dtype
    assert float((ours.double() - exact.double()).norm() / exact.double().norm()) < TOLERANCE[ours.dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_double", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_nf4(size: tuple[int, int, int], is_double: bool, dtype: torch.dtype, device: str) -> None:
    num_rows, width, num_outputs = size
    weight = below_one_another([nf4.quantise(drawn(num_outputs, width).to(device), is_double=is_double)])
    assert weight is not None
    x, bias = inputs(num_rows, width, dtype, device), drawn(num_outputs).to(device, dtype)
    for tiles in (None, WHOLE, PARTS):
        assert_close(nf4_product.product(x, weight, tiles=tiles), nf4_product.reference_product(x, weight))
        assert_close(nf4_product.product(x, weight, bias, tiles=tiles), nf4_product.reference_product(x, weight, bias))


@pytest.mark.parametrize("is_double", [True, False])
def test_nf4_weights_below_one_another(is_double: bool, device: str) -> None:
    """Each with a mean and scales of its own."""
    weights = [nf4.quantise((drawn(n, 512) * n).to(device), is_double=is_double) for n in (64, 32, 96)]
    whole, x = below_one_another(moved(weights)), inputs(5, 512, torch.float16, device)
    apart = [below_one_another([weight]) for weight in weights]
    wanted = torch.cat([nf4_product.reference_product(x, part) for part in apart if part is not None], dim=1)
    assert whole is not None and whole.shape == (192, 512)
    assert_close(nf4_product.product(x, whole), wanted)
    assert below_one_another(weights) is None, "they lie apart"


def test_nf4_that_the_kernel_does_not_take(device: str) -> None:
    codes = torch.zeros(64 * 64 // 2, dtype=torch.uint8, device=device)
    assert below_one_another([nf4.NF4(codes, torch.ones(32, device=device), (64, 64), 128)]) is None
    assert below_one_another([nf4.quantise(drawn(6, 40).to(device))]) is None, "a block lies in two rows"
    shared = [nf4.quantise(drawn(3, 64).to(device)) for _ in range(2)]
    assert below_one_another(moved(shared)) is None, "a scale of scales would be of both"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", BYTE_SIZES)
def test_int8(size: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
    num_rows, width, num_outputs = size
    weight = int8.quantise(drawn(num_outputs, width).to(device))
    x, bias = inputs(num_rows, width, dtype, device), drawn(num_outputs).to(device, dtype)
    exact = byte_product.reference_product(x, weight.codes, weight.scale, bias, dtype=dtype)
    for tiles in (None, WHOLE, PARTS):
        assert_close(byte_product.product(x, weight.codes, weight.scale, bias, tiles=tiles), exact)


@pytest.mark.parametrize("size", [size for size in BYTE_SIZES if size[0] <= 32])
def test_fp8(size: tuple[int, int, int], device: str) -> None:
    if not fp8.writes_codes(torch.empty(0, device=device)) and device == "cuda":
        pytest.skip("no fp8 on this card")
    num_rows, width, num_outputs = size
    weight = fp8.quantise(drawn(num_outputs, width).to(device))
    codes, scale = fp8.quantise_rows(inputs(num_rows, width, torch.bfloat16, device))
    bias = drawn(num_outputs).to(device, torch.bfloat16)
    exact = fp8.product(codes, scale, weight, bias_N=bias, dtype=torch.float32, way="emulated")
    for tiles in (None, WHOLE, PARTS):
        ours = byte_product.product(
            codes, weight.codes, weight.scale, bias, scale_B=scale, dtype=torch.float32, tiles=tiles
        )
        assert_close(ours, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_bytes_are_picked_as_codes_say(dtype: torch.dtype) -> None:
    """The card's own words, done by hand for every byte in every place."""
    registers: dict[str, int] = {}

    def value(name: str) -> int:
        return int(name, 16) if name.startswith("0x") else registers[name]

    def pick(low: int, high: int, chosen: int) -> int:
        pool = (low | high << 32).to_bytes(8, "little")
        picked = [pool[chosen >> 4 * n & 7] for n in range(4)]
        is_sign = [chosen >> 4 * n & 8 for n in range(4)]
        return int.from_bytes([255 * (b >> 7) if s else b for b, s in zip(picked, is_sign, strict=True)], "little")

    table = torch.tensor(nf4.VALUES).to(dtype)
    for byte in range(256):
        given = [byte, 255 - byte, byte ^ 0x5A, byte * 7 % 256]
        registers["$4"] = int.from_bytes(given, "little")
        for line in nf4_product._decoding(dtype).replace("}", "").splitlines()[1:]:
            name, _, operands = line.strip().rstrip(";").partition(" ")
            target, *rest = [part.strip() for part in operands.split(",")]
            if name.startswith("prmt"):
                registers[target] = pick(*(value(part) for part in rest))
            elif name.startswith("lop3"):
                a, b, m = (value(part) for part in rest[:3])
                registers[target] = a & ~m | b & m
            elif name.startswith("and"):
                registers[target] = value(rest[0]) & value(rest[1])
            else:
                shift = int(rest[1])
                moved = value(rest[0]) << shift if name.startswith("shl") else value(rest[0]) >> shift
                registers[target] = moved & 0xFFFFFFFF
        halves = [b >> 4 for b in given] + [b & 15 for b in given]
        found = b"".join(registers[f"${n}"].to_bytes(4, "little") for n in range(4))
        assert torch.equal(torch.frombuffer(bytearray(found), dtype=dtype), table[halves])


def test_shares_are_whole_and_fill_a_card() -> None:
    for num_rows in (1, 5, 32, 64):
        for num_chunks, num_outputs in ((56, 4608), (296, 3584), (1, 64), (14, 1152), (3, 37_888)):
            tiles = tiling(
                num_rows, num_outputs, num_chunks, torch.device("cpu"), outputs=64, fewest_chunks=4, num_stages=3
            )  # fmt: skip
            assert tiles.rows >= num_rows and tiles.share * tiles.num_shares >= num_chunks
            assert tiles.share * (tiles.num_shares - 1) < num_chunks, "no share is empty"


def test_rows_of_one_tensor_are_found(device: str) -> None:
    whole = torch.arange(60, device=device).view(10, 6)
    first, second = whole[:4], whole[4:]
    found = adjoined([first, second])
    assert found is not None and found.data_ptr() == whole.data_ptr() and torch.equal(found, whole)
    assert adjoined([second, first]) is None and adjoined([first, whole[5:]]) is None
    assert adjoined([first, second.clone()]) is None
    assert adjoined(moved_together([second, first])) is not None


def test_all_again_through_the_interpreter(through_the_interpreter: Callable[[], None]) -> None:
    through_the_interpreter()
