"""The ops with a backward by hand against autograd in fp64: on CUDA their kernels, on a CPU the torch path here and the
kernels through Triton's interpreter.

Tolerances: an fp32 result errs by 1e-6 of the largest value (sums over a thousand tokens by 4e-6, in a GPU's matrix
units by 2e-5), a 16-bit one by two roundings of its own value and of the largest (a turn cancels). The interpreter cuts
bf16 off where a GPU rounds, which doubles that.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.ops import low_rank
from danlu.ops.gated import Activation, gated, gated_backward_, gated_forward
from danlu.ops.gated_low_rank import gated_backward_low_rank_
from danlu.ops.kernels import IS_INTERPRETED
from danlu.ops.low_rank import Part, add_product_, pairs_backward
from danlu.ops.norm_low_rank import add_normed_product_
from danlu.ops.rms_norm import norm_backward, norm_forward, norm_weight_gradient, reference_rms_norm, rms_norm
from danlu.ops.rope import HeadNorms, RopeSpec, Rotation, apply_rope, rotation, turn_qkv, turn_qkv_back

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
UNIT = {torch.float64: 1e-13, torch.float32: 2**-23, torch.float16: 2**-11, torch.bfloat16: 2**-8}


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no tensor is too small for its kernel."""
    torch.manual_seed(0)
    monkeypatch.setattr(low_rank, "MIN_BYTES", 0)


def assert_close(ours: Tensor, exact: Tensor, *, roundings: int = 2) -> None:
    assert ours.shape == exact.shape and not ours.isnan().any()
    unit = UNIT[ours.dtype] * roundings * (2 if IS_INTERPRETED and ours.dtype == torch.bfloat16 else 1)
    if ours.dtype == torch.float32:
        unit = 2e-6 if roundings > 2 else 1e-6
    largest = float(exact.abs().max()) if exact.numel() else 0.0
    torch.testing.assert_close(ours.double(), exact, rtol=unit, atol=unit * max(largest, 1e-3))


def rows(num_rows: int, width: int, dtype: torch.dtype, device: str, scale: float = 1.0) -> Tensor:
    """The first rows and columns of a larger buffer, the rest of which is poison."""
    buffer = torch.full((num_rows + 2, width + 16), float("nan"), dtype=dtype, device=device)
    buffer[:num_rows, :width] = torch.randn(num_rows, width, dtype=torch.float64).mul_(scale).to(dtype)
    return buffer[:num_rows, :width]


def leaf(x: Tensor) -> Tensor:
    return x.detach().double().requires_grad_()


