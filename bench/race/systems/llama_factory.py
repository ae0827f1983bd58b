"""LLaMA-Factory: its own loader, adapter and supervised trainer, with Liger's kernels and without checkpointing.

Its newest release asks for an older TRL than the others here and for older transformers: its TRL lies in a
folder `factory` of the path and stands first for this process alone, and its check of versions is switched off by its
own switch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["DISABLE_VERSION_CHECK"] = "1"
for folder in map(Path, sys.path.copy()):
    if (folder / "factory" / "trl").is_dir():
        sys.path.insert(0, str(folder / "factory"))

from datasets import Dataset  # noqa: E402 - its TRL stands first
from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_template_and_fix_tokenizer  # noqa: E402
from llamafactory.hparams import get_train_args  # noqa: E402
from llamafactory.model import load_model, load_tokenizer  # noqa: E402
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer  # noqa: E402

from race.recorder import Recorder  # noqa: E402
from race.settings import ALPHA, RANK, Job  # noqa: E402
from race.shapes import TARGETS  # noqa: E402
from race.tokens import IGNORED  # noqa: E402
from race.trainer_loop import Watch, arguments, rows_of, watched  # noqa: E402
from race.weights import draw, write_checkpoint  # noqa: E402


def run(job: Job, recorder: Recorder) -> None:
    folder = job.shared / f"checkpoint-{job.shape_name}-{job.num_layers or 0}-bare"
    write_checkpoint(folder, job.shape, job.device, is_full=False)
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(told(job, folder))
    tokenizer_module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(tokenizer_module["tokenizer"], data_args)
    model = load_model(tokenizer_module["tokenizer"], model_args, finetuning_args, True)
    draw(model.named_parameters(), job.shape.num_layers)
    collator = SFTDataCollatorWith4DAttentionMask(
        template=template, model=model, pad_to_multiple_of=8, label_pad_token_id=IGNORED,
        attn_implementation=getattr(model.config, "_attn_implementation", None),
        compute_dtype=model_args.compute_dtype, **tokenizer_module,
    )  # fmt: skip
    watch = Watch(recorder)
    trainer = watched(CustomSeq2SeqTrainer, job, watch)(
        model=model, args=training_args, finetuning_args=finetuning_args, data_collator=collator, callbacks=[watch],
        train_dataset=Dataset.from_list(rows_of(job.tokens())), **tokenizer_module,
    )  # fmt: skip
    recorder.loaded(trainable=sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad))
    trainer.train()


def told(job: Job, folder: Path) -> dict[str, object]:
    """What a recipe of its own would say."""
    values = arguments(job)
    is_checkpointed = values.pop("gradient_checkpointing")
    return values | {
        "stage": "sft", "do_train": True, "model_name_or_path": str(folder), "dataset": "race", "template": "empty",
        "finetuning_type": "lora", "lora_rank": RANK, "lora_alpha": int(ALPHA), "lora_dropout": 0.0,
        "lora_target": ",".join(TARGETS), "flash_attn": "sdpa",
        "enable_liger_kernel": bool(job.setting.extras.get("liger")) and job.device == "cuda",
        "disable_gradient_checkpointing": not is_checkpointed, "cutoff_len": job.step_tokens,
    }  # fmt: skip
