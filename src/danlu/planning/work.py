"""Work: what one stage computes, as plain numbers. Made from a recipe's stage, or by hand for a question "what if"."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

from danlu.planning import rates
from danlu.planning.shapes import Shapes
from danlu.recipe.adapter import FullSection, LoRASection, PrefixSection
from danlu.recipe.layers import chosen_layers
from danlu.recipe.method import GRPOSection, SFTSection, StageSection
from danlu.recipe.recipe import Recipe

Offload = Literal["none", "masters", "all"]
Precision = Literal["16", "32", "fp8", "nf4", "int8"]
"""How frozen weights lie: 16 is bf16 or fp16, 32 is fp32."""

GROUPS: dict[str, tuple[str, ...]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Products that run as one, by the layers they are made of."""


@dataclass(frozen=True, slots=True)
class Product:
    """One fused product of a block: y = x Wᵀ with `columns` in, `rows` out, `pad` low-rank columns beside them."""

    rows: int
    columns: int
    pad: int

    @property
    def size(self) -> int:
        return self.rows * self.columns

    @property
    def padded_size(self) -> int:
        return (self.rows + self.pad) * (self.columns + self.pad)


@dataclass(frozen=True, slots=True)
class Work:
    """One stage's shapes, adapter, number formats and token counts. `micro_tokens` are computed at once, `batch_tokens`
    make a step; `document_tokens` is the length of the document that a token stands in, on average."""

    shapes: Shapes
    context: int
    micro_tokens: int
    batch_tokens: int
    is_full: bool = False
    rank: int = 16
    targets: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    """Decoder layers in which something trains; None: all, and with full fine-tuning what lies around them."""
    precision: Precision = "16"
    has_masters: bool = True
    """Full fine-tuning: fp32 masters beside the 16-bit weights."""
    has_8bit_states: bool = False
    offload: Offload = "none"
    """Full fine-tuning: masters, or masters and moments, lie in the machine's memory."""
    frees_gradients: bool = False
    """Full fine-tuning on a GPU without clipping: a gradient may be applied as soon as it is there."""
    method: str = "sft"
    document_tokens: int = 0
    supervised_ratio: float = 1.0
    num_steps: int | None = None
    has_dropout: bool = False
    """Of the adapter's inputs."""
    has_magnitudes: bool = False
    """DoRA."""
    prefix_tokens: int = 0
    """Nothing trains but keys and values before every text. Their places in each row of attention are not counted."""
    pad: int = rates.PAD
    """Low-rank columns beside a product are a multiple of this."""
    longest_tokens: int = 0
    """Of the items of a dataset that is there; 0 where none has been seen."""
    num_ranks: int = 1
    """Cards that share each step; every one holds all that a single one would."""
    group: int = 0
    """Answers that are drawn for each question before they are trained on; 0: none are."""
    answer_tokens: int = 0
    """The longest of them."""
    is_held: bool = False
    """Drawn answers are held to a reference."""
    has_no_quick_form: bool = False
    """For a reason that shapes do not tell, such as layers in several number formats."""

    @property
    def is_written_out(self) -> bool:
        """No hand-written backward: every layer keeps what torch keeps, and there is nothing to choose."""
        is_plain = self.is_full or self.has_dropout or self.has_magnitudes or self.has_no_quick_form
        return is_plain or self.prefix_tokens > 0 or self.shapes.is_foreign

    @property
    def has_reference(self) -> bool:
        """Another model's pass, without a way back."""
        return self.method == "dpo" or self.is_held

    @property
    def has_masters_apart(self) -> bool:
        """Weights are 16-bit and so are their gradients; masters lie in the machine's memory."""
        return self.is_full and self.has_masters and self.offload != "none" and self.width == 2

    @property
    def updates_in_backward(self) -> bool:
        """Only one gradient lives: nothing waits for the last one, and no other piece's is to be added."""
        return self.is_full and self.frees_gradients and self.num_pieces == 1 and self.num_ranks == 1

    @property
    def makes_gradients_anew(self) -> bool:
        """Whole gradients, let go before each step: with one piece none is there while layers save. Low-rank pairs keep
        theirs in a buffer that stands."""
        return self.is_full and self.num_pieces == 1 and not self.updates_in_backward

    @property
    def width(self) -> int:
        """Bytes of an activation."""
        return 4 if self.precision == "32" else 2

    @property
    def document(self) -> int:
        return min(self.document_tokens or self.context, self.micro_tokens)

    @property
    def is_ragged(self) -> bool:
        """Documents differ in length, as real ones do."""
        return self.document_tokens not in (0, self.context)

    @property
    def num_pieces(self) -> int:
        """Micro-batches of a step that one card computes; the last need not be full."""
        return math.ceil(self.full_pieces / self.num_ranks)

    @property
    def full_pieces(self) -> float:
        """Of all cards; a part of a piece costs its part of the time."""
        return self.tokens_per_step / self.micro_tokens

    @property
    def tokens_per_step(self) -> int:
        """However they are cut: the longest item is never left out."""
        return max(self.batch_tokens, min(self.min_micro_tokens, self.micro_tokens))

    @property
    def min_micro_tokens(self) -> int:
        """The longest item is computed in one piece; a preference pair is one item."""
        return self.longest_tokens or self.context * (2 if self.method == "dpo" else 1)

    @property
    def supervised_tokens(self) -> int:
        return math.ceil(self.micro_tokens * self.supervised_ratio)

    @property
    def num_trained_layers(self) -> int:
        return self.shapes.num_layers if self.layers is None else len(self.layers)

    @property
    def depth(self) -> int:
        """Layers that the backward goes through, from the last one down to the lowest that trains. Those below keep
        nothing."""
        return self.shapes.num_layers - (self.layers[0] if self.layers else 0)

    @property
    def trains_ends(self) -> bool:
        """Embedding and head train too."""
        return self.is_full and self.layers is None

    @property
    def num_trainable(self) -> int:
        if self.prefix_tokens:
            return self.prefix_tokens * self.shapes.num_layers * (self.shapes.qkv_size - self.shapes.query_size)
        if not self.is_full:
            layers = self.num_trained_layers
            return self.shapes.lora_params(self.rank, self.targets, layers, has_magnitudes=self.has_magnitudes)
        return self.shapes.num_params if self.layers is None else len(self.layers) * self.shapes.block_params

    @property
    def products(self) -> dict[str, Product]:
        """Of a layer that trains."""
        return _products(self.shapes, 0 if self.is_full else self.rank, self.targets, self.pad, self.is_written_out)

    @property
    def frozen_products(self) -> dict[str, Product]:
        """Of one that does not."""
        return _products(self.shapes, 0, None, self.pad, self.is_written_out)


