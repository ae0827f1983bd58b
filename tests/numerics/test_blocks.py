"""The hand-written block against the written-out decoder: loss, every gradient, whatever the policy and the family."""

import gc
import weakref

import numpy as np
import pytest
import torch

from danlu.adapters.lora import LoRA
from danlu.model.build import load_model, save_model
from danlu.training.batches import make_batch
from danlu.training.blocks.policy import LADDER, Policy
from danlu.training.blocks.rows import Rows, Seam
from danlu.training.blocks.trunk import QuickTrunk, describe, why_not
from danlu.training.likelihood import document_log_probs, summed_nll
from training_kit import PHI3, QWEN2, sft_items, tiny_model

LLAMA = {
    **QWEN2, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": False,
    "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}  # fmt: skip
QWEN3 = {**QWEN2, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 16, "attention_bias": False}
MISTRAL = {**QWEN2, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 8}
GEMMA2 = {
    **{key: value for key, value in QWEN2.items() if key != "attention_bias"}, "model_type": "gemma2",
    "architectures": ["Gemma2ForCausalLM"], "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 8,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
GEMMA3 = {
    **GEMMA2, "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "sliding_window_pattern": 2,
    "rope_local_base_freq": 10000.0, "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip
FAMILIES = {
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "qwen2": QWEN2,
    "llama": LLAMA,
    "qwen3": QWEN3,
    "mistral": MISTRAL,
    "phi3": PHI3,
}
DOCUMENTS = [item.tokens[0] for item in sft_items(9, longest=40)]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


LEANER = [*dict.fromkeys(lean for _, lean in LADDER), Policy.parse("all-split"), Policy.parse("all-host")]


def adapted(folder, config=QWEN2, dtype=torch.float64, rank=3, targets="all-linear"):
    """Biases and norms away from their start too, or their part in the gradients would not show."""
    model = tiny_model(folder, config, dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    for name, weight in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            weight.data += torch.empty(weight.shape).normal_(0, 0.2, generator=generator).to(dtype)
    attached = LoRA(rank=rank, targets=targets).attach(model)
    for weight in attached.parameters().values():
        weight.data.normal_(0, 0.2, generator=generator)
    return model, attached


def batch_of(documents, device="cpu"):
    return make_batch("train", np.arange(len(documents)), documents).to(torch.device(device))


def loss_and_gradients(model, attached, batches):
    for weight in attached.parameters().values():
        weight.grad = None
    total = 0.0
    for batch in batches:
        loss = summed_nll(model, batch)
        loss.backward()
        total += float(loss.detach())
    return total, {name: weight.grad for name, weight in attached.parameters().items()}


def assert_equal_gradients(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_block_is_the_decoder(family, tmp_path):
    model, attached = adapted(tmp_path, FAMILIES[family])
    batches = [batch_of(DOCUMENTS)]
    loss, gradients = loss_and_gradients(model, attached, batches)
    assert why_not(model, attached) is None
    model.quick = QuickTrunk(model)
    quick_loss, quick = loss_and_gradients(model, attached, batches)
    assert quick_loss == pytest.approx(loss, rel=1e-12)
    assert_equal_gradients(quick, gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["down_proj"], ["o_proj", "up_proj"]])
def test_any_choice_of_targets(targets, tmp_path):
    model, attached = adapted(tmp_path, targets=targets)
    loss, gradients = loss_and_gradients(model, attached, [batch_of(DOCUMENTS)])
    model.quick = QuickTrunk(model)
    quick_loss, quick = loss_and_gradients(model, attached, [batch_of(DOCUMENTS)])
    assert quick_loss == pytest.approx(loss, rel=1e-12)
    assert_equal_gradients(quick, gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
@pytest.mark.parametrize("policy", LEANER, ids=lambda policy: policy.name)
def test_policies_change_no_bit(policy, family, device, tmp_path):
    model, attached = adapted(tmp_path, FAMILIES[family], dtype=torch.float32)
    model.to(device)
    quick = model.quick = QuickTrunk(model)
    batches = [batch_of(DOCUMENTS[:5], device), batch_of(DOCUMENTS[5:], device)]
    loss, gradients = loss_and_gradients(model, attached, batches)
    quick.use([policy] * len(quick.blocks))
    other_loss, other = loss_and_gradients(model, attached, batches)
    assert other_loss == loss
    assert_equal_gradients(other, gradients, rtol=0, atol=0)


def test_bf16_is_as_near_as_the_written_out_path(tmp_path):
    """Both round; neither may be twice as far from the truth as the other."""
    truth_model, truth_attached = adapted(tmp_path / "truth")
    loss, truth = loss_and_gradients(truth_model, truth_attached, [batch_of(DOCUMENTS)])
    model, attached = adapted(tmp_path / "bf16", dtype=torch.bfloat16)
    for name, weight in attached.parameters().items():
        weight.data.copy_(truth_attached.parameters()[name])
    with torch.no_grad():
        for weight, exact in zip(model.parameters(), truth_model.parameters(), strict=True):
            exact.copy_(weight)  # the truth about the rounded weights
    loss, truth = loss_and_gradients(truth_model, truth_attached, [batch_of(DOCUMENTS)])
    _, plain = loss_and_gradients(model, attached, [batch_of(DOCUMENTS)])
    model.quick = QuickTrunk(model)
    quick_loss, quick = loss_and_gradients(model, attached, [batch_of(DOCUMENTS)])
    assert quick_loss == pytest.approx(loss, rel=5e-3)

    def distance(gradients):
        return sum(float((gradients[name].double() - truth[name]).square().sum()) for name in truth) ** 0.5

    assert distance(quick) < 1.3 * distance(plain)


def test_what_is_disabled_answers_as_the_base(tmp_path):
    model, attached = adapted(tmp_path, PHI3)
    batch = batch_of(DOCUMENTS)
    with torch.no_grad(), attached.disabled():
        expected = document_log_probs(model, batch)
        model.quick = QuickTrunk(model)
        torch.testing.assert_close(document_log_probs(model, batch), expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert not torch.allclose(document_log_probs(model, batch), expected)


def test_refresh_takes_over_an_update_and_without_it_nothing_changes(tmp_path):
    model, attached = adapted(tmp_path)
    quick = model.quick = QuickTrunk(model)
    batch = batch_of(DOCUMENTS)
    before = float(summed_nll(model, batch).detach())
    with torch.no_grad():
        for weight in attached.parameters().values():
            weight += 0.1
    assert float(summed_nll(model, batch).detach()) == before
    quick.refresh()
    after = float(summed_nll(model, batch).detach())
    model.quick = None
    assert after != before
    assert after == pytest.approx(float(summed_nll(model, batch).detach()), rel=1e-12)


def test_weights_keep_names_and_values_and_merge_as_ever(tmp_path):
    model, attached = adapted(tmp_path, PHI3)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.quick = QuickTrunk(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    batch = batch_of(DOCUMENTS)
    loss = float(summed_nll(model, batch))
    attached.merge()
    assert model.quick is None
    assert float(summed_nll(model, batch)) == pytest.approx(loss, rel=1e-10)


def test_all_tokens_learnt_or_one(tmp_path):
    """The last block computes only what is asked for: every row, or a single one."""
    model, attached = adapted(tmp_path)
    for documents in ([DOCUMENTS[0]], [type(d)(d.ids, np.ones_like(d.weights)) for d in DOCUMENTS]):
        model.quick = None
        loss, gradients = loss_and_gradients(model, attached, [batch_of(documents)])
        model.quick = QuickTrunk(model)
        quick_loss, quick = loss_and_gradients(model, attached, [batch_of(documents)])
        assert quick_loss == pytest.approx(loss, rel=1e-12)
        assert_equal_gradients(quick, gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("start", ["all", "light", "input", "all-split", "all-host", "light-host"])
def test_stepping_down_ends_at_the_leanest_wherever_it_began(start, tmp_path):
    model, _ = adapted(tmp_path)
    quick = QuickTrunk(model)
    quick.use([Policy.parse(start)] * 2)
    seen = [describe(quick.policies)]
    while told := quick.step_down():
        assert told[0] == seen[-1]
        seen.append(told[1])
    assert len(seen) == len(set(seen))
    assert seen[0] == f"2 {start}"
    assert seen[-1] == "2 input-host"
    for name in ("all", "light", "input", "all-host", "light-host", "input-host", "all-split"):
        assert Policy.parse(name).name == name


def quantised(folder, kind, dtype=torch.float32):
    model = tiny_model(folder, {**QWEN2, "hidden_size": 64, "intermediate_size": 128})
    save_model(model, folder / "saved")
    model = load_model(folder / "saved", dtype=dtype, quantize=kind)
    attached = LoRA(rank=3).attach(model)
    for weight in attached.parameters().values():
        weight.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(3))
    return model, attached


@pytest.mark.parametrize("kind", ["nf4", "int8", "fp8"])
def test_any_base_trains_as_its_written_out_layers_do(kind, tmp_path):
    """NF4 and int8 multiply the same dequantised numbers; fp8 quantises the same rows, and rounds sums elsewhere."""
    model, attached = quantised(tmp_path, kind)
    batch = batch_of(DOCUMENTS)
    loss, gradients = loss_and_gradients(model, attached, [batch])
    assert why_not(model, attached) is None
    model.quick = QuickTrunk(model)
    quick_loss, quick = loss_and_gradients(model, attached, [batch])
    assert quick_loss == pytest.approx(loss, rel=5e-3 if kind == "fp8" else 1e-5)
    for name in quick:
        distance = float((quick[name] - gradients[name]).norm() / gradients[name].norm())
        assert distance < (0.12 if kind == "fp8" else 1e-4), name


@pytest.mark.parametrize("kind", ["nf4", "fp8"])
def test_policies_change_no_bit_of_a_quantised_base(kind, tmp_path):
    model, attached = quantised(tmp_path, kind)
    quick = model.quick = QuickTrunk(model)
    loss, gradients = loss_and_gradients(model, attached, [batch_of(DOCUMENTS)])
    for policy in LEANER:
        quick.use([policy] * len(quick.blocks))
        other_loss, other = loss_and_gradients(model, attached, [batch_of(DOCUMENTS)])
        assert other_loss == loss
        assert_equal_gradients(other, gradients, rtol=0, atol=0)


def test_a_forward_without_a_backward_leaves_nothing_behind(tmp_path):
    """As when memory ends half way: what was kept must go with the last reference, not when rubbish is collected."""
    model, _ = adapted(tmp_path)
    model.quick = QuickTrunk(model)
    gc.collect()
    gc.disable()
    try:
        loss = summed_nll(model, batch_of(DOCUMENTS))
        node, kept = loss.grad_fn, []
        while node is not None:
            if hasattr(node, "memory"):
                kept += [weakref.ref(node.memory.after_SD), weakref.ref(node.memory.x_TD)]
            node = next((step[0] for step in node.next_functions if step[0] is not None), None)
        assert len(kept) == 4
        assert all(ref() is not None for ref in kept)
        del loss, node
        assert all(ref() is None for ref in kept)
    finally:
        gc.enable()


def test_loans_of_a_forward_that_was_cut_short_are_forgotten(tmp_path):
    model, attached = adapted(tmp_path)
    quick = model.quick = QuickTrunk(model)
    quick.use([Policy("input", "host")] * 2)
    for _ in range(3):
        summed_nll(model, batch_of(DOCUMENTS))  # no backward follows
    quick.forget()
    loss, gradients = loss_and_gradients(model, attached, [batch_of(DOCUMENTS)])
    quick.use([Policy()] * 2)
    again, others = loss_and_gradients(model, attached, [batch_of(DOCUMENTS)])
    assert loss == again
    assert_equal_gradients(gradients, others, rtol=0, atol=0)


def test_a_seam_knows_its_own_values() -> None:
    wide = torch.randn(5, 12)
    rows, seam = Rows.side_by_side(wide, 8), Seam()
    left = seam.leave(rows)
    assert seam.take(left, 4) is rows
    assert seam.take(left, 4) is None, "taken once"
    for values, padding in ((left.clone(), 4), (left, 8), (left[:3], 4), (wide[:, 4:], 4)):
        seam.leave(rows)
        assert seam.take(values, padding) is None
    seam.leave(rows)
    seam.forget()
    assert seam.take(left, 4) is None
