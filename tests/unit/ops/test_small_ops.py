"""RMSNorm, rotary angles and gates against formulas written in the plainest way."""

from __future__ import annotations

import math

import pytest
import torch

from danlu.ops.gated import gated
from danlu.ops.rms_norm import reference_rms_norm, rms_norm
from danlu.ops.rope import RopeSpec, apply_rope, reference_rope, rotation


def test_rms_norm_is_the_formula() -> None:
    x, weight = torch.randn(5, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    expected = torch.stack([row / math.sqrt(float((row**2).mean()) + 1e-5) * weight for row in x])
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rms_norm(x, weight - 1, 1e-5, offset=1.0), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_gradients(offset: float) -> None:
    x, weight = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 6), (6,)))
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, 1e-6, offset), (x, weight))


def test_rms_norm_statistics_survive_bf16() -> None:
    """200 summed squares of 100 overflow nothing and lose less than bf16's own rounding."""
    x = torch.full((1, 4096), 100.0, dtype=torch.bfloat16)
    assert torch.equal(rms_norm(x, torch.ones(4096, dtype=torch.bfloat16), 1e-6), torch.ones_like(x))


def test_a_frozen_norm_has_the_same_values_and_gradients() -> None:
    """To the bit forward, 1e-12 backward in fp64."""
    x, weight = torch.randn(7, 6, dtype=torch.float64, requires_grad=True), torch.randn(6, dtype=torch.float64)
    ours, plain = rms_norm(x, weight, 1e-6), reference_rms_norm(x, weight, 1e-6)
    assert torch.equal(ours, plain)
    upstream = torch.randn_like(x)
    mine, truth = (torch.autograd.grad(out, x, upstream)[0] for out in (ours, plain))
    torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-12)


def test_a_frozen_norm_in_bf16_errs_as_bf16_does() -> None:
    """Gradients within 1 % of fp64's."""
    x, weight, upstream = torch.randn(50, 64), torch.rand(64) + 0.5, torch.randn(50, 64)
    rough, exact = (x.to(dtype).requires_grad_() for dtype in (torch.bfloat16, torch.float64))
    rms_norm(rough, weight.bfloat16(), 1e-6).backward(upstream.bfloat16())
    reference_rms_norm(exact, weight.double(), 1e-6).backward(upstream.double())
    assert rough.grad is not None and exact.grad is not None
    assert (rough.grad.double() - exact.grad).norm() < 0.01 * exact.grad.norm()


@pytest.mark.parametrize("rotary_size", [8, 4])
def test_rope_equals_its_usual_writing_forward_and_backward(rotary_size: int) -> None:
    turn = rotation(RopeSpec(rotary_size=rotary_size, theta=100.0), torch.arange(5), torch.float64)
    x, upstream = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    x.requires_grad_()
    ours, truth = apply_rope(x, turn), reference_rope(x, turn)
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)
    mine, theirs = (torch.autograd.grad(out, x, upstream)[0] for out in (ours, truth))
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_rope_turns_pairs_by_position_times_frequency() -> None:
    spec = RopeSpec(rotary_size=4, theta=100.0)
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 9.0]]], dtype=torch.float64)  # the fifth dimension is not rotated
    turn = rotation(spec, torch.tensor([3]), torch.float64)
    out = apply_rope(x, turn)[0, 0]
    for i, frequency in enumerate((1.0, 0.1)):
        angle, a, b = 3 * frequency, float(x[0, 0, i]), float(x[0, 0, i + 2])
        assert out[i].item() == pytest.approx(a * math.cos(angle) - b * math.sin(angle), rel=1e-6)
        assert out[i + 2].item() == pytest.approx(b * math.cos(angle) + a * math.sin(angle), rel=1e-6)
    assert out[4] == 9.0


def test_rope_scores_depend_on_distance_only() -> None:
    spec = RopeSpec(rotary_size=8, theta=10_000.0, kind="llama3", factor=8.0, original_context=32)
    q, k = torch.randn(2, 1, 1, 8, dtype=torch.float64)

    def score(i: int, j: int) -> float:
        turned = [apply_rope(x, rotation(spec, torch.tensor([n]), torch.float64)) for x, n in ((q, i), (k, j))]
        return float((turned[0] * turned[1]).sum())

    assert score(40, 30) == pytest.approx(score(11, 1), abs=1e-5)


def test_longrope_chooses_by_the_documents_length() -> None:
    """Two documents in one row, one within the first context, one beyond: each gets its own angles."""
    spec = RopeSpec(
        rotary_size=4,
        theta=100.0,
        kind="longrope",
        original_context=4,
        short_factors=(1.0, 1.0),
        long_factors=(2.0, 2.0),
    )
    positions, reach = torch.tensor([1, 1]), torch.tensor([3, 6])
    cos = rotation(spec, positions, torch.float64, reach).cos
    assert cos[0, 0].item() == pytest.approx(math.cos(1.0), rel=1e-6)
    assert cos[1, 0].item() == pytest.approx(math.cos(0.5), rel=1e-6)


def test_angles_far_away_are_not_rounded_to_bf16_positions() -> None:
    """bf16 holds no integer beyond 256 exactly; positions must be multiplied in fp32."""
    spec = RopeSpec(rotary_size=2, theta=10_000.0)
    cos = rotation(spec, torch.tensor([1001]), torch.bfloat16).cos
    assert cos[0, 0].item() == pytest.approx(math.cos(1001.0), abs=4e-3)


def test_gates() -> None:
    gate, up = torch.tensor([1.5, -0.5], dtype=torch.float64), torch.tensor([2.0, 3.0], dtype=torch.float64)
    silu = [g / (1 + math.exp(-g)) * u for g, u in zip(gate.tolist(), up.tolist(), strict=True)]
    assert gated(gate, up, "silu").tolist() == pytest.approx(silu)
    gelu = [g * 0.5 * (1 + math.erf(g / math.sqrt(2))) * u for g, u in zip(gate.tolist(), up.tolist(), strict=True)]
    assert gated(gate, up, "gelu").tolist() == pytest.approx(gelu)
    bent = [
        0.5 * g * (1 + math.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3))) * u
        for g, u in zip(gate.tolist(), up.tolist(), strict=True)
    ]
    assert gated(gate, up, "gelu_tanh").tolist() == pytest.approx(bent)
    assert gated(gate, up, "relu").tolist() == [3.0, 0.0]
