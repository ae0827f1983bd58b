"""Queries and keys turned by given angles, in fused rows [queries | keys | values], forward and backward by hand.

Norms of the heads (Qwen3, Gemma 3) are taken along, for one reading and one writing of the row. Where angles come from
is told in `rope.py`, and how a family stretches them.

Shapes: T tokens, H query heads, K key/value heads, D head size, R rotated part of D, F = R/2, N = (H + 2K) D; in
kernels one head is a row, W and P are its columns. Rows may lie further apart than they are wide.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.ops.head_tiles import load_angles, load_heads, store_heads, tile_of
from danlu.ops.kernels import fits, jit, tl, triton
from danlu.ops.rms_norm import norm_weight_gradient, reference_norm_backward, reference_norm_forward, scaled, slope_of

WEIGHT_PARTS = 256  # programs among which the gradient of a head norm's weight is summed, in the same order each time


@dataclass(frozen=True)
class Rotation:
    """cos and sin of a batch of tokens, the two halves of R equal; computed once per forward and kind of
    layer."""

    cos: Tensor  # [T, R]
    sin: Tensor  # [T, R]

    @functools.cached_property
    def signed_sin(self) -> Tensor:
        """[T, R]: (-sin, sin), so that a turn is x · cos + (x₂, x₁) · signed_sin."""
        half_TF = self.sin.chunk(2, dim=-1)[0]
        return torch.cat((-half_TF, half_TF), dim=-1)


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMSNorms over each query and each key head before the turn, as Qwen3 and Gemma 3 have them."""

    q_weight: Tensor  # [D]
    k_weight: Tensor  # [D]
    eps: float
    offset: float = 0.0
    q_grad: Tensor | None = None
    """[D] fp32: `turn_qkv_back` adds the weight's gradient to it. None: the weight does not train."""
    k_grad: Tensor | None = None


def rotate(x_THD: Tensor, cos_TR: Tensor, signed_sin_TR: Tensor) -> Tensor:
    """The first R dimensions of each head turned, dimension i with i + R/2; the others pass."""
    size = cos_TR.shape[-1]
    cos, sin = cos_TR[:, None].to(x_THD.dtype), signed_sin_TR[:, None].to(x_THD.dtype)
    part = x_THD[..., :size]
    first, second = part.chunk(2, dim=-1)
    turned = (part * cos).addcmul_(torch.cat((second, first), dim=-1), sin)
    return turned if size == x_THD.shape[-1] else torch.cat((turned, x_THD[..., size:]), dim=-1)


def turn_qkv(
    qkv_TN: Tensor,
    turn: Rotation,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    norms: HeadNorms | None = None,
    *,
    out_TN: Tensor | None = None,
) -> Tensor | None:
    """Queries and keys normed (if `norms`) and turned, values as they are, in place or into `out_TN`.

    Returns the inverse rms of each head, [T, H + K] in fp32, or None without norms. The backward of the norms wants
    the raw row too: give `out_TN` and keep `qkv_TN`.
    """
    out_TN = qkv_TN if out_TN is None else out_TN
    num_turned = num_heads + num_kv_heads
    size = num_turned * head_size
    assert qkv_TN.shape[-1] == size + num_kv_heads * head_size, "a row is [queries | keys | values]"
    if fits(qkv_TN, turn.cos, out_TN):
        return _turn_on_gpu(qkv_TN, turn, num_heads, num_kv_heads, head_size, norms, out_TN)
    heads_THD, inverse = _as_heads(qkv_TN[:, :size], num_turned), None
    if norms is not None:
        q_THD, q_inverse = reference_norm_forward(heads_THD[:, :num_heads], norms.q_weight, norms.eps, norms.offset)
        k_TKD, k_inverse = reference_norm_forward(heads_THD[:, num_heads:], norms.k_weight, norms.eps, norms.offset)
        heads_THD, inverse = torch.cat((q_THD, k_TKD), dim=1), torch.cat((q_inverse, k_inverse), dim=1)
    _as_heads(out_TN[:, :size], num_turned).copy_(rotate(heads_THD, turn.cos, turn.signed_sin))
    if out_TN is not qkv_TN:
        out_TN[:, size:].copy_(qkv_TN[:, size:])
    return inverse


