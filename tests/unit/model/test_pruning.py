"""A pruned decoder says what the whole one says with those layers skipped; which ones go is what they change least."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.core.errors import ModelError
from danlu.model.build import load_model, save_model
from danlu.model.decoder import Decoder
from danlu.model.pruning import block_influence, hidden_of, least_influential, skipping, without_layers
from decoder_kit import NAMES, model_of, write_shapes

IDS = torch.arange(3, 35)


def decoder(folder: Path, family: str) -> Decoder:
    """Four layers, and windows of eight tokens where the family has any."""
    return model_of(write_shapes(folder, context=64, window=8, num_hidden_layers=4)[family], device="cpu")


def test_a_layer_that_adds_nothing_has_no_influence_and_goes_first(tmp_path: Path) -> None:
    model = decoder(tmp_path, "qwen2")
    idle = model.model.layers[2]
    with torch.no_grad():
        idle.self_attn.o_proj.weight.zero_()
        idle.mlp.down_proj.weight.zero_()
    influence = block_influence(model, [IDS, IDS[:7]])
    assert influence[2] == pytest.approx(0.0, abs=1e-6) and min(influence[:2] + influence[3:]) > 1e-4
    assert least_influential(influence, 1) == (2,)
    whole = hidden_of(model, IDS)
    assert torch.equal(hidden_of(without_layers(model, [2]), IDS), whole), "nothing is lost with it"


def test_influence_is_one_minus_the_cosine_of_a_layer_s_ends(tmp_path: Path) -> None:
    model = decoder(tmp_path, "llama")
    ends: list[tuple[torch.Tensor, torch.Tensor]] = []
    for block in model.model.layers:
        block.register_forward_hook(lambda _, given, out: ends.append((given[0].double(), out.double())))
    with torch.no_grad():
        hidden_of(model, IDS)
    expected = [float(1 - (a * b).sum(-1).div(a.norm(dim=-1) * b.norm(dim=-1)).mean()) for a, b in ends]
    assert block_influence(model, [IDS]) == pytest.approx(expected, abs=1e-6)


def test_of_equals_the_deeper_layer_goes() -> None:
    assert least_influential([0.9, 0.2, 0.1, 0.2], 2) == (2, 3)


@pytest.mark.parametrize("family", NAMES)
def test_transformers_reads_it_as_the_whole_model_with_layers_skipped(family: str, tmp_path: Path) -> None:
    """Families whose layers are of several kinds keep each layer's own."""
    transformers = pytest.importorskip("transformers")
    model = decoder(tmp_path / "whole", family)
    left_out = (1,) if family == "gemma2" else (0, 2)
    pruned = without_layers(model, left_out)
    save_model(pruned, tmp_path / "pruned")
    with skipping(model, left_out), torch.no_grad():
        expected = model.logits(hidden_of(model, IDS))
    again = load_model(tmp_path / "pruned", dtype="fp32")
    assert isinstance(again, Decoder) and again.spec == pruned.spec
    with torch.no_grad():
        assert torch.equal(again.logits(hidden_of(again, IDS)), expected)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype=torch.float32).eval()
        assert (theirs(input_ids=IDS[None]).logits[0] - expected).abs().max() < 2e-5 * max(1.0, expected.abs().max())
    assert not torch.equal(hidden_of(model, IDS), hidden_of(pruned, IDS)), "skipping ends with its block"


def test_a_checkpoint_that_cannot_name_its_layers_is_refused(tmp_path: Path) -> None:
    model = decoder(tmp_path, "gemma2")
    object.__setattr__(model.spec, "norm_eps", 0.5)  # as if the shape said what config.json cannot
    with pytest.raises(ModelError, match="gemma2"):
        without_layers(model, [1])
