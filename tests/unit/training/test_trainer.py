"""The loop: it learns, stops early, refuses what cannot be learnt from, and keeps what it should."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from danlu.adapters.full import Full
from danlu.adapters.load import load_trained
from danlu.adapters.lora import LoRA
from danlu.core.errors import DanluError, TrainingError
from danlu.data.dataset import Dataset
from danlu.data.tokens import Item, Tokens
from danlu.model.build import load_model, save_model
from danlu.training import checkpoint
from danlu.training.methods import METHODS
from danlu.training.methods.dpo import DPO
from danlu.training.methods.pretrain import Pretrain
from danlu.training.methods.sft import SFT
from danlu.training.thrift import Setting, Thrift, read_thrift, write_thrift
from danlu.training.trainer import Trainer
from progress_kit import Notes
from training_kit import dataset, pair_items, rule_items, section, sft_items, tiny_model

QUICK = ("all", "all")
"""Asks for the quick form of a model of two layers, which a CPU does not take by itself."""


def train(
    tmp_path, train_items, validation=None, *, adapter=None, method=None, progress=None, dtype=torch.float32,
    policies=(), ask_for_less=None, **knobs
):  # fmt: skip
    model = tiny_model(tmp_path / "model", dtype=dtype)
    data = dataset(tmp_path / "data", train_items, validation)
    return Trainer(
        model, (adapter or LoRA(rank=8)).attach(model), method or SFT(), data,
        section=section(**knobs), folder=tmp_path / "checkpoints", progress=progress, policies=policies,
        ask_for_less=ask_for_less,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapter", [LoRA(rank=8), Full()], ids=["lora", "full"])
def test_a_rule_is_learnt_and_carries_over(tmp_path, adapter, dtype):
    run = train(tmp_path, rule_items(400), rule_items(60, seed=9), adapter=adapter, dtype=dtype, epochs=5, lr=3e-2)
    steps = list(run.steps())
    assert steps[0].loss > 4
    assert steps[-1].validation["loss"] < 2.6
    assert [step.number for step in steps] == list(range(1, run.plan.num_steps + 1))
    assert steps[-1].epoch == 5


def test_a_step_tells_what_it_did(tmp_path):
    run = train(tmp_path, sft_items(30), method=Pretrain(), lr=1e-3, warmup_ratio=0)
    step = next(run.steps())
    assert step.num_tokens > step.num_supervised_tokens > 0
    assert step.tokens_per_s > 0
    assert step.lr == 1e-3
    assert step.grad_norm > 0
    assert step.validation is None
    assert step.num_steps == run.plan.num_steps


def test_a_memorised_toy_set_stops_early_and_the_best_is_kept(tmp_path):
    """Eight rows of noise: training loss falls, validation on other noise rises, and patience ends it."""
    notes = Notes()
    run = train(
        tmp_path, sft_items(8), sft_items(8, seed=7), epochs=200, lr=3e-2, eval_every=1, patience=3, progress=notes
    )
    steps = list(run.steps())
    assert run.is_done
    assert len(steps) < run.plan.num_steps / 4
    validated = [step for step in steps if step.validation]
    best = min(validated, key=lambda step: step.validation["loss"])
    assert best.number == validated[-4].number
    assert run.best.name == f"step-{best.number:08d}"
    assert run.last.name == f"step-{steps[-1].number:08d}"
    assert "3 times" in notes.said[-1]
    kept = sorted(path.name for path in run.folder.glob("step-*"))
    assert len(kept) <= 3
    assert (run.best / "weights" / "adapter_model.safetensors").is_file()


def test_patience_zero_never_stops_early(tmp_path):
    run = train(tmp_path, sft_items(8), sft_items(8, seed=7), epochs=12, lr=3e-2, eval_every=1, patience=0)
    assert len(list(run.steps())) == run.plan.num_steps


@pytest.mark.parametrize("adapter", [LoRA(rank=8), Full()], ids=["lora", "full"])
def test_what_was_trained_loads_onto_a_model(tmp_path, adapter):
    run = train(tmp_path, rule_items(60), rule_items(20, seed=3), adapter=adapter, epochs=2)
    *_, final = run.steps()
    model = tiny_model(tmp_path / "model")
    attached = load_trained(run.last, model)
    again = Trainer(
        model, attached, SFT(), run.dataset, section=section(epochs=2), folder=tmp_path / "elsewhere"
    ).validate()
    assert again["loss"] == pytest.approx(final.validation["loss"], rel=1e-5)


def test_a_loss_that_is_not_finite_stops_with_the_step_and_its_rows(tmp_path):
    run = train(tmp_path, sft_items(12), epochs=2)
    steps = run.steps()
    next(steps)
    before = {name: weight.detach().clone() for name, weight in run.parameters.items()}
    with torch.no_grad():
        run.model.model.norm.weight[0] = math.nan
    with pytest.raises(TrainingError, match=r"(?s)step 2: loss nan.*qa\.jsonl:\d+") as caught:
        next(steps)
    assert caught.value.key == "training.not_finite"
    assert all(torch.equal(weight, before[name]) for name, weight in run.parameters.items())


def test_an_exploding_gradient_is_clipped_and_reported_as_it_was(tmp_path):
    run = train(tmp_path, sft_items(30), adapter=Full(), clip=0.5)
    assert next(run.steps()).grad_norm > 0.5
    seen = torch.linalg.vector_norm(
        torch.stack([run.optimizer.state[w]["exp_avg"].norm() for w in run.parameters.values()])
    )
    assert float(seen) == pytest.approx(0.5 * 0.1, rel=1e-4)  # 1 - beta_1 of a gradient of norm 0.5


def test_rows_without_labels_are_refused_by_name(tmp_path):
    """Others train happily on nothing and report a loss of 0 or NaN."""
    masked = [Item((Tokens(np.arange(3, 11, dtype=np.int32), np.zeros(8, dtype=np.uint8)),), "mute.jsonl:1")]
    run = train(tmp_path, masked)
    with pytest.raises(TrainingError, match=r"mute\.jsonl:1"):
        next(run.steps())


def test_an_empty_part_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no items"):
        train(tmp_path, [])


def test_a_sample_longer_than_micro_tokens_raises_them_and_says_so(tmp_path):
    notes = Notes()
    run = train(tmp_path, sft_items(20, longest=60), micro_tokens=20, batch_tokens=20, progress=notes)
    assert "instead of 20" in notes.said[0]
    next(run.steps())


def test_an_adapter_that_learnt_nothing_is_refused(tmp_path):
    run = train(tmp_path, sft_items(10), policies=QUICK)
    for layer in run.adapter.layers.values():
        layer.lora_A.data.zero_()  # with both matrices at zero no gradient reaches either
    run.quick.refresh()
    with pytest.raises(TrainingError, match="zero"):
        list(run.steps())


def test_a_full_disk_stops_before_anything_is_written(tmp_path, monkeypatch):
    run = train(tmp_path, sft_items(10))
    monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: 1000)
    with pytest.raises(TrainingError, match="MB"):
        list(run.steps())
    assert list(run.folder.glob("*step*")) == []


def test_fp16_scales_its_loss_and_skips_an_overflow(tmp_path):
    """Cards before Ampere: gradients that underflow are scaled up, and a scale that is too large costs one update."""
    run = train(tmp_path, rule_items(60), dtype=torch.float16, warmup_ratio=0, epochs=3)
    steps = run.steps()
    losses = [next(steps).loss for _ in range(4)]
    assert losses[-1] < losses[0]
    run.scaler.update(2.0**120)
    before = {name: weight.detach().clone() for name, weight in run.parameters.items()}
    step = next(steps)
    assert not math.isfinite(step.grad_norm)
    assert all(torch.equal(weight, before[name]) for name, weight in run.parameters.items())
    assert run.scaler.get_scale() < 2.0**120


@pytest.mark.parametrize("adapter", [LoRA(rank=4), Full()], ids=["lora", "full"])
def test_stages_chain_and_each_starts_from_the_last_ones_output(tmp_path, adapter):
    """The same attached adapter goes through all three; DPO's reference is then the SFT model, so it starts at ln 2."""
    model = tiny_model(tmp_path / "model")
    attached = adapter.attach(model)
    last_losses = {}
    for method, items in ((Pretrain(), sft_items(30)), (SFT(), rule_items(60)), (DPO(), pair_items(30))):
        data = dataset(tmp_path / f"data-{method.kind}", items)
        run = Trainer(
            model,
            attached,
            method,
            data,
            section=section(lr=5e-3, epochs=4),
            folder=tmp_path / "checkpoints" / method.kind,
        )
        steps = list(run.steps())
        last_losses[method.kind] = steps[0].loss, steps[-1].loss
    assert last_losses["sft"][1] < last_losses["sft"][0]
    assert last_losses["dpo"][0] == pytest.approx(math.log(2), abs=1e-4)
    attached.merge()
    assert not [name for name, _ in model.named_parameters() if "lora" in name]


