"""Our DPO against TRL 1.16's DPOTrainer, whose numbers `make_dpo_trl.py` recorded: same token ids, same masks, same
weights. First the loss from TRL's own log-probabilities, then everything from the ids on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_dpo_trl import (
    CASES,
    CONFIG,
    FIXTURE,
    LORA,
    PAIRS,
    adapter_weights,
    digest,
    policy_weights,
    reference_weights,
    shapes_of,
)  # fmt: skip
from safetensors.torch import save_file
from torch import Tensor

from danlu.adapters.full import Full
from danlu.adapters.lora import LoRA
from danlu.data.tokens import Tokens
from danlu.model.build import load_model
from danlu.model.model import Model
from danlu.training.batches import Batch, make_batch
from danlu.training.likelihood import document_log_probs
from danlu.training.methods.dpo import DPO, AdapterOff, Reference, dpo_loss

TRL = json.loads(FIXTURE.read_text(encoding="utf-8"))
SUBJECTS = ("two models", "adapter")
NAMES = {
    "reward_chosen": "rewards/chosen", "reward_rejected": "rewards/rejected", "reward_margin": "rewards/margins",
    "pair_accuracy": "rewards/accuracies", "log_prob_chosen": "logps/chosen", "log_prob_rejected": "logps/rejected",
}  # fmt: skip

every_subject = pytest.mark.parametrize("subject", SUBJECTS)
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def recorded(subject: str, case: tuple[str, float, float]) -> dict[str, Any]:
    keys = ("loss_type", "beta", "label_smoothing")
    (found,) = (one for one in TRL["subjects"][subject]["cases"] if tuple(one[key] for key in keys) == case)
    return found


def smoothing_of(case: tuple[str, float, float]) -> float:
    """TRL's `sigmoid` takes no notice of its label_smoothing; `aot_unpaired`, on one pair, is the loss with it."""
    return 0.0 if case[0] == "sigmoid" else case[2]


# ---- the loss, from TRL's log-probabilities


@every_subject
@every_case
def test_the_loss_of_each_pair_is_trls(subject: str, case: tuple[str, float, float]) -> None:
    """fp32 as in TRL. Tolerance 1e-6: half an ulp of a log-probability of 100 is 4e-6, of which β ≤ 0.3 is left."""
    log_probs = {name: torch.tensor(values) for name, values in TRL["subjects"][subject]["log_probs"].items()}
    theirs = recorded(subject, case)["pairs"]
    for row in range(len(PAIRS)):
        four = [values[row : row + 1] for values in log_probs.values()]
        loss, metrics = dpo_loss(*four, beta=case[1], label_smoothing=smoothing_of(case))
        assert float(loss) == pytest.approx(theirs["loss"][row], rel=1e-6, abs=1e-6)
        for ours, name in NAMES.items():
            assert float(metrics[ours]) == pytest.approx(theirs[name][row], rel=1e-6, abs=1e-6), name


@every_subject
@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "sigmoid"], ids=str)
def test_the_loss_of_the_batch_is_trls(subject: str, case: tuple[str, float, float]) -> None:
    """Ours is a sum over pairs, divided later by their number; TRL's is their mean. Tolerance as above."""
    log_probs = [torch.tensor(values) for values in TRL["subjects"][subject]["log_probs"].values()]
    loss, metrics = dpo_loss(*log_probs, beta=case[1], label_smoothing=smoothing_of(case))
    theirs = recorded(subject, case)["batch"]
    assert float(loss) / len(PAIRS) == pytest.approx(theirs["loss"], rel=1e-6)
    for ours, name in NAMES.items():
        assert float(metrics[ours]) / len(PAIRS) == pytest.approx(theirs[name], rel=1e-6, abs=1e-6), name


def test_the_record_can_tell_losses_apart() -> None:
    """A record of pairs that all lose ln 2, or are all right, would prove nothing."""
    for subject in SUBJECTS:
        plain, smoothed = (recorded(subject, case)["pairs"] for case in (("sigmoid", 0.3, 0.0), CASES[-1]))
        assert set(plain["rewards/accuracies"]) == {0.0, 1.0}
        assert min(abs(a - b) for a, b in zip(plain["loss"], smoothed["loss"], strict=True)) > 5e-3


# ---- everything, from the ids on


@dataclass(frozen=True)
class Beside:
    """A second model as reference."""

    model: Model

    def log_probs(self, model: Model, batch: Batch) -> Tensor:
        with torch.no_grad():
            return document_log_probs(self.model, batch)


