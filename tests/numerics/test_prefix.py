"""A prefix against PEFT's PrefixTuning: forward, backward, files, answers; packed as unpacked; off it is the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.adapters.load import load_trained
from danlu.adapters.lora import LoRA
from danlu.adapters.prefix import PrefixTuning
from danlu.core.errors import ModelError, RecipeError, TrainingError
from danlu.core.files import read_json, write_json
from danlu.model.build import load_model, save_model
from danlu.model.prefix import Seats
from danlu.ops.attention import Bounds
from danlu.planning.shapes import Shapes
from danlu.planning.work import Work
from danlu.training.batches import make_batch
from danlu.training.blocks.trunk import why_not
from danlu.training.likelihood import summed_nll
from training_kit import QWEN2, logits_of, sft_items, tiny_model

LLAMA = QWEN2 | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
QWEN3 = QWEN2 | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 16}
FAMILIES = {"qwen2": QWEN2, "llama": LLAMA, "qwen3-wide-heads": QWEN3}
FIRST, SECOND = torch.arange(3, 23), torch.arange(40, 52)
DOCUMENTS = [item.tokens[0] for item in sft_items(6, longest=40)]


def attached_to(folder: Path, config: dict[str, Any] = QWEN2, **knobs: Any) -> Any:
    """A prefix of 5 tokens that has been trained a little, on a tiny model."""
    attached = PrefixTuning(num_tokens=5, seed=3).attach(tiny_model(folder, config, **knobs))
    numbers = attached.prefix.prompt_embeddings.data
    numbers += 0.1 * torch.randn(numbers.shape, generator=torch.Generator().manual_seed(1)).to(numbers.dtype)
    return attached


def in_peft(attached: Any, folder: Path) -> Any:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    attached.save(folder / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, folder / "adapter").eval()
    theirs.prompt_encoder.default.embedding.weight.requires_grad_(True)  # what they refuse to ask of a loaded one
    return theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_says_and_learns_the_same(tmp_path: Path, family: str) -> None:
    """Logits to 2e-5, the prefix's gradient to 1e-4 of its size, of two documents in one row."""
    config = FAMILIES[family]
    save_model(tiny_model(tmp_path / "seed", config), tmp_path / "base")
    attached = attached_to(tmp_path / "seed", config)
    theirs = in_peft(attached, tmp_path)
    ours = logits_of(attached.model, FIRST, SECOND)
    logits = torch.cat([theirs(input_ids=ids[None]).logits[0] for ids in (FIRST, SECOND)])
    torch.testing.assert_close(ours, logits, atol=2e-5, rtol=1e-4)
    with torch.no_grad(), attached.disabled():
        assert float((logits_of(attached.model, FIRST, SECOND) - ours).abs().max()) > 0.1, "it says something"
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    ours.backward(upstream)
    logits.backward(upstream)
    own, other = attached.prefix.prompt_embeddings.grad, theirs.prompt_encoder.default.embedding.weight.grad
    assert float((own - other).norm() / other.norm()) < 1e-4


