"""Lenses: adapters on one base, several of them in one batch. Nothing is merged and nothing is laid out anew: beside
the base's products stand the low-rank pairs of the lenses that a step needs, side by side, and each token keeps only
its own lens's ranks. So a step costs two small products more, however many lenses its rows have.

Shapes: T tokens, D input width, N output width, R ranks side by side, L lenses.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from danlu.adapters.lora import LoRALinear
from danlu.adapters.peft_format import FreeLinear, Pair, linears_of, read_pairs
from danlu.core.errors import EngineError
from danlu.model.decoder import Decoder
from danlu.model.quantizers.quantizer import QuantizedLinear

PRODUCTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""What reads the same input is one product."""
Sides = tuple[Tensor, Tensor] | None
"""(A_RD, B_RN with the scale in it), or nothing where a lens leaves the product alone."""


def base_of(layer: nn.Module) -> FreeLinear:
    """The layer's weight, without the pair beside it."""
    if isinstance(layer, LoRALinear) and layer.quantized is not None:
        return layer.quantized
    assert isinstance(layer, nn.Linear | QuantizedLinear), "blocks are of linear layers"
    return layer


def is_plain_decoder(model: Decoder) -> bool:
    """Every block is of seven linear layers, of matrices or of codes, with plain low-rank pairs beside them or none."""
    linears = list(linears_of(model.model).values())
    is_known = all(type(linear) in (nn.Linear, LoRALinear) or isinstance(linear, QuantizedLinear) for linear in linears)
    is_whole = all(isinstance(base, QuantizedLinear) or base.weight is not None for base in map(base_of, linears))
    return is_known and is_whole and len(linears) == 7 * model.spec.num_layers


@dataclass(frozen=True, eq=False)
class Lens:
    """An adapter's pairs as products want them: `sides[layer][product]`."""

    name: str
    sides: tuple[tuple[Sides, ...], ...]

    @property
    def num_bytes(self) -> int:
        return sum(side.nbytes for layer in self.sides for pair in layer if pair is not None for side in pair)


def load_lens(name: str, folder: Path, model: Decoder, permute: Permute | None = None) -> Lens:
    """From a PEFT folder; ModelError where it does not fit this base, EngineError where it changes what has no product
    here. `permute` reorders a product's outputs as the base's were."""
    pairs = read_pairs(folder, model)
    if any(pair.magnitude is not None for pair in pairs.values()):
        raise EngineError("engine.lens_dora", where=str(folder))
    known = {f"model.layers.{layer}.{part}" for layer in range(model.spec.num_layers) for p in PRODUCTS for part in p}
    if odd := sorted(set(pairs) - known):
        raise EngineError("engine.lens_module", where=str(folder), given=odd[0])
    return _lens(name, pairs, model, permute)