def loaded(folder: Path, kind: str) -> Model:
    """The recorded model, in fp64, through a checkpoint on disk."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shapes = shapes_of(load_model(folder, dtype="fp32", init="random"))
    weights = (policy_weights if kind == "policy" else reference_weights)(shapes)
    assert digest(weights) == TRL["sha256"][kind], "the same weights as TRL had"
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load_model(folder, dtype="fp64")


@dataclass(frozen=True)
class Ours:
    model: Model
    reference: Reference
    parameters: dict[str, torch.nn.Parameter]


@pytest.fixture(scope="module", params=SUBJECTS)
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Ours]:
    folder = tmp_path_factory.mktemp("models")
    if request.param == "two models":
        policy = loaded(folder / "policy", "policy")
        reference = Beside(loaded(folder / "reference", "reference"))
        return request.param, Ours(policy, reference, Full().attach(policy).parameters())
    model = loaded(folder / "base", "reference")
    attached = LoRA(rank=LORA["rank"], alpha=LORA["alpha"]).attach(model)
    parameters = attached.parameters()
    weights = adapter_weights({name: tuple(pair.shape) for name, pair in parameters.items()})
    assert digest(weights) == TRL["sha256"]["adapter"], "the same adapter as TRL had"
    for name, pair in parameters.items():
        pair.data.copy_(weights[name])
    return request.param, Ours(model, AdapterOff(attached), parameters)


def batch_of(subject: str) -> Batch:
    """TRL's padded batch, chosen above rejected, as our flat one, chosen and rejected in turn."""
    ids = {name: np.array(rows) for name, rows in TRL["subjects"][subject]["ids"].items()}
    num = len(PAIRS)
    documents = []
    for row in (row for pair in range(num) for row in (pair, num + pair)):
        real = ids["attention_mask"][row].astype(bool)
        documents.append(Tokens(
            ids["input_ids"][row][real].astype(np.int32), ids["completion_mask"][row][real].astype(np.uint8)
        ))  # fmt: skip
    return make_batch("train", np.arange(num), documents)


def test_log_probabilities_are_trls(ours: tuple[str, Ours]) -> None:
    """Tolerance 2e-5 in absolute terms: TRL's are fp32 and of size 75."""
    subject, side = ours
    batch, theirs = batch_of(subject), TRL["subjects"][subject]["log_probs"]
    with torch.no_grad():
        policy = document_log_probs(side.model, batch)
    reference = side.reference.log_probs(side.model, batch)
    got = (policy[0::2], policy[1::2], reference[0::2], reference[1::2])
    for values, (name, expected) in zip(got, theirs.items(), strict=True):
        torch.testing.assert_close(
            values.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-5, msg=name
        )


@every_case
def test_from_ids_to_loss_and_rewards_we_are_trl(ours: tuple[str, Ours], case: tuple[str, float, float]) -> None:
    """The method as a training step calls it. Tolerance 1e-5: β ≤ 0.3 of four log-probabilities' 2e-5 at most."""
    subject, side = ours
    method = DPO(beta=case[1], label_smoothing=smoothing_of(case))
    method.reference = side.reference
    loss = method.loss(side.model, batch_of(subject))
    assert loss.num_units == len(PAIRS)
    theirs = recorded(subject, case)["pairs"]
    assert float(loss.value.detach()) / len(PAIRS) == pytest.approx(np.mean(theirs["loss"]), abs=1e-5)
    for name in ("reward_chosen", "reward_rejected", "reward_margin", "pair_accuracy"):
        assert float(loss.metrics[name]) / len(PAIRS) == pytest.approx(np.mean(theirs[NAMES[name]]), abs=1e-5), name


def test_gradients_are_trls(ours: tuple[str, Ours]) -> None:
    """Of every trained parameter, at β 0.3. Tolerance 2e-5 of each norm."""
    subject, side = ours
    method = DPO(beta=0.3)
    method.reference = side.reference
    side.model.zero_grad()
    loss = method.loss(side.model, batch_of(subject))
    (loss.value / loss.num_units).backward()
    theirs = TRL["subjects"][subject]["gradient_norms"]
    norms = {name: float(parameter.grad.norm()) for name, parameter in side.parameters.items()}
    assert norms.keys() == theirs.keys()
    for name, norm in norms.items():
        assert norm == pytest.approx(theirs[name], rel=2e-5), name