def test_we_load_pefts(tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = tiny_model(tmp_path / "seed")
    save_model(model, tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    torch.manual_seed(0)
    settings = peft.PrefixTuningConfig(num_virtual_tokens=6, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(base, settings).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    attached = load_trained(tmp_path / "adapter", model)
    assert (attached.kind, attached.prefix.num_tokens) == ("prefix", 6)
    with torch.no_grad():
        expected = theirs(input_ids=FIRST[None]).logits[0]
        torch.testing.assert_close(logits_of(model, FIRST), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_is_unpacked(tmp_path: Path, family: str) -> None:
    """fp64: loss to 1e-12, gradient to 1e-9. Each document sees the prefix and itself."""
    attached = attached_to(tmp_path, FAMILIES[family], dtype=torch.float64)
    model, weight = attached.model, attached.prefix.prompt_embeddings
    together = summed_nll(model, make_batch("train", np.arange(len(DOCUMENTS)), DOCUMENTS))
    alone = sum(summed_nll(model, make_batch("train", np.arange(1), [document])) for document in DOCUMENTS)
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)
    one, other = (torch.autograd.grad(loss, weight)[0] for loss in (together, alone))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_it_is_what_reading_those_tokens_first_would_be(tmp_path: Path) -> None:
    """It begins as the model's own keys and values of a text: then it is that text, standing before."""
    model = tiny_model(tmp_path, dtype=torch.float64)
    words = torch.randint(96, (5,), generator=torch.Generator().manual_seed(7))
    expected = torch.cat([logits_of(model, torch.cat((words, ids)))[5:] for ids in (FIRST, SECOND)])
    PrefixTuning(num_tokens=5, seed=7).attach(model)
    torch.testing.assert_close(logits_of(model, FIRST, SECOND), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_step_by_step_is_all_at_once_and_off_it_is_the_base(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, dtype=torch.float64)
    before = logits_of(model, FIRST, SECOND)
    attached = PrefixTuning(num_tokens=4).attach(model)
    with attached.disabled():
        assert torch.equal(logits_of(model, FIRST, SECOND), before)
    expected, cache = logits_of(model, FIRST, SECOND), model.new_cache(2, 20)
    model.prefill([FIRST[:-1], SECOND[:-1]], cache)
    last = model.logits(model.step(torch.stack((FIRST[-1], SECOND[-1])), cache))
    torch.testing.assert_close(last, torch.stack((expected[19], expected[31])), rtol=1e-10, atol=1e-10)
    assert model.context == model.spec.context - 4
    attached.detach()
    assert torch.equal(logits_of(model, FIRST, SECOND), before)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_saved_and_loaded_every_bit_is_there_also_beside_codes(tmp_path: Path, quantize: Any) -> None:
    config = QWEN2 | {"hidden_size": 64, "intermediate_size": 128}
    save_model(tiny_model(tmp_path / "seed", config), tmp_path / "base")
    model, other = (load_model(tmp_path / "base", dtype=torch.float32, quantize=quantize) for _ in range(2))
    attached = PrefixTuning(num_tokens=5).attach(model)
    attached.save(tmp_path / "adapter")
    load_trained(tmp_path / "adapter", other)
    assert torch.equal(logits_of(other, FIRST), logits_of(model, FIRST))


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    attached = attached_to(tmp_path / "m")
    assert why_not(attached.model, attached) == "prefix"
    with pytest.raises(TrainingError, match="merged"):
        attached.merge()
    with pytest.raises(TrainingError, match="already"):
        PrefixTuning().attach(attached.model)
    attached.save(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    write_json(config, read_json(config) | {"num_virtual_tokens": 9})
    with pytest.raises(ModelError, match="9"):
        load_trained(tmp_path / "adapter", tiny_model(tmp_path / "m"))
    gpt2 = {"model_type": "gpt2", "vocab_size": 96, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    with pytest.raises(RecipeError, match="gpt2"):
        PrefixTuning().attach(tiny_model(tmp_path / "foreign", gpt2))


def test_two_kinds_at_once_are_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    LoRA(rank=2).attach(model)
    with pytest.raises(TrainingError, match="already"):
        PrefixTuning().attach(model)
    other = attached_to(tmp_path).model
    with pytest.raises(TrainingError, match="already"):
        LoRA(rank=2).attach(other)


def test_the_plan_counts_it(tmp_path: Path) -> None:
    for config in FAMILIES.values():
        attached = attached_to(tmp_path, config)
        shapes = Shapes.read(config)
        assert shapes is not None
        work = Work(shapes, 64, 64, 64, rank=0, prefix_tokens=5)
        assert work.num_trainable == attached.prefix.prompt_embeddings.numel() and work.is_written_out


def test_prefixes_and_tokens_have_seats_of_their_own() -> None:
    seats = Seats.of(Bounds.of([3, 0, 2]), 2, torch.device("cpu"))
    assert seats.bounds.lengths == (5, 2, 4)
    assert seats.prefix_NP.tolist() == [0, 1, 5, 6, 7, 8] and seats.own_T.tolist() == [2, 3, 4, 9, 10]
