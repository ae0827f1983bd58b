"""What compile touches, and that it changes nothing. Traced by Dynamo; the code it would generate is torch's matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from danlu.model.build import load_model
from danlu.model.families.hf import ForeignModel
from danlu.ops.attention import Bounds
from danlu.training.compiled import compile_blocks, decoder_layers

SIZES: dict[str, Any] = {"vocab_size": 99, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4}),
    "gpt-neox": (
        "GPTNeoXConfig",
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48},
    ),
}


@pytest.fixture(params=CASES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    kind, extra = CASES[request.param]
    module = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, kind)(**SIZES, **extra), dtype=torch.float32
    )
    module.save_pretrained(tmp_path)
    return tmp_path


class Counting:
    """A backend that runs what it is given, and counts how often it is asked to compile."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        self.shapes += [tuple(x.shape) for x in inputs if x.dim() == 3][:1]
        return graph.forward


def hidden_of(model: ForeignModel, lengths: list[int]) -> torch.Tensor:
    bounds = Bounds.of(lengths)
    ids = torch.randint(0, 99, (bounds.num_tokens,), generator=torch.Generator().manual_seed(sum(lengths)))
    return model.hidden(ids, bounds.positions(), bounds)


def test_foreign_layers_compute_the_same_at_few_shapes(folder: Path) -> None:
    torch._dynamo.reset()
    plain, model = (load_model(folder, dtype="float32", device="cpu") for _ in range(2))
    assert isinstance(plain, ForeignModel) and isinstance(model, ForeignModel)
    backend = Counting()
    assert compile_blocks(model, backend) == 3 == len(decoder_layers(model))
    for lengths in ([5, 9, 3], [7, 7, 2], [30, 1, 12]):
        ours, theirs = hidden_of(model, lengths), hidden_of(plain, lengths)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        grads = []
        for out, which in ((ours, model), (theirs, plain)):
            which.zero_grad()
            out.square().sum().backward()
            grads.append([p.grad for p in which.parameters() if p.grad is not None])
        assert len(grads[0]) == len(grads[1]) > 0
        for near, far in zip(*grads, strict=True):
            torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-4)
    assert backend.shapes, "layers went through the compiler"
    assert {shape[:2] for shape in backend.shapes} == {(3, 64)}


def test_answering_keeps_its_own_shapes(folder: Path) -> None:
    """A cache's rows are as long as what was said, not as a bucket."""
    torch._dynamo.reset()
    model = load_model(folder, dtype="float32", device="cpu")
    compile_blocks(model, Counting())
    bounds = Bounds.of([4, 6])
    cache = model.new_cache(2, 16)
    with torch.inference_mode():
        assert model.hidden(torch.arange(10), bounds.positions(), bounds, cache).shape[0] == 10
        assert model.step(torch.tensor([1, 2]), cache).shape[0] == 2


def test_on_an_old_card_nothing_is_compiled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton, which would write the code, does not support it: training went down in the middle of its first step."""
    model, card = load_model(folder, dtype="float32", device="cpu"), torch.device("cuda:0")
    backend = Counting()
    monkeypatch.setattr(type(model), "device", property(lambda self: card))
    monkeypatch.setattr("danlu.training.compiled.has_kernels", lambda device: device != card)
    assert compile_blocks(model, backend) == 0
    monkeypatch.undo()
    hidden_of(model, [5])
    assert not backend.shapes
