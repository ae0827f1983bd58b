"""Parameters counted from config.json alone, against the models themselves and against published counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.model.build import load_model, save_model
from danlu.model.classifier import Classifier, EncoderSpec
from danlu.model.decoder import Decoder
from danlu.model.families import FAMILIES as FAMILIES_ON_SHELF
from danlu.model.families import own_family
from danlu.model.hub import embedded_folder
from danlu.planning.shapes import OWN_FAMILIES, Shapes

GEMMA_2_2B = {
    "model_type": "gemma2", "hidden_size": 2304, "num_attention_heads": 8, "head_dim": 256, "num_hidden_layers": 26,
    "num_key_value_heads": 4, "intermediate_size": 9216, "vocab_size": 256000,
}  # fmt: skip


def test_ember_is_counted_to_the_unit() -> None:
    folder = embedded_folder()
    shapes = Shapes.read(json.loads((folder / "config.json").read_text()))
    assert shapes is not None
    assert shapes.num_params == sum(parameter.numel() for parameter in load_model(folder).parameters())


FAMILIES: list[dict[str, Any]] = [
    {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    {"model_type": "llama", "tie_word_embeddings": True},
    {"model_type": "mistral", "tie_word_embeddings": False, "num_key_value_heads": None, "num_attention_heads": 16},
    {"model_type": "qwen2", "tie_word_embeddings": False, "use_sliding_window": False, "sliding_window": 99},
    {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": None},
    {"model_type": "gemma2", "head_dim": None},
    {"model_type": "gemma3_text", "head_dim": None, "num_attention_heads": None, "num_key_value_heads": None},
    {"model_type": "phi3", "tie_word_embeddings": False, "sliding_window": None},
]


@pytest.mark.parametrize("own", FAMILIES, ids=lambda own: str(own["model_type"]))
def test_what_config_json_leaves_unsaid_is_read_as_the_model_room_reads_it(own: dict[str, Any]) -> None:
    """Two readings of one file: the planner's, which must not load torch, and the decoder's own."""
    base = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 128}  # fmt: skip
    config = {key: value for key, value in (base | own).items() if value is not None or key == "sliding_window"}
    family = own_family(config)
    assert family is not None
    spec = family.spec(config)
    with torch.device("meta"):
        decoder = Decoder(spec, Path("."), config)
    shapes = Shapes.read(config)
    assert shapes is not None
    assert shapes.num_params == sum(parameter.numel() for parameter in decoder.parameters())
    sliding = [window for window in spec.windows if window]
    assert shapes.num_sliding == len(sliding) and (not sliding or shapes.window == sliding[0])


ENCODERS: list[dict[str, Any]] = [
    {"model_type": "bert"},
    {"model_type": "bert", "max_position_embeddings": 300, "type_vocab_size": 4, "tie_word_embeddings": False},
    {"model_type": "roberta"},
    {"model_type": "xlm-roberta", "max_position_embeddings": 130, "pad_token_id": 1},
]


@pytest.mark.parametrize("own", ENCODERS, ids=lambda own: str(own["model_type"]))
def test_an_encoder_is_counted_to_the_unit_but_for_its_classes(own: dict[str, Any]) -> None:
    base = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "vocab_size": 9,
    }
    config = base | {"max_position_embeddings": 514 if own["model_type"] != "bert" else 512} | own
    if own["model_type"] != "bert":
        config.setdefault("type_vocab_size", 1)
    family, shapes = own_family(config), Shapes.read(base | own)
    assert family is not None and shapes is not None
    spec = family.spec(config)
    assert isinstance(spec, EncoderSpec)
    with torch.device("meta"):
        model = Classifier(spec, Path("."), config)
    assert shapes.num_params == sum(parameter.numel() for parameter in model.parameters())
    assert shapes.reach == spec.context and shapes.is_encoder


def test_foreign_families_are_those_without_a_decoder_of_ours() -> None:
    assert set(OWN_FAMILIES) == set(FAMILIES_ON_SHELF.places)
    dense = {**GEMMA_2_2B, "model_type": "olmo2"}
    foreign, own = Shapes.read(dense), Shapes.read(GEMMA_2_2B)
    assert foreign is not None and own is not None and foreign.is_foreign and not own.is_foreign


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank"])
def test_mixtures_of_experts_are_not_taken_for_dense(key: str) -> None:
    """Counted as dense, a 30B model with 128 experts was one of 2B."""
    assert Shapes.read({**GEMMA_2_2B, "model_type": "qwen3_moe", key: 128}) is None


def test_a_head_that_the_config_does_not_speak_of_is_tied() -> None:
    """Gemma's config.json leaves the word out; counted twice, its large vocabulary made 2.6 of 3.2 billion."""
    shapes = Shapes.read(GEMMA_2_2B)
    assert shapes is not None
    assert shapes.num_params == 2_614_341_888


@pytest.mark.parametrize(("targets", "expected"), [(None, 7 * 2), (("q_proj", "v_proj"), 2 * 2), (("nothing",), 0)])
def test_lora_counts_two_thin_matrices_a_layer(targets: Any, expected: int) -> None:
    square = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 64,
              "vocab_size": 10}  # fmt: skip
    shapes = Shapes.read(square)
    assert shapes is not None
    assert shapes.lora_params(8, targets) == 3 * 8 * 64 * expected


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hidden_size": "many"},
        {**GEMMA_2_2B, "num_attention_heads": 0, "head_dim": None},
        {"text_config": {"hidden_size": 8}},
    ],
)
def test_what_is_no_dense_decoder_has_no_shapes(config: dict[str, Any]) -> None:
    assert Shapes.read(config) is None


def test_the_text_part_of_a_seeing_model_is_read() -> None:
    assert Shapes.read({"text_config": GEMMA_2_2B, "vision_config": {}}) == Shapes.read(GEMMA_2_2B)


def test_a_model_on_disk(tmp_path: Path) -> None:
    """A config that danlu itself wrote gives the same count."""
    save_model(load_model("ember"), tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert Shapes.read(config) == Shapes.read(json.loads((embedded_folder() / "config.json").read_text()))
