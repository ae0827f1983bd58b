"""A whole decoder in its quick form: what training calls instead of `Decoder.hidden`.

It stands in for the decoder where a hand-written backward exists: low-rank pairs without dropout on frozen weights of
one dtype. Everything else (full fine-tuning, foreign models) runs as written out; `why_not` says which it is.

Shapes: T tokens, S rows asked for, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from danlu.adapters.adapter import Attached
from danlu.adapters.lora import AttachedLoRA, DoRALinear, LoRALinear
from danlu.model.decoder import Block, Decoder
from danlu.model.model import Model
from danlu.ops.attention import Bounds
from danlu.ops.many_copies import ManyCopies
from danlu.training.blocks.block import QuickBlock, Scene
from danlu.training.blocks.host import Host
from danlu.training.blocks.pairs import Linear
from danlu.training.blocks.policy import LADDER, Policy
from danlu.training.blocks.projection import Scratch, codes_of
from danlu.training.blocks.rows import Seam

FRUGAL_LOGITS_BYTES = 256 * 1024 * 1024


def why_not(model: Model, attached: Attached) -> str | None:
    """A message key's end for the reason why this pair cannot train in quick form; None when it can."""
    if not isinstance(model, Decoder):
        return "foreign"
    if not isinstance(attached, AttachedLoRA):
        return attached.kind
    if any(isinstance(layer, DoRALinear) for layer in attached.layers.values()):
        return "dora"
    if any(layer.dropout for layer in attached.layers.values()):
        return "dropout"
    places = {
        place_of(layer) for block in model.model.layers if isinstance(block, Block) for layer in linears_of(block)
    }
    if len(places) > 1:
        return "dtypes"
    return None


def linears_of(block: Block) -> list[Linear]:
    """A block's layers, quantised or not, with their pairs or without."""
    attn, mlp = block.self_attn, block.mlp
    return [attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def place_of(layer: Linear) -> tuple[object, ...]:
    """What all layers of a quick model must share."""
    base = codes_of(layer)
    if base is not None:
        return base.kind, base.dtype, base.device
    assert isinstance(layer, nn.Linear), "a layer is quantised or has a weight"
    return "none", layer.weight.dtype, layer.weight.device


class QuickTrunk:
    """Fulfils `model.model.Quick`. `refresh` takes over the pairs after each update."""

    def __init__(self, model: Decoder) -> None:
        self.model, self.spec = model, model.spec
        blocks = [block for block in model.model.layers if isinstance(block, Block)]
        self.host, self.seam, scratch = Host(model.device), Seam(), Scratch()
        self.blocks = [
            QuickBlock(block, model.spec, at, self.host, scratch, self.seam) for at, block in enumerate(blocks)
        ]
        self._lowest = next((at for at, block in enumerate(self.blocks) if block.trains), 0)
        self._anchor = torch.zeros((), device=model.device, requires_grad=True)
        self._copies: ManyCopies | None = None
        self._pairs = [module for module in model.model.layers.modules() if isinstance(module, LoRALinear)]
        self.refresh()

    def __call__(self, ids_T: Tensor, positions_T: Tensor, bounds: Bounds, rows_S: Tensor | None = None) -> Tensor:
        trunk = self.model.model
        stream_TD, delta_TD = trunk.embed(ids_T), None
        turns = trunk.turns(positions_T, stream_TD.dtype, self.model.reaches(bounds, ids_T.device))
        is_disabled = any(pair.is_disabled for pair in self._pairs)
        if rows_S is not None and len(rows_S) == len(ids_T):
            rows_S = None  # rows are given in order, so these are all
        last = len(self.blocks) - 1
        for at, (block, rope) in enumerate(zip(self.blocks, self.spec.ropes, strict=True)):
            scene = Scene(turns[rope], bounds, rows_S if at == last else None, is_disabled)
            stream_TD, delta_TD = block(stream_TD, delta_TD, scene, self._anchor if at >= self._lowest else None)
        out: Tensor = trunk.norm(stream_TD if delta_TD is None else stream_TD + delta_TD)
        return out

    def refresh(self) -> None:
        """Take over the pairs as the last update left them, in one launch, which is prepared anew only when they have
        moved: into a flat buffer, to another device."""
        if self._copies is None or self._have_moved(self._copies):
            self._copies = ManyCopies([copy for block in self.blocks for p in block.projections for copy in p.copies()])
        self._copies()

    def _have_moved(self, copies: ManyCopies) -> bool:
        return bool(copies.copies) and copies.copies[0].source.data_ptr() != self._pairs[0].lora_A.data_ptr()

    # ---- memory

    def forget(self) -> None:
        """Nothing that a forward or a backward has left is wanted any more."""
        self.host.forget()
        self.seam.forget()

    @property
    def _keeping(self) -> list[QuickBlock]:
        """The blocks that keep anything: from the lowest that trains on."""
        return self.blocks[self._lowest :]

    @property
    def policies(self) -> list[Policy]:
        return [block.policy for block in self._keeping]

    def use(self, policies: Sequence[Policy]) -> None:
        """One policy a layer that keeps anything. Where memory is short enough for any, the loss is frugal too."""
        for block, policy in zip(self._keeping, policies, strict=True):
            block.policy = policy
        is_short = any(policy != Policy() for policy in policies)
        self.model.logits_bytes = FRUGAL_LOGITS_BYTES if is_short else None

    def step_down(self) -> tuple[str, str] | None:
        """Make the next quarter of the layers leaner; (what was, what is), or None at the end of the ladder."""
        before = describe(self.policies)
        for fast, lean in LADDER:
            candidates = [block for block in self._keeping if block.policy == fast]
            if candidates:
                chosen = set(candidates[: -(-len(self._keeping) // 4)])
                self.use([lean if block in chosen else block.policy for block in self._keeping])
                return before, describe(self.policies)
        return None


def describe(policies: Sequence[Policy]) -> str:
    """`20 all + 8 light`."""
    names = [policy.name for policy in policies]
    return " + ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