def turn_qkv_back(
    grad_q_THD: Tensor,
    grad_k_TKD: Tensor,
    grad_v_TKD: Tensor,
    turn: Rotation,
    norms: HeadNorms | None = None,
    raw_qkv_TN: Tensor | None = None,
    inverse: Tensor | None = None,
    *,
    out_TN: Tensor,
) -> Tensor:
    """The gradient of the fused row, [dq | dk | dv], into `out_TN`.

    Incoming gradients may have any strides with a contiguous last dimension, and a batch in front ([B, S, H, D], also
    as the transpose of [B, H, S, D]) where T = B S. With norms: the raw row and what `turn_qkv` returned.
    """
    if fits(grad_q_THD, grad_k_TKD, grad_v_TKD, turn.cos, out_TN):
        _turn_back_on_gpu((grad_q_THD, grad_k_TKD, grad_v_TKD), turn, norms, raw_qkv_TN, inverse, out_TN)
        return out_TN
    at = 0
    for part, grad in enumerate((grad_q_THD, grad_k_TKD, grad_v_TKD)):
        grad_THD = grad.flatten(0, -3)
        num_heads, head_size = grad_THD.shape[1:]
        here = slice(at, at + num_heads * head_size)
        if part < 2:
            grad_THD = rotate(grad_THD, turn.cos, -turn.signed_sin)
            if norms is not None:
                assert raw_qkv_TN is not None and inverse is not None, "norms turn back with what the forward kept"
                raw_THD = _as_heads(raw_qkv_TN[:, here], num_heads)
                inverse_TH = inverse[:, at // head_size : at // head_size + num_heads]
                grad_THD = _norm_back(norms, part, grad_THD, raw_THD, inverse_TH)
        _as_heads(out_TN[:, here], num_heads).copy_(grad_THD)
        at = here.stop
    return out_TN


def _as_heads(x_TN: Tensor, num_heads: int) -> Tensor:
    """A view, also of columns of a wider row."""
    return x_TN.view(len(x_TN), num_heads, x_TN.shape[1] // num_heads)


def _norm_back(norms: HeadNorms, part: int, grad_THD: Tensor, raw_THD: Tensor, inverse_TH: Tensor) -> Tensor:
    weight, weight_grad = ((norms.q_weight, norms.q_grad), (norms.k_weight, norms.k_grad))[part]
    if weight_grad is not None:
        weight_grad += norm_weight_gradient(grad_THD.flatten(0, 1), raw_THD.flatten(0, 1), inverse_TH.flatten())
    return reference_norm_backward(grad_THD, raw_THD, weight, inverse_TH, norms.offset)


def _turn_on_gpu(
    qkv_TN: Tensor, turn: Rotation, num_heads: int, num_kv_heads: int, head_size: int, norms: HeadNorms | None,
    out_TN: Tensor,
) -> Tensor | None:  # fmt: skip
    num_tokens, copies_v = len(qkv_TN), out_TN is not qkv_TN
    shape = tile_of(head_size, turn.cos.shape[-1])
    num_tiles = [triton.cdiv(num_tokens * heads, shape["ROWS"]) for heads in (num_heads, num_kv_heads, num_kv_heads)]
    inverse = None
    if norms is not None:
        inverse = torch.empty(num_tokens, num_heads + num_kv_heads, dtype=torch.float32, device=qkv_TN.device)
    if num_tokens:
        _turn_kernel[(sum(num_tiles if copies_v else num_tiles[:2]),)](
            qkv_TN, out_TN, turn.cos, turn.sin, norms and norms.q_weight, norms and norms.k_weight, inverse,
            num_tokens, qkv_TN.stride(0), out_TN.stride(0), turn.cos.stride(0), turn.sin.stride(0),
            norms.eps if norms else 0.0,
            H=num_heads, K=num_kv_heads, OFFSET=norms.offset if norms else 0.0, COPIES=copies_v, **shape,
        )  # fmt: skip
    return inverse


def _turn_back_on_gpu(
    grads: tuple[Tensor, Tensor, Tensor], turn: Rotation, norms: HeadNorms | None, raw_TN: Tensor | None,
    inverse: Tensor | None, out_TN: Tensor,
) -> None:  # fmt: skip
    num_tokens, (num_heads, head_size), num_kv_heads = len(out_TN), grads[0].shape[-2:], grads[1].shape[-2]
    # [B, S, H, D] is read where it lies; [T, H, D] is one row of T
    grads_BSHD = [grad if grad.dim() == 4 else grad[None] for grad in grads]
    length = grads_BSHD[0].shape[1]
    assert {grad.shape[0] * grad.shape[1] for grad in grads_BSHD} == {num_tokens}, "gradients of the same tokens"
    assert all(grad.stride(-1) == 1 for grad in grads), "a head's gradient is contiguous"
    if not num_tokens:
        return
    shape = tile_of(head_size, turn.cos.shape[-1])
    num_tiles = [triton.cdiv(num_tokens * heads, shape["ROWS"]) for heads in (num_heads, num_kv_heads, num_kv_heads)]
    angles = (turn.cos, turn.sin, turn.cos.stride(0), turn.sin.stride(0))
    if norms is not None:
        assert raw_TN is not None and inverse is not None, "norms turn back with what the forward kept"
        for part, weight_grad in enumerate((norms.q_grad, norms.k_grad)):
            if weight_grad is None:
                continue
            heads, at = ((num_heads, 0), (num_kv_heads, num_heads))[part]
            tiles_per_part = triton.cdiv(num_tiles[part], WEIGHT_PARTS)
            sums_PD = torch.empty(triton.cdiv(num_tiles[part], tiles_per_part), head_size, device=out_TN.device)
            _head_weight_kernel[(len(sums_PD),)](
                grads_BSHD[part], raw_TN[:, at * head_size :], inverse[:, at:], sums_PD, *angles, num_tokens, length,
                tiles_per_part, *grads_BSHD[part].stride()[:3], raw_TN.stride(0), inverse.stride(0),
                HEADS=heads, **shape,
            )  # fmt: skip
            weight_grad += sums_PD.sum(0)
    _turn_back_kernel[(sum(num_tiles),)](
        *grads_BSHD, raw_TN if norms else None, norms and norms.q_weight, norms and norms.k_weight,
        inverse if norms else None, out_TN, *angles, num_tokens, length,
        *(stride for grad in grads_BSHD for stride in grad.stride()[:3]),
        0 if raw_TN is None else raw_TN.stride(0), 0 if inverse is None else inverse.stride(0), out_TN.stride(0),
        H=num_heads, K=num_kv_heads, OFFSET=norms.offset if norms else 0.0, **shape,
    )  # fmt: skip


@jit(do_not_specialize=["num_tokens"])
def _turn_kernel(  # type: ignore[no-untyped-def]
    qkv, out, cos, sin, q_weight, k_weight, inverse,
    num_tokens, qkv_stride, out_stride, cos_stride, sin_stride, eps,
    H: tl.constexpr, K: tl.constexpr, OFFSET: tl.constexpr, COPIES: tl.constexpr,
    D: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """First the programs of q, then those of k, then, if v is copied, those of v."""
    tile, v_at = tl.program_id(0), (H + K) * D
    num_q_tiles, num_k_tiles = tl.cdiv(num_tokens * H, ROWS), tl.cdiv(num_tokens * K, ROWS)
    if tile < num_q_tiles:
        _turn_tile(
            tile, qkv, out, cos, sin, q_weight, inverse,
            num_tokens, qkv_stride, out_stride, cos_stride, sin_stride, eps,
            H, H + K, True, OFFSET, COPIES, D, F, ROWS, HALF, REST,
        )  # fmt: skip
    elif tile < num_q_tiles + num_k_tiles:
        _turn_tile(
            tile - num_q_tiles, qkv + H * D, out + H * D, cos, sin, k_weight, None if inverse is None else inverse + H,
            num_tokens, qkv_stride, out_stride, cos_stride, sin_stride, eps,
            K, H + K, True, OFFSET, COPIES, D, F, ROWS, HALF, REST,
        )  # fmt: skip
    else:
        _turn_tile(
            tile - num_q_tiles - num_k_tiles, qkv + v_at, out + v_at, cos, sin, None, None,
            num_tokens, qkv_stride, out_stride, cos_stride, sin_stride, eps,
            K, H + K, False, OFFSET, COPIES, D, F, ROWS, HALF, REST,
        )  # fmt: skip


@jit
def _turn_tile(  # type: ignore[no-untyped-def]
    tile, qkv, out, cos, sin, weight, inverse,
    num_tokens, qkv_stride, out_stride, cos_stride, sin_stride, eps,
    HEADS: tl.constexpr, NUM_TURNED: tl.constexpr, TURNS: tl.constexpr, OFFSET: tl.constexpr, COPIES: tl.constexpr,
    D: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    row_R = tile * ROWS + tl.arange(0, ROWS)
    token_R, head_R = (row_R // HEADS).to(tl.int64), row_R % HEADS
    is_row_R = token_R < num_tokens
    dtype: tl.constexpr = qkv.dtype.element_ty
    first, second, rest = load_heads(qkv + token_R * qkv_stride + head_R * D, is_row_R, D, F, HALF, REST)
    if weight is not None:
        squares_R = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
        if REST > 0:
            squares_R += tl.sum(rest * rest, axis=1)
        inverse_R = tl.rsqrt(squares_R / D + eps)
        tl.store(inverse + token_R * NUM_TURNED + head_R, inverse_R, mask=is_row_R)
        first_weight, second_weight, rest_weight = load_heads(
            weight + tl.arange(0, 1), tl.arange(0, 1) == 0, D, F, HALF, REST
        )
        first = scaled(first * inverse_R[:, None], first_weight, dtype, OFFSET).to(dtype).to(tl.float32)
        second = scaled(second * inverse_R[:, None], second_weight, dtype, OFFSET).to(dtype).to(tl.float32)
        if REST > 0:
            rest = scaled(rest * inverse_R[:, None], rest_weight, dtype, OFFSET)
    if TURNS:
        cos_RF = load_angles(cos, cos_stride, token_R, is_row_R, dtype, F, HALF)
        sin_RF = load_angles(sin, sin_stride, token_R, is_row_R, dtype, F, HALF)
        first, second = first * cos_RF - second * sin_RF, second * cos_RF + first * sin_RF
    if COPIES or weight is not None:
        store_heads(out + token_R * out_stride + head_R * D, first, second, rest, is_row_R, D, F, HALF, REST)
    else:  # in place: what is not turned stays where it is
        store_heads(out + token_R * out_stride + head_R * D, first, second, rest, is_row_R, D, F, HALF, 0)


@jit(do_not_specialize=["num_tokens", "length"])
def _turn_back_kernel(  # type: ignore[no-untyped-def]
    grad_q, grad_k, grad_v, raw, q_weight, k_weight, inverse, out, cos, sin, cos_stride, sin_stride, num_tokens, length,
    q_batch_stride, q_token_stride, q_head_stride, k_batch_stride, k_token_stride, k_head_stride,
    v_batch_stride, v_token_stride, v_head_stride, raw_stride, inverse_stride, out_stride,
    H: tl.constexpr, K: tl.constexpr, OFFSET: tl.constexpr,
    D: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    tile, v_at = tl.program_id(0), (H + K) * D
    num_q_tiles, num_k_tiles = tl.cdiv(num_tokens * H, ROWS), tl.cdiv(num_tokens * K, ROWS)
    if tile < num_q_tiles:
        _turn_back_tile(
            tile, grad_q, raw, q_weight, inverse, out, cos, sin, cos_stride, sin_stride, num_tokens, length,
            q_batch_stride, q_token_stride, q_head_stride, raw_stride, inverse_stride, out_stride,
            H, True, OFFSET, D, F, ROWS, HALF, REST,
        )  # fmt: skip
    elif tile < num_q_tiles + num_k_tiles:
        _turn_back_tile(
            tile - num_q_tiles, grad_k, None if raw is None else raw + H * D, k_weight,
            None if inverse is None else inverse + H, out + H * D,
            cos, sin, cos_stride, sin_stride, num_tokens, length,
            k_batch_stride, k_token_stride, k_head_stride, raw_stride, inverse_stride, out_stride,
            K, True, OFFSET, D, F, ROWS, HALF, REST,
        )  # fmt: skip
    else:
        _turn_back_tile(
            tile - num_q_tiles - num_k_tiles, grad_v, None, None, None, out + v_at,
            cos, sin, cos_stride, sin_stride, num_tokens, length,
            v_batch_stride, v_token_stride, v_head_stride, raw_stride, inverse_stride, out_stride,
            K, False, OFFSET, D, F, ROWS, HALF, REST,
        )  # fmt: skip


@jit
def _turn_back_tile(  # type: ignore[no-untyped-def]
    tile, grad, raw, weight, inverse, out, cos, sin, cos_stride, sin_stride, num_tokens, length,
    batch_stride, token_stride, head_stride, raw_stride, inverse_stride, out_stride,
    HEADS: tl.constexpr, TURNS: tl.constexpr, OFFSET: tl.constexpr,
    D: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    row_R = tile * ROWS + tl.arange(0, ROWS)
    token_R, head_R = (row_R // HEADS).to(tl.int64), row_R % HEADS
    is_row_R = token_R < num_tokens
    dtype: tl.constexpr = out.dtype.element_ty
    at_R = grad + token_R // length * batch_stride + token_R % length * token_stride + head_R * head_stride
    first, second, rest = load_heads(at_R, is_row_R, D, F, HALF, REST)
    if TURNS:
        cos_RF = load_angles(cos, cos_stride, token_R, is_row_R, dtype, F, HALF)
        sin_RF = load_angles(sin, sin_stride, token_R, is_row_R, dtype, F, HALF)
        first, second = first * cos_RF + second * sin_RF, second * cos_RF - first * sin_RF
    if weight is not None:
        raw_at_R = raw + token_R * raw_stride + head_R * D
        raw_first, raw_second, raw_rest = load_heads(raw_at_R, is_row_R, D, F, HALF, REST)
        first_weight, second_weight, rest_weight = load_heads(
            weight + tl.arange(0, 1), tl.arange(0, 1) == 0, D, F, HALF, REST
        )
        inverse_R = tl.load(inverse + token_R * inverse_stride + head_R, mask=is_row_R, other=0.0)
        first *= slope_of(first_weight, dtype, OFFSET)
        second *= slope_of(second_weight, dtype, OFFSET)
        share_R = tl.sum(first * raw_first, axis=1) + tl.sum(second * raw_second, axis=1)
        if REST > 0:
            rest *= slope_of(rest_weight, dtype, OFFSET)
            share_R += tl.sum(rest * raw_rest, axis=1)
        share_R = share_R / D * (inverse_R * inverse_R)
        first = (first - raw_first * share_R[:, None]) * inverse_R[:, None]
        second = (second - raw_second * share_R[:, None]) * inverse_R[:, None]
        if REST > 0:
            rest = (rest - raw_rest * share_R[:, None]) * inverse_R[:, None]
    store_heads(out + token_R * out_stride + head_R * D, first, second, rest, is_row_R, D, F, HALF, REST)


@jit(do_not_specialize=["num_tokens", "length", "tiles_per_part"])
def _head_weight_kernel(  # type: ignore[no-untyped-def]
    grad, raw, inverse, parts, cos, sin, cos_stride, sin_stride, num_tokens, length, tiles_per_part,
    batch_stride, token_stride, head_stride, raw_stride, inverse_stride,
    HEADS: tl.constexpr,
    D: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """Each program sums the weight's gradient, (turned back gradient) · raw / rms, over its tiles of heads."""
    dtype: tl.constexpr = raw.dtype.element_ty
    first_sum = tl.zeros((HALF,), dtype=tl.float32)
    second_sum = tl.zeros((HALF,), dtype=tl.float32)
    rest_sum = tl.zeros((REST if REST > 0 else HALF,), dtype=tl.float32)
    for index in range(tiles_per_part):
        row_R = (tl.program_id(0) * tiles_per_part + index) * ROWS + tl.arange(0, ROWS)
        token_R, head_R = (row_R // HEADS).to(tl.int64), row_R % HEADS
        is_row_R = token_R < num_tokens
        at_R = grad + token_R // length * batch_stride + token_R % length * token_stride + head_R * head_stride
        first, second, rest = load_heads(at_R, is_row_R, D, F, HALF, REST)
        raw_at_R = raw + token_R * raw_stride + head_R * D
        raw_first, raw_second, raw_rest = load_heads(raw_at_R, is_row_R, D, F, HALF, REST)
        inverse_R = tl.load(inverse + token_R * inverse_stride + head_R, mask=is_row_R, other=0.0)
        cos_RF = load_angles(cos, cos_stride, token_R, is_row_R, dtype, F, HALF)
        sin_RF = load_angles(sin, sin_stride, token_R, is_row_R, dtype, F, HALF)
        first_sum += tl.sum((first * cos_RF + second * sin_RF) * raw_first * inverse_R[:, None], axis=0)
        second_sum += tl.sum((second * cos_RF - first * sin_RF) * raw_second * inverse_R[:, None], axis=0)
        rest_sum += tl.sum(rest * raw_rest * inverse_R[:, None], axis=0)
    row = parts + tl.program_id(0) * D + tl.arange(0, 1)
    store_heads(row, first_sum[None, :], second_sum[None, :], rest_sum[None, :], tl.arange(0, 1) == 0, D, F, HALF, REST)
