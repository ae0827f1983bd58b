"""BERT, an encoder: bert-base-chinese, chinese-roberta-wwm (BERT by its files), MacBERT, bert-base-uncased and kin."""

from __future__ import annotations

from typing import Any

from danlu.core.errors import ModelError
from danlu.model.classifier import EncoderSpec
from danlu.model.families.family import Config, Family, base_shape, value

OLD_NORMS = ((".gamma", ".weight"), (".beta", ".bias"))
"""What the first checkpoints, translated from TensorFlow, call a norm's weights."""


def shape_of(config: Config, *, family: str) -> dict[str, Any]:
    """What all encoders of BERT's kind spell alike. ModelError for places that are not counted from the text's start,
    and for an encoder made into a decoder."""
    places = value(config, "position_embedding_type", "absolute")
    if places != "absolute" or value(config, "is_decoder", False):
        given = "is_decoder" if places == "absolute" else places
        raise ModelError("model.encoder_kind", where="config.json", given=given)
    shape = base_shape({"hidden_act": "gelu", **config}, family=family, context=512)
    dropout = value(config, "hidden_dropout_prob", 0.1)
    return shape | {
        "norm_eps": value(config, "layer_norm_eps", 1e-12),
        "is_tied": False,
        "ropes": (),
        "num_positions": shape["context"],
        "num_types": value(config, "type_vocab_size", 2),
        "dropout": dropout,
        "attention_dropout": value(config, "attention_probs_dropout_prob", 0.1),
        "head_dropout": value(config, "classifier_dropout", dropout),
    }


def spec(config: Config) -> EncoderSpec:
    return EncoderSpec(**shape_of(config, family="bert"))


FAMILY = Family(
    "bert",
    spec,
    renames=(
        ("bert.", "bert."),
        ("embeddings.", "bert.embeddings."), ("encoder.", "bert.encoder."), ("pooler.", "bert.pooler."),
    ),
    endings=OLD_NORMS,
    left_out=("cls.", "bert.embeddings.position_ids", "embeddings.position_ids"),
    may_lack=("bert.pooler.",),
)  # fmt: skip