def attached_lens(model: Decoder) -> Lens | None:
    """The pairs that are attached to the model, as they are now; None where there are none."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}
    pairs = {name: Pair(layer.lora_A.detach(), layer.lora_B.detach(), layer.scaling) for name, layer in layers.items()}
    return _lens("attached", pairs, model, None) if pairs else None


def _lens(name: str, pairs: dict[str, Pair], model: Decoder, permute: Permute | None) -> Lens:
    widths = {name: linear.out_features for name, linear in linears_of(model).items()}
    layers = []
    for layer in range(model.spec.num_layers):
        prefix = f"model.layers.{layer}."
        layers.append(tuple(_sides(prefix, product, pairs, widths, model, permute) for product in PRODUCTS))
    return Lens(name, tuple(layers))


class Permute:
    """New order of a linear layer's outputs, by the layer's last name."""

    def __init__(self, orders: dict[str, Tensor]) -> None:
        self.orders = orders

    def __call__(self, part: str, tensor: Tensor) -> Tensor:
        order = self.orders.get(part.rpartition(".")[2])
        return tensor if order is None else tensor[order]


def _sides(
    prefix: str,
    product: Sequence[str],
    pairs: dict[str, Pair],
    widths_of: dict[str, int],
    model: Decoder,
    permute: Permute | None,
) -> Sides:
    own = [pairs.get(prefix + part) for part in product]
    if not any(own):
        return None
    widths = [widths_of[prefix + part] for part in product]
    A_RD = torch.cat([pair.A for pair in own if pair is not None])
    B_RN = torch.zeros(len(A_RD), sum(widths), device=A_RD.device)
    rank = output = 0
    for part, pair, width in zip(product, own, widths, strict=True):
        if pair is not None:
            B_NR = pair.B if permute is None else permute(part, pair.B)
            size = pair.A.shape[0]
            B_RN[rank : rank + size, output : output + width] = pair.scaling * B_NR.T
            rank += size
        output += width
    return A_RD.to(model.device, model.dtype), B_RN.to(model.device, model.dtype)


class Stack:
    """The pairs of some lenses side by side."""

    def __init__(self, lenses: Sequence[Lens]) -> None:
        self.lenses = tuple(lenses)
        self.sides: list[list[Sides]] = []
        self.ranks: list[list[list[int]]] = []
        """[layer][product][lens]"""
        self.lens_of: dict[tuple[int, ...], Tensor] = {}
        """By the ranks of each lens in a product, int32: whose each rank is, by its place here."""
        for parts in zip(*(lens.sides for lens in lenses), strict=True):
            row: list[Sides] = []
            counts = []
            for several in zip(*parts, strict=True):
                there = [sides for sides in several if sides is not None]
                row.append(_beside(there) if there else None)
                counts.append([0 if sides is None else len(sides[0]) for sides in several])
            self.sides.append(row)
            self.ranks.append(counts)
            for sides, ranks in zip(row, counts, strict=True):
                if sides is not None and tuple(ranks) not in self.lens_of:
                    whose = [place for place, rank in enumerate(ranks) for _ in range(rank)]
                    self.lens_of[tuple(ranks)] = torch.tensor(whose, dtype=torch.int32, device=sides[0].device)

    def owners(self, lenses_T: Sequence[Lens | None]) -> list[int]:
        """Each one's place here, -1 for none."""
        number = {id(lens): place for place, lens in enumerate(self.lenses)}
        return [number.get(id(lens), -1) for lens in lenses_T]


def _beside(sides: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(sides) == 1:
        return sides[0]
    return torch.cat([A_RD for A_RD, _ in sides]), torch.cat([B_RN for _, B_RN in sides])


class Stacks:
    """The last stacks, found by their lenses: steps that follow one another mostly want the same."""

    def __init__(self) -> None:
        self._stack = functools.lru_cache(maxsize=4)(Stack)

    def lensing(self, lenses_T: Sequence[Lens | None], device: torch.device) -> Lensing | None:
        """For tokens with these lenses; None where there is none at all."""
        present = {id(lens): lens for lens in lenses_T if lens is not None}
        if not present:
            return None
        stack = self.stack(present.values())
        owner_T = torch.tensor(stack.owners(lenses_T), device=device)
        return Lensing(stack, owner_T, is_uniform=len(present) == 1 and None not in lenses_T)

    def stack(self, lenses: Iterable[Lens]) -> Stack:
        return self._stack(tuple(sorted(lenses, key=lambda lens: lens.name)))

    def forget(self) -> None:
        self._stack.cache_clear()


class Lensing:
    """One step's lenses: adds to a product's output what each token's lens adds. `owner_T` is that lens's place in the
    stack, or -1; `is_uniform`: all tokens have the stack's only one. Nothing here waits for a device."""

    def __init__(self, stack: Stack, owner_T: Tensor, *, is_uniform: bool) -> None:
        self.stack, self.is_uniform = stack, is_uniform
        self.other_TL = owner_T[:, None] != torch.arange(len(stack.lenses), device=owner_T.device)
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def only(self, tokens_S: Tensor) -> None:
        """From here on only these tokens are computed."""
        self.other_TL = self.other_TL[tokens_S]
        self._masks.clear()

    def add(self, layer: int, product: int, x_TD: Tensor, out_TN: Tensor) -> None:
        sides = self.stack.sides[layer][product]
        if sides is None:
            return
        down_TR = F.linear(x_TD, sides[0])
        if not self.is_uniform:
            down_TR.masked_fill_(self._others(tuple(self.stack.ranks[layer][product])), 0)
        out_TN.addmm_(down_TR, sides[1])

    def _others(self, ranks: tuple[int, ...]) -> Tensor:
        """[T, R]: true where the rank is not of the token's lens."""
        if ranks not in self._masks:
            columns = [self.other_TL[:, n : n + 1].expand(-1, rank) for n, rank in enumerate(ranks)]
            self._masks[ranks] = torch.cat(columns, dim=1)
        return self._masks[ranks]
