"""Every family against transformers on a random small model: logits, gradients, generation with a cache, and saving.

Oracle: transformers with eager attention, in fp64 where gradients are compared, so tolerances are tight enough that a wrong
angle, bias, window or cap cannot hide. Packed documents must equal the same documents alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from danlu.model.build import load_model, save_model
from danlu.model.decoder import Decoder
from danlu.ops.attention import Bounds
from training_kit import logits_of

SIZES: dict[str, Any] = {
    "vocab_size": 101, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0, 1.1, 1.3, 1.7],
    "long_factor": [1.0, 2.0, 3.5, 8.0],
}  # fmt: skip

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("LlamaConfig", {"num_key_value_heads": 4}),
    "llama3.1": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama3.2, tied": ("LlamaConfig", {"tie_word_embeddings": True, "head_dim": 16}),
    "llama, linear rope, all biases": ("LlamaConfig", {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.5},
        "attention_bias": True, "mlp_bias": True,
    }),
    "yi": ("LlamaConfig", {"rope_theta": 5_000_000.0, "rms_norm_eps": 1e-5}),
    "deepseek-llm": ("LlamaConfig", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2.5, tied": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2, upper layers slide": ("Qwen2Config", {
        "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1,
    }),
    "qwen2.5, yarn": ("Qwen2Config", {"rope_parameters": YARN, "max_position_embeddings": 128}),
    "qwen2.5, yarn with mscale": ("Qwen2Config", {
        "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.3, "truncate": False, "beta_fast": 16},
        "max_position_embeddings": 128,
    }),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "mistral, window": ("MistralConfig", {"sliding_window": 6, "head_dim": 8}),
    "mistral, no window": ("MistralConfig", {"sliding_window": None, "head_dim": 16}),
    "gemma2": ("Gemma2Config", {
        "head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    }),
    "gemma3": ("Gemma3TextConfig", {
        "head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 24,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 100_000.0, "factor": 8.0},
        },
    }),
    "phi3": ("Phi3Config", {"sliding_window": 7}),
    "phi3.5, longrope beyond its first context": ("Phi3Config", {
        "rope_parameters": LONG, "original_max_position_embeddings": 19, "max_position_embeddings": 64,
    }),
    "phi3.5, longrope within it": ("Phi3Config", {
        "rope_parameters": LONG, "original_max_position_embeddings": 48, "max_position_embeddings": 96,
    }),
    "phi4-mini, partial rotation": ("Phi3Config", {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
        "tie_word_embeddings": True,
    }),
}  # fmt: skip

everyone = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder per case, written by transformers."""
    return {case: write(case, tmp_path_factory.mktemp("case")) for case in CASES}


def write(case: str, folder: Path) -> Path:
    kind, extra = CASES[case]
    config = getattr(transformers, kind)(**{**SIZES, **extra})
    torch.manual_seed(0)
    module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    for parameter in module.parameters():
        # Biases and norms too: left at their zeros and ones they could be swapped or ignored unseen.
        torch.nn.init.normal_(parameter, std=0.2 if parameter.dim() == 1 else 0.15)
    module.save_pretrained(folder)
    return folder


def oracle(folder: Path, dtype: torch.dtype = torch.float64) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def ids_of(length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, SIZES["vocab_size"], (length,), generator=torch.Generator().manual_seed(seed))


@everyone
def test_logits_equal_transformers(case: str, checkpoints: dict[str, Path]) -> None:
    ids = ids_of(24)
    with torch.no_grad():
        theirs = oracle(checkpoints[case])(ids[None]).logits[0]
        ours = logits_of(load_model(checkpoints[case], dtype="fp64"), ids)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # transformers norms in fp32


