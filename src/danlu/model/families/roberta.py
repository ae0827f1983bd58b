"""RoBERTa and XLM-R: BERT whose places count from 2 on, and whose head stands under names of its own."""

from __future__ import annotations

import dataclasses

from danlu.model.classifier import EncoderSpec
from danlu.model.families.family import OLD_NORMS, Config, Family, encoder_shape, value


def spec(config: Config) -> EncoderSpec:
    shape = encoder_shape(config, family="roberta")
    first = value(config, "pad_token_id", 1) + 1  # places up to here belong to padding
    return EncoderSpec(
        **shape | {"context": shape["num_positions"] - first},
        first_position=first,
        drops_first=True,
        architecture="RobertaForSequenceClassification",
    )


def multilingual(config: Config) -> EncoderSpec:
    return dataclasses.replace(spec(config), family="xlm-roberta", architecture="XLMRobertaForSequenceClassification")


FAMILY = Family(
    "roberta",
    spec,
    renames=(
        ("classifier.dense.", "bert.pooler.dense."), ("classifier.out_proj.", "classifier."), ("roberta.", "bert."),
        ("embeddings.", "bert.embeddings."), ("encoder.", "bert.encoder."),
    ),
    endings=OLD_NORMS,
    left_out=(
        "lm_head.", "roberta.pooler.", "pooler.", "roberta.embeddings.position_ids", "embeddings.position_ids",
    ),
    may_lack=("bert.pooler.",),
)  # fmt: skip

MULTILINGUAL = dataclasses.replace(FAMILY, name="xlm-roberta", spec=multilingual)
