"""The open door: architectures that are not ours, through transformers' own module, behind the same contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from danlu.core.errors import ModelError
from danlu.model.build import load_model, load_state, save_model
from danlu.model.families.hf import ForeignModel
from danlu.ops.attention import Bounds
from training_kit import logits_of

SIZES: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt-neox": ("GPTNeoXConfig", {}),
    "starcoder2": ("Starcoder2Config", {"num_key_value_heads": 2}),
    "gpt2, learnt positions": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "bloom, alibi": ("BloomConfig", {"n_layer": 2, "n_head": 4}),
    "cohere, scaled logits": ("CohereConfig", {"logit_scale": 0.0625}),
    "granite, divided logits": ("GraniteConfig", {"num_key_value_heads": 2, "logits_scaling": 4.0}),
    "mixtral, experts": ("MixtralConfig", {"num_key_value_heads": 2, "num_local_experts": 4}),
}  # fmt: skip

everyone = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for case, (kind, extra) in CASES.items():
        torch.manual_seed(0)
        config = getattr(transformers, kind)(**{**SIZES, **extra})
        module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
        folders[case] = tmp_path_factory.mktemp("foreign")
        module.save_pretrained(folders[case])
    return folders


def oracle(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def ids_of(length: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 99, (length,), generator=torch.Generator().manual_seed(seed))


@everyone
def test_packed_logits_and_gradients_equal_transformers_alone(case: str, checkpoints: dict[str, Path]) -> None:
    """fp32, tolerance 1e-4 of gradients' size: padding in the batch changes the order of sums."""
    documents = [ids_of(n, n) for n in (7, 1, 12)]
    ours, theirs = load_model(checkpoints[case], dtype="fp32"), oracle(checkpoints[case])
    assert isinstance(ours, ForeignModel)
    logits = torch.cat([theirs(document[None]).logits[0] for document in documents])
    torch.testing.assert_close(logits_of(ours, *documents), logits, rtol=1e-4, atol=1e-5)
    targets = ids_of(20, 99)
    torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
    bounds = Bounds.of([7, 1, 12])
    ours.loss(ours.hidden(torch.cat(documents), bounds.positions(), bounds), targets).backward()
    expected = dict(theirs.named_parameters())
    assert set(expected) == set(dict(ours.named_parameters()))
    for name, parameter in ours.named_parameters():
        if expected[name].grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-4)


@everyone
def test_ragged_generation_equals_transformers(case: str, checkpoints: dict[str, Path]) -> None:
    prompts, num_new = [ids_of(9, 1), ids_of(3, 2), ids_of(6, 3)], 8
    ours, theirs = load_model(checkpoints[case], dtype="fp32"), oracle(checkpoints[case])
    cache = ours.new_cache(3, 20)
    tokens_B = ours.logits(ours.prefill(prompts, cache)).argmax(-1)
    drawn = [tokens_B]
    with torch.no_grad():
        for _ in range(num_new - 1):
            tokens_B = ours.logits(ours.step(tokens_B, cache)).argmax(-1)
            drawn.append(tokens_B)
    for prompt, row in zip(prompts, torch.stack(drawn, 1), strict=True):
        answer = theirs.generate(
            prompt[None], attention_mask=torch.ones_like(prompt[None]), max_new_tokens=num_new, do_sample=False
        )
        assert torch.equal(row, answer[0, len(prompt) :])


@everyone
def test_saved_by_us_loads_in_transformers_and_into_a_living_model(
    case: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    ids = ids_of(12, 5)
    save_model(load_model(checkpoints[case], dtype="fp32"), tmp_path / "saved")
    with torch.no_grad():
        before = oracle(checkpoints[case])(ids[None]).logits
        assert torch.equal(oracle(tmp_path / "saved")(ids[None]).logits, before)
        fresh = load_model(checkpoints[case], init="random", seed=3, dtype="fp32")
        assert not torch.allclose(logits_of(fresh, ids), before[0], atol=1e-3)
        load_state(fresh, tmp_path / "saved")
        torch.testing.assert_close(logits_of(fresh, ids), before[0], rtol=1e-5, atol=1e-5)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_key_value_heads=2)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", ["gpt-neox", "llama"])
def test_finished_rows_are_dropped_and_fresh_ones_adopted(case: str, checkpoints: dict[str, Path], llama: Path) -> None:
    """A foreign cache and our own."""
    model = load_model(llama if case == "llama" else checkpoints[case], dtype="fp32")
    prompts = [ids_of(4, 1), ids_of(6, 2), ids_of(5, 3)]
    whole, kept = model.new_cache(3, 20), model.new_cache(3, 20)
    tokens_B = model.logits(model.prefill(prompts, whole)).argmax(-1)
    model.prefill(prompts, kept)
    assert kept.drop([0]) == [(2, 0)] and kept.num_rows == 2
    with torch.no_grad():
        wanted = model.step(tokens_B, whole)
        fresh = model.new_cache(1, 9)
        model.prefill(prompts[:1], fresh)
        kept.adopt(fresh)
        torch.testing.assert_close(model.step(tokens_B[[2, 1, 0]], kept), wanted[[2, 1, 0]])
    assert kept.longest == 7 and kept.lengths_B.tolist() == [6, 7, 5]
    kept.empty()
    assert kept.num_rows == kept.longest == 0


def test_what_is_no_causal_model_is_refused(tmp_path: Path) -> None:
    transformers.T5Config().save_pretrained(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path, init="random", dtype="fp32")
    assert caught.value.key == "model.not_causal" and "t5" in str(caught.value)


def test_a_head_that_is_more_than_linear_is_refused(tmp_path: Path) -> None:
    """RecurrentGemma bends its logits; trained as if it did not, it would be another model."""
    config = transformers.RecurrentGemmaConfig(**SIZES, lru_width=32, attention_window_size=8, logits_soft_cap=0.01)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path, dtype="fp32")
    assert caught.value.key == "model.head_unknown"


def test_saving_in_another_dtype_leaves_the_living_weights_alone(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Full fine-tuning keeps fp32 masters and writes bf16 checkpoints: each checkpoint rounded the masters as well."""
    model = load_model(checkpoints["gpt-neox"], dtype="fp32")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    save_model(model, tmp_path / "half", "bf16")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    half = load_model(tmp_path / "half", dtype="fp32")
    for name, parameter in half.named_parameters():
        assert torch.equal(parameter, before[name].bfloat16().float()), name