def test_methods_are_found_by_name():
    assert METHODS.names() == ["classify", "dpo", "grpo", "pretrain", "sft"]
    assert METHODS.load("sft") is SFT
    with pytest.raises(DanluError, match="sft"):
        METHODS.load("stf")


def test_weights_outside_the_adapter_never_move(tmp_path):
    run = train(tmp_path, sft_items(20))
    trained = set(run.parameters)
    before = {n: w.detach().clone() for n, w in run.model.named_parameters() if n not in trained}
    list(run.steps())
    assert before
    assert all(torch.equal(w, before[n]) for n, w in run.model.named_parameters() if n in before)


class Narrow(SFT):
    """A device on which more than so many items do not fit."""

    def __init__(self, most):
        super().__init__()
        object.__setattr__(self, "most", most)

    def loss(self, model, batch):
        if len(batch.items) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().loss(model, batch)


def test_where_memory_ends_less_is_kept_then_less_computed_at_once_and_the_loss_is_the_same(tmp_path):
    items, notes = sft_items(40), Notes()
    ample = list(train(tmp_path / "ample", items, max_steps=3, policies=QUICK).steps())
    narrow = train(tmp_path / "narrow", items, max_steps=3, progress=notes, method=Narrow(4), policies=QUICK)
    steps = list(narrow.steps())
    assert [step.loss for step in steps] == pytest.approx([step.loss for step in ample], rel=1e-5)
    assert {policy.name for policy in narrow.quick.policies} == {"input-host"}
    said = " ".join(notes.said)
    assert "2 all, is now" in said
    assert "items are computed at once" in said
    smaller = [sentence for sentence in notes.said if "items are computed at once" in sentence]
    assert len(smaller) == len(set(smaller)) <= 3, "what was read ahead is cut too, and nothing is said twice"
    assert narrow.model.quick is None, "nobody refreshes it after the training"


