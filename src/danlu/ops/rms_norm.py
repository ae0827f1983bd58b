"""RMSNorm (Zhang & Sennrich, 2019), with Gemma's variant that stores `weight - 1`.

Statistics are taken in fp32 whatever the input's dtype (fp64 stays fp64); the result has the input's dtype. `rms_norm`
is for autograd; `norm_forward` and `norm_backward` are the two halves for those who write their backward themselves.

Shapes: T tokens, D width. Rows may lie further apart than D; the last dimension is contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.kernels import fits, jit, power_of_2, tl, triton

WEIGHT_PARTS = 64  # of the rows, each summed by itself: sums of parts are the same at every run, atomic ones are not


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / rms(x) * (weight + offset) over the last dimension.

    Llama rounds to the input's dtype before it scales, Gemma (offset 1) after; in bf16 the two differ in the last bit,
    and a checkpoint was trained with one of them.
    """
    if offset or weight.requires_grad or not (x.requires_grad and torch.is_grad_enabled()):
        return reference_rms_norm(x, weight, eps, offset)
    out: Tensor = _FrozenNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


def reference_rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if offset:
        return (normed * (weight.to(normed.dtype) + offset)).to(x.dtype)
    return normed.to(x.dtype) * weight.to(x.dtype)


class _FrozenNorm(torch.autograd.Function):
    """A norm whose weight does not train, as beside an adapter: it keeps the input and one number per row, where
    torch's own differentiation keeps three fp32 copies."""

    @staticmethod
    def forward(ctx, x, weight, eps):  # type: ignore[no-untyped-def]
        wide = x if x.dtype == torch.float64 else x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).to(x.dtype) * weight.to(x.dtype)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        # y = w x r with r = 1 / rms: dx = r (g w - x r² mean(x g w))
        x, weight, inverse = ctx.saved_tensors
        slope = (grad * weight.to(grad.dtype)).to(inverse.dtype)
        share = torch.linalg.vecdot(slope, x.to(inverse.dtype)).div_(x.shape[-1])[..., None]
        return slope.addcmul_(x, share * inverse.square(), value=-1).mul_(inverse).to(x.dtype), None, None


