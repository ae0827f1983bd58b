"""Small decoders of every kind of block with drawn weights, and rows that are taken through them on a card or as they
are.

Sizes are such that attention windows end within prompts; weights are large enough for answers to differ.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
import transformers

from danlu.adapters.lora import LoRA
from danlu.engines.cuda_rows import OnCard
from danlu.engines.decoding import Decoding
from danlu.engines.engine import Sampling
from danlu.engines.lenses import Lens
from danlu.engines.plain import Plain
from danlu.engines.rows import Row, Span
from danlu.model.build import load_model
from danlu.model.decoder import Decoder
from danlu.model.quantized import quantized_layers
from danlu.model.quantizers.quantizer import Quantize

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "pad_token_id": 0}  # fmt: skip
NAMES = ("qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "llama")


def write_shapes(folder: Path, *, context: int, window: int, **sizes: int) -> dict[str, Path]:
    """A folder with a config for each of NAMES. `sizes` stand in place of those above."""
    kept: dict[str, Any] = SIZES | {"max_position_embeddings": context} | sizes
    windowed = kept | {"sliding_window": window}
    heads = {"head_dim": kept["hidden_size"] // 4}
    gemma = windowed | heads | {"query_pre_attn_scalar": 16}
    configs = {
        "qwen2": transformers.Qwen2Config(**kept, num_key_value_heads=2),
        "qwen3": transformers.Qwen3Config(**kept, **heads, num_key_value_heads=2),
        "mistral": transformers.MistralConfig(**windowed, num_key_value_heads=2),
        "gemma2": transformers.Gemma2Config(**gemma, num_key_value_heads=1),
        "gemma3": transformers.Gemma3TextConfig(**gemma, num_key_value_heads=2),
        "phi3": transformers.Phi3Config(**kept, num_key_value_heads=4, original_max_position_embeddings=context),
        "llama": transformers.LlamaConfig(**kept, num_key_value_heads=4, mlp_bias=True, tie_word_embeddings=False),
    }  # fmt: skip
    for name in NAMES:
        configs[name].save_pretrained(folder / name)
    return {name: folder / name for name in NAMES}


def model_of(
    folder: Path, dtype: str = "fp32", *, tuned: bool = False, quantize: Quantize = "none", device: str = DEVICE
) -> Decoder:
    model = load_model(folder, init="random", seed=1, dtype=dtype, device=device, quantize=quantize)
    assert isinstance(model, Decoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1.1)
        for layer in quantized_layers(model):
            layer.take(4 * layer.dequantized(dtype=torch.float32))
    if tuned:
        tune(model, 3)
    return model.eval()


def tune(model: Decoder, seed: int) -> None:
    adapter = LoRA(rank=3, targets=["q_proj", "v_proj", "up_proj", "down_proj"]).attach(model)
    with torch.no_grad():
        for weight in adapter.parameters().values():
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed + weight.numel()))
            weight += 0.1 * noise.to(weight.device)


def prompts(num: int = 7, num_shared: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    first = torch.randint(3, 90, (num_shared,), generator=generator)
    sizes = [3, 70, 1, 64, 9, 150, 63, 65, 20][:num]
    return [torch.cat((first, torch.randint(3, 90, (size,), generator=generator))).tolist() for size in sizes]


def on_card(model: Decoder, *, max_rows: int = 4, max_tokens: int = 1000, with_adapter: bool = False) -> OnCard:
    with torch.inference_mode():
        return OnCard(model, max_rows=max_rows, max_tokens=max_tokens, most_tokens=256, with_adapter=with_adapter)


def rows_of(asked: list[list[int]], num_free: int, lenses: tuple[Lens | None, ...] = (None,)) -> list[Row]:
    frees = [num_free - n % 3 for n in range(len(asked))]
    return [
        Row(n, ids, free, Sampling(free), lens=lenses[n % len(lenses)])
        for n, (ids, free) in enumerate(zip(asked, frees, strict=True))
    ]


def answered(
    forward: OnCard | Plain, rows: list[Row], *, max_rows: int = 4, read_tokens: int = 1000
) -> list[list[int]]:
    decoding = Decoding(
        forward, stop_ids=frozenset({17, 44}), max_rows=max_rows, max_tokens=1000, name="it", read_tokens=read_tokens
    )
    decoding.add(rows)
    for _ in decoding.run():
        pass
    assert not any(row.fault for row in rows)
    return [row.ids for row in rows]


def plain(model: Decoder) -> Plain:
    return Plain(model, 4, 256, contextlib.nullcontext)


@torch.inference_mode()
def course(forward: OnCard | Plain, asked: list[list[int]], num_pieces: int = 1) -> torch.Tensor:
    """Logits of each row's first tokens and of eleven more; rows leave and come on the way, whatever the model says."""
    rows = rows_of(asked, 48)
    found: dict[tuple[int, int], torch.Tensor] = {}

    def run(spans: list[Span]) -> None:
        due, hidden = forward.run(spans)
        for row, logits in zip(due, forward.logits(hidden).double().cpu(), strict=True):
            found[row.number, len(row.ids)] = logits
            row.ids.append((7 * len(row.ids) + 11 * row.number + 5) % 90)

    for some in (rows[:2], rows[2:3], rows[3:]):
        forward.begin(some)
        for row in some:
            size = max(1, -(-len(row.prompt) // num_pieces))
            while row.num_done < len(row.prompt):
                run([Span(row, row.num_done, min(len(row.prompt), row.num_done + size))])
        run([])
    for step in range(8):
        if step == 4:
            forward.leave([rows[0]])
        run([])
    return torch.stack([found[key] for key in sorted(found) if key[1] < (5 if key[0] == 0 else 9)])
