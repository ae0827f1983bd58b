"""What other suites' values mean here, beside their names (`habits.py`): one table a kind of knob.

Values that a file leaves open are theirs by default, and others than danlu's: `DEFAULTS` holds those that decide what
is learnt. Sources: the argument classes of LLaMA-Factory, ms-swift, Axolotl, transformers, PEFT and TRL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from danlu.recipe.habits import HABITS

Suite = Literal["LLaMA-Factory", "ms-swift", "Axolotl", "TRL"]

NAMES: Mapping[str, str] = {
    **HABITS,
    "model": "model.base",
    "model_revision": "model.revision",
    "model_name_or_path": "model.base",
    "revision": "model.revision",
    "adapter": "adapter.kind",
    "lora_model_dir": "adapter.start",
    "lora_use_rslora": "adapter.rslora",
    "peft_use_rslora": "adapter.rslora",
    "peft_use_dora": "adapter.dora",
    "rlhf_type": "method.kind",
    "pref_loss": "method.kind",
    "loss_type": "method.kind",
    "beta": "method.beta",
    "rl_beta": "method.beta",
    "dpo_beta": "method.beta",
    "label_smoothing": "method.label_smoothing",
    "train_on_inputs": "method.train_on",
    "completion_only_loss": "method.train_on",
    "system": "model.system",
    "max_steps": "training.max_steps",
    "lr_scheduler": "training.schedule",
    "warmup_ratio": "training.warmup_ratio",
    "weight_decay": "training.weight_decay",
    "optimizer": "training.optimizer",
    "seed": "training.seed",
    "early_stop_interval": "training.patience",
    "dtype": "model.dtype",
}
"""Also names that are another thing's, or a chapter's, in a recipe of danlu's own."""

WORDS: Mapping[str, Mapping[str, str]] = {
    "method.kind": {
        "sft": "sft", "pt": "pretrain", "pretrain": "pretrain", "cpt": "pretrain", "dpo": "dpo", "sigmoid": "dpo",
    },
    "adapter.kind": {"lora": "lora", "qlora": "lora", "full": "full", "freeze": "full"},
    "training.schedule": {
        "linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant",
    },
    "training.optimizer": {
        **dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "paged_adamw_32bit"), "adamw"),
        **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), "adamw_8bit"),
    },
    "model.dtype": {
        "auto": "auto", "bfloat16": "bfloat16", "bf16": "bfloat16", "float16": "float16", "fp16": "float16",
        "half": "float16", "float32": "float32", "fp32": "float32", "float": "float32",
    },
    "model.quantize": {"4": "nf4", "8": "int8"},
    "data.over_length": {"delete": "drop", "drop": "drop", "split": "split"},
    "adapter.targets": {"all": "all-linear", "all-linear": "all-linear", "all_linear": "all-linear"},
}  # fmt: skip
"""By knob: their word, and ours."""

FLAGS: Mapping[str, str] = {
    "bf16": "bfloat16", "fp16": "float16", "load_in_4bit": "nf4", "load_in_8bit": "int8",
    "lora_target_linear": "all-linear", "train_on_prompt": "all", "train_on_inputs": "all", "mask_history": "last",
    "assistant_only_loss": "assistant", "completion_only_loss": "assistant", "use_peft": "lora",
}  # fmt: skip
"""What a true one says of its knob; a false one says nothing."""

NUMBERS: Mapping[str, type[int] | type[float]] = {
    **dict.fromkeys(
        ("adapter.rank", "training.context", "training.max_steps", "training.seed", "training.patience",
         "training.save_every", "data.workers"), int,
    ),
    **dict.fromkeys(
        ("adapter.alpha", "adapter.dropout", "method.beta", "method.label_smoothing", "training.lr", "training.epochs",
         "training.warmup_ratio", "training.weight_decay", "training.clip", "data.split.validation"), float,
    ),
}  # fmt: skip
TEXTS = ("model.base", "model.revision", "model.system", "adapter.start")
SWITCHES = ("adapter.rslora", "adapter.dora", "training.compile")

