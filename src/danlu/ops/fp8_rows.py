"""FP8 codes from the ops that produce the rows: norms and the gate write e4m3 while the row is on the chip.

Each function does what its namesake in `rms_norm.py` or `gated.py` does, with the same roundings (a device may sum a
norm's squares in another order), and also returns the
codes and scales that `fp8.quantise_rows` would make of its result: a cast apart reads every row once more than the
product it serves, which is what makes unfused fp8 slower than bf16. Without kernels the two are called one after the
other. A row of the gate is too wide to be held: it is read a second time, from the cache.

Shapes: T tokens, D width, F width of the feed-forward, E = 2F: [gate | up]. Rows may lie further apart than they are
wide, but for codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.fp8 import E4M3, inverse_and_scale, quantise_rows, to_codes, writes_codes
from danlu.ops.gated import Activation, _active, gated_backward_, gated_forward
from danlu.ops.gated_low_rank import backward_and_amax_, gated_backward_low_rank_, takes
from danlu.ops.kernels import jit, power_of_2, tl, triton
from danlu.ops.rms_norm import norm_backward, norm_forward, scaled, slope_of, whole_rows


def norm_forward_fp8(
    x_TD: Tensor, weight_D: Tensor, eps: float, offset: float = 0.0, *, out_TD: Tensor | None = None,
    add_TD: Tensor | None = None, sum_TD: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(codes_TD, scale_T, inverse_T). The normed rows themselves are written only where `out_TD` is given. With
    `add_TD` it is x + add that is normed, and written to `sum_TD`."""
    if not writes_codes(x_TD, weight_D, out_TD, add_TD, sum_TD):
        normed_TD, inverse_T = norm_forward(x_TD, weight_D, eps, offset, out_TD=out_TD, add_TD=add_TD, sum_TD=sum_TD)
        return *quantise_rows(normed_TD), inverse_T
    assert (add_TD is None) == (sum_TD is None), "a sum is wanted, or none"
    codes_TD, scale_T = _new_codes(x_TD)
    inverse_T = torch.empty_like(scale_T)
    rows, width, num_warps = whole_rows(x_TD.shape[1])
    if len(x_TD):
        _norm_forward_kernel[(triton.cdiv(len(x_TD), rows),)](
            x_TD, add_TD, sum_TD, weight_D, out_TD, inverse_T, codes_TD, scale_T, len(x_TD), x_TD.stride(0),
            0 if add_TD is None else add_TD.stride(0), 0 if sum_TD is None else sum_TD.stride(0),
            0 if out_TD is None else out_TD.stride(0), eps,
            D=x_TD.shape[1], OFFSET=offset, ROWS=rows, WIDTH=width, num_warps=num_warps,
        )  # fmt: skip
    return codes_TD, scale_T, inverse_T


def norm_backward_fp8(
    grad_TD: Tensor,
    x_TD: Tensor,
    weight_D: Tensor,
    inverse_T: Tensor,
    offset: float = 0.0,
    *,
    columns_D: Tensor,
    through_TD: Tensor | None = None,
    out_TD: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx_TD, codes_TD, scale_T): the codes are those of dx · columns, for the product that dx goes into next."""
    if not writes_codes(grad_TD, x_TD, weight_D, inverse_T, through_TD, out_TD):
        dx_TD = norm_backward(grad_TD, x_TD, weight_D, inverse_T, offset, through_TD=through_TD, out_TD=out_TD)
        return dx_TD, *quantise_rows(dx_TD, columns=columns_D)
    out_TD = x_TD.new_empty(x_TD.shape) if out_TD is None else out_TD
    codes_TD, scale_T = _new_codes(x_TD)
    rows, width, num_warps = whole_rows(x_TD.shape[1])
    if len(x_TD):
        _norm_backward_kernel[(triton.cdiv(len(x_TD), rows),)](
            grad_TD, x_TD, weight_D, inverse_T, through_TD, columns_D, out_TD, codes_TD, scale_T, len(x_TD),
            grad_TD.stride(0), x_TD.stride(0), 0 if through_TD is None else through_TD.stride(0), out_TD.stride(0),
            D=x_TD.shape[1], OFFSET=offset, ROWS=rows, WIDTH=width, num_warps=num_warps,
        )  # fmt: skip
    return out_TD, codes_TD, scale_T


def gated_forward_fp8(
    gate_up_TE: Tensor, activation: Activation, *, out_TF: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(codes_TF, scale_T) of activation(gate) * up, which itself is written only where `out_TF` is given."""
    if not writes_codes(gate_up_TE, out_TF):
        return quantise_rows(gated_forward(gate_up_TE, activation, out_TF=out_TF))
    width = gate_up_TE.shape[1] // 2
    codes_TF, scale_T = _new_codes(gate_up_TE[:, :width])
    tile, num_warps = _parts_of_rows(width)
    if len(gate_up_TE):
        _gated_forward_kernel[(len(gate_up_TE),)](
            gate_up_TE, out_TF, codes_TF, scale_T, gate_up_TE.stride(0), 0 if out_TF is None else out_TF.stride(0),
            F=width, ACTIVATION=activation, TILE=tile, num_warps=num_warps,
        )  # fmt: skip
    return codes_TF, scale_T


