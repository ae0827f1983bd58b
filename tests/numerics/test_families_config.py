"""config.json in the spellings that lie on the hubs: transformers 4 and 5, nulls, absent keys, and real files' oddities.

Oracle: the rope frequencies and fields of transformers' own config classes reading the same file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from danlu.model.build import load_model, save_model
from danlu.model.families import phi3
from danlu.ops.attention import Bounds

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 7, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
FILES: dict[str, dict[str, Any]] = {
    "llama 3.1, old": {
        "model_type": "llama", "rope_theta": 500_000.0, "max_position_embeddings": 128, "torch_dtype": "bfloat16",
        "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
            "rope_type": "llama3",
        },
    },
    "llama 2, older still": {"model_type": "llama", "max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "llama with nulls": {
        "model_type": "llama", "rope_scaling": None, "head_dim": None, "num_key_value_heads": None,
    },
    "llama with an unlike head size": {"model_type": "llama", "head_dim": 24, "tie_word_embeddings": True},
    "qwen2.5 with yarn added by hand": {
        "model_type": "qwen2", "rope_theta": 1_000_000.0, "max_position_embeddings": 128, "use_sliding_window": False,
        "sliding_window": 131_072, "max_window_layers": 4,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32, "type": "yarn"},
    },
    "qwen2 sliding by max_window_layers": {
        "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 3,
    },
    "qwen3 without head_dim": {"model_type": "qwen3"},
    "mistral 7b v0.1": {"model_type": "mistral", "sliding_window": 4, "rope_theta": 10_000.0},
    "mistral 7b v0.3": {"model_type": "mistral", "sliding_window": None, "rope_theta": 1_000_000.0},
    "gemma 2, old": {"model_type": "gemma2", "head_dim": 16, "hidden_act": "gelu_pytorch_tanh", "query_pre_attn_scalar": 16, "sliding_window": 4},
    "gemma 3 1b": {
        "model_type": "gemma3_text", "head_dim": 16, "rope_local_base_freq": 10_000, "rope_theta": 1_000_000,
        "sliding_window": 4, "sliding_window_pattern": 6, "query_pre_attn_scalar": 16,
    },
    "gemma 3 4b's text, scaled": {
        "model_type": "gemma3_text", "head_dim": 16, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 4, "query_pre_attn_scalar": 16,
    },
    "phi 3 mini 128k": {
        "model_type": "phi3", "max_position_embeddings": 64, "original_max_position_embeddings": 8, "rope_theta": 10_000.0,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 1.5, 2.5, 4.0]},
    },
    "phi 4 mini": {
        "model_type": "phi3", "max_position_embeddings": 64, "original_max_position_embeddings": 16,
        "partial_rotary_factor": 0.75, "tie_word_embeddings": True, "sliding_window": 262_144,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2], "long_factor": [1.0, 1.5, 2.5]},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_config_means_what_transformers_takes_it_for(name: str, tmp_path: Path) -> None:
    """Both sides get the same weights; the logits of 20 tokens tell whether the file was understood alike."""
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, **FILES[name]}))
    ours = load_model(tmp_path, init="random", seed=1, dtype="fp64")
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    copy(ours, theirs)
    ids, bounds = torch.randint(0, 64, (20,), generator=generator), Bounds.of([20])
    with torch.no_grad():
        torch.testing.assert_close(
            ours.logits(ours.hidden(ids, bounds.positions(), bounds)), theirs(ids[None]).logits[0], rtol=1e-5, atol=1e-5
        )


def copy(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Our weights into transformers' module, Phi's stacks put together."""
    own = dict(ours.named_parameters())
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            stacks = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
            stack = next((stack for stack in stacks if stack in name), None)
            parts = [name.replace(stack, part) for part in stacks[stack]] if stack else [name]
            parameter.copy_(torch.cat([own[part] for part in parts]))


def test_early_phi3_calls_longrope_su() -> None:
    """transformers 5 itself no longer reads such a file; the hub still holds them."""
    late = {**SMALL, **FILES["phi 3 mini 128k"]}
    early = {**late, "rope_scaling": {**late["rope_scaling"], "type": "su"}}
    assert phi3.spec(early) == phi3.spec(late)
    assert phi3.spec(late).ropes[0].kind == "longrope" and phi3.spec(late).ropes[0].factor == 8


def test_the_text_part_of_a_seeing_gemma3(tmp_path: Path) -> None:
    """The larger Gemma 3 come with eyes; their text part is loaded, trained and saved as a model of its own."""
    text = {**SMALL, "head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 16, "vocab_size": 64}
    eyes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(
        text_config=text, vision_config=eyes, mm_tokens_per_image=4, image_token_id=60, boi_token_id=61, eoi_token_id=62
    )
    torch.manual_seed(0)
    theirs = transformers.Gemma3ForConditionalGeneration._from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path / "seeing")
    ids, bounds = torch.arange(20), Bounds.of([20])
    ours = load_model(tmp_path / "seeing", dtype="fp32")
    save_model(ours, tmp_path / "text")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "text", dtype=torch.float32, attn_implementation="eager"
    )
    assert type(again).__name__ == "Gemma3ForCausalLM"
    with torch.no_grad():
        logits = theirs(ids[None], token_type_ids=torch.zeros(1, 20, dtype=torch.long)).logits[0]
        torch.testing.assert_close(
            ours.logits(ours.hidden(ids, bounds.positions(), bounds)), logits, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(again(ids[None]).logits[0], logits, rtol=1e-4, atol=1e-4)