READ_FROM_BASE = ("template", "chat_template", "template_type")
"""Told by a name elsewhere; danlu reads it from the tokenizer."""
ALL_ROWS = ("max_samples", "max_train_samples", "train_dataset_sample")
"""How many rows are taken; danlu takes all of those that are named."""
HANDLED_TOGETHER = (
    "per_device_train_batch_size", "micro_batch_size", "gradient_accumulation_steps", "packing", "neat_packing",
    "sample_packing", "warmup_steps", "eval_steps", "evals_per_epoch", "dataset", "datasets", "dataset_dir",
    "dataset_name", "train_file", "eval_dataset", "output_dir", "use_hf", "dataset_mixer",
)  # fmt: skip
"""What means something only beside others of the file."""

DEFAULTS: Mapping[Suite, Mapping[str, Any]] = {
    "LLaMA-Factory": {
        "lora_rank": 8, "learning_rate": 5e-5, "num_train_epochs": 3.0, "cutoff_len": 2048, "weight_decay": 0.0,
        "warmup_ratio": 0.0,
    },
    "ms-swift": {
        "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.05, "learning_rate": 1e-4, "weight_decay": 0.1,
        "warmup_ratio": 0.0, "lr_scheduler_type": "cosine",
    },
    "Axolotl": {"weight_decay": 0.0, "num_epochs": 1.0, "lr_scheduler": "cosine"},
    "TRL": {
        "learning_rate": 2e-5, "num_train_epochs": 3.0, "max_length": 1024, "weight_decay": 0.0, "warmup_ratio": 0.0,
        "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05,
    },
}  # fmt: skip
USUAL_ROWS: Mapping[Suite, int] = {"LLaMA-Factory": 8, "ms-swift": 1, "Axolotl": 1, "TRL": 8}
"""Rows computed at once where a file does not say."""
FEWEST_ROWS: Mapping[Suite, int] = {"ms-swift": 16}
"""To so many rows a step is brought by accumulation where a file says none."""


def suite_of(tree: Mapping[str, Any]) -> Suite:
    """Whose file it is, by names that only one of them has."""
    if {"base_model", "sequence_len", "micro_batch_size"} & tree.keys():
        return "Axolotl"
    if {"stage", "finetuning_type", "cutoff_len", "lora_target"} & tree.keys():
        return "LLaMA-Factory"
    if {"train_type", "tuner_type", "rlhf_type", "split_dataset_ratio"} & tree.keys() or "model" in tree:
        return "ms-swift"
    return "TRL"


def value_of(knob: str, name: str, given: Any) -> Any:
    """The knob's value for what was given; None where danlu has none for it."""
    if isinstance(given, bool) and name in FLAGS:
        return FLAGS[name] if given else None
    if knob in NUMBERS:
        return _number(given, NUMBERS[knob])
    if knob == "adapter.layers":
        return _layers(name, given)
    if knob == "adapter.targets":
        return _targets(given)
    if knob in WORDS:
        return WORDS[knob].get(str(given).lower().removeprefix("torch."))
    if knob in SWITCHES:
        return given if isinstance(given, bool) else None
    return str(given) if knob in TEXTS and isinstance(given, str) else None


def _number(given: Any, kind: type[int] | type[float]) -> int | float | None:
    """YAML 1.1 reads 2e-4 as text; people mean the number."""
    if isinstance(given, bool):
        return None
    try:
        number = float(given)
    except (TypeError, ValueError):
        return None
    return int(number) if kind is int and number.is_integer() else number if kind is float else None


def _layers(name: str, given: Any) -> int | list[int] | None:
    """So many of the last, where that is meant; PEFT's number is that of one layer."""
    if isinstance(given, list) and all(isinstance(one, int) for one in given):
        return given or None
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        return None
    return (given or None) if name == "freeze_trainable_layers" else [given]


def _targets(given: Any) -> str | list[str] | None:
    """`all`, `q_proj,v_proj` or a list."""
    names: Sequence[str] = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else ()
    words = [str(name).strip() for name in names]
    if not words:
        return None
    known = WORDS["adapter.targets"]
    return known[words[0]] if len(words) == 1 and words[0] in known else words
