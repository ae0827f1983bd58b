"""Kernels compiled for an H200 without one. The interpreter forgives what the compiler does not: types, layouts, and
tiles that do not fit shared memory. Launches are recorded on tensors without memory, at real models' shapes.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.ops import (
    byte_product,
    cross_entropy,
    gated,
    gated_low_rank,
    low_rank,
    many_copies,
    nf4_product,
    norm_low_rank,
    rms_norm,
    turn,
)
from danlu.ops.few_rows import Tiling
from danlu.ops.kernels import HAS_TRITON, IS_INTERPRETED
from danlu.ops.rope import HeadNorms, Rotation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_TRITON or IS_INTERPRETED, reason="needs Triton's compiler"),
]
HOPPER_SHARED_BYTES = 227 * 1024
POINTER = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int32: "*i32", torch.int64: "*i64",
    torch.uint8: "*u8", torch.int8: "*i8", torch.float8_e4m3fn: "*fp8e4nv",
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of kernels that were launched and compiled."""
    import triton
    from triton.backends.compiler import GPUTarget

    names: list[str] = []

    def run(self: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **kwargs: Any) -> None:
        options = {key: kwargs.pop(key) for key in OPTIONS if key in kwargs}
        bound = inspect.signature(self.fn).bind(*args, **kwargs).arguments
        signature, constants, attributes = {}, {}, {}
        for at, parameter in enumerate(self.params):
            value = bound[parameter.name]
            specializes = not parameter.do_not_specialize
            if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1 and specializes):
                signature[parameter.name], constants[(at,)] = "constexpr", value
                continue
            signature[parameter.name] = (
                POINTER[value.dtype] if isinstance(value, Tensor) else "i32" if isinstance(value, int) else "fp32"
            )
            if isinstance(value, Tensor) or (isinstance(value, int) and specializes and value % 16 == 0):
                attributes[(at,)] = [["tt.divisibility", 16]]
        source = triton.compiler.ASTSource(self, signature, constants, attributes)
        kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert kernel.metadata.shared <= HOPPER_SHARED_BYTES, f"{self.fn.__name__} asks {kernel.metadata.shared} bytes"
        assert all(0 < size < 2**31 for size in grid[:1]) and all(size < 2**16 for size in grid[1:])
        names.append(self.fn.__name__)

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", run)
    for module in (byte_product, gated, low_rank, many_copies, nf4_product, rms_norm, turn):
        monkeypatch.setattr(module, "fits", lambda *tensors: True)
    monkeypatch.setattr(low_rank, "_is_hopper", lambda device: True)
    return names