# ---- norm


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(("num_rows", "width"), [(9, 384), (2, 3584), (33, 96), (1, 5), (0, 64)])
def test_norm_forward_and_backward(dtype: torch.dtype, offset: float, num_rows: int, width: int, device: str) -> None:
    x, grad, through = (rows(num_rows, width, dtype, device) for _ in range(3))
    weight = (torch.rand(width, device=device) + 0.5).to(dtype)
    out, inverse = norm_forward(x, weight, 1e-6, offset, out_TD=rows(num_rows, width, dtype, device))
    assert inverse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide_x, wide_weight = leaf(x), leaf(weight)
    truth = reference_rms_norm(wide_x, wide_weight, 1e-6, offset)
    grad_x, grad_weight = torch.autograd.grad(truth, (wide_x, wide_weight), grad.double())
    assert_close(out, truth.detach())
    assert_close(norm_backward(grad, x, weight, inverse, offset), grad_x)
    before = through.clone()
    assert_close(norm_backward(grad, x, weight, inverse, offset, through_TD=through), grad_x + before.double())
    assert_close(norm_weight_gradient(grad, x, inverse), grad_weight)
    into_input = norm_backward(grad, x, weight, inverse, offset, through_TD=through, out_TD=through)
    assert into_input is through
    assert_close(through, grad_x + before.double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_rows", "width"), [(9, 384), (2, 3584), (1, 5), (0, 64)])
def test_norm_of_a_sum_is_the_norm_of_what_the_sum_became(
    dtype: torch.dtype, num_rows: int, width: int, device: str
) -> None:
    """Backward norms the kept stream again, which is the rounded sum."""
    x, add, total = (rows(num_rows, width, dtype, device) for _ in range(3))
    weight = (torch.rand(width, device=device) + 0.5).to(dtype)
    out, inverse = norm_forward(x, weight, 1e-6, add_TD=add, sum_TD=total)
    assert_close(total, x.double() + add.double())
    again, inverse_again = norm_forward(total, weight, 1e-6)
    assert torch.equal(out, again) and torch.equal(inverse, inverse_again)
    norm_forward(x, weight, 1e-6, add_TD=add, sum_TD=add, out_TD=out)
    assert torch.equal(add, total) and torch.equal(out, again), "the sum may take the place of an addend"


def test_norm_of_a_zero_row_is_zero(device: str) -> None:
    x, weight = torch.zeros(3, 40, device=device), torch.ones(40, device=device)
    out, inverse = norm_forward(x, weight, 1e-6)
    assert not out.any() and torch.allclose(inverse, torch.full_like(inverse, 1e3))
    assert norm_backward(torch.ones_like(x), x, weight, inverse).isfinite().all()


def test_norm_statistics_survive_fp16(device: str) -> None:
    """4096 squares of 100 would be infinite in fp16."""
    x = torch.full((1, 4096), 100.0, dtype=torch.float16, device=device)
    out, _ = norm_forward(x, torch.ones(4096, dtype=torch.float16, device=device), 1e-6)
    assert torch.equal(out, torch.ones_like(x))


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norm_forward_is_the_plain_norm_to_the_bit(offset: float, device: str) -> None:
    """Where no kernel runs: training by hand starts from the very values that generation and evaluation see."""
    if device == "cuda" or IS_INTERPRETED:
        pytest.skip("a kernel sums in another order")
    x, weight = torch.randn(7, 64).bfloat16(), torch.rand(64).bfloat16()
    assert torch.equal(norm_forward(x, weight, 1e-6, offset)[0], rms_norm(x, weight, 1e-6, offset))


# ---- turn


def plain_turn(qkv: Tensor, turn: Rotation, heads: tuple[int, int, int], norms: HeadNorms | None) -> Tensor:
    num_heads, num_kv_heads, size = heads
    q, k, v = qkv.split([num_heads * size, num_kv_heads * size, num_kv_heads * size], dim=1)
    q, k = q.unflatten(1, (num_heads, size)), k.unflatten(1, (num_kv_heads, size))
    if norms:
        q = reference_rms_norm(q, norms.q_weight, norms.eps, norms.offset)
        k = reference_rms_norm(k, norms.k_weight, norms.eps, norms.offset)
    return torch.cat((apply_rope(q, turn).flatten(1), apply_rope(k, turn).flatten(1), v), dim=1)


def head_norms(size: int, dtype: torch.dtype, offset: float | None, device: str) -> HeadNorms | None:
    if offset is None:
        return None
    weights = [(torch.rand(size, device=device) + 0.5).to(dtype) for _ in range(2)]
    grads = [torch.zeros(size, dtype=torch.promote_types(dtype, torch.float32), device=device) for _ in range(2)]
    return HeadNorms(*weights, 1e-6, offset, *grads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [None, 0.0, 1.0])
@pytest.mark.parametrize(
    ("num_tokens", "heads", "rotary_size"),
    [(22, (5, 2, 64), 64), (6, (3, 3, 96), 96), (10, (4, 1, 80), 32), (4, (2, 1, 256), 64), (0, (2, 1, 8), 8)],
)
def test_turn_and_turn_back(
    dtype: torch.dtype,
    offset: float | None,
    num_tokens: int,
    heads: tuple[int, int, int],
    rotary_size: int,
    device: str,
) -> None:
    num_heads, num_kv_heads, size = heads
    width = (num_heads + 2 * num_kv_heads) * size
    turn = rotation(RopeSpec(rotary_size, theta=100.0), torch.arange(num_tokens, device=device), dtype)
    norms, raw, out = head_norms(size, dtype, offset, device), *(rows(num_tokens, width, dtype, device) for _ in "ab")
    inverse = turn_qkv(raw, turn, *heads, norms, out_TN=out)

    wide_turn, wide_raw = Rotation(turn.cos.double(), turn.sin.double()), leaf(raw)
    wide_norms = HeadNorms(leaf(norms.q_weight), leaf(norms.k_weight), 1e-6, norms.offset) if norms else None
    truth = plain_turn(wide_raw, wide_turn, heads, wide_norms)
    assert_close(out, truth.detach(), roundings=4 if norms else 2)

    # as attention over [B, H, S, D] gives them
    grads = [
        torch.randn(2, n, num_tokens // 2, size, dtype=torch.float64).to(device, dtype).transpose(1, 2)
        for n in (num_heads, num_kv_heads, num_kv_heads)
    ]
    upstream = torch.cat([grad.flatten(0, 1).flatten(1) for grad in grads], dim=1).double()
    wanted = (wide_raw, wide_norms.q_weight, wide_norms.k_weight) if wide_norms else (wide_raw,)
    exact = torch.autograd.grad(truth, wanted, upstream)
    result = turn_qkv_back(*grads, turn, norms, raw, inverse, out_TN=out)
    assert result is out
    assert_close(out, exact[0], roundings=3)
    if norms:
        assert norms.q_grad is not None and norms.k_grad is not None
        for ours, theirs in ((norms.q_grad, exact[1]), (norms.k_grad, exact[2])):
            # the torch path takes the gradient as the turn back rounded it
            scale = float(theirs.abs().max()) if num_tokens else 1.0
            assert float((ours.double() - theirs).abs().max()) <= 4 * UNIT[dtype] * scale + 1e-6
    flat = [grad.flatten(0, 1) for grad in grads]
    again = turn_qkv_back(*flat, turn, norms, raw, inverse, out_TN=torch.empty_like(out))
    assert torch.equal(again, out), "[B, S, H, D] and [T, H, D] mean the same"


@pytest.mark.parametrize("rotary_size", [64, 16])
def test_turn_in_place_is_turn_and_touches_nothing_else(rotary_size: int, device: str) -> None:
    turn = rotation(RopeSpec(rotary_size, theta=100.0), torch.arange(7, device=device), torch.float32)
    buffer = torch.randn(7, 4 * 64 + 8, device=device)
    before = buffer.clone()
    out = torch.empty(7, 4 * 64, device=device)
    turn_qkv(buffer[:, : 4 * 64], turn, 2, 1, 64, out_TN=out)
    assert torch.equal(buffer, before)
    assert turn_qkv(buffer[:, : 4 * 64], turn, 2, 1, 64) is None
    assert torch.equal(buffer[:, : 4 * 64], out)
    assert torch.equal(buffer[:, 3 * 64 :], before[:, 3 * 64 :]), "values and neighbours stay"


# ---- gate


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu", "relu"])
@pytest.mark.parametrize(("num_rows", "width"), [(3, 1500), (5, 64), (0, 8)])
def test_gate_forward_and_backward(
    dtype: torch.dtype, activation: Activation, num_rows: int, width: int, device: str
) -> None:
    gate_up, grad = rows(num_rows, 2 * width, dtype, device, scale=3.0), rows(num_rows, width, dtype, device)
    wide = leaf(gate_up)
    truth = gated(wide[:, :width], wide[:, width:], activation)
    (exact,) = torch.autograd.grad(truth, wide, grad.double())
    product = gated_forward(gate_up, activation, out_TF=rows(num_rows, width, dtype, device))
    assert_close(product, truth.detach())
    gated_backward_(grad, gate_up, activation)
    assert torch.equal(grad, product), "the backward remakes the forward's product to the bit"
    assert_close(gate_up, exact)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu"])
def test_gates_far_out_are_finite(activation: Activation, device: str) -> None:
    gate_up = torch.tensor([[-200.0, 200.0, 1.0, 1.0]], device=device)
    product = gated_forward(gate_up, activation)
    grad = torch.ones(1, 2, device=device)
    gated_backward_(grad, gate_up, activation)
    assert product.tolist() == [[0.0, 200.0]]
    assert gate_up.tolist() == [[0.0, 1.0, 0.0, 200.0]]


def test_the_torch_path_in_pieces_is_the_whole() -> None:
    """130 rows of 1000 are three pieces."""
    gate_up, grad = torch.randn(130, 2000, dtype=torch.float64), torch.randn(130, 1000, dtype=torch.float64)
    wide = leaf(gate_up)
    (exact,) = torch.autograd.grad(gated(wide[:, :1000], wide[:, 1000:], "silu"), wide, grad)
    gated_backward_(grad, gate_up, "silu")
    torch.testing.assert_close(gate_up, exact, rtol=1e-12, atol=1e-12)


# ---- low rank


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("num_tokens", "width", "rank"), [(150, 1100, 16), (65, 512, 24), (1, 40, 8), (70, 520, 32), (1100, 40, 8)]
)
def test_both_low_rank_products(dtype: torch.dtype, num_tokens: int, width: int, rank: int, device: str) -> None:
    if dtype == torch.bfloat16 and IS_INTERPRETED:
        pytest.skip("the interpreter multiplies bf16 as integers")
    dy, b = rows(num_tokens, width, dtype, device), rows(width, rank, dtype, device, scale=0.1)
    s, out = (rows(num_tokens, rank, dtype, device) for _ in range(2))
    grad = torch.ones(width, rank, dtype=torch.promote_types(dtype, torch.float32), device=device)
    pairs_backward(dy, b, s, [Part(slice(0, width), slice(0, rank), grad, 0.5)], out_TP=out)
    assert_close(out, dy.double() @ b.double(), roundings=3)
    exact = 0.5 * dy.double().T @ s.double()
    bound = sum_error(dtype, device) * float(exact.abs().max() + 1)
    assert float((grad.double() - 1 - exact).abs().max()) <= bound
    grad_of_a = torch.ones(rank, width, dtype=grad.dtype, device=device)
    add_product_(grad_of_a, s, dy, 0.5)
    assert float((grad_of_a.double() - 1 - exact.T).abs().max()) <= bound


def sum_error(dtype: torch.dtype, device: str) -> float:
    """Torch's product on a CPU is rounded to its dtype before it is added."""
    if device == "cuda":
        return 2e-5
    return 4e-6 if IS_INTERPRETED else 4e-6 + 2 * UNIT[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("min_bytes", [0, 1 << 40], ids=["wide tiles", "narrow tiles"])
@pytest.mark.parametrize(
    ("sizes", "ranks", "first"), [((600, 130, 130), (16, 16, 16), 0), ((300, 520), (8, 24), 64), ((40,), (32,), 8)]
)
def test_pairs_side_by_side(
    dtype: torch.dtype,
    min_bytes: int,
    sizes: tuple[int, ...],
    ranks: tuple[int, ...],
    first: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Queries, keys and values of one row, of different ranks, behind a layer that has none."""
    monkeypatch.setattr(low_rank, "MIN_BYTES", min_bytes)
    num_tokens, width, padding = 70, first + sum(sizes) + 8, 64
    dy, b = rows(num_tokens, width, dtype, device), rows(width, padding, dtype, device, scale=0.1)
    s, out = (rows(num_tokens, padding, dtype, device) for _ in range(2))
    wide = torch.promote_types(dtype, torch.float32)
    parts, row, rank = [], first, 0
    for size, share in zip(sizes, ranks, strict=True):
        grad = torch.ones(size, share, dtype=wide, device=device)
        parts.append(Part(slice(row, row + size), slice(rank, rank + share), grad, 0.5 * (1 + len(parts))))
        row, rank = row + size, rank + share
    pairs_backward(dy, b, s, parts, out_TP=out)
    for part in parts:
        dy_part = dy[:, part.rows].double()
        assert_close(out[:, part.ranks], dy_part @ b[part.rows, part.ranks].double(), roundings=3)
        exact = part.scale * dy_part.T @ s[:, part.ranks].double()
        bound = sum_error(dtype, device) * float(exact.abs().max() + 1)
        assert float((part.gradient.double() - 1 - exact).abs().max()) <= bound
    assert not out[:, rank:].any(), "what belongs to no pair meets zeros, and must not be NaN"


@pytest.mark.parametrize(
    ("num_tiles", "num_steps", "slots"), [(74, 256, 132), (9, 32, 396), (1, 1, 132), (500, 7, 132)]
)
def test_a_split_leaves_few_multiprocessors_idle(num_tiles: int, num_steps: int, slots: int) -> None:
    split = low_rank.best_split(num_tiles, num_steps, slots)
    assert 1 <= split <= num_steps
    rounds = -(-num_tiles * split // slots)
    assert rounds * -(-num_steps // split) <= 1.35 * max(num_tiles * num_steps / slots, 1), "of the least possible"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuBLAS needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_low_rank_products_by_cublas(dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "fits", lambda *tensors: False)
    test_both_low_rank_products(dtype, 1100, 40, 8, device)


def test_long_rows_of_tokens_go_by_in_stretches(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "MAX_TOKENS", 128)
    test_both_low_rank_products(torch.float16, 300, 600, 16, device)


# ---- norm, gate and low rank


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(("num_tokens", "width", "rank"), [(70, 384, 16), (5, 1000, 33), (1, 40, 8), (0, 64, 8)])
def test_low_rank_product_of_a_norm(
    dtype: torch.dtype, offset: float, num_tokens: int, width: int, rank: int, device: str
) -> None:
    if dtype == torch.bfloat16 and IS_INTERPRETED:
        pytest.skip("the interpreter multiplies bf16 as integers")
    x = rows(num_tokens, width, dtype, device)
    weight = (torch.rand(width, device=device) + 0.5).to(dtype)
    out, inverse = norm_forward(x, weight, 1e-6, offset)
    ds = rows(num_tokens, rank, dtype, device)
    grad_of_a = torch.ones(rank, width, dtype=torch.promote_types(dtype, torch.float32), device=device)
    add_normed_product_(grad_of_a, ds, x, weight, inverse, offset, scale=0.5)
    exact = 0.5 * ds.double().T @ out.double()
    bound = sum_error(dtype, device) * float(exact.abs().max() + 1)
    assert float((grad_of_a.double() - 1 - exact).abs().max()) <= bound, "the very norm that the forward gave"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize(("num_tokens", "width", "rank"), [(90, 520, 16), (17, 200, 24), (1, 40, 8), (0, 64, 8)])
def test_gate_with_low_rank_product(
    dtype: torch.dtype, activation: Activation, num_tokens: int, width: int, rank: int, device: str
) -> None:
    if dtype == torch.bfloat16 and IS_INTERPRETED:
        pytest.skip("the interpreter multiplies bf16 as integers")
    gate_up = rows(num_tokens, 2 * width, dtype, device, scale=3.0)
    grad, ds = rows(num_tokens, width, dtype, device), rows(num_tokens, rank, dtype, device)
    wide = leaf(gate_up)
    truth = gated(wide[:, :width], wide[:, width:], activation)
    (exact,) = torch.autograd.grad(truth, wide, grad.double())

    product = gated_forward(gate_up, activation)
    grad_of_a = torch.ones(rank, width, dtype=torch.promote_types(dtype, torch.float32), device=device)
    gated_backward_low_rank_(grad, gate_up, activation, ds, grad_of_a, scale=0.5)
    assert_close(gate_up, exact)
    exact_of_a = 0.5 * ds.double().T @ product.double()
    bound = sum_error(dtype, device) * float(exact_of_a.abs().max() + 1)
    assert float((grad_of_a.double() - 1 - exact_of_a).abs().max()) <= bound


# ---- the same with the kernels


def test_the_kernels_through_the_interpreter(through_the_interpreter) -> None:
    through_the_interpreter()
