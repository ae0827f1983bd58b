"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290).

The reference π_ref is the model as this stage finds it. With a fresh adapter that is the same weights with the adapter
off, run beside the policy without gradients; in every other case (full fine-tuning, an adapter that has learnt already)
its log-probabilities are taken once over the whole data before the first step and kept in the checkpoint folder.

Shapes: P pairs; a batch holds 2P documents, chosen and rejected in turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from danlu.adapters.adapter import Attached
from danlu.core.files import write_bytes
from danlu.core.messages import say
from danlu.data.sample import Kind
from danlu.model.model import Model
from danlu.training.batches import Batch
from danlu.training.likelihood import document_log_probs
from danlu.training.methods.method import Loss, Stage


def dpo_loss(
    chosen_P: Tensor,
    rejected_P: Tensor,
    reference_chosen_P: Tensor,
    reference_rejected_P: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """-log σ(β [log π(y_w)/π_ref(y_w) - log π(y_l)/π_ref(y_l)]) summed over pairs (equation 7), from summed
    log-probabilities; with label smoothing ε, (1-ε) of it plus ε of the same with y_w and y_l exchanged."""
    reward_chosen_P = beta * (chosen_P - reference_chosen_P)
    reward_rejected_P = beta * (rejected_P - reference_rejected_P)
    margin_P = reward_chosen_P - reward_rejected_P
    losses_P = -(1 - label_smoothing) * F.logsigmoid(margin_P) - label_smoothing * F.logsigmoid(-margin_P)
    metrics = {
        "reward_margin": margin_P, "pair_accuracy": (margin_P > 0).to(margin_P.dtype),
        "reward_chosen": reward_chosen_P, "reward_rejected": reward_rejected_P,
        "log_prob_chosen": chosen_P, "log_prob_rejected": rejected_P,
    }  # fmt: skip
    return losses_P.sum(), {name: value_P.detach().sum() for name, value_P in metrics.items()}


class Reference(Protocol):
    """log π_ref of a batch's documents, [2P], without gradients."""

    def log_probs(self, model: Model, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class AdapterOff:
    """The reference is the model without its adapter."""

    attached: Attached

    def log_probs(self, model: Model, batch: Batch) -> Tensor:
        with torch.no_grad(), self.attached.disabled():
            return document_log_probs(model, batch)


@dataclass(frozen=True)
class Recorded:
    """The reference's log-probabilities by part and item, [items, 2], taken before the first step."""

    tables: dict[str, Tensor]

    def log_probs(self, model: Model, batch: Batch) -> Tensor:
        return self.tables[batch.part][torch.from_numpy(batch.items)].flatten().to(model.device)


@dataclass
class DPO:
    """`beta` holds the policy to the reference; `label_smoothing` is the probability that a preference is wrong."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    kind: Literal["dpo"] = "dpo"
    accepts: frozenset[Kind] = frozenset({"preference"})
    betas: tuple[float, float] = (0.9, 0.999)
    reference: Reference | None = field(default=None, init=False, repr=False)

    def begin(self, stage: Stage) -> None:
        is_beside = stage.attached.is_fresh and stage.attached.can_disable
        self.reference = AdapterOff(stage.attached) if is_beside else record_reference(stage)
        if not stage.is_resumed:
            self._check_start(stage)

    def num_units(self, batch: Batch) -> int:
        return batch.num_documents // 2

    def loss(self, model: Model, batch: Batch) -> Loss:
        assert self.reference is not None, "begin() chooses the reference before the first loss"
        reference_N = self.reference.log_probs(model, batch)
        policy_N = document_log_probs(model, batch)
        value, metrics = dpo_loss(
            policy_N[0::2], policy_N[1::2], reference_N[0::2], reference_N[1::2],
            beta=self.beta, label_smoothing=self.label_smoothing,
        )  # fmt: skip
        return Loss(value, self.num_units(batch), metrics)

    def _check_start(self, stage: Stage) -> None:
        """Before the first step policy and reference are the same model, so every pair's loss is ln 2. Anything else
        means that the reference is not the model this stage starts from. Recorded log-probabilities were summed in
        batches of another shape, hence the wider bound."""
        batch = next(stage.batches("train"))
        with torch.no_grad(), stage.forward():
            loss = self.loss(stage.model, batch)
        mean = float(loss.value) / loss.num_units
        bound = 1e-4 if isinstance(self.reference, AdapterOff) else 0.02
        assert abs(mean - math.log(2)) < bound, f"DPO starts at a loss of {mean:.4f} instead of ln 2: wrong reference"


def record_reference(stage: Stage) -> Recorded:
    """Take the starting model's log-probabilities of every pair once; kept on disk, so that a resumed run, whose model
    has moved on, reads the same numbers."""
    path = stage.folder / "reference.safetensors"
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("digest") == stage.digest:
                return Recorded({part: file.get_tensor(part) for part in stage.num_items})
    tables = {part: torch.zeros(num_items, 2) for part, num_items in stage.num_items.items()}
    stage.progress.start(say("training.recording_reference"), sum(stage.num_items.values()))
    with torch.no_grad(), stage.forward():
        for part, table in tables.items():
            for batch in stage.batches(part):
                table[torch.from_numpy(batch.items)] = document_log_probs(stage.model, batch).view(-1, 2).to(table)
                stage.progress.advance(len(batch.items))
    stage.progress.finish()
    write_bytes(path, save(tables, metadata={"digest": stage.digest}))
    return Recorded(tables)
