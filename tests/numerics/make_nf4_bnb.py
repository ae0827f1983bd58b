"""Records what bitsandbytes quantises and dequantises, so that `test_nf4_bnb.py` can hold our NF4 to it. Not a test.

bitsandbytes is not a dependency; this runs in a virtual environment of its own, in half a minute on a CPU:

    pip install "torch==2.13.*" "bitsandbytes==0.50.2" "transformers==5.23.*" accelerate
    python tests/numerics/make_nf4_bnb.py

Two records. `nf4_bnb.json`: codes, scales and dequantised values (as SHA-256 of their bytes) of a few weights, which both
sides draw from numpy's RandomState. `bnb_tiny/`: a one-layer Qwen2 that transformers has quantised and saved, with the
logits it gives, in `nf4_bnb.json` too.

Dequantised values come from bitsandbytes' own readable operators (`backends.default`): its CPU library, in 0.50.2, gives
wrong values where a row's length is no multiple of the block (it counts blocks per row), and its CUDA kernels, which are
right, need a GPU. Where the length fits, both are held to agree here.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

FIXTURES = Path(__file__).parent / "fixtures"
FIXTURE, CHECKPOINT = FIXTURES / "nf4_bnb.json", FIXTURES / "bnb_tiny"
CASES = {
    "whole blocks": (96, 128, "float32", False), "nested": (160, 128, "float32", True),
    "bf16": (160, 192, "bfloat16", True), "fp16": (64, 64, "float16", True), "rows within blocks": (100, 96, "float32", True),
    "a ragged last block": (6, 40, "float32", True), "an odd number": (7, 13, "bfloat16", False),
}  # fmt: skip
IDS = [3, 17, 5, 29, 8, 8, 21, 0, 39, 12]


def weight(name: str) -> torch.Tensor:
    """Drawn anew by whoever asks; with a row of zeros, and one much larger than the rest."""
    num_rows, num_columns, dtype, _ = CASES[name]
    drawn = np.random.RandomState(len(name)).standard_normal((num_rows, num_columns)) * 0.05
    drawn[1] = 0
    drawn[2] *= 40
    return torch.from_numpy(drawn).to(getattr(torch, dtype))


def digest(tensor: torch.Tensor) -> str:
    raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(raw).hexdigest()


def record_case(name: str) -> dict[str, Any]:
    import bitsandbytes.functional as bnb
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

    drawn, is_double = weight(name), CASES[name][3]
    codes, state = bnb.quantize_4bit(drawn, blocksize=64, compress_statistics=is_double, quant_type="nf4")
    record: dict[str, Any] = {"weight": digest(drawn), "codes": codes.numpy().tobytes().hex()}
    absmax = state.absmax
    if is_double:
        record |= {
            "absmax": state.absmax.numpy().tobytes().hex(), "nested_absmax": state.state2.absmax.tolist(),
            "offset": state.offset.item(), "levels": digest(state.state2.code),
        }  # fmt: skip
        absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    else:
        record["absmax"] = absmax.tolist()
    record["values"] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        values = _dequantize_4bit_compute(codes.flatten(), absmax, state.code, 64, drawn.shape, dtype)
        record["values"][str(dtype)[6:]] = digest(values)
        if drawn.shape[1] % 64 == 0 and dtype == drawn.dtype:
            assert torch.equal(values, bnb.dequantize_4bit(codes, state)), "its two CPU paths agree here"
    return record


def unpack(model: Any) -> None:
    """Ordinary layers of the values that bitsandbytes dequantises: its own products on a CPU round to bf16."""
    import bitsandbytes as bnb

    for name, layer in list(model.named_modules()):
        if isinstance(layer, bnb.nn.Linear4bit):
            plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            plain.weight.data = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            plain.bias = layer.bias
            parent, _, end = name.rpartition(".")
            setattr(model.get_submodule(parent), end, plain)


def record_checkpoint() -> list[list[float]]:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=40, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, initializer_range=0.1,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as plain:
        Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(plain)
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=["lm_head", "o_proj"],
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(
            plain, quantization_config=settings, dtype=torch.float32, device_map="cpu"
        )
    model.save_pretrained(CHECKPOINT)
    (CHECKPOINT / "generation_config.json").unlink(missing_ok=True)
    unpack(model)
    with torch.inference_mode():
        logits_TV = model(input_ids=torch.tensor([IDS])).logits[0]
    return [[round(value, 6) for value in row] for row in logits_TV.tolist()]


if __name__ == "__main__":
    record = {"cases": {name: record_case(name) for name in CASES}, "ids": IDS, "logits": record_checkpoint()}
    FIXTURE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
