"""Low-rank adapters: y = x Wᵀ + s (x Aᵀ) Bᵀ, with W frozen and s = alpha / rank (Hu et al. 2021, arXiv:2106.09685).

A and B are fp32 masters beside a base in any dtype, quantised or not (QLoRA: Dettmers et al. 2023, arXiv:2305.14314);
they are cast to the input's dtype for the two small products. The on-disk format stands in `peft_format.py`. With
`dora` the rows of the sum get trained lengths (`DoRALinear`).

Shapes: D input width, N output width, R rank; x is [..., D].
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from danlu.adapters.adapter import find_unsound, layer_of
from danlu.adapters.peft_format import (
    MAGNITUDE,
    FreeLinear,
    Pair,
    as_saved,
    linears_of,
    read_pairs,
    row_norms,
    write_pairs,
)  # fmt: skip
from danlu.core.errors import RecipeError, TrainingError
from danlu.core.messages import listed
from danlu.core.shelf import nearest
from danlu.model.model import Model
from danlu.model.quantized import put
from danlu.model.quantizers.quantizer import QuantizedLinear
from danlu.recipe.layers import Layers, chosen_layers

HEADS = ("lm_head", "embed_out")
"""Output heads: never targeted, their product with the hidden states is taken only where a token is learnt."""


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank pair. It shares `weight` and `bias` with the layer it replaces, so the base's
    tensors keep the checkpoint's names; `from_base` and `fuse` are inverse but for the update itself. Beside a
    quantised layer `weight` is None and `quantized` holds that layer."""

    quantized: QuantizedLinear | None
    lora_A: nn.Parameter  # noqa: N815 - the paper's letters, PEFT's names
    lora_B: nn.Parameter  # noqa: N815
    scaling: float
    dropout: float
    is_disabled: bool

    @classmethod
    def from_base(cls, base: FreeLinear, *, rank: int, scaling: float, dropout: float = 0.0) -> LoRALinear:
        layer = cls(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        layer.register_parameter("bias", base.bias)
        if isinstance(base, QuantizedLinear):
            layer.register_parameter("weight", None)
            layer.quantized, dtype, device = base, base.dtype, base.device
        else:
            layer.weight, layer.quantized = base.weight, None
            dtype, device = base.weight.dtype, base.weight.device
        wide = torch.promote_types(dtype, torch.float32)
        layer.lora_A = nn.Parameter(torch.zeros(rank, base.in_features, dtype=wide, device=device))
        layer.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=wide, device=device))
        layer.scaling, layer.dropout, layer.is_disabled = scaling, dropout, False
        return layer.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_disabled:
            return self._base(x)
        drops = self.dropout and self.training
        if self.quantized is not None or drops:
            return self._written_out(x)
        if self.weight.requires_grad or torch.is_autocast_enabled(x.device.type):
            return self._written_out(x)
        y: Tensor = _AddLowRank.apply(  # type: ignore[no-untyped-call]
            x.flatten(0, -2), self.weight, self.bias, self.lora_A, self.lora_B, self.scaling
        )
        return y.view(*x.shape[:-1], self.out_features)

    def _written_out(self, x: Tensor) -> Tensor:
        """The definition, with dropout; torch finds its gradients."""
        y = self._base(x)
        A, B = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        down = F.linear(F.dropout(x, self.dropout, self.training), A)
        # y + s (x Aᵀ) Bᵀ in one pass over y.
        return torch.addmm(y.flatten(0, -2), down.flatten(0, -2), B.T, alpha=self.scaling).view(y.shape)

    def _base(self, x: Tensor) -> Tensor:
        if self.quantized is None:
            return F.linear(x, self.weight, self.bias)
        out: Tensor = self.quantized(x)
        return out

    @property
    def is_fresh(self) -> bool:
        """It changes nothing yet."""
        return not bool(self.lora_B.detach().any())

    def pair(self) -> Pair:
        """What is saved of it."""
        return Pair(self.lora_A.detach().cpu(), self.lora_B.detach().cpu(), self.scaling, self.dropout)

    def delta(self) -> Tensor:
        """s B A, [N, D], in fp32 (or wider): what merging adds to the weight."""
        return self.scaling * (self.lora_B.detach() @ self.lora_A.detach())

    def fuse(self) -> nn.Linear:
        """The plain layer with the update folded in: added in fp32, then cast to the weight's own dtype."""
        assert self.quantized is None, "codes have no room for an update: `merge` refuses"
        with torch.no_grad():
            delta = self.delta()
            self.weight.copy_((self.weight.to(delta.dtype) + delta).to(self.weight.dtype))
        return self._plain()

    def bare(self) -> FreeLinear:
        """The layer without the pair."""
        return self._plain() if self.quantized is None else self.quantized

    def _plain(self) -> nn.Linear:
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight, layer.bias = self.weight, self.bias
        # Training lays weights into wider buffers. What trains next must own its memory: fused optimizers walk over a
        # tensor as if it lay in one piece.
        layer.weight.data = layer.weight.data.contiguous()
        return layer.train(self.training)


