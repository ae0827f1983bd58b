"""A real trained Llama (260K parameters, MIT, in llama2.c's format): converted here, loaded, generated from, saved.

The oracle is llama2.c's own loop, written out below in numpy: one token at a time, rotary pairs side by side. Its
512-token vocabulary is not at hand, so the story is compared as ids.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from danlu.model.build import load_model, save_model
from danlu.model.model import Model
from danlu.ops.attention import Bounds

SOURCE = Path(__file__).parents[2] / "../shared/data/tiny_weights/stories260K.bin"
pytestmark = pytest.mark.skipif(not SOURCE.exists(), reason="stories260K.bin is not beside the repository")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(tmp_path_factory.mktemp("stories"), unpair=True)


def convert(folder: Path, *, unpair: bool) -> Path:
    """llama2.c's version 0: seven ints, then float32 tensors; its rotary pairs are neighbours, the checkpoint's are
    halves apart."""
    raw = SOURCE.read_bytes()
    dim, ffn, layers, heads, kv_heads, vocab, context = struct.unpack("7i", raw[:28])
    data, at = np.frombuffer(raw, np.float32, offset=28), 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        at += int(np.prod(shape))
        return torch.tensor(data[at - int(np.prod(shape)) : at].reshape(shape))

    def halves(weights: torch.Tensor, num_heads: int) -> torch.Tensor:
        turned = weights.view(layers, num_heads, -1, 2, dim).transpose(2, 3).reshape(weights.shape)
        return (turned if unpair else weights).contiguous()

    kv = dim // heads * kv_heads
    state = {"model.embed_tokens.weight": take(vocab, dim)}
    stacks = {
        "input_layernorm": take(layers, dim), "self_attn.q_proj": halves(take(layers, dim, dim), heads),
        "self_attn.k_proj": halves(take(layers, kv, dim), kv_heads), "self_attn.v_proj": take(layers, kv, dim),
        "self_attn.o_proj": take(layers, dim, dim), "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, ffn, dim), "mlp.down_proj": take(layers, dim, ffn), "mlp.up_proj": take(layers, ffn, dim),
    }  # fmt: skip
    state |= {f"model.layers.{i}.{name}.weight": w[i].clone() for name, w in stacks.items() for i in range(layers)}
    state["model.norm.weight"] = take(dim)
    save_file(state, folder / "model.safetensors")
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocab, "hidden_size": dim,
        "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": True,
        "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class Llama2C:
    """llama2.c's forward for one token after the other (github.com/karpathy/llama2.c, run.c), in float64."""

    def __init__(self) -> None:
        raw = SOURCE.read_bytes()
        dim, ffn, layers, heads, kv_heads, vocab, _ = struct.unpack("7i", raw[:28])
        self.layers, self.heads, self.size, self.shared = layers, heads, dim // heads, heads // kv_heads
        data, kv = np.frombuffer(raw, np.float32, offset=28).astype(np.float64), dim // heads * kv_heads
        shapes = {
            "embed": (vocab, dim), "norm1": (layers, dim), "q": (layers, dim, dim), "k": (layers, kv, dim),
            "v": (layers, kv, dim), "o": (layers, dim, dim), "norm2": (layers, dim), "gate": (layers, ffn, dim),
            "down": (layers, dim, ffn), "up": (layers, ffn, dim), "norm": (dim,),
        }  # fmt: skip
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
        starts = [0, *ends[:-1]]
        self.w = {n: data[i:j].reshape(s) for (n, s), i, j in zip(shapes.items(), starts, ends, strict=True)}
        self.keys: list[list[np.ndarray]] = [[] for _ in range(layers)]
        self.values: list[list[np.ndarray]] = [[] for _ in range(layers)]

    def logits(self, token: int) -> np.ndarray:
        w, x = self.w, self.w["embed"][token]
        for i in range(self.layers):
            h = norm(x, w["norm1"][i])
            position = len(self.keys[i])
            q = rotate((w["q"][i] @ h).reshape(-1, self.size), position)
            self.keys[i].append(rotate((w["k"][i] @ h).reshape(-1, self.size), position))
            self.values[i].append((w["v"][i] @ h).reshape(-1, self.size))
            x = x + w["o"][i] @ np.concatenate([self.look(i, head, q[head]) for head in range(self.heads)])
            h = norm(x, w["norm2"][i])
            gate = w["gate"][i] @ h
            x = x + w["down"][i] @ (gate / (1 + np.exp(-gate)) * (w["up"][i] @ h))
        return w["embed"] @ norm(x, w["norm"])

    def look(self, layer: int, head: int, q: np.ndarray) -> np.ndarray:
        keys = np.stack(self.keys[layer])[:, head // self.shared]
        scores = np.exp(keys @ q / np.sqrt(self.size))
        return scores / scores.sum() @ np.stack(self.values[layer])[:, head // self.shared]


def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean() + 1e-5) * weight


def rotate(x_HD: np.ndarray, position: int) -> np.ndarray:
    angles = position / 10_000 ** (np.arange(0, x_HD.shape[1], 2) / x_HD.shape[1])
    a, b, out = x_HD[:, ::2], x_HD[:, 1::2], np.empty_like(x_HD)
    out[:, ::2], out[:, 1::2] = a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)
    return out


@torch.no_grad()
def tell(model: Model, num_tokens: int) -> list[int]:
    """The most likely story from the first token on, with the cache."""
    cache = model.new_cache(1, num_tokens)
    story, hidden = [1], model.prefill([torch.tensor([1])], cache)
    while len(story) < num_tokens:
        story.append(int(model.logits(hidden).argmax()))
        hidden = model.step(torch.tensor(story[-1:]), cache)
    return story


def test_it_tells_what_llama2_c_tells(folder: Path, tmp_path: Path) -> None:
    model, truth = load_model(folder, dtype="fp64"), Llama2C()
    story = tell(model, 60)
    bounds = Bounds.of([60])
    with torch.no_grad():
        ours = model.logits(model.hidden(torch.tensor(story), bounds.positions(), bounds)).numpy()
    theirs = np.stack([truth.logits(token) for token in story])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert [int(row.argmax()) for row in theirs[:-1]] == story[1:]
    assert tell(load_model(convert(tmp_path, unpair=False), dtype="fp64"), 60) != story, "the wrong pairs would show"


def test_transformers_tells_the_same_story(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, dtype="fp32")
    save_model(model, tmp_path / "saved")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    story = theirs.generate(torch.tensor([[1]]), max_new_tokens=60, do_sample=False, eos_token_id=None, pad_token_id=0)[
        0
    ]
    assert tell(model, 61) == story.tolist()
