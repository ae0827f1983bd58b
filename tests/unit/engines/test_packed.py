"""Packed weights compute what the decoder computes: every kind of block, with and without an adapter, prompts that
share a beginning, in fp32 to round-off and in bf16 no further from fp32 than the decoder itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from danlu.adapters.lora import LoRA
from danlu.engines import packed as packing
from danlu.engines.packed import Packed, packed
from danlu.model.build import load_model
from danlu.model.decoder import Decoder
from danlu.model.model import Model

SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES = {
    "qwen2": transformers.Qwen2Config(**SIZES, num_key_value_heads=2, max_position_embeddings=64),
    "qwen3": transformers.Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16, max_position_embeddings=64),
    "mistral": transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=6, max_position_embeddings=64),
    "gemma2": transformers.Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=16, sliding_window=6,
                                        query_pre_attn_scalar=16, max_position_embeddings=64),
    "phi3": transformers.Phi3Config(**SIZES, num_key_value_heads=4, pad_token_id=0, max_position_embeddings=64,
                                    original_max_position_embeddings=64),
    "llama": transformers.LlamaConfig(**SIZES, num_key_value_heads=4, max_position_embeddings=64, mlp_bias=True,
                                      tie_word_embeddings=False),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shapes")
    for name, config in SHAPES.items():
        config.save_pretrained(folder / name)
    return {name: folder / name for name in SHAPES}


def model_of(folder: Path, dtype: str = "fp32", *, tuned: bool = True) -> Model:
    model = load_model(folder, init="random", seed=1, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1.1)
    if tuned:
        adapter = LoRA(rank=3, targets=["q_proj", "v_proj", "up_proj", "down_proj"]).attach(model)
        with torch.no_grad():
            for weight in adapter.parameters().values():
                weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    return model


def prompts(num_shared: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    first = torch.randint(3, 90, (num_shared,), generator=generator)
    return [torch.cat((first, torch.randint(3, 90, (n,), generator=generator))) for n in (3, 9, 1, 5)]


@torch.inference_mode()
def course(forward: Model | Packed, asked: list[torch.Tensor]) -> torch.Tensor:
    """logits of the prompts' ends and of nine more steps, rows leaving and coming on the way."""
    cache = forward.new_cache(6, 48)
    cache.empty()
    found = []
    for some in (asked[:3], asked[3:]):
        fresh = forward.new_cache(len(some), max(map(len, some)))
        found.append(forward.logits(forward.prefill(some, fresh)))
        cache.adopt(fresh)
    ids_B = torch.cat([logits.argmax(-1) for logits in found])
    for step in range(9):
        found.append(forward.logits(forward.step(ids_B, cache)))
        ids_B = (ids_B + 7) % 90
        if step == 4:
            cache.drop([0])
            ids_B = ids_B[[3, 1, 2]]
    return torch.cat([logits.double() for logits in found])


@pytest.mark.parametrize("num_shared", [0, 20])
@pytest.mark.parametrize("name", SHAPES)
def test_the_sums_are_the_decoders(name: str, num_shared: int, folders: dict[str, Path]) -> None:
    model = model_of(folders[name])
    quick = packed(model, with_adapter=True)
    assert quick is not None
    wanted = course(model, prompts(num_shared))
    torch.testing.assert_close(course(quick, prompts(num_shared)), wanted, rtol=1e-4, atol=1e-4)
    softcapped = model.spec.attention_softcap is not None
    assert (quick._prefix is not None) == (num_shared > packing.SHARED_FROM and not softcapped)


def test_the_adapter_is_packed_in_or_left_out(folders: dict[str, Path]) -> None:
    model, bare = model_of(folders["qwen3"]), model_of(folders["qwen3"], tuned=False)
    asked = prompts(0)
    quick = packed(model, with_adapter=False)
    assert quick is not None
    torch.testing.assert_close(course(quick, asked), course(bare, asked), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(course(quick, asked), course(model, asked), atol=0.05)


def test_in_bf16_both_are_as_far_from_fp32(folders: dict[str, Path]) -> None:
    asked = prompts(20)
    truth, model = model_of(folders["qwen2"]), model_of(folders["qwen2"], "bf16")
    with torch.no_grad():
        for mine, its in zip(truth.parameters(), model.parameters(), strict=True):
            mine.copy_(its.float())
    quick = packed(model, with_adapter=True)
    assert quick is not None
    exact = course(truth, asked)
    plain, fast = (float((course(one, asked) - exact).pow(2).mean().sqrt()) for one in (model, quick))
    assert 0 < fast <= 1.2 * plain


def test_what_cannot_be_packed_is_left_as_it_is(folders: dict[str, Path]) -> None:
    model = model_of(folders["qwen2"])
    assert packed(model.to(torch.float64), with_adapter=True) is None
    coded = load_model(folders["qwen2"], init="random", dtype="fp32", quantize="int8")
    assert packed(coded, with_adapter=True) is None
    assert isinstance(model, Decoder)
    odd = model_of(folders["qwen2"])
    odd.model.layers[0].mlp.extra = torch.nn.Linear(4, 4)  # a layer that the packing does not know of
    assert packed(odd, with_adapter=True) is None