class _AddLowRank(torch.autograd.Function):
    """x Wᵀ + b + s (x Aᵀ) Bᵀ with W and b frozen. The update is added into y's own memory, and into that of x's
    gradient on the way back; torch's own differentiation copies both."""

    @staticmethod
    def forward(ctx, x, weight, bias, lora_A, lora_B, scaling):  # type: ignore[no-untyped-def]
        A, B = lora_A.to(x.dtype), lora_B.to(x.dtype)
        y, down = F.linear(x, weight, bias), x @ A.T
        ctx.save_for_backward(x, down, weight, A, B)
        ctx.scaling, ctx.dtypes = scaling, (lora_A.dtype, lora_B.dtype)
        return y.addmm_(down, B.T, alpha=scaling)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, down, weight, A, B = ctx.saved_tensors
        needs_x, _, _, needs_A, needs_B, _ = ctx.needs_input_grad
        slope = (grad @ B).mul_(ctx.scaling)  # of x Aᵀ
        grad_A = (slope.T @ x).to(ctx.dtypes[0]) if needs_A else None
        grad_B = (grad.T @ down).to(ctx.dtypes[1]).mul_(ctx.scaling) if needs_B else None
        grad_x = (grad @ weight).addmm_(slope, A) if needs_x else None
        return grad_x, None, None, grad_A, grad_B, None


class DoRALinear(LoRALinear):
    """DoRA (Liu et al. 2024, arXiv:2402.09353): a pair that turns each row of a weight, and a magnitude that says how
    long the row is, W' = m (W + s B A) / ‖W + s B A‖. m starts at the rows' own lengths, so a fresh one changes
    nothing. No gradient goes through the norms (§4.3), which are fp32 whatever the base lies in, and for which every
    forward makes s B A anew."""

    lora_magnitude_vector: nn.Parameter  # [N]; PEFT's name

    @classmethod
    def from_base(cls, base: FreeLinear, *, rank: int, scaling: float, dropout: float = 0.0) -> DoRALinear:
        layer = super().from_base(base, rank=rank, scaling=scaling, dropout=dropout)
        assert isinstance(layer, DoRALinear), "made of cls"
        layer.lora_magnitude_vector = nn.Parameter(row_norms(base))
        return layer

    @property
    def is_fresh(self) -> bool:
        return super().is_fresh and torch.equal(self.lora_magnitude_vector.detach(), row_norms(self.quantized or self))

    def forward(self, x: Tensor) -> Tensor:
        y = self._base(x)
        if self.is_disabled:
            return y
        drops = self.dropout and self.training
        dropped = F.dropout(x, self.dropout) if drops else x
        plain = self._base(dropped) if drops else y
        if self.bias is not None:
            plain = plain - self.bias
        low = F.linear(F.linear(dropped, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype))
        gain_N = self._gain().to(x.dtype)
        # What is added is small beside y, and is rounded by its own size.
        return y + ((gain_N - 1) * plain + gain_N * (self.scaling * low))

    def pair(self) -> Pair:
        return replace(super().pair(), magnitude=self.lora_magnitude_vector.detach().cpu())

    def _gain(self) -> Tensor:
        """m / ‖W + s B A‖, [N]."""
        return self.lora_magnitude_vector / row_norms(self.quantized or self, super().delta())

    def delta(self) -> Tensor:
        """W' - W, [N, D]."""
        update = super().delta()
        wide = self.weight.detach().to(update.dtype)
        return self._gain().detach()[:, None] * (wide + update) - wide


@dataclass(frozen=True)
class LoRA:
    """Low-rank pairs on the linear layers that `targets` names: "all-linear" (every one but the output head), or names
    and regular expressions; of all decoder layers, or of those that `layers` says (as `adapter.layers` does). `alpha`
    None means twice the rank; `rslora` divides by the square root of the rank (Kalajdzievski 2023, arXiv:2312.03732).
    `dora` trains the rows' lengths beside. `seed` draws A; B starts at zero, so a fresh adapter changes nothing."""

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: Literal["all-linear"] | Sequence[str] = "all-linear"
    layers: Layers = None
    rslora: bool = False
    dora: bool = False
    seed: int = 0
    kind: Literal["lora"] = "lora"

    @property
    def scaling(self) -> float:
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        return as_saved(alpha / (math.sqrt(self.rank) if self.rslora else self.rank), self.rank)

    def attach(self, model: Model) -> AttachedLoRA:
        kind = DoRALinear if self.dora else LoRALinear
        layers = {
            name: kind.from_base(base, rank=self.rank, scaling=self.scaling, dropout=self.dropout)
            for name, base in find_targets(model, self.targets, self.layers).items()
        }
        generator = torch.Generator().manual_seed(self.seed)  # on the CPU: the same A on every device
        for layer in layers.values():
            start_A = torch.empty(layer.lora_A.shape)
            nn.init.kaiming_uniform_(start_A, a=math.sqrt(5), generator=generator)
            layer.lora_A.data.copy_(start_A)
        return AttachedLoRA(model, layers)

    @staticmethod
    def load(folder: Path, model: Model) -> AttachedLoRA:
        """Put a PEFT adapter on the model, ready to answer or to train on."""
        pairs = read_pairs(folder, model)
        bases = _free_linears(model)
        layers = {}
        for name, pair in pairs.items():
            kind = LoRALinear if pair.magnitude is None else DoRALinear
            layer = kind.from_base(bases[name], rank=pair.A.shape[0], scaling=pair.scaling, dropout=pair.dropout)
            layer.lora_A.data.copy_(pair.A)
            layer.lora_B.data.copy_(pair.B)
            if isinstance(layer, DoRALinear) and pair.magnitude is not None:
                layer.lora_magnitude_vector.data.copy_(pair.magnitude)
            layers[name] = layer
        return AttachedLoRA(model, layers)