def gated_backward_fp8_(
    grad_TF: Tensor, gate_up_TE: Tensor, activation: Activation, *, columns_E: Tensor
) -> tuple[Tensor, Tensor]:
    """(codes_TE, scale_T) of the gradient of [gate | up] · columns. In place as `gated_backward_` is: `grad_TF` becomes
    the forward's product, `gate_up_TE` its own gradient."""
    if not writes_codes(grad_TF, gate_up_TE):
        gated_backward_(grad_TF, gate_up_TE, activation)
        return quantise_rows(gate_up_TE, columns=columns_E)
    codes_TE, scale_T = _new_codes(gate_up_TE)
    tile, num_warps = _parts_of_rows(grad_TF.shape[1])
    if len(grad_TF):
        _gated_backward_kernel[(len(grad_TF),)](
            grad_TF, gate_up_TE, columns_E, codes_TE, scale_T, grad_TF.stride(0), gate_up_TE.stride(0),
            F=grad_TF.shape[1], ACTIVATION=activation, TILE=tile, num_warps=num_warps,
        )  # fmt: skip
    return codes_TE, scale_T


def gated_backward_low_rank_fp8_(
    grad_TF: Tensor, gate_up_TE: Tensor, activation: Activation, ds_TR: Tensor, grad_A_RF: Tensor, *, columns_E: Tensor
) -> tuple[Tensor, Tensor]:
    """(codes_TE, scale_T) as of `gated_backward_fp8_`, and what `gated_backward_low_rank_` does: `gate_up_TE` becomes
    its gradient, grad_A (fp32) += dsᵀ h, and what is in `grad_TF` afterwards is not told. That kernel owns columns, a
    cast owns rows: it notes each row's largest value tile by tile, and one more reading writes the codes."""
    if not (takes(grad_TF, gate_up_TE, ds_TR) and writes_codes(grad_TF, gate_up_TE)):
        gated_backward_low_rank_(grad_TF, gate_up_TE, activation, ds_TR, grad_A_RF)
        return quantise_rows(gate_up_TE, columns=columns_E)
    amax_TN = backward_and_amax_(grad_TF, gate_up_TE, activation, ds_TR, grad_A_RF, 1.0, columns_E)
    assert amax_TN is not None, "asked for"
    codes_TE, scale_T = _new_codes(gate_up_TE)
    num_parts = amax_TN.shape[1]
    tile, num_warps = _parts_of_rows(gate_up_TE.shape[1])
    _codes_kernel[(len(gate_up_TE),)](
        gate_up_TE, columns_E, amax_TN, codes_TE, scale_T, num_parts, gate_up_TE.stride(0),
        E=gate_up_TE.shape[1], PARTS=power_of_2(num_parts), TILE=tile, num_warps=num_warps,
    )  # fmt: skip
    return codes_TE, scale_T


