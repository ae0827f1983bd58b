"""Values that depend on other values: what `null` means once method and adapter are known. Reasons: `danlu explain`."""

from __future__ import annotations

from danlu.recipe.training import TrainingSection

# (method, adapter) to peak learning rate. LoRA 2e-4 and full 2e-5 are the field's usual values for AdamW; DPO wants
# about a tenth to a fortieth of the SFT rate, or it drifts from its reference within one epoch. GRPO: 1e-6 with all
# weights is the papers' (2402.03300, 2503.14476), and a low-rank adapter wants about ten times that.
USUAL_LR: dict[tuple[str, str], float] = {
    ("pretrain", "lora"): 2e-4,
    ("pretrain", "full"): 5e-5,
    ("sft", "lora"): 2e-4,
    ("sft", "full"): 2e-5,
    ("dpo", "lora"): 2e-5,
    ("dpo", "full"): 1e-6,
    ("pretrain", "prefix"): 1e-2,
    ("sft", "prefix"): 1e-2,
    ("dpo", "prefix"): 1e-3,
    ("grpo", "lora"): 1e-5,
    ("grpo", "full"): 1e-6,
    ("grpo", "prefix"): 1e-3,
    # of the four that BERT's authors tried, the one most took over
    ("classify", "full"): 3e-5,
}
LR_FROM_SCRATCH = 1e-3


def fill_training(training: TrainingSection, method: str, adapter: str, init: str) -> TrainingSection:
    """Fill `lr` and `micro_tokens` where the recipe leaves them open."""
    lr = training.lr
    if lr is None:
        lr = LR_FROM_SCRATCH if init == "random" else USUAL_LR[method, adapter]
    micro = training.micro_tokens or max(training.batch_tokens, training.context)
    return training.model_copy(update={"lr": lr, "micro_tokens": max(micro, training.context)})
