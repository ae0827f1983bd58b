"""The block on a GPU at sizes where kernels, not references, compute: near the truth, and finite, step after step."""

import numpy as np
import pytest
import torch

from danlu.adapters.lora import LoRA
from danlu.data.tokens import Tokens
from danlu.training.batches import make_batch
from danlu.training.blocks.policy import LADDER, Policy
from danlu.training.blocks.trunk import QuickTrunk
from danlu.training.flat import FlatParameters
from danlu.training.forms import Form, fill
from danlu.training.graphs import Graphs
from danlu.training.likelihood import summed_nll
from danlu.training.methods.sft import SFT
from training_kit import QWEN2, tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SIZES = {  # hidden, ffn, heads, kv heads
    "0.5b": (896, 4864, 14, 2),
    "1.5b": (1536, 8960, 12, 2),
    "odd": (384, 1000, 6, 2),
    "gemma-2b": (2304, 9216, 8, 4),
    "gemma-1b": (1152, 6912, 4, 1),
}


LEANER = [*dict.fromkeys(lean for _, lean in LADDER), Policy.parse("all-split"), Policy.parse("all-host")]


GEMMA2 = {
    "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "head_dim": 256, "query_pre_attn_scalar": 256,
    "sliding_window": 512, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
GEMMA3 = {
    **GEMMA2, "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "sliding_window_pattern": 2,
    "rope_local_base_freq": 10000.0, "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip
OTHERS = {"gemma2": GEMMA2, "gemma3": GEMMA3}


def adapted(folder, size, dtype=torch.bfloat16):
    size, _, family = size.partition(" ")
    hidden, ffn, heads, kv_heads = SIZES[size]
    config = {
        **{key: value for key, value in QWEN2.items() if not family or key != "attention_bias"},
        **OTHERS.get(family, {}),
        "hidden_size": hidden, "intermediate_size": ffn, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "initializer_range": 0.03, "max_position_embeddings": 4096,
    }  # fmt: skip
    model = tiny_model(folder, config, dtype=torch.bfloat16).to("cuda", dtype)
    attached = LoRA(rank=16).attach(model)
    generator = torch.Generator().manual_seed(0)
    for weight in attached.parameters().values():
        weight.data.copy_(torch.empty(weight.shape).normal_(0, 0.02, generator=generator))
    return model, attached


def batch_of(lengths):
    random = np.random.default_rng(0)
    documents = [
        Tokens(random.integers(3, 96, n).astype(np.int32), (np.arange(n) > n // 4).astype(np.uint8)) for n in lengths
    ]
    return make_batch("train", np.arange(len(documents)), documents).to(torch.device("cuda"))


def gradients(model, attached, batch):
    for weight in attached.parameters().values():
        if weight.grad is not None:
            weight.grad.zero_()
    summed_nll(model, batch).backward()
    return {name: weight.grad.double() for name, weight in attached.parameters().items()}


def distance(one, truth):
    return max(float((one[name] - truth[name]).norm() / (truth[name].norm() + 1e-30)) for name in truth)


@pytest.mark.parametrize("lengths", [[2048] * 4, [8192], [700, 1300, 90, 2000, 33, 4000, 1, 68]], ids=str)
@pytest.mark.parametrize("size", [*SIZES, "gemma-2b gemma2", "gemma-1b gemma3"])
def test_near_the_truth(size, lengths, tmp_path):
    batch = batch_of(lengths)
    wide = gradients(*adapted(tmp_path / "wide", size, torch.float32), batch)
    model, attached = adapted(tmp_path / "bf16", size)
    written_out = distance(gradients(model, attached, batch), wide)
    FlatParameters(attached.parameters())
    model.quick = QuickTrunk(model)
    for _ in range(4):  # memory that others have used before
        quick = gradients(model, attached, batch)
        bad = [name for name, grad in quick.items() if not bool(grad.isfinite().all())]
        assert not bad, bad[:6]
        assert distance(quick, wide) < max(1.5 * written_out, 0.02), (distance(quick, wide), written_out)


@pytest.mark.parametrize("policy", LEANER, ids=lambda p: p.name)
def test_policies_agree(policy, tmp_path):
    """To the bit but for attention's backward, whose sums cuDNN orders anew each time."""
    batch = batch_of([2048] * 4)
    model, attached = adapted(tmp_path, "0.5b")
    quick = model.quick = QuickTrunk(model)
    truth = gradients(model, attached, batch)
    quick.use([policy] * len(quick.blocks))
    for _ in range(3):
        assert distance(gradients(model, attached, batch), truth) < 5e-3


def test_deterministic_policies_change_no_bit(tmp_path):
    batch = batch_of([2048] * 4)
    model, attached = adapted(tmp_path, "0.5b")
    quick = model.quick = QuickTrunk(model)
    torch.use_deterministic_algorithms(True)
    try:
        truth = gradients(model, attached, batch)
        for policy in LEANER:
            quick.use([policy] * len(quick.blocks))
            other = gradients(model, attached, batch)
            assert all(torch.equal(truth[name], other[name]) for name in truth), policy
    finally:
        torch.use_deterministic_algorithms(False)


def test_nothing_waits_for_the_device(tmp_path):
    """A wait in a step is a hole in the queue of kernels."""
    batch = batch_of([2048] * 4)
    model, attached = adapted(tmp_path, "0.5b")
    model.quick = QuickTrunk(model)
    gradients(model, attached, batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for weight in attached.parameters().values():
            weight.grad.zero_()
        summed_nll(model, batch).backward()
        model.quick.refresh()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("lengths", [[[2048] * 4], [[700, 1300, 90], [90, 33, 1500, 1, 68], [2000]]], ids=str)
def test_a_graph_computes_what_it_recorded(lengths, tmp_path):
    """Every batch of a form, accumulated: as near to the eager sum as eager is to itself."""
    model, attached = adapted(tmp_path, "0.5b")
    flat = FlatParameters(attached.parameters())
    model.quick = QuickTrunk(model)
    graphs = Graphs(model, SFT(), flat)
    batches = [batch_of(documents) for documents in lengths] * 2
    num_units = sum(batch.num_targets for batch in batches)
    expected = sum(float(summed_nll(model, batch).detach()) for batch in batches)
    for batch in batches:
        (summed_nll(model, batch) / num_units).backward()
    eager = flat.grad.clone()
    for _ in range(2):
        flat.forget_gradients()
        on_host = [batch.to(torch.device("cpu")) for batch in batches]
        filled = [fill(batch, Form.of(batch, 8192)).pin() for batch in on_host]
        losses = [graphs.accumulate(batch, num_units) for batch in filled]
        assert sum(float(loss) for loss in losses) == pytest.approx(expected, rel=1e-3)
        assert float((flat.grad - eager).norm() / eager.norm()) < 5e-3