def _new_codes(like: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty(like.shape, dtype=E4M3, device=like.device), torch.empty(len(like), device=like.device)


def _parts_of_rows(width: int) -> tuple[int, int]:
    """(columns at a time, warps) of one program to a row. Wide rows take many warps, so that few programs run at once
    and their rows stay in the cache between the two readings."""
    tile = min(power_of_2(width), 4096)
    return tile, max(1, tile // 256) if width <= 8192 else 16


@jit(do_not_specialize=["num_rows"])
def _norm_forward_kernel(  # type: ignore[no-untyped-def]
    x, add, sum_, weight, out, inverse, codes, scale, num_rows, x_stride, add_stride, sum_stride, out_stride, eps,
    D: tl.constexpr, OFFSET: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row_R = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column_W = tl.arange(0, WIDTH)
    is_row_R, is_column_W = row_R < num_rows, column_W < D
    mask_RW = is_row_R[:, None] & is_column_W[None, :]
    x_RW = tl.load(x + row_R[:, None] * x_stride + column_W[None, :], mask=mask_RW, other=0.0).to(tl.float32)
    if add is not None:
        add_at_RW = add + row_R[:, None] * add_stride + column_W[None, :]
        sum_RW = (x_RW + tl.load(add_at_RW, mask=mask_RW, other=0.0).to(tl.float32)).to(x.dtype.element_ty)
        tl.store(sum_ + row_R[:, None] * sum_stride + column_W[None, :], sum_RW, mask=mask_RW)
        x_RW = sum_RW.to(tl.float32)
    weight_W = tl.load(weight + column_W, mask=is_column_W, other=0.0)
    inverse_R = tl.rsqrt(tl.sum(x_RW * x_RW, axis=1) / D + eps)
    tl.store(inverse + row_R, inverse_R, mask=is_row_R)
    out_RW = scaled(x_RW * inverse_R[:, None], weight_W[None, :], x.dtype.element_ty, OFFSET).to(x.dtype.element_ty)
    if out is not None:
        tl.store(out + row_R[:, None] * out_stride + column_W[None, :], out_RW, mask=mask_RW)
    wide_RW = out_RW.to(tl.float32)
    factor_R, scale_R = inverse_and_scale(tl.max(tl.abs(wide_RW), axis=1))
    tl.store(scale + row_R, scale_R, mask=is_row_R)
    code_RW = to_codes(wide_RW * factor_R[:, None])
    tl.store(codes + row_R[:, None] * D + column_W[None, :], code_RW, mask=mask_RW)


@jit(do_not_specialize=["num_rows"])
def _norm_backward_kernel(  # type: ignore[no-untyped-def]
    grad, x, weight, inverse, through, columns, out, codes, scale,
    num_rows, grad_stride, x_stride, through_stride, out_stride,
    D: tl.constexpr, OFFSET: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row_R = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column_W = tl.arange(0, WIDTH)
    is_row_R, is_column_W = row_R < num_rows, column_W < D
    mask_RW = is_row_R[:, None] & is_column_W[None, :]
    x_RW = tl.load(x + row_R[:, None] * x_stride + column_W[None, :], mask=mask_RW, other=0.0).to(tl.float32)
    grad_RW = tl.load(grad + row_R[:, None] * grad_stride + column_W[None, :], mask=mask_RW, other=0.0).to(tl.float32)
    factor_W = slope_of(tl.load(weight + column_W, mask=is_column_W, other=0.0), x.dtype.element_ty, OFFSET)
    inverse_R = tl.load(inverse + row_R, mask=is_row_R, other=0.0)
    slope_RW = grad_RW * factor_W[None, :]
    share_R = tl.sum(slope_RW * x_RW, axis=1) / D * (inverse_R * inverse_R)
    dx_RW = (slope_RW - x_RW * share_R[:, None]) * inverse_R[:, None]
    if through is not None:
        through_at_RW = through + row_R[:, None] * through_stride + column_W[None, :]
        dx_RW += tl.load(through_at_RW, mask=mask_RW, other=0.0).to(tl.float32)
    rounded_RW = dx_RW.to(out.dtype.element_ty)
    tl.store(out + row_R[:, None] * out_stride + column_W[None, :], rounded_RW, mask=mask_RW)
    column_scale_W = tl.load(columns + column_W, mask=is_column_W, other=0.0).to(tl.float32)
    wide_RW = tl.where(mask_RW, rounded_RW.to(tl.float32) * column_scale_W[None, :], 0.0)
    factor_R, scale_R = inverse_and_scale(tl.max(tl.abs(wide_RW), axis=1))
    tl.store(scale + row_R, scale_R, mask=is_row_R)
    code_RW = to_codes(wide_RW * factor_R[:, None])
    tl.store(codes + row_R[:, None] * D + column_W[None, :], code_RW, mask=mask_RW)


@jit
def _gated_forward_kernel(  # type: ignore[no-untyped-def]
    gate_up, out, codes, scale, gate_up_stride, out_stride,
    F: tl.constexpr, ACTIVATION: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    gate_up += row * gate_up_stride
    amax = 0.0
    for start in range(0, F, TILE):
        column_C = start + tl.arange(0, TILE)
        product_C = _product(gate_up, column_C, F, ACTIVATION)
        if out is not None:
            tl.store(out + row * out_stride + column_C, product_C, mask=column_C < F)
        amax = tl.maximum(amax, tl.max(tl.abs(product_C.to(tl.float32)), axis=0))
    factor, worth = inverse_and_scale(amax)
    tl.store(scale + row, worth)
    tl.debug_barrier()  # the product was written by other threads of this program
    for start in range(0, F, TILE):
        column_C = start + tl.arange(0, TILE)
        if out is not None:  # half of what it was made from
            product_C = tl.load(out + row * out_stride + column_C, mask=column_C < F, other=0.0)
        else:
            product_C = _product(gate_up, column_C, F, ACTIVATION)
        tl.store(codes + row * F + column_C, to_codes(product_C.to(tl.float32) * factor), mask=column_C < F)


@jit
def _product(gate_up, column_C, F: tl.constexpr, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """activation(gate) * up in the rows' own dtype."""
    gate_C = tl.load(gate_up + column_C, mask=column_C < F, other=0.0)
    up_C = tl.load(gate_up + F + column_C, mask=column_C < F, other=0.0)
    active_C, _ = _active(gate_C.to(tl.float32), ACTIVATION)
    return (active_C * up_C.to(tl.float32)).to(gate_C.dtype)


@jit
def _gated_backward_kernel(  # type: ignore[no-untyped-def]
    grad, gate_up, columns, codes, scale, grad_stride, gate_up_stride,
    F: tl.constexpr, ACTIVATION: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The first reading finds the scale, the second overwrites what it has read."""
    row = tl.program_id(0).to(tl.int64)
    grad += row * grad_stride
    gate_up += row * gate_up_stride
    amax = 0.0
    for start in range(0, F, TILE):
        column_C = start + tl.arange(0, TILE)
        _, grad_gate_C, grad_up_C = _gradients(grad, gate_up, column_C, F, ACTIVATION)
        amax = tl.maximum(amax, tl.max(tl.abs(_weighted(grad_gate_C, columns, column_C, F)), axis=0))
        amax = tl.maximum(amax, tl.max(tl.abs(_weighted(grad_up_C, columns + F, column_C, F)), axis=0))
    factor, worth = inverse_and_scale(amax)
    tl.store(scale + row, worth)
    codes += row * (2 * F)
    for start in range(0, F, TILE):
        column_C = start + tl.arange(0, TILE)
        mask_C = column_C < F
        product_C, grad_gate_C, grad_up_C = _gradients(grad, gate_up, column_C, F, ACTIVATION)
        tl.store(grad + column_C, product_C, mask=mask_C)
        tl.store(gate_up + column_C, grad_gate_C, mask=mask_C)
        tl.store(gate_up + F + column_C, grad_up_C, mask=mask_C)
        tl.store(codes + column_C, to_codes(_weighted(grad_gate_C, columns, column_C, F) * factor), mask=mask_C)
        tl.store(codes + F + column_C, to_codes(_weighted(grad_up_C, columns + F, column_C, F) * factor), mask=mask_C)


@jit(do_not_specialize=["num_parts"])
def _codes_kernel(  # type: ignore[no-untyped-def]
    x, columns, amax, codes, scale, num_parts, x_stride, E: tl.constexpr, PARTS: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """One row, whose largest value is known in parts."""
    row, part_N = tl.program_id(0).to(tl.int64), tl.arange(0, PARTS)
    amax_N = tl.load(amax + row * num_parts + part_N, mask=part_N < num_parts, other=0.0)
    factor, worth = inverse_and_scale(tl.max(amax_N, axis=0))
    tl.store(scale + row, worth)
    for start in range(0, E, TILE):
        column_C = start + tl.arange(0, TILE)
        value_C = tl.load(x + row * x_stride + column_C, mask=column_C < E, other=0.0)
        tl.store(
            codes + row * E + column_C, to_codes(_weighted(value_C, columns, column_C, E) * factor), mask=column_C < E
        )


@jit
def _gradients(grad, gate_up, column_C, F: tl.constexpr, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """(activation(gate) * up, gradient of gate, of up) in the rows' own dtype."""
    mask_C = column_C < F
    raw_C = tl.load(gate_up + column_C, mask=mask_C, other=0.0)
    gate_C = raw_C.to(tl.float32)
    up_C = tl.load(gate_up + F + column_C, mask=mask_C, other=0.0).to(tl.float32)
    grad_C = tl.load(grad + column_C, mask=mask_C, other=0.0).to(tl.float32)
    active_C, slope_C = _active(gate_C, ACTIVATION)
    product_C = (active_C * up_C).to(raw_C.dtype)
    return product_C, (grad_C * up_C * slope_C).to(raw_C.dtype), (grad_C * active_C).to(raw_C.dtype)


@jit
def _weighted(value, columns, column_C, F: tl.constexpr):  # type: ignore[no-untyped-def]
    """Times the columns' scales, in fp32."""
    return value.to(tl.float32) * tl.load(columns + column_C, mask=column_C < F, other=0.0).to(tl.float32)
