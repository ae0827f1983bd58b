"""Attention over pages: the kernels against the same written out in torch, on CUDA in fp32 and bf16, and without it once
through Triton's interpreter (which multiplies bf16 as integers: fp32 and fp16 there).

Tolerances, of the largest value: fp32 5e-6 (sums over some thousand places in another order; on a card 1e-5), 16 bits
two roundings, doubled where the interpreter cuts off what a card rounds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from danlu.engines.cuda_attention import (
    TILE,
    AttentionShape,
    PagedKV,
    decode,
    place,
    prefill,
    reference_decode,
    reference_place,
    reference_prefill,
)  # fmt: skip
from danlu.engines.cuda_lenses import CardLensing
from danlu.engines.cuda_pages import PAGE, num_pages
from danlu.engines.lenses import Lens, Lensing, Stack
from danlu.ops.kernels import HAS_TRITON, IS_INTERPRETED
from danlu.ops.rope import HeadNorms, RopeSpec, rotation

DEVICE = "cuda" if torch.cuda.is_available() and not IS_INTERPRETED else "cpu"
DTYPES = [torch.float32, torch.bfloat16 if DEVICE == "cuda" else torch.float16]
UNIT = {torch.float32: 1e-5 if DEVICE == "cuda" else 5e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
SHAPES = {
    "7 heads a key": AttentionShape(14, 2, 64, 0.125, 0, 0.0),
    "a key of their own": AttentionShape(2, 2, 96, 0.1, 0, 0.0),
    "window, softcap": AttentionShape(4, 1, 128, 0.09, 50, 30.0),
    "small": AttentionShape(4, 2, 16, 0.25, 0, 0.0),
}
if DEVICE == "cuda":
    SHAPES |= {
        "wide": AttentionShape(8, 4, 256, 0.0625, 300, 50.0),
        "8 heads a key": AttentionShape(32, 4, 128, 0.088, 0, 0.0),
    }
has_kernels = pytest.mark.skipif(not (IS_INTERPRETED or DEVICE == "cuda"), reason="no CUDA: see the interpreter's test")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def assert_close(ours: Tensor, exact: Tensor) -> None:
    assert ours.shape == exact.shape and not ours.isnan().any()
    unit = UNIT[ours.dtype] * (2 if IS_INTERPRETED and ours.dtype != torch.float32 else 1)
    assert float((ours.double() - exact.double()).abs().max()) <= unit * max(float(exact.abs().max()), 1e-3)


def held_for(attention: AttentionShape, lengths: list[int], dtype: torch.dtype) -> PagedKV:
    """Pages in no order, filled with poison, and drawn keys and values where rows hold something."""
    generator = torch.Generator().manual_seed(sum(lengths))
    counts = [num_pages(max(length, 1)) for length in lengths]
    order = torch.randperm(sum(counts) + 2, generator=generator).tolist()
    table = torch.zeros(len(lengths), max(counts), dtype=torch.int32)
    shape = (len(order), attention.num_kv_heads, PAGE, attention.head_size)
    keys, values = torch.full(shape, float("nan")), torch.full(shape, float("nan"))
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        own = [order.pop() for _ in range(count)]
        table[row, :count] = torch.tensor(own)
        for at in range(length):
            keys[own[at // PAGE], :, at % PAGE] = torch.randn(shape[1], shape[3], generator=generator)
            values[own[at // PAGE], :, at % PAGE] = torch.randn(shape[1], shape[3], generator=generator)
    return PagedKV(keys.to(DEVICE, dtype), values.to(DEVICE, dtype), table.to(DEVICE))


@has_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_parts", [1, 8])
def test_decode_kernel(shape: str, dtype: torch.dtype, num_parts: int) -> None:
    """Rows of very different lengths; one seat is free."""
    attention = SHAPES[shape]
    lengths = [1, 3, PAGE, PAGE + 1, 200, 0, 131]
    kv = held_for(attention, lengths, dtype)
    q_BX = torch.randn(len(lengths), attention.num_heads * attention.head_size, device=DEVICE).to(dtype)
    positions_B = torch.tensor(lengths, dtype=torch.int32, device=DEVICE) - 1
    out_BX = decode(q_BX, kv, positions_B, attention, num_parts)
    assert_close(out_BX, reference_decode(q_BX, kv, positions_B, attention))
    assert not out_BX[5].any()


@has_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_prefill_kernel(shape: str, dtype: torch.dtype) -> None:
    """A whole prompt, the end of one, and a token in the middle of nothing else."""
    attention = SHAPES[shape]
    ends, starts = [TILE + 9, 170, 5], [0, 100, 4]
    kv = held_for(attention, ends, dtype)
    tiles, at = [], 0
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for first in range(start, end, TILE):
            tiles.append([row, at + first - start, first, min(TILE, end - first)])
        at += end - start
    tiles_M4 = torch.tensor(tiles, dtype=torch.int32, device=DEVICE)
    q_TX = torch.randn(at, attention.num_heads * attention.head_size, device=DEVICE).to(dtype)
    assert_close(prefill(q_TX, kv, tiles_M4, attention), reference_prefill(q_TX, kv, tiles_M4, attention))


@has_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "rotary_size", "norms", "offset"), [
    ("7 heads a key", 64, False, 0.0), ("a key of their own", 96, True, 0.0), ("window, softcap", 96, True, 1.0),
    ("small", 16, True, 0.0),
])  # fmt: skip
def test_place_kernel(shape: str, rotary_size: int, norms: bool, offset: float, dtype: torch.dtype) -> None:
    attention = SHAPES[shape]
    kv = held_for(attention, [70, 0, 10], dtype)
    rows_T = torch.tensor([0, 2, 1, 0, 2], dtype=torch.int32, device=DEVICE)
    positions_T = torch.tensor([66, 3, -1, 64, 9], dtype=torch.int32, device=DEVICE)
    width = (attention.num_heads + 2 * attention.num_kv_heads) * attention.head_size
    qkv_TN = torch.randn(5, width, device=DEVICE).to(dtype)
    turn = rotation(RopeSpec(rotary_size, 10_000.0), positions_T.clamp(min=0), dtype)
    weights = [(torch.rand(attention.head_size, device=DEVICE) + 0.5 - offset).to(dtype) for _ in range(2)]
    heads = HeadNorms(*weights, eps=1e-6, offset=offset) if norms else None
    other = PagedKV(kv.keys.clone(), kv.values.clone(), kv.table_BP)
    ours = place(qkv_TN, turn, heads, kv, rows_T, positions_T, attention)
    theirs = reference_place(qkv_TN, turn, heads, other, rows_T, positions_T, attention)
    own = positions_T >= 0
    assert_close(ours[own], theirs[own])
    for mine, its in ((kv.keys, other.keys), (kv.values, other.values)):
        assert torch.equal(mine.isnan(), its.isnan()), "nothing else is written"
        assert_close(mine.nan_to_num(), its.nan_to_num())


@has_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_rows", "num_inputs", "num_outputs"), [(1, 200, 300), (19, 2100, 70)])
@pytest.mark.parametrize("is_uniform", [True, False])
def test_pairs_kernel(num_rows: int, num_inputs: int, num_outputs: int, is_uniform: bool, dtype: torch.dtype) -> None:
    """Three lenses side by side, or one for all; one lens's numbers are no numbers, which is its own rows' affair."""
    ranks = [20] if is_uniform else [3, 16, 5]
    lenses = []
    for number, rank in enumerate(ranks):
        A_RK, B_RN = torch.randn(rank, num_inputs) / num_inputs**0.5, torch.randn(rank, num_outputs) / rank**0.5
        if number == 2:
            A_RK[0] = float("inf")
        lenses.append(Lens(str(number), (((A_RK.to(DEVICE, dtype), B_RN.to(DEVICE, dtype)),),)))
    owner_B = torch.arange(num_rows, device=DEVICE, dtype=torch.int32) % 3 - 1  # nobody's, the first's, the second's
    stack = Stack(lenses)
    x_BK = torch.randn(num_rows, num_inputs, device=DEVICE).to(dtype)
    before = torch.randn(num_rows, num_outputs, device=DEVICE).to(dtype)
    ours, theirs = before.clone(), before.clone()
    CardLensing(stack, owner_B, is_uniform=is_uniform).add(0, 0, x_BK, ours)
    Lensing(stack, owner_B, is_uniform=is_uniform).add(0, 0, x_BK, theirs)
    assert not torch.equal(ours, before) or (num_rows == 1 and not is_uniform)
    if not is_uniform:
        assert torch.equal(ours[::3], before[::3])
    assert_close(ours, theirs)


def test_through_the_interpreter() -> None:
    if DEVICE == "cuda" or IS_INTERPRETED:
        pytest.skip("the kernels are being tested right here")
    if not HAS_TRITON:
        pytest.skip("Triton is not installed")
    path = Path(__file__)
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(path), "-k", "kernel"]
    done = subprocess.run(
        command, cwd=path.parents[2], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout, "the child ran tests"