class AttachedLoRA:
    """Low-rank pairs in their places on one model."""

    kind: Literal["lora"] = "lora"
    can_disable = True
    offload: Literal["none"] = "none"
    has_masters_apart = False

    def __init__(self, model: Model, layers: dict[str, LoRALinear]) -> None:
        self.model, self.layers = model, layers
        self.compute_dtype = model.dtype
        self._is_gone = False
        model.requires_grad_(False)
        for name, layer in layers.items():
            put(model, name, layer)

    @property
    def is_fresh(self) -> bool:
        return all(layer.is_fresh for layer in self.layers.values())

    def parameters(self) -> dict[str, nn.Parameter]:
        """All A's, then all B's: those of layers that read the same input then lie side by side in a flat buffer. Then
        magnitudes."""
        downs = {f"{name}.lora_A": layer.lora_A for name, layer in self.layers.items()}
        ups = {f"{name}.lora_B": layer.lora_B for name, layer in self.layers.items()}
        doras = {name: layer for name, layer in self.layers.items() if isinstance(layer, DoRALinear)}
        return downs | ups | {f"{name}.{MAGNITUDE}": layer.lora_magnitude_vector for name, layer in doras.items()}

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        for layer in self.layers.values():
            layer.is_disabled = True
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.is_disabled = False

    def settle(self) -> None:
        """Nothing to do: pairs are saved in the fp32 they train in."""

    def check(self) -> None:
        if name := find_unsound({name: tensor.data for name, tensor in self.parameters().items()}):
            raise TrainingError("adapter.not_finite", where=name)
        if self.is_fresh:
            raise TrainingError("adapter.empty")

    def merge(self) -> None:
        """TrainingError on a quantised base: load the base unquantised and put the adapter on that."""
        kinds = {layer.quantized.kind for layer in self.layers.values() if layer.quantized is not None}
        if kinds:
            raise TrainingError("adapter.merge_quantized", given=listed(sorted(kinds)))
        self._leave({name: layer.fuse for name, layer in self.layers.items()})

    def detach(self) -> None:
        """Take the pairs off without folding them in."""
        self._leave({name: layer.bare for name, layer in self.layers.items()})

    def _leave(self, bare: dict[str, Callable[[], FreeLinear]]) -> None:
        if self._is_gone:
            raise TrainingError("adapter.merged_twice")
        self.model.quick = None  # it computes with the pairs
        for name, make in bare.items():
            put(self.model, name, make())
        self._is_gone = True

    def save(self, folder: Path) -> None:
        if self._is_gone:
            raise TrainingError("adapter.merged_twice")
        write_pairs(folder, {name: layer.pair() for name, layer in self.layers.items()}, self.model)


def find_targets(
    model: Model, targets: Literal["all-linear"] | Sequence[str], layers: Layers = None
) -> dict[str, FreeLinear]:
    """The linear layers that `targets` names, in the model's order. A target is a full name, the end of one
    (`q_proj`), or a regular expression of a full name; one that matches nothing in `layers` is an error."""
    free, chosen = _free_linears(model), chosen_layers(layers, model.spec.num_layers)
    candidates = {
        name: layer
        for name, layer in free.items()
        if name.rpartition(".")[2] not in HEADS and (chosen is None or layer_of(name) in chosen)
    }
    if not candidates:
        raise RecipeError("adapter.no_linear", where="adapter.kind", given=type(model).__name__)
    if targets == "all-linear":
        return candidates
    unmatched = [target for target in targets if not any(_matches(target, name) for name in candidates)]
    if unmatched:
        ends = sorted({name.rpartition(".")[2] for name in candidates})
        raise RecipeError(
            "adapter.no_such_target", where="adapter.targets", given=unmatched[0],
            nearest=nearest(unmatched[0], ends), known=listed(ends),
        )  # fmt: skip
    return {name: layer for name, layer in candidates.items() if any(_matches(target, name) for target in targets)}


def _free_linears(model: Model) -> dict[str, FreeLinear]:
    """Every linear layer by name; a model that carries an adapter already is refused."""
    linears = linears_of(model)
    if model.prefix is not None or any(isinstance(layer, LoRALinear) for layer in linears.values()):
        raise TrainingError("adapter.attached_twice")
    return linears


def _matches(target: str, name: str) -> bool:
    if name == target or name.endswith(f".{target}"):
        return True
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise RecipeError("adapter.bad_regex", where="adapter.targets", given=target, reason=str(error)) from None
