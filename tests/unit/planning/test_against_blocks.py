"""What the planner says a layer keeps, against what the engine's blocks hold, byte by byte, on a small model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from danlu.adapters.full import Full
from danlu.adapters.lora import LoRA
from danlu.data.tokens import Tokens
from danlu.model.decoder import Decoder
from danlu.model.families import own_family
from danlu.planning import rates
from danlu.planning.memory import _layer, moved_bytes, weight_bytes
from danlu.planning.policy import Kept
from danlu.planning.shapes import Shapes
from danlu.planning.work import Work
from danlu.training.batches import make_batch
from danlu.training.blocks.block import Memory, QuickBlock
from danlu.training.blocks.policy import Policy
from danlu.training.blocks.trunk import QuickTrunk
from danlu.training.likelihood import summed_nll

CONFIG: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 64,
    "num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": False,
}  # fmt: skip
TOKENS, SHARE = 96, 0.25


def tensors(thing: Any) -> Iterator[Tensor]:
    """All tensors that something holds, however deep."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, tuple | list):
        for entry in thing:
            yield from tensors(entry)
    elif is_dataclass(thing):
        for entry in fields(thing):
            if entry.name not in ("ask", "bounds", "kernel", "loan"):
                yield from tensors(getattr(thing, entry.name))


def held_bytes(memory: Memory) -> int:
    return storage_bytes(tensors(memory))


def lent_bytes(memory: Memory, *, has_ffn: bool) -> int:
    return storage_bytes(memory.big(has_ffn=has_ffn))


def storage_bytes(found: Iterable[Tensor]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}.values())


def columns(quick: QuickTrunk) -> int:
    """Those beside a product of one pair of rank 16: what paddings are a multiple of here."""
    assert quick.blocks[0].o.pairs.padding in (rates.PAD, rates.CPU_PAD)
    return quick.blocks[0].o.pairs.padding


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("policy", ["all", "light", "input"])
def test_a_block_keeps_what_the_planner_says(kind: str, policy: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG | {"model_type": kind}
    family = own_family(config)
    assert family is not None
    model = Decoder(family.spec(config), Path("."), config)
    model.reset_parameters(torch.Generator().manual_seed(0))
    LoRA(rank=16).attach(model)
    quick = model.quick = QuickTrunk(model)
    quick.use([Policy(policy)] * 3)
    kept: list[Memory] = []
    forward = QuickBlock.forward

    def listen(self: QuickBlock, *words: Any, **named: Any) -> Any:
        made = forward(self, *words, **named)
        kept.extend(part for part in made if isinstance(part, Memory))
        return made

    monkeypatch.setattr(QuickBlock, "forward", listen)
    learnt = np.zeros(TOKENS, dtype=np.uint8)
    learnt[-int(TOKENS * SHARE) :] = 1
    batch = make_batch("train", np.arange(1), [Tokens(np.arange(TOKENS, dtype=np.int32), learnt)])
    summed_nll(model, batch)
    shapes = Shapes.read(config)
    assert shapes is not None
    work = Work(shapes, TOKENS, TOKENS, TOKENS, precision="32", supervised_ratio=SHARE, pad=columns(quick))
    assert len(kept) == 3
    # low-rank products are in the planner's 16 bit times two here; statistics of attention differ by kernel
    for layer, memory in enumerate(kept):
        said = _layer(work, policy, is_last=layer == 2)
        assert held_bytes(memory) == pytest.approx(said, rel=0.01), f"layer {layer}"
    assert lent_bytes(kept[0], has_ffn=True) == TOKENS * moved_bytes(work, f"{policy}-host")  # type: ignore[arg-type]
    if policy == "all":
        assert lent_bytes(kept[0], has_ffn=False) == TOKENS * moved_bytes(work, "all-split")


def test_weights_lie_as_the_planner_says() -> None:
    config = CONFIG | {"model_type": "qwen2"}
    family = own_family(config)
    assert family is not None
    model = Decoder(family.spec(config), Path("."), config)
    attached = LoRA(rank=16).attach(model)
    quick = QuickTrunk(model)
    pairs = {pair.data_ptr() for pair in attached.parameters().values()}
    stores = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
        for p in model.parameters()
        if p.data_ptr() not in pairs
    }
    shapes = Shapes.read(config)
    assert shapes is not None
    assert sum(stores.values()) == weight_bytes(Work(shapes, 64, 64, 64, precision="32", pad=columns(quick)))


@pytest.mark.parametrize(
    ("masters", "is_narrow", "lowest"), [("fp32", False, None), ("none", True, None), ("fp32", False, 1)]
)
def test_full_fine_tuning_keeps_what_the_planner_says(masters: Any, is_narrow: bool, lowest: int | None) -> None:
    """Bytes that autograd holds for one layer more, weights and their casts aside. A layer of 16-bit weights keeps a
    16-bit stream; fp32 masters under autocast keep theirs in fp32, unless the embedding is one of what is frozen."""

    def held(num_layers: int) -> int:
        config = CONFIG | {"model_type": "qwen2", "num_hidden_layers": num_layers}
        family = own_family(config)
        assert family is not None
        model = Decoder(family.spec(config), Path("."), config).to(torch.bfloat16)
        model.reset_parameters(torch.Generator().manual_seed(0))
        Full(masters, layers=None if lowest is None else list(range(lowest, num_layers))).attach(model)
        sizes = {weight.numel() for weight in model.parameters() if weight.ndim == 2}
        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            is_cast = tensor.dtype == torch.bfloat16 and tensor.untyped_storage().nbytes() // 2 in sizes
            if not isinstance(tensor, torch.nn.Parameter) and not is_cast:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        batch = make_batch("train", np.arange(1), [Tokens(np.arange(98, dtype=np.int32), np.ones(98, dtype=np.uint8))])
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=not is_narrow),
        ):
            summed_nll(model, batch)
        return storage_bytes(kept.values())

    shapes = Shapes.read(CONFIG | {"model_type": "qwen2"})
    assert shapes is not None
    work = Work(shapes, 98, 98, 98, is_full=True, rank=0, has_masters=masters == "fp32",
                layers=lowest and (lowest, 2))  # fmt: skip
    assert held(3) - held(2) == pytest.approx(_layer(work, "all"), rel=0.12)