def norm_forward(
    x_TD: Tensor,
    weight_D: Tensor,
    eps: float,
    offset: float = 0.0,
    *,
    out_TD: Tensor | None = None,
    add_TD: Tensor | None = None,
    sum_TD: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(out_TD, inverse_T): the norm and, in fp32, 1 / rms of each row, which the backward wants.

    With `add_TD` it is the norm of sum_TD = x + add, rounded to the dtype, as a residual stream is; `sum_TD` may be one
    of the two."""
    assert (add_TD is None) == (sum_TD is None), "a sum is what the caller keeps of an addition"
    if fits(x_TD, weight_D, out_TD, add_TD, sum_TD):
        out_TD = x_TD.new_empty(x_TD.shape) if out_TD is None else out_TD
        inverse_T = x_TD.new_empty(len(x_TD), dtype=torch.float32)
        rows, width, num_warps = whole_rows(x_TD.shape[1])
        if len(x_TD):
            _forward_kernel[(triton.cdiv(len(x_TD), rows),)](
                x_TD, add_TD, weight_D, sum_TD, out_TD, inverse_T, len(x_TD), x_TD.stride(0),
                0 if add_TD is None else add_TD.stride(0), 0 if sum_TD is None else sum_TD.stride(0),
                out_TD.stride(0), eps,
                D=x_TD.shape[1], OFFSET=offset, ROWS=rows, WIDTH=width, num_warps=num_warps,
            )  # fmt: skip
        return out_TD, inverse_T
    if add_TD is not None:
        assert sum_TD is not None, "both or none"
        x_TD = torch.add(x_TD, add_TD, out=sum_TD)
    normed_TD, inverse_T = reference_norm_forward(x_TD, weight_D, eps, offset)
    return (normed_TD if out_TD is None else out_TD.copy_(normed_TD)), inverse_T


def norm_backward(
    grad_TD: Tensor,
    x_TD: Tensor,
    weight_D: Tensor,
    inverse_T: Tensor,
    offset: float = 0.0,
    *,
    through_TD: Tensor | None = None,
    out_TD: Tensor | None = None,
) -> Tensor:
    """dx_TD. `through_TD` is the gradient that passes the norm by on the residual stream; it is added before the one
    rounding. `out_TD` may be any of the inputs of its shape."""
    if fits(grad_TD, x_TD, weight_D, inverse_T, through_TD, out_TD):
        out_TD = x_TD.new_empty(x_TD.shape) if out_TD is None else out_TD
        rows, width, num_warps = whole_rows(x_TD.shape[1])
        if len(x_TD):
            _backward_kernel[(triton.cdiv(len(x_TD), rows),)](
                grad_TD, x_TD, weight_D, inverse_T, through_TD, out_TD, len(x_TD), grad_TD.stride(0), x_TD.stride(0),
                0 if through_TD is None else through_TD.stride(0), out_TD.stride(0),
                D=x_TD.shape[1], OFFSET=offset, ROWS=rows, WIDTH=width, num_warps=num_warps,
            )  # fmt: skip
        return out_TD
    slope_TD = reference_norm_backward(grad_TD, x_TD, weight_D, inverse_T, offset)
    if through_TD is not None:
        slope_TD.add_(through_TD)
    return slope_TD.to(x_TD.dtype) if out_TD is None else out_TD.copy_(slope_TD)


def norm_weight_gradient(grad_TD: Tensor, x_TD: Tensor, inverse_T: Tensor) -> Tensor:
    """grad_D in fp32, the same for both orders of rounding."""
    if fits(grad_TD, x_TD, inverse_T) and len(x_TD):
        columns, rows = 128, 32
        tiles_per_part = triton.cdiv(triton.cdiv(len(x_TD), rows), WEIGHT_PARTS)
        num_parts = triton.cdiv(len(x_TD), rows * tiles_per_part)
        parts_PD = inverse_T.new_empty(num_parts, x_TD.shape[1])
        _weight_kernel[(triton.cdiv(x_TD.shape[1], columns), num_parts)](
            grad_TD, x_TD, inverse_T, parts_PD, len(x_TD), tiles_per_part, grad_TD.stride(0), x_TD.stride(0),
            D=x_TD.shape[1], ROWS=rows, COLUMNS=columns, num_warps=4,
        )  # fmt: skip
        return parts_PD.sum(0)
    return (grad_TD.to(inverse_T.dtype) * x_TD.to(inverse_T.dtype)).mT @ inverse_T


def reference_norm_forward(x: Tensor, weight: Tensor, eps: float, offset: float) -> tuple[Tensor, Tensor]:
    """`reference_rms_norm` to the bit, and its inverse rms; any leading dimensions."""
    wide = x if x.dtype == torch.float64 else x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    normed = wide * inverse
    out = (
        (normed * (weight.to(normed.dtype) + offset)).to(x.dtype) if offset else normed.to(x.dtype) * weight.to(x.dtype)
    )
    return out, inverse[..., 0]


def reference_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, offset: float) -> Tensor:
    """y = f x r with f = weight + offset, r = 1 / rms: dx = r (g f - x r² mean(x g f)), in the dtype of `inverse`."""
    factor = weight.to(inverse.dtype) + offset if offset else weight.to(x.dtype).to(inverse.dtype)
    slope, wide = grad.to(inverse.dtype) * factor, x.to(inverse.dtype)
    share = torch.linalg.vecdot(slope, wide).div_(x.shape[-1]).mul_(inverse.square())
    return slope.addcmul_(wide, share[..., None], value=-1).mul_(inverse[..., None])


def whole_rows(width: int) -> tuple[int, int, int]:
    """(rows, columns, warps) of one program that holds its rows: at least 2048 elements, 16 to a thread. Kernels of one
    tiling may still differ in a sum's last bit: the compiler sums in the layout that the kernel stores in."""
    columns = power_of_2(width)
    rows = max(1, 2048 // columns)
    return rows, columns, min(32, rows * columns // 512)


@jit(do_not_specialize=["num_rows"])
def _forward_kernel(  # type: ignore[no-untyped-def]
    x, add, weight, total, out, inverse, num_rows, x_stride, add_stride, total_stride, out_stride, eps,
    D: tl.constexpr, OFFSET: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row_R = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column_W = tl.arange(0, WIDTH)
    is_row_R, is_column_W = row_R < num_rows, column_W < D
    mask_RW = is_row_R[:, None] & is_column_W[None, :]
    x_RW = tl.load(x + row_R[:, None] * x_stride + column_W[None, :], mask=mask_RW, other=0.0).to(tl.float32)
    if add is not None:
        add_at_RW = add + row_R[:, None] * add_stride + column_W[None, :]
        x_RW += tl.load(add_at_RW, mask=mask_RW, other=0.0).to(tl.float32)
        total_RW = x_RW.to(x.dtype.element_ty)
        tl.store(total + row_R[:, None] * total_stride + column_W[None, :], total_RW, mask=mask_RW)
        x_RW = total_RW.to(tl.float32)
    weight_W = tl.load(weight + column_W, mask=is_column_W, other=0.0)
    inverse_R = tl.rsqrt(tl.sum(x_RW * x_RW, axis=1) / D + eps)
    tl.store(inverse + row_R, inverse_R, mask=is_row_R)
    out_RW = scaled(x_RW * inverse_R[:, None], weight_W[None, :], x.dtype.element_ty, OFFSET)
    tl.store(out + row_R[:, None] * out_stride + column_W[None, :], out_RW, mask=mask_RW)


@jit
def scaled(normed, weight, dtype: tl.constexpr, OFFSET: tl.constexpr):  # type: ignore[no-untyped-def]
    """normed (fp32) times its weight in Llama's or, with an offset, Gemma's order of rounding; in fp32."""
    if OFFSET == 0.0:
        return normed.to(dtype).to(tl.float32) * weight.to(dtype).to(tl.float32)
    else:
        return normed * (weight.to(tl.float32) + OFFSET)


@jit
def slope_of(weight, dtype: tl.constexpr, OFFSET: tl.constexpr):  # type: ignore[no-untyped-def]
    """What `scaled` multiplies by, in fp32."""
    if OFFSET == 0.0:
        return weight.to(dtype).to(tl.float32)
    else:
        return weight.to(tl.float32) + OFFSET


@jit(do_not_specialize=["num_rows"])
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad, x, weight, inverse, through, out, num_rows, grad_stride, x_stride, through_stride, out_stride,
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
    out_RW = (slope_RW - x_RW * share_R[:, None]) * inverse_R[:, None]
    if through is not None:
        through_at_RW = through + row_R[:, None] * through_stride + column_W[None, :]
        out_RW += tl.load(through_at_RW, mask=mask_RW, other=0.0).to(tl.float32)
    tl.store(out + row_R[:, None] * out_stride + column_W[None, :], out_RW, mask=mask_RW)


@jit(do_not_specialize=["num_rows", "tiles_per_part"])
def _weight_kernel(  # type: ignore[no-untyped-def]
    grad, x, inverse, parts, num_rows, tiles_per_part, grad_stride, x_stride,
    D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column_C = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.program_id(1).to(tl.int64)
    sum_RC = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for tile in range(tiles_per_part):
        row_R = (part * tiles_per_part + tile) * ROWS + tl.arange(0, ROWS)
        mask_RC = (row_R < num_rows)[:, None] & (column_C < D)[None, :]
        x_RC = tl.load(x + row_R[:, None] * x_stride + column_C[None, :], mask=mask_RC, other=0.0).to(tl.float32)
        grad_RC = tl.load(grad + row_R[:, None] * grad_stride + column_C[None, :], mask=mask_RC, other=0.0)
        inverse_R = tl.load(inverse + row_R, mask=row_R < num_rows, other=0.0)
        sum_RC += grad_RC.to(tl.float32) * x_RC * inverse_R[:, None]
    tl.store(parts + part * D + column_C, tl.sum(sum_RC, axis=0), mask=column_C < D)
