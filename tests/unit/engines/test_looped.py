"""Compiled loops compute what torch computes: norms, gates, attention in all its kinds; and lose no NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from danlu.data.twins.compiled import has_numba
from danlu.engines.looped import Looped, numbers
from danlu.engines.pointwise import Pointwise
from danlu.engines.products import Norm
from danlu.model.decoder import RMSNorm
from danlu.ops.gated import Activation

pytestmark = pytest.mark.skipif(not has_numba(), reason="numba is optional")
NONE = np.empty(0, np.float32)


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norm_of(weight_D: Tensor) -> Norm:
    norm = RMSNorm.__new__(RMSNorm)
    torch.nn.Module.__init__(norm)
    norm.weight, norm.eps, norm.offset = torch.nn.Parameter(weight_D, requires_grad=False), 1e-6, 0.0
    return Norm(norm)


def near(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    """fp32: round-off. bf16: one rounding, where torch rounds once or twice."""
    tolerance = 2e-6 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(found.float(), wanted.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [48, 7])
def test_norms_and_gates_are_torchs(dtype: torch.dtype, width: int) -> None:
    slow, fast, norm = Pointwise(dtype), Looped(dtype), norm_of(drawn(width, seed=2))
    x_TD, more_TD = 3 * drawn(5, width), drawn(5, width + 9, seed=3).to(dtype)[:, :width]  # a row with more behind it
    other_TD = x_TD.clone()
    for more in (more_TD, None):
        near(fast.normed(other_TD, more, norm), slow.normed(x_TD, more, norm), dtype)
        assert torch.equal(other_TD, x_TD)
    wide_TE = 20 * drawn(5, 2 * width, seed=4).to(dtype)
    kinds: tuple[Activation, ...] = ("silu", "gelu_tanh", "relu")
    for kind in kinds:
        near(fast.gated(wide_TE, kind) / 400, slow.gated(wide_TE, kind) / 400, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("window", "cap", "has_norms"), [(99, 0.0, False), (4, 0.0, True), (99, 5.0, False)])
def test_attention_is_the_definition(dtype: torch.dtype, window: int, cap: float, has_norms: bool) -> None:
    """Two rows of a table, the first with tokens in it already; scores written out in fp64."""
    from danlu.engines import loops

    H, K, D, M = 6, 2, 10, 16
    held = [drawn(3, K, M, D, seed=seed).to(dtype) for seed in (5, 6)]
    before = [tensor.clone() for tensor in held]
    row_T, place_T = np.array([0, 0, 0, 2, 2]), np.array([7, 8, 9, 0, 1])
    qkv_TN, angle_TF = drawn(7, (H + 2 * K) * D + 3).to(dtype)[:, : (H + 2 * K) * D], drawn(7, D // 2, seed=7)
    turn_TF2 = torch.stack((angle_TF.cos(), angle_TF.sin()), dim=-1)
    norms = [drawn(D, seed=seed) if has_norms else None for seed in (8, 9)]
    out_TX = torch.zeros(7, H * D, dtype=dtype)
    loops.attend(
        numbers(qkv_TN), turn_TF2.numpy(), 2, row_T, place_T, *map(numbers, held), np.float32(0.3),
        np.float32(cap), window, *(NONE if norm is None else norm.numpy() for norm in norms), np.float32(1e-6),
        numbers(out_TX),
    )  # fmt: skip
    heads_THD = qkv_TN[2:].double().reshape(5, H + 2 * K, D)
    q_THD, k_THD, v_THD = heads_THD[:, :H], heads_THD[:, H : H + K], heads_THD[:, H + K :]
    if norms[0] is not None and norms[1] is not None:
        q_THD, k_THD = (
            x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.double()
            for x, norm in ((q_THD, norms[0]), (k_THD, norms[1]))
        )
    turn = torch.view_as_complex(turn_TF2[2:].double())[:, None]
    q_THD, k_THD = (
        torch.view_as_real(torch.view_as_complex(x.reshape(5, -1, D // 2, 2).contiguous()) * turn).flatten(-2)
        for x in (q_THD, k_THD)
    )
    keys, values = (tensor.double() for tensor in before)
    for t in range(5):
        keys[row_T[t], :, place_T[t]], values[row_T[t], :, place_T[t]] = k_THD[t], v_THD[t]
    near(held[0], keys, dtype)
    assert torch.equal(held[1].double(), values) and not out_TX[:2].any()
    for t in range(5):
        seen = slice(max(0, int(place_T[t]) + 1 - window), int(place_T[t]) + 1)
        for head in range(H):
            scores_M = keys[row_T[t], head // 3, seen] @ q_THD[t, head] * 0.3
            scores_M = cap * torch.tanh(scores_M / cap) if cap else scores_M
            said_D = scores_M.softmax(-1) @ values[row_T[t], head // 3, seen]
            near(out_TX[2 + t, head * D : (head + 1) * D], said_D, dtype)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_what_is_no_number_stays_none(part: str) -> None:
    from danlu.engines import loops

    qkv_TN = drawn(1, 12)
    qkv_TN[0, {"q": 0, "k": 4, "v": 8}[part]] = float("nan")
    keys, values, out_TX = torch.zeros(1, 1, 8, 4), torch.zeros(1, 1, 8, 4), torch.zeros(1, 4)
    loops.attend(
        numbers(qkv_TN), np.ones((1, 2, 2), np.float32), 0, np.array([0]), np.array([0]), keys.numpy(), values.numpy(),
        np.float32(1), np.float32(0), 8, NONE, NONE, np.float32(0), numbers(out_TX),
    )  # fmt: skip
    assert out_TX.isnan().any()
    quick = Looped(torch.bfloat16)
    x_TD = drawn(2, 8)
    x_TD[1, 3] = float("nan")
    found_TD = quick.normed(x_TD, None, norm_of(torch.ones(8)))
    assert found_TD[1].isnan().all() and found_TD[0].isfinite().all()
    wide_TE = torch.tensor([[float("nan"), 1.0, 2.0, float("nan")]], dtype=torch.bfloat16)
    assert quick.gated(wide_TE, "silu").isnan().all()