@functools.cache
def _products(
    shapes: Shapes, rank: int, targets: tuple[str, ...] | None, multiple: int, is_written_out: bool
) -> dict[str, Product]:
    biased = {"qkv": shapes.has_qkv_bias, "o": shapes.has_o_bias}
    found = {}
    for group, members in GROUPS.items():
        sizes = [shapes.linear_shapes[name] for name in members]
        num_trained = sum(targets is None or name in targets for name in members)
        used = num_trained * rank + biased.get(group, shapes.has_mlp_bias)
        pad = 0 if is_written_out else math.ceil(used / multiple) * multiple  # a bias takes a column too
        found[group] = Product(sum(rows for rows, _ in sizes), sizes[0][1], pad)
    return found


def work_of(
    recipe: Recipe, stage: StageSection, shapes: Shapes, *, supervised_ratio: float | None = None,
    document_tokens: int = 0, num_steps: int | None = None, has_16bit: bool = True,
) -> Work:  # fmt: skip
    """The work of one of `recipe.plan_stages()`. What the dataset knows better may be handed in; `has_16bit` is False
    on a CPU that computes in fp32. `devices: all` counts as one card, for nobody has looked."""
    training, adapter = stage.training, recipe.adapter
    assert training.micro_tokens is not None, "plan_stages() fills it"
    if stage.method.kind == "classify":  # a row a text: nothing beside a row a token
        supervised_ratio = 0.0
    learns_all = not isinstance(stage.method, SFTSection) or stage.method.train_on == "all"
    drawn = stage.method.answer_tokens
    context = training.context + drawn  # a row's own answer gives way to a drawn one
    if supervised_ratio is None and drawn:
        supervised_ratio = drawn / min(context, document_tokens or context)
    if supervised_ratio is None:
        supervised_ratio = 1.0 if stage.method.kind == "pretrain" or learns_all else rates.SUPERVISED_RATIO
    lora = adapter if isinstance(adapter, LoRASection) else None
    return Work(
        shapes=shapes,
        context=context,
        micro_tokens=max(context, training.micro_tokens) if drawn else training.micro_tokens,
        batch_tokens=max(training.batch_tokens, training.micro_tokens),
        is_full=isinstance(adapter, FullSection),
        rank=lora.rank if lora else 0,
        targets=None if lora is None or lora.targets == "all-linear" else lora.targets,
        layers=None if isinstance(adapter, PrefixSection) else chosen_layers(adapter.layers, shapes.num_layers),
        prefix_tokens=adapter.num_tokens if isinstance(adapter, PrefixSection) else 0,
        precision=_precision(recipe, has_16bit),
        has_masters=not isinstance(adapter, FullSection) or adapter.masters == "fp32",
        has_8bit_states=training.optimizer == "adamw_8bit",
        offload=adapter.offload if isinstance(adapter, FullSection) else "none",
        frees_gradients=isinstance(adapter, FullSection) and not training.clip,
        method=stage.method.kind,
        document_tokens=document_tokens,
        supervised_ratio=supervised_ratio,
        num_steps=num_steps or training.max_steps,
        group=stage.method.num_answers,
        answer_tokens=drawn,
        is_held=isinstance(stage.method, GRPOSection) and stage.method.beta > 0,
        has_dropout=lora is not None and lora.dropout > 0,
        has_magnitudes=lora is not None and lora.dora,
        num_ranks=1 if training.devices == "all" else training.devices,
    )


def leaves_micro_tokens(recipe: Recipe, index: int) -> bool:
    """The recipe does not say how many tokens are computed at once in this stage: the planner may. Empty and the value
    that it is filled with are one recipe, with one digest, and a run keeps it filled: both leave it open."""
    training = recipe.plan_stages()[index].training
    return training.micro_tokens == max(training.batch_tokens, training.context)


def _precision(recipe: Recipe, has_16bit: bool) -> Precision:
    if recipe.model.quantize != "none":
        return recipe.model.quantize
    dtype = recipe.model.dtype
    return "32" if dtype == "float32" or (dtype == "auto" and not has_16bit) else "16"