def counted(method: Narrow) -> list[int]:
    """Sizes of the batches that did not fit."""
    refused: list[int] = []
    whole = Narrow.loss

    def loss(self, model, batch):
        if len(batch.items) > self.most:
            refused.append(len(batch.items))
        return whole(self, model, batch)

    object.__setattr__(method, "loss", loss.__get__(method))
    return refused


def test_a_resumed_training_does_not_meet_the_same_end_again(tmp_path):
    """What it gave up is written down at once: not even a checkpoint lies between."""
    items, notes = sft_items(40), Notes()
    whole = [
        step.loss for step in train(tmp_path / "whole", items, method=Narrow(4), policies=QUICK, max_steps=4).steps()
    ]
    first = train(tmp_path / "cut", items, method=Narrow(4), policies=QUICK, max_steps=4)
    begun = [step.loss for _, step in zip(range(2), first.steps(), strict=False)]
    first.save()
    method = Narrow(4)
    refused = counted(method)
    resumed = train(tmp_path / "cut", items, method=method, policies=QUICK, max_steps=4, progress=notes)
    assert begun + [step.loss for step in resumed.steps()] == whole and not refused
    said = " ".join(notes.said)
    assert "at most" in said and "input-host" in said and "Memory ended here before" in said


def test_what_memory_taught_holds_for_its_training_device_and_plan_alone(tmp_path):
    setting, thrift = Setting("t", 80, ("all", "all")), Thrift(("light", "all"), 4, keeps_gradients=True)
    assert read_thrift(tmp_path, setting) is None
    write_thrift(tmp_path, setting, thrift)
    assert read_thrift(tmp_path, setting) == thrift
    for change in ({"training": "u"}, {"device_bytes": 141}, {"planned": ("light", "light")}):
        assert read_thrift(tmp_path, replace(setting, **change)) is None
    (tmp_path / "memory.json").write_text('{"training": "t"}')
    assert read_thrift(tmp_path, setting) is None


def test_where_memory_ends_the_planner_is_asked_first(tmp_path):
    """Its next choice, then the ladder's rungs from there once it has none left."""
    asked: list[tuple[str, ...]] = []

    def ask(policies):
        asked.append(tuple(policies))
        return ("light", "all") if len(asked) == 1 else None

    notes = Notes()
    run = train(
        tmp_path, sft_items(40), method=Narrow(4), policies=QUICK, max_steps=1, progress=notes, ask_for_less=ask
    )
    list(run.steps())
    assert asked[:2] == [("all", "all"), ("light", "all")]
    assert "2 all, is now 1 light + 1 all" in " ".join(notes.said)