def rows(num_rows: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(num_rows, width + 64, dtype=dtype, device="meta")[:, :width]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("width", [896, 3584])
def test_norms(compiled: list[str], dtype: torch.dtype, width: int) -> None:
    x, weight = rows(16_384, width, dtype), torch.empty(width, dtype=dtype, device="meta")
    for offset in (0.0, 1.0):
        _, inverse = rms_norm.norm_forward(x, weight, 1e-6, offset)
        rms_norm.norm_backward(x, x, weight, inverse, offset, through_TD=x)
    rms_norm.norm_backward(x, x, weight, inverse)
    rms_norm.norm_weight_gradient(x, x, inverse)
    rms_norm.norm_forward(x, weight, 1e-6, add_TD=x, sum_TD=x)
    assert len(compiled) == 7


@pytest.mark.parametrize(("num_tokens", "width", "rank"), [(16_384, 3584, 48), (2048, 896, 32), (300, 896, 8)])
def test_low_rank_products_of_norms(compiled: list[str], num_tokens: int, width: int, rank: int) -> None:
    x, weight = rows(num_tokens, width), torch.empty(width, dtype=torch.bfloat16, device="meta")
    inverse, grad = torch.empty(num_tokens, device="meta"), torch.empty(rank, width, device="meta")
    norm_low_rank.add_normed_product_(grad, rows(num_tokens, rank), x, weight, inverse)
    assert compiled == ["_product_kernel", "_add_parts_kernel"]


@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize(("heads", "rotary_size"), [((28, 4, 128), 128), ((32, 32, 96), 96), ((16, 2, 128), 64)])
def test_turns(compiled: list[str], heads: tuple[int, int, int], rotary_size: int, has_norms: bool) -> None:
    num_heads, num_kv_heads, size = heads
    qkv = rows(16_384, (num_heads + 2 * num_kv_heads) * size)
    angles = torch.empty(16_384, rotary_size, dtype=torch.bfloat16, device="meta")
    weight, weight_grad = torch.empty(2, size, dtype=torch.bfloat16, device="meta"), torch.empty(2, size, device="meta")
    norms = HeadNorms(*weight, 1e-6, 0.0, *weight_grad) if has_norms else None
    grads = [
        torch.empty(8, n, 2048, size, dtype=torch.bfloat16, device="meta").transpose(1, 2)
        for n in (num_heads, num_kv_heads, num_kv_heads)
    ]
    turn.turn_qkv(qkv, Rotation(angles, angles), *heads)
    inverse = turn.turn_qkv(qkv, Rotation(angles, angles), *heads, norms, out_TN=rows(*qkv.shape))
    turn.turn_qkv_back(*grads, Rotation(angles, angles), norms, qkv, inverse, out_TN=qkv)
    assert compiled.count("_turn_kernel") == 2 and compiled.count("_turn_back_kernel") == 1
    assert compiled.count("_head_weight_kernel") == 2 * has_norms


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu", "relu"])
def test_gates(compiled: list[str], activation: gated.Activation) -> None:
    gate_up, grad = rows(16_384, 2 * 18_944), rows(16_384, 18_944)
    gated.gated_forward(gate_up, activation)
    gated.gated_backward_(grad, gate_up, activation)
    assert compiled == ["_forward_kernel", "_backward_kernel"]


@pytest.mark.parametrize("rank", [8, 16, 32, 48])
def test_low_rank_products(compiled: list[str], rank: int) -> None:
    dy, s, out = rows(16_384, 18_944), rows(16_384, rank), rows(16_384, rank)
    grad, b = torch.empty(18_944, rank, device="meta"), rows(18_944, rank)
    if rank <= low_rank.MAX_PAIR_RANK:
        part = low_rank.Part(slice(0, 18_944), slice(0, rank), grad, 1.0)
        low_rank.pairs_backward(dy, b, s, [part], out_TP=out)
        assert compiled == ["_stream_kernel", "_sum_kernel"]
        compiled.clear()
    low_rank.add_product_(grad.mT, s, dy)
    assert compiled == ["_stream_kernel", "_sum_kernel"]


@pytest.mark.parametrize(
    ("num_tokens", "sizes"),
    [
        (16_384, (18_944, 18_944)),
        (16_384, (3584, 512, 512)),
        (2048, (4864, 4864)),
        (2048, (896, 128, 128)),
        (64, (96,)),
    ],
)
def test_pairs_side_by_side(compiled: list[str], num_tokens: int, sizes: tuple[int, ...]) -> None:
    parts = [
        low_rank.Part(
            slice(sum(sizes[:at]), sum(sizes[: at + 1])), slice(16 * at, 16 * at + 16),
            torch.empty(size, 16, device="meta"), 2.0,
        )
        for at, size in enumerate(sizes)
    ]  # fmt: skip
    width = sum(sizes)
    low_rank.pairs_backward(
        rows(num_tokens, width), rows(width, 64), rows(num_tokens, 64), parts, out_TP=rows(num_tokens, 64)
    )
    assert compiled == ["_stream_kernel", "_sum_kernel"]


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu", "relu"])
@pytest.mark.parametrize(("num_tokens", "width", "rank"), [(16_384, 18_944, 16), (2048, 4864, 64)])
def test_gates_with_low_rank_products(
    compiled: list[str], activation: gated.Activation, num_tokens: int, width: int, rank: int
) -> None:
    gate_up, h, ds = rows(num_tokens, 2 * width), rows(num_tokens, width), rows(num_tokens, rank)
    gated_low_rank.gated_backward_low_rank_(h, gate_up, activation, ds, torch.empty(rank, width, device="meta"))
    assert compiled == ["_backward_kernel", "_add_parts_kernel"]


@pytest.mark.parametrize("num_stages", [1, 3])
def test_loss(compiled: list[str], num_stages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "NUM_STAGES", num_stages)
    targets = torch.empty(3456, dtype=torch.int64, device="meta")
    cross_entropy.chunk_in_place(torch.empty(3456, 151_936, dtype=torch.bfloat16, device="meta"), targets, None, True)
    cross_entropy.chunk_in_place(torch.empty(3456, 256_000, dtype=torch.bfloat16, device="meta"), targets, 30.0, True)
    assert compiled == ["_loss_kernel"] * 2


def test_many_copies(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_copies.ManyCopies, "_write_table", lambda self: None)
    copies = many_copies.ManyCopies([many_copies.Copy(torch.empty(16, 3584, device="meta"), rows(16, 3584))])
    copies._table, copies._scales = torch.empty(1, 5, dtype=torch.int64, device="meta"), torch.empty(1, device="meta")
    copies._starts = torch.empty(28, 2, dtype=torch.int32, device="meta")
    copies()
    assert compiled == ["_copy_kernel"]


@pytest.mark.parametrize("is_nested", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("num_rows", [1, 32, 64])
def test_few_rows_times_nf4(compiled: list[str], num_rows: int, dtype: torch.dtype, is_nested: bool) -> None:
    def blank(num: int, kind: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(num, dtype=kind, device="meta")

    shape, num_blocks = (37_888, 3584), 37_888 * 56
    codes, absmax = blank(num_blocks * 32, torch.uint8), blank(num_blocks, torch.uint8 if is_nested else torch.float32)
    nested = (blank(num_blocks // 256), blank(256), blank(shape[0])) if is_nested else (None, None, None)
    weight = nf4_product.NF4Rows((), codes, absmax, *nested, 256 if is_nested else 1, shape)
    nf4_product.product(rows(num_rows, 3584, dtype), weight)
    bias = torch.empty(shape[0], dtype=dtype, device="meta")
    whole = Tiling(rows=16, outputs=64, share=56, num_shares=1, num_warps=2, num_stages=4)
    nf4_product.product(rows(num_rows, 3584, dtype), weight, bias, tiles=whole)
    assert compiled.count("_product_kernel") == 2


@pytest.mark.parametrize("num_rows", [1, 32, 64])
def test_few_rows_times_bytes(compiled: list[str], num_rows: int) -> None:
    scale, row_scale = torch.empty(3584, device="meta"), torch.empty(num_rows, device="meta")
    for dtype, of_rows in ((torch.int8, None), (torch.float8_e4m3fn, row_scale)):
        x = rows(num_rows, 18_944, torch.bfloat16 if of_rows is None else dtype)
        codes = torch.empty(3584, 18_944, dtype=dtype, device="meta")
        byte_product.product(x, codes, scale, scale_B=of_rows, dtype=torch.bfloat16)
    assert compiled.count("_product_kernel") == 2
