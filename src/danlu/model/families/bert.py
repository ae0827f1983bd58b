"""BERT, an encoder: bert-base-chinese, chinese-roberta-wwm (BERT by its files), MacBERT, bert-base-uncased and kin."""

from __future__ import annotations

from danlu.model.classifier import EncoderSpec
from danlu.model.families.family import OLD_NORMS, Config, Family, encoder_shape


def spec(config: Config) -> EncoderSpec:
    return EncoderSpec(**encoder_shape(config, family="bert"))


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