def full_in_backward(folder, monkeypatch, method, notes=None, **knobs):
    """All weights, applied within the backward as on a GPU."""
    monkeypatch.setattr(Trainer, "_steps_in_backward", lambda self: True)
    model = tiny_model(folder / "model", dtype=torch.bfloat16)
    place = folder / "data"
    data = Dataset.open(place) if place.is_dir() else dataset(place, sft_items(40))
    knobs = section(clip=0.0, optimizer="adamw_8bit", batch_tokens=512, micro_tokens=512, max_steps=3, **knobs)
    return Trainer(
        model, Full("none").attach(model), method, data,
        section=knobs, folder=folder / "run", progress=notes,
    )  # fmt: skip


def test_a_step_inside_the_backward_that_does_not_fit_is_computed_in_pieces(tmp_path, monkeypatch):
    """It was called a single item although it held many."""
    notes = Notes()
    run = full_in_backward(tmp_path, monkeypatch, Narrow(4), notes)
    assert run.optimizer.in_backward
    steps = list(run.steps())
    assert len(steps) == 3 and not run.optimizer.in_backward
    said = " ".join(notes.said)
    assert "items are computed at once" in said and "added up over the pieces" in said


def test_memory_that_ends_in_the_middle_of_a_step_is_said_and_gone_on_from_in_pieces(tmp_path, monkeypatch):
    """Some weights have moved, so the batch cannot be computed again here."""

    class Late(Narrow):
        def loss(self, model, batch):
            if len(batch.items) > self.most:
                first = next(iter(model.parameters()))
                first.register_hook(self.end)  # the embedding's gradient is the last one
            return SFT.loss(self, model, batch)

        @staticmethod
        def end(grad):
            raise torch.OutOfMemoryError("CUDA out of memory")

    run = full_in_backward(tmp_path, monkeypatch, Late(4))
    with pytest.raises(TrainingError, match="start again"):
        list(run.steps())
    notes = Notes()
    again = full_in_backward(tmp_path, monkeypatch, Narrow(40), notes)
    assert not again.optimizer.in_backward and again.feed.most_items
    assert len(list(again.steps())) == 3


def test_one_item_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"qa\.jsonl:1"):
        list(train(tmp_path, sft_items(6), method=Narrow(0)).steps())


def test_full_fine_tuning_after_a_merged_adapter_is_that_of_a_fresh_model(tmp_path):
    """Training lays weights into wider buffers; fused AdamW walks over a tensor as if it lay in one piece."""
    items = sft_items(40)
    data = dataset(tmp_path / "data", items)

    def losses(model, adapter, folder):
        run = Trainer(
            model, adapter, SFT(), data,
            section=section(max_steps=5, lr=1e-2), folder=tmp_path / folder, policies=QUICK,
        )  # fmt: skip
        return [step.loss for step in run.steps()]

    model = tiny_model(tmp_path / "model")
    adapter = LoRA(rank=4).attach(model)
    losses(model, adapter, "lora")
    adapter.merge()
    save_model(model, tmp_path / "merged")
    fresh = load_model(tmp_path / "merged", dtype=torch.float32)
    assert losses(model, Full().attach(model), "same") == losses(fresh, Full().attach(fresh), "fresh")


@pytest.mark.parametrize("method", [SFT(), DPO()], ids=["sft", "dpo"])
def test_the_quick_form_trains_as_the_written_out_decoder_does(method, tmp_path):
    items = pair_items(24) if method.kind == "dpo" else sft_items(40)

    def losses(folder, policies):
        run = train(tmp_path / folder, items, method=type(method)(), policies=policies, max_steps=6)
        assert (run.quick is not None) == bool(policies)
        return [step.loss for step in run.steps()]

    assert losses("quick", QUICK) == pytest.approx(losses("plain", ()), rel=1e-4)


def test_a_quick_training_that_was_stopped_ends_with_the_same_bits(tmp_path):
    def weights(folder, stops):
        run = train(tmp_path / folder, sft_items(40), policies=("light", "input"), max_steps=6)
        for _ in zip(range(stops or 6), run.steps(), strict=False):
            pass
        if stops:
            run.save()
            run = train(tmp_path / folder, sft_items(40), policies=QUICK, max_steps=6)
            assert run.number == stops
            list(run.steps())
        return run.parameters

    whole, resumed = weights("whole", 0), weights("stopped", 3)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