@everyone
def test_gradients_equal_transformers(case: str, checkpoints: dict[str, Path]) -> None:
    ids = ids_of(20)
    theirs, ours = oracle(checkpoints[case]), load_model(checkpoints[case], dtype="fp64")
    theirs(ids[None], labels=ids[None]).loss.backward()
    bounds = Bounds.of([20])
    hidden_TD = ours.hidden(ids, bounds.positions(), bounds)
    (ours.loss(hidden_TD[:-1], ids[1:]) / 19).backward()
    expected = dict(theirs.named_parameters())
    compared = 0
    for name, parameter in ours.named_parameters():
        if name in expected:
            torch.testing.assert_close(
                parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
            compared += 1
    assert compared > 0.6 * len(expected), "most names are the checkpoint's"


@everyone
def test_cached_generation_equals_transformers_and_no_cache(case: str, checkpoints: dict[str, Path]) -> None:
    """Rows of different lengths in one batch: none may feel another's length."""
    prompts, num_new = [ids_of(9, 1), ids_of(3, 2), ids_of(6, 3)], 10
    theirs, ours = oracle(checkpoints[case]), load_model(checkpoints[case], dtype="fp64")
    cache = ours.new_cache(3, 9 + num_new)
    tokens_B = ours.logits(ours.prefill(prompts, cache)).argmax(-1)
    drawn = [tokens_B]
    with torch.no_grad():
        for _ in range(num_new - 1):
            tokens_B = ours.logits(ours.step(tokens_B, cache)).argmax(-1)
            drawn.append(tokens_B)
        for prompt, ours_row in zip(prompts, torch.stack(drawn, 1), strict=True):
            text = prompt
            for _ in range(num_new):
                text = torch.cat((text, logits_of(ours, text)[-1:].argmax(-1)))
            assert torch.equal(ours_row, text[len(prompt) :]), "with and without cache"
            answer = theirs.generate(
                prompt[None],
                attention_mask=torch.ones_like(prompt[None]),
                max_new_tokens=num_new,
                do_sample=False,
                use_cache=False,
            )[0]
            assert torch.equal(ours_row, answer[len(prompt) :]), "as transformers generates"


@everyone
def test_transformers_loads_what_we_save(case: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    ids = ids_of(12)
    save_model(load_model(checkpoints[case], dtype="fp32"), tmp_path / "saved")
    with torch.no_grad():
        before = oracle(checkpoints[case], torch.float32)(ids[None]).logits
        after = oracle(tmp_path / "saved", torch.float32)(ids[None]).logits
    assert torch.equal(before, after)


@everyone
def test_packed_documents_equal_documents_alone(case: str, checkpoints: dict[str, Path]) -> None:
    """Logits and gradients; lengths 1 and 0 and an order that the padded path has to undo."""
    documents = [ids_of(n, n) for n in (7, 1, 20, 0, 3)]
    packed, alone = (load_model(checkpoints[case], dtype="fp64") for _ in range(2))
    together = logits_of(packed, *documents)
    apart = torch.cat([logits_of(alone, document) for document in documents if len(document)])
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-6)
    together.square().sum().backward()
    apart.square().sum().backward()
    for (name, ours), (_, theirs) in zip(packed.named_parameters(), alone.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@everyone
def test_a_changed_document_leaves_its_neighbour_alone(case: str, checkpoints: dict[str, Path]) -> None:
    model = load_model(checkpoints[case], dtype="fp32")
    first, second, other = ids_of(8, 1), ids_of(8, 2), ids_of(8, 3)
    with torch.no_grad():
        assert torch.equal(logits_of(model, first, second)[8:], logits_of(model, other, second)[8:])
        assert torch.equal(logits_of(model, second, first)[:8], logits_of(model, second, other)[:8])


@pytest.mark.parametrize("case", ["llama3.1", "qwen2.5, tied", "gemma2", "phi3"])
def test_bf16_stays_as_near_the_truth_as_transformers(case: str, checkpoints: dict[str, Path]) -> None:
    """Our bf16 error against fp64 is at most 1.5 times theirs."""
    ids = ids_of(32)
    with torch.no_grad():
        truth = oracle(checkpoints[case])(ids[None]).logits[0]
        theirs = oracle(checkpoints[case], torch.bfloat16)(ids[None]).logits[0].double()
        ours = logits_of(load_model(checkpoints[case], dtype="bf16"), ids).double()
    assert (ours - truth).norm() < 1.5 * (theirs - truth).norm()


@pytest.mark.parametrize("case", ["llama3.1", "qwen2.5, tied", "gemma3"])
def test_autocast_over_fp32_masters(case: str, checkpoints: dict[str, Path]) -> None:
    """Full fine-tuning keeps fp32 weights and computes in bf16: loss near the fp32 one, gradients fp32 and finite."""
    model = load_model(checkpoints[case], dtype="fp32")
    ids, bounds = ids_of(24), Bounds.of([10, 14])
    exact = model.loss(model.hidden(ids, bounds.positions(), bounds), ids)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(model.hidden(ids, bounds.positions(), bounds), ids)
    loss.backward()
    assert loss.dtype == torch.float32
    assert abs(loss.item() / exact.item() - 1) < 0.02
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters()
    )


def test_every_case_uses_our_own_decoder(checkpoints: dict[str, Path]) -> None:
    assert all(isinstance(load_model(folder, dtype="fp32"), Decoder) for folder in checkpoints.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@everyone
def test_cuda_bf16_stays_near_the_truth(case: str, checkpoints: dict[str, Path]) -> None:
    """The varlen kernel inside the whole model, packed, forward and backward: within twice the error that bf16 on CPU
    makes with the padded path; and generation with a cache on CUDA agrees with the flat forward there."""
    documents = [ids_of(n, n) for n in (40, 1, 90)]
    states = {}
    for device, dtype in (("cpu", "fp64"), ("cpu", "bf16"), ("cuda", "bf16")):
        model = load_model(checkpoints[case], dtype=dtype, device=device)
        bounds = Bounds.of([40, 1, 90])
        hidden = model.hidden(torch.cat(documents).to(device), bounds.positions(device), bounds)
        loss = model.loss(hidden, torch.cat(documents).to(device))
        loss.backward()
        grads = torch.cat([p.grad.flatten().double().cpu() for p in model.parameters() if p.grad is not None])
        states[device, dtype] = (hidden.detach().double().cpu(), grads)
    truth, near, ours = states["cpu", "fp64"], states["cpu", "bf16"], states["cuda", "bf16"]
    for exact, cpu, cuda in zip(truth, near, ours, strict=True):
        assert (cuda - exact).norm() < 2 * (cpu - exact).norm() + 1e-3 * exact.norm()
    model = load_model(checkpoints[case], dtype="fp32", device="cuda")
    cache = model.new_cache(2, 50)
    model.prefill([documents[0].cuda()[:-1], documents[0].cuda()[:5]], cache)
    stepped = model.step(documents[0].cuda()[[-1, 5]], cache)
    bounds = Bounds.of([40, 6])
    flat = model.hidden(torch.cat((documents[0], documents[0][:6])).cuda(), bounds.positions("cuda"), bounds)
    torch.testing.assert_close(stepped, flat[[39, 45]], rtol=1e-3, atol=1e-3)
