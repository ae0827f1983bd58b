"""transformers + PEFT in a plain loop; `liger` patches in Liger's kernels; `liger_compile` keeps only its fused linear
cross-entropy and compiles every decoder layer. fp32 adapters under bf16 autocast, as `Trainer(bf16=True)` has them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from race.loop import Micro, train
from race.recorder import Recorder
from race.settings import ALPHA, RANK, Job
from race.shapes import TARGETS
from race.weights import draw

transformers.logging.set_verbosity_error()


def run(job: Job, recorder: Recorder) -> None:
    model = build(job)

    def forward(piece: Micro) -> Tensor:
        # Positions that begin anew tell transformers that one row holds several documents: it looks for that only
        # where it is given no mask and keeps no cache.
        loss: Tensor = model(
            input_ids=piece.ids, labels=piece.labels, position_ids=piece.positions, use_cache=False
        ).loss
        return loss

    train(model, job, recorder, forward)


def build(job: Job) -> Any:
    if job.system.startswith("liger"):
        patch_liger(job.shape.family, is_compiled=job.system == "liger_compile")
    values = job.shape.hf_config()
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device(job.device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=job.setting.attention
        )
    draw(model.named_parameters(), job.shape.num_layers)
    if job.setting.base == "fp32" or job.setting.extras.get("wide"):
        model.float()
    model = get_peft_model(model, lora_config(), autocast_adapter_dtype=True)
    draw(((name, weight) for name, weight in model.named_parameters() if "lora_" in name), job.shape.num_layers)
    model.train()
    if job.setting.checkpointing == "on":
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if job.system == "liger_compile":
        torch._dynamo.config.recompile_limit = 64
        for layer in model.base_model.model.model.layers:
            layer.compile(dynamic=bool(job.setting.extras.get("dynamic")))
    return model


def lora_config() -> LoraConfig:
    return LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules=list(TARGETS)
    )


def patch_liger(family: str, *, is_compiled: bool) -> None:
    from liger_kernel.transformers import apply_liger_kernel_to_llama, apply_liger_kernel_to_qwen2

    patch = apply_liger_kernel_to_qwen2 if family == "qwen2" else apply_liger_kernel_to_llama
    is_own = not is_compiled
    patch(rope=is_own, swiglu=is_own, rms_norm=is_own, cross_entropy=False, fused_linear_cross_entropy=True)
