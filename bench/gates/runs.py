"""One run of the gates in its own process: pretrain a model, fine-tune one in some way, or compare a gradient.

All fine-tunings read the same conversations in the same order; where two runs share a seed they share the adapter's
first values too. Learning rate constant, clipping at 1, no decay: nothing that two libraries could do differently.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danlu.adapters.full import Full
from danlu.adapters.lora import LoRA
from danlu.data.card import Card
from danlu.data.dataset import Dataset
from danlu.data.tokens import Item, Tokens
from danlu.model.build import load_model, save_model
from danlu.model.quantized import HEADS
from danlu.ops import nf4
from danlu.recipe.training import TrainingSection
from danlu.training.batches import read_batch
from danlu.training.methods.pretrain import Pretrain
from danlu.training.methods.sft import SFT
from danlu.training.plan import Plan, in_order
from danlu.training.trainer import Trainer
from gates.settings import Spec

RANK, ALPHA = 16, 32.0
CONTEXT = 1024
ORDER = 3407
RATES = {"lora": 2e-4, "full": 1e-4}
PRETRAIN_STEP = 65_536
PRETRAIN_RATE = 1e-3


def run(spec: Spec) -> dict[str, Any]:
    return {"pretrain": pretrain, "danlu": fine_tune, "peft": fine_tune_with_peft, "gradient": compare_gradients}[
        spec.kind
    ](spec)


# ---- data


def read_items(path: Path) -> tuple[list[Tokens], int]:
    with np.load(path) as found:
        ids, bounds = found["ids"].astype(np.int32), found["bounds"]
        weights = np.unpackbits(found["weights"])[: len(ids)]
        cuts = bounds[1:-1]
        pairs = zip(np.split(ids, cuts), np.split(weights, cuts), strict=True)
        return [Tokens(one, weight) for one, weight in pairs], int(found["num_held_out"])


def write_dataset(spec: Spec, file: str) -> Dataset:
    items, num_held_out = read_items(Path(spec.text) / file)
    parts = {"train": items[num_held_out:], "validation": items[: min(num_held_out, spec.num_held_out)]}
    found = {name: (Item((tokens,), f"{name}:{at}") for at, tokens in enumerate(part)) for name, part in parts.items()}
    return Dataset.write(Path(spec.folder) / "dataset", found, Card(name="gates", vocab_size=2**16))


def section_of(spec: Spec, **changed: Any) -> TrainingSection:
    values: dict[str, Any] = {
        "max_steps": spec.num_steps, "lr": RATES[spec.adapter], "schedule": "constant", "warmup_ratio": 0.0,
        "weight_decay": 0.0, "clip": 1.0, "context": CONTEXT, "batch_tokens": spec.step_tokens, "seed": ORDER,
        "eval_every": 1e6, "patience": 0, "save_every": 10**9,
    }  # fmt: skip
    if spec.optimizer != "adamw":
        values["optimizer"] = spec.optimizer
    return TrainingSection(**values | changed)


# ---- danlu


def pretrain(spec: Spec) -> dict[str, Any]:
    """A model from nothing on the corpus; its checkpoint goes where `base` says."""
    dataset = write_dataset(spec, "corpus.npz")
    model = load_model(Path(spec.folder), dtype="bf16", device=spec.device, init="random", seed=spec.seed)
    section = section_of(
        spec, lr=PRETRAIN_RATE, schedule="cosine", warmup_ratio=0.05, weight_decay=0.1,
        batch_tokens=PRETRAIN_STEP, micro_tokens=PRETRAIN_STEP // 2,
    )  # fmt: skip
    attached = Full().attach(model)
    trainer = Trainer(model, attached, Pretrain(), dataset, section=section, folder=Path(spec.folder) / "steps")
    facts = follow(trainer)
    attached.merge()
    save_model(model, Path(spec.base), "bf16")
    parameters = sum(weight.numel() for weight in model.parameters())
    return facts | {"parameters": parameters, "tokens": spec.num_steps * PRETRAIN_STEP}


def fine_tune(spec: Spec) -> dict[str, Any]:
    dataset = write_dataset(spec, "chats.npz")
    trainer = trainer_of(spec, dataset)
    start = trainer.validate()["loss"]
    return {"held_out_before": round(start, 6), **follow(trainer)}


def trainer_of(spec: Spec, dataset: Dataset, *, is_stirred: bool = False) -> Trainer:
    model = load_model(spec.base, dtype="bf16", device=spec.device, quantize=spec.quantize)  # type: ignore[arg-type]
    adapter = LoRA(rank=RANK, alpha=ALPHA, seed=spec.seed) if spec.adapter == "lora" else full(spec)
    attached = adapter.attach(model)
    if is_stirred:
        stir(attached.parameters())
    folder = Path(spec.folder) / "steps"
    return Trainer(model, attached, SFT(), dataset, section=section_of(spec), folder=folder)


def full(spec: Spec) -> Full:
    return Full(spec.masters, spec.offload)  # type: ignore[arg-type]


def follow(trainer: Trainer) -> dict[str, Any]:
    """Train to the end: every loss, and the held-out loss after the last step."""
    losses, held_out, speeds = [], math.nan, []
    for step in trainer.steps():
        losses.append(step.loss)
        speeds.append(step.tokens_per_s)
        held_out = step.validation["loss"] if step.validation else held_out
    return {
        "losses": [round(loss, 5) for loss in losses],
        "held_out": round(held_out, 6),
        "tokens_per_s": round(float(np.median(speeds))),
    }


# ---- transformers + PEFT


def fine_tune_with_peft(spec: Spec) -> dict[str, Any]:
    """The same training in a plain loop: fp32 adapters under bf16 autocast."""
    dataset = write_dataset(spec, "chats.npz")
    model = peft_model(spec, torch.bfloat16)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATES["lora"], weight_decay=0.0, eps=1e-8)
    part = dataset.part("train")
    plan = Plan(
        part.lengths,
        epochs=1,
        max_steps=spec.num_steps,
        batch_tokens=spec.step_tokens,
        micro_tokens=max(spec.step_tokens, CONTEXT),
        seed=ORDER,
    )
    held_out, losses = lambda: mean_loss(model, spec, documents_of(dataset, spec)), []
    before = held_out()
    for planned in plan.steps_after(0):
        documents = [tokens for piece in planned.pieces for item in piece for tokens in part[int(item)]]
        loss, _ = packed_loss(model, documents, spec.device, is_autocast=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    curve = [round(loss, 5) for loss in torch.stack(losses).tolist()]
    return {"held_out_before": round(before, 6), "losses": curve, "held_out": round(held_out(), 6)}


def documents_of(dataset: Dataset, spec: Spec) -> Iterator[list[Tokens]]:
    part = dataset.part("validation")
    for items in in_order(part.lengths, max(spec.step_tokens, CONTEXT), seed=0, epoch=0):
        yield [tokens for item in items for tokens in part[int(item)]]


@torch.no_grad()
def mean_loss(model: Any, spec: Spec, packs: Iterator[list[Tokens]]) -> float:
    model.eval()
    total, count = 0.0, 0
    for documents in packs:
        loss, num = packed_loss(model, documents, spec.device, is_autocast=True)
        total, count = total + float(loss) * num, count + num
    model.train()
    return total / count


def packed_loss(model: Any, documents: list[Tokens], device: str, *, is_autocast: bool) -> tuple[Tensor, int]:
    """The mean loss over what is learnt in these documents, in one row with positions that begin anew."""
    ids = np.concatenate([tokens.ids for tokens in documents]).astype(np.int64)
    learnt = np.concatenate([np.where(np.arange(len(t)) > 0, t.weights, 0) for t in documents]).astype(bool)
    positions = np.concatenate([np.arange(len(tokens)) for tokens in documents])
    labels = np.where(learnt, ids, -100)
    row = {
        name: torch.from_numpy(value[None]).to(device)
        for name, value in (("input_ids", ids), ("labels", labels), ("position_ids", positions))
    }
    with torch.autocast(device, dtype=torch.bfloat16, enabled=is_autocast):
        return model(**row, use_cache=False).loss, int(learnt.sum())


def peft_model(spec: Spec, dtype: torch.dtype) -> Any:
    """transformers' model with PEFT's adapter, which holds the very values that danlu's would begin with. Where the
    base is quantised, its linear layers hold what danlu's reference makes of the codes, rounded to 16 bits as it is
    when danlu multiplies: the same weights, computed by somebody else."""
    import transformers
    from peft import LoraConfig, get_peft_model

    transformers.logging.set_verbosity_error()
    base = load_model(spec.base, dtype="bf16")
    first = LoRA(rank=RANK, alpha=ALPHA, seed=spec.seed).attach(base).parameters()
    model = transformers.AutoModelForCausalLM.from_pretrained(base.folder, dtype=dtype, attn_implementation="sdpa")
    if spec.quantize == "nf4":
        round_to_nf4(model)
    targets = sorted({name.split(".")[-2] for name in first})
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model.to(spec.device), config, autocast_adapter_dtype=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_" in name:
                weight.data = weight.data.float()
                weight.copy_(first[short(name)])
    return model.train()


@torch.no_grad()
def round_to_nf4(model: Any) -> None:
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.rpartition(".")[2] not in HEADS:
            rounded = nf4.reference_dequantise(nf4.quantise(layer.weight.to(torch.bfloat16)))
            layer.weight.copy_(rounded.to(torch.bfloat16))


def short(name: str) -> str:
    """danlu's name of an adapter's matrix that PEFT names."""
    return name.removeprefix("base_model.model.").replace(".default.weight", "")


# ---- the gradient of one step


def compare_gradients(spec: Spec) -> dict[str, Any]:
    """danlu's and PEFT's adapter gradients of the first step, in bf16, against the same model in fp32. B is not at its
    zero here, so that A's gradient is not nothing."""
    dataset = write_dataset(spec, "chats.npz")
    trainer = trainer_of(spec, dataset, is_stirred=True)
    items = np.concatenate(next(iter(trainer.plan.steps_after(0))).pieces)
    documents = [tokens for item in items for tokens in dataset.part("train")[int(item)]]
    truth = peft_gradients(spec, documents, torch.float32)
    rough = peft_gradients(spec, documents, torch.bfloat16)
    trainer.model.train()
    batch = read_batch("train", dataset.part("train"), items).to(trainer.model.device)
    with trainer.precision.forward():
        loss = trainer.method.loss(trainer.model, batch)
    (loss.value / loss.num_units).backward()  # type: ignore[no-untyped-call]
    own = {name: weight.grad.float() for name, weight in trainer.parameters.items() if weight.grad is not None}
    assert own.keys() == truth.keys(), "every adapter has a gradient"
    return {"danlu": errors(own, truth), "peft": errors(rough, truth)}


def stir(parameters: dict[str, Any]) -> None:
    with torch.no_grad():
        for name, weight in parameters.items():
            if name.endswith("lora_B"):
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))


def peft_gradients(spec: Spec, documents: list[Tokens], dtype: torch.dtype) -> dict[str, Tensor]:
    model = peft_model(spec, dtype)
    named = {short(name): weight for name, weight in model.named_parameters() if weight.requires_grad}
    stir(named)
    loss, _ = packed_loss(model, documents, spec.device, is_autocast=dtype != torch.float32)
    loss.backward()
    return {name: weight.grad.float() for name, weight in named.items()}


def errors(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """Relative error and cosine of all gradients as one vector, and the worst matrix."""
    one, other = (torch.cat([grads[name].flatten().double().cpu() for name in truth]) for grads in (found, truth))
    worst = max(float((found[name] - truth[name]).norm() / truth[name].norm()) for name in truth)
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=0)
    return {"relative_error": float((one - other).norm() / other.norm()), "cosine": float(cosine), "worst": worst}
