# ruff: noqa: N815 - shape suffixes
"""One decoder block, forward and backward by hand, as one node of autograd.

    a  = x + o(attention(turn(qkv(norm₁ x))))          y = a + down(act(gate) · up),  gate | up = gate_up(norm₂ a)

The last sum of each is left to the norm that reads it, which has to go over the row anyway: a block takes and gives the
residual stream and what is still to be added to it, x = stream + delta. Gemma 2 and 3 norm what o and down make before
it is added.

Kept is what products and attention need (`policy.Policy`); norms, the turned keys' source and act(gate) · up are
computed again in the backward, which costs reads and writes but no product. Whichever attention kernel was
chosen brings its backward along.

`rows`, in the last block, are the positions whose output anyone reads: after attention only they are computed.

Shapes: T tokens, S rows asked for, D hidden, F ffn, H query heads, K key/value heads, N = (H + 2K) · head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.model.decoder import Block, RMSNorm
from danlu.model.spec import Spec
from danlu.ops.attention import Attended, Bounds, attention, attention_backward, attention_forward
from danlu.ops.attention.kernel import Ask
from danlu.ops.rms_norm import norm_backward, norm_forward
from danlu.ops.rope import HeadNorms, Rotation, turn_qkv, turn_qkv_back
from danlu.training.blocks.host import Host, Loan
from danlu.training.blocks.policy import Policy
from danlu.training.blocks.precision import project
from danlu.training.blocks.projection import Projection, Scratch
from danlu.training.blocks.rows import Rows, Seam


@dataclass(frozen=True, slots=True)
class Scene:
    """What all blocks of one forward share. `turn` differs between kinds of layers."""

    turn: Rotation
    bounds: Bounds
    rows_S: Tensor | None = None
    is_disabled: bool = False
    """True while the model answers without its adapter."""


@dataclass(slots=True)
class Turned:
    """What attention saw and made: queries, keys and values side by side after norms and turn."""

    qkv_THD: Tensor
    """[T, H + 2K, head size]"""
    attended: Attended
    raw_TN: Tensor | None
    """Queries and keys before their norms, where the family has them."""
    inverse: Tensor | None
    """1 / rms of each head, beside `raw_TN`."""


@dataclass(slots=True)
class Raw:
    """What a norm on the way out was given, and 1 / rms of its rows."""

    values_SD: Tensor
    inverse_S: Tensor


@dataclass(slots=True)
class Memory:
    """What one forward leaves for its backward; what is None is computed again."""

    x_TD: Tensor
    s_down: Tensor
    inverse_T: Tensor | None = None
    s_qkv: Tensor | None = None
    turned: Turned | None = None
    s_o: Tensor | None = None
    after_SD: Tensor | None = None
    inverse_S: Tensor | None = None
    gate_up: Tensor | None = None
    s_gate_up: Tensor | None = None
    fed: Raw | None = None
    """What down made, where a norm follows it: two products away from the rest, so every policy keeps it."""
    mixed: Raw | None = None
    """What o made, in the same families."""
    loan: Loan | None = None

    def big(self, *, has_ffn: bool) -> list[Tensor]:
        """What is worth lending to the host: attention's own statistics and the pairs' products stay, and gate and up
        unless `has_ffn`."""
        turned = self.turned
        own = [] if turned is None else [turned.qkv_THD, turned.attended.out_THD, turned.raw_TN]
        own += [raw.values_SD for raw in (self.fed, self.mixed) if raw is not None]
        return [
            tensor
            for tensor in (self.x_TD, self.after_SD, self.gate_up if has_ffn else None, *own)
            if tensor is not None
        ]


class QuickBlock:
    """The trained form of one `Block`, whose parameters it shares."""

    def __init__(self, block: Block, spec: Spec, layer: int, host: Host, scratch: Scratch, seam: Seam) -> None:
        self.host, self.seam = host, seam
        attn, mlp = block.self_attn, block.mlp
        self.spec, self.layer, self.window = spec, layer, attn.window
        self.norm_in, self.norm_mid = block.input_layernorm, block.post_attention_layernorm
        self.norm_mixed: RMSNorm | None = None
        self.norm_fed: RMSNorm | None = None
        if spec.has_sandwich_norms:
            self.norm_mixed, self.norm_mid = block.post_attention_layernorm, block.pre_feedforward_layernorm
            self.norm_fed = block.post_feedforward_layernorm
        self.qkv = project([attn.q_proj, attn.k_proj, attn.v_proj], scratch)
        self.o = project([attn.o_proj], scratch)
        self.gate_up = project([mlp.gate_proj, mlp.up_proj], scratch)
        self.down = project([mlp.down_proj], scratch)
        self.head_norms = (
            HeadNorms(attn.q_norm.weight, attn.k_norm.weight, spec.norm_eps, spec.norm_offset)
            if spec.has_qk_norm
            else None
        )
        self.policy = Policy()

    @property
    def projections(self) -> tuple[Projection, ...]:
        return self.qkv, self.o, self.gate_up, self.down

    @property
    def trains(self) -> bool:
        """Some of its layers have pairs."""
        return any(projection.pairs.num_ranks for projection in self.projections)

    def __call__(
        self, stream_TD: Tensor, delta_TD: Tensor | None, scene: Scene, anchor: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(stream, delta) after the block; with `rows_S`, only those rows. `anchor` is any tensor that requires a
        gradient: the pairs' gradients are written by hand, so autograd would not see that there is something to do.
        None where there is nothing: neither this block nor one below it trains, and the backward ends above."""
        if anchor is None or not torch.is_grad_enabled():
            return self.forward(stream_TD, delta_TD, scene, keeps=False)[:2]
        after, delta = _Run.apply(stream_TD, delta_TD, anchor, self, scene)  # type: ignore[no-untyped-call]
        return after, delta

    # ---- forward

    def forward(
        self, stream_TD: Tensor, delta_TD: Tensor | None, scene: Scene, *, keeps: bool
    ) -> tuple[Tensor, Tensor, Memory | None]:
        kept = self.policy.kept
        turned, inverse_T, s_qkv, x_TD = self._attend(stream_TD, delta_TD, scene, keeps=keeps and kept != "input")
        out_SD, s_o, x_SD = self._leave_attention(x_TD, turned, scene)
        out_SD, mixed = _way_out(self.norm_mixed, out_SD)
        gate_up, s_gate_up, after_SD, inverse_S = self._widen(x_SD, out_SD, scene)
        del out_SD, x_SD
        both = gate_up[:, : self.gate_up.num_outputs]
        product = self.down.gated(both, self.spec.activation)
        del both
        if not keeps or kept != "all":
            del gate_up
        y_SD, s_down = self.down.forward(product, is_disabled=scene.is_disabled)
        y_SD, fed = _way_out(self.norm_fed, y_SD)
        if not keeps:
            return after_SD, y_SD, None
        memory = Memory(x_TD, s_down, fed=fed)
        if kept != "input":
            memory.inverse_T, memory.s_qkv, memory.turned = inverse_T, s_qkv, turned
            # An alias: the tensor itself is handed out, and will know this node, which must not know it in turn.
            memory.s_o, memory.after_SD, memory.inverse_S, memory.mixed = s_o, after_SD.detach(), inverse_S, mixed
        if kept == "all":
            memory.gate_up, memory.s_gate_up = gate_up, s_gate_up
        if self.policy.where != "device":
            memory.loan = self.host.lend(memory.big(has_ffn=self.policy.where == "host"))
        return after_SD, y_SD, memory

    def _attend(
        self, stream_TD: Tensor, delta_TD: Tensor | None, scene: Scene, *, keeps: bool
    ) -> tuple[Turned, Tensor, Tensor, Tensor]:
        """(attention, 1 / rms, s of q|k|v, the block's input)."""
        spec = self.spec
        normed, inverse_T, x_TD = self.qkv.normed(self.norm_in, stream_TD, delta_TD)
        qkv_TN, s_qkv = self.qkv.forward(normed, is_disabled=scene.is_disabled)
        del normed
        num_heads, num_kv_heads, size = spec.num_heads, spec.num_kv_heads, spec.head_size
        raw_TN = qkv_TN if self.head_norms else None
        turned_TN = qkv_TN if raw_TN is None else torch.empty_like(qkv_TN)
        inverse = turn_qkv(qkv_TN, scene.turn, num_heads, num_kv_heads, size, self.head_norms, out_TN=turned_TN)
        qkv_THD = turned_TN.view(len(x_TD), -1, size)
        compute = attention_forward if keeps else _attention_alone
        attended = compute(
            *self._heads(qkv_THD), scene.bounds,
            scale=spec.attention_scale, window=self.window, softcap=spec.attention_softcap,
        )  # fmt: skip
        return Turned(qkv_THD, attended, raw_TN, inverse), inverse_T, s_qkv, x_TD

    def _heads(self, qkv_THD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of queries, keys and values."""
        q, k, v = torch.split(qkv_THD, [self.spec.num_heads, self.spec.num_kv_heads, self.spec.num_kv_heads], 1)
        return q, k, v

    def _leave_attention(self, x_TD: Tensor, turned: Turned, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
        """(what attention adds to the stream, s of o, the stream), at `rows_S` where given."""
        out = turned.attended.out_THD.flatten(1)
        if scene.rows_S is not None:
            out, x_TD = out.index_select(0, scene.rows_S), x_TD.index_select(0, scene.rows_S)
        return *self.o.forward_apart(out, is_disabled=scene.is_disabled), x_TD

    def _widen(self, x_SD: Tensor, add_SD: Tensor | None, scene: Scene) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(gate | up in a buffer with room for the backward, s of it, the stream after attention, its 1 / rms)."""
        normed, inverse_S, after_SD = self.gate_up.normed(self.norm_mid, x_SD, add_SD)
        return *self.gate_up.forward_with_room(normed, is_disabled=scene.is_disabled), after_SD, inverse_S

    # ---- backward

    def backward(
        self, grad_SD: Tensor, grad_delta_SD: Tensor, memory: Memory, scene: Scene, *, needs_input: bool
    ) -> Tensor | None:
        """dx from the gradients of the stream and of what is added to it."""
        self._restore(memory, scene)
        grad_o, grad_after_SD = self._through_ffn(grad_SD, grad_delta_SD, memory)
        return self._through_attention(grad_o, grad_after_SD, memory, scene, needs_input=needs_input)

    def _restore(self, memory: Memory, scene: Scene) -> None:
        """Fetch what is away and compute again what the policy did not keep."""
        if memory.loan is not None:
            memory.loan.fetch()
        if memory.turned is None:
            memory.turned, memory.inverse_T, memory.s_qkv, _ = self._attend(memory.x_TD, None, scene, keeps=True)
            out_SD, memory.s_o, x_SD = self._leave_attention(memory.x_TD, memory.turned, scene)
            out_SD, memory.mixed = _way_out(self.norm_mixed, out_SD)
            widened = self._widen(x_SD, out_SD, scene)
            memory.gate_up, memory.s_gate_up, memory.after_SD, memory.inverse_S = widened
        if memory.gate_up is None:
            assert memory.after_SD is not None, "kept by every policy that keeps attention"
            memory.gate_up, memory.s_gate_up, *_ = self._widen(memory.after_SD, None, scene)

    def _through_ffn(self, grad_SD: Tensor, grad_delta_SD: Tensor, memory: Memory) -> tuple[Rows, Tensor]:
        """(the gradient of what o made, that of the stream after attention)."""
        gate_up, after_SD, s_gate_up, inverse_S = memory.gate_up, memory.after_SD, memory.s_gate_up, memory.inverse_S
        assert gate_up is not None and after_SD is not None, "restored"
        assert s_gate_up is not None and inverse_S is not None, "restored"
        grad = self._gradient_of_down(grad_delta_SD, memory.fed)
        product = self.down.input_gradient(grad, memory.s_down)
        assert product is not None, "asked for"
        grad_gate_up = self.gate_up.gradient_through_gate(
            product, gate_up, self.spec.activation, self.down.pairs, grad.padding
        )
        del product, grad
        grad_normed = self.gate_up.input_gradient(grad_gate_up, s_gate_up)
        assert grad_normed is not None, "asked for"
        self.gate_up.weight_gradient_of_normed(grad_gate_up, after_SD, self.norm_mid, inverse_S)
        memory.gate_up = None
        del gate_up, grad_gate_up
        norm, mixed = self.norm_mid, memory.mixed
        if self.norm_mixed is None or mixed is None:
            grad_o = self.o.gradient_through_norm(grad_normed, after_SD, norm, inverse_S, grad_SD)
            return grad_o, grad_o.values
        grad_after_SD = norm_backward(grad_normed, after_SD, norm.weight, inverse_S, norm.offset, through_TD=grad_SD)
        return self._through(self.o, self.norm_mixed, mixed, grad_after_SD), grad_after_SD

    def _gradient_of_down(self, grad_delta_SD: Tensor, fed: Raw | None) -> Rows:
        if self.norm_fed is not None and fed is not None:
            return self._through(self.down, self.norm_fed, fed, grad_delta_SD)
        laid = self.seam.take(grad_delta_SD, self.down.pairs.padding)
        return self.down.gradient(grad_delta_SD) if laid is None else self.down.finish(laid)

    @staticmethod
    def _through(projection: Projection, norm: RMSNorm, raw: Raw, grad_SD: Tensor) -> Rows:
        """The gradient of what a projection made, from that of its norm."""
        return projection.gradient_through_norm(grad_SD, raw.values_SD, norm, raw.inverse_S, None)

    def _through_attention(
        self, grad_o: Rows, stream_TD: Tensor, memory: Memory, scene: Scene, *, needs_input: bool
    ) -> Tensor | None:
        turned, s_o, s_qkv, inverse_T = memory.turned, memory.s_o, memory.s_qkv, memory.inverse_T
        assert turned is not None and s_o is not None and s_qkv is not None and inverse_T is not None, "restored"
        x_TD, rows_S, norm = memory.x_TD, scene.rows_S, self.norm_in
        out_THD = turned.attended.out_THD
        out_TA = out_THD.flatten(1)
        grad_TA = self.o.input_gradient(grad_o, s_o)
        assert grad_TA is not None, "asked for"
        self.o.weight_gradient(grad_o, out_TA if rows_S is None else out_TA.index_select(0, rows_S))
        if rows_S is not None:
            grad_TA = torch.zeros_like(out_TA).index_copy_(0, rows_S, grad_TA)
            stream_TD = torch.zeros_like(x_TD).index_copy_(0, rows_S, stream_TD)
        grad_q, grad_k, grad_v = attention_backward(
            grad_TA.view_as(out_THD), *self._heads(turned.qkv_THD), turned.attended
        )
        del grad_TA
        grad_qkv = self.qkv.new_gradient(x_TD)
        turn_qkv_back(
            grad_q, grad_k, grad_v, scene.turn, self.head_norms, turned.raw_TN, turned.inverse, out_TN=grad_qkv.values
        )
        grad_qkv = self.qkv.finish(grad_qkv)
        memory.turned = None
        del turned, out_THD, out_TA, grad_q, grad_k, grad_v
        grad_normed = self.qkv.input_gradient(grad_qkv, s_qkv, needs_input=needs_input)
        self.qkv.weight_gradient_of_normed(grad_qkv, x_TD, norm, inverse_T)
        if grad_normed is None:
            return None
        if self.norm_fed is not None:  # the block below norms this gradient first
            return norm_backward(grad_normed, x_TD, norm.weight, inverse_T, norm.offset, through_TD=stream_TD)
        below = self.down.new_gradient(x_TD)  # the block below is like this one, or takes the values alone
        norm_backward(
            grad_normed, x_TD, norm.weight, inverse_T, norm.offset, through_TD=stream_TD, out_TD=below.values
        )  # fmt: skip
        return self.seam.leave(below)


def _way_out(norm: RMSNorm | None, out_SD: Tensor) -> tuple[Tensor, Raw | None]:
    """(what is added to the stream, what the norm's backward needs)."""
    if norm is None:
        return out_SD, None
    added_SD, inverse_S = norm_forward(out_SD, norm.weight, norm.eps, norm.offset)
    return added_SD, Raw(out_SD, inverse_S)


def _attention_alone(
    q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, bounds: Bounds, *, scale: float, window: int | None,
    softcap: float | None,
) -> Attended:  # fmt: skip
    """Attention that no backward will ask about."""
    out_THD = attention(q_THD, k_TKD, v_TKD, bounds, scale=scale, window=window, softcap=softcap)
    return Attended(out_THD, (), Ask(bounds, scale, window, softcap), None)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx, stream_TD, delta_TD, anchor, block, scene):  # type: ignore[no-untyped-def]
        after, delta, ctx.memory = block.forward(stream_TD, delta_TD, scene, keeps=True)
        ctx.block, ctx.scene = block, scene
        return after, delta

    @staticmethod
    def backward(ctx, grad, grad_delta):  # type: ignore[no-untyped-def]
        memory, ctx.memory = ctx.memory, None
        assert memory is not None, "a block's backward runs once: what it kept is gone"
        dx = ctx.block.backward(grad, grad_delta, memory, ctx.scene, needs_input=any(ctx.needs_input_grad[:2]))
        return dx, dx if ctx.needs_input_grad[1] else None, None, None, None
