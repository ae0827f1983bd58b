"""TRL's SFTTrainer + PEFT on the race's model; its own fused head is on, as it is by default, and
Liger's layer kernels where the setting says so."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from race.recorder import Recorder
from race.settings import Job
from race.systems.peft_loop import build
from race.trainer_loop import Watch, arguments, rows_of, watched
from race.weights import write_tokenizer


def run(job: Job, recorder: Recorder) -> None:
    write_tokenizer(Path(job.folder))
    tokenizer = AutoTokenizer.from_pretrained(job.folder)
    model = build(job)
    watch = Watch(recorder)
    args = SFTConfig(
        **arguments(job), max_length=None, packing=False, padding_free=job.setting.layout == "packed",
        use_liger_kernel=bool(job.setting.extras.get("liger")) and job.device == "cuda",
    )  # fmt: skip
    trainer = watched(SFTTrainer, job, watch)(
        model=model, args=args, train_dataset=Dataset.from_list(rows_of(job.tokens())), processing_class=tokenizer,
        callbacks=[watch],
    )  # fmt: skip
    recorder.loaded(trainable=sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad))
    trainer.train()
