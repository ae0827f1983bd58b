"""llama.cpp's own server in this process (the wheel `xllamacpp`), asked over loopback; and tiny random models of every
family to ask about."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch

from danlu.data.contract import Contract, make_contract
from danlu.data.encode import Encoder
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.engines.native import NativeEngine
from danlu.model.build import load_model, save_model
from tiny_chat import write_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
    "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {
    "rope_type": "longrope", "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8],
    "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0],
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "llama2": {"model_type": "llama", "num_key_value_heads": 4},
    "llama3.1": {"model_type": "llama", "rope_theta": 500_000.0, "rope_scaling": LLAMA3},
    "llama3.2, tied": {"model_type": "llama", "rope_theta": 500_000.0, "tie_word_embeddings": True, "head_dim": 32},
    "llama, linear rope, all biases": {
        "model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 2.5}, "attention_bias": True,
        "mlp_bias": True,
    },
    "llama, yarn": {"model_type": "llama", "rope_scaling": YARN},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral, window": {"model_type": "mistral", "sliding_window": 384},
    "qwen2": {"model_type": "qwen2"},
    "qwen2.5, tied": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1_000_000.0},
    "qwen2.5, yarn": {"model_type": "qwen2", "rope_scaling": YARN},
    "qwen2.5, yarn, warmer": {"model_type": "qwen2", "rope_scaling": YARN | {"attention_factor": 1.3, "beta_fast": 16.0}},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "gemma2": {
        "model_type": "gemma2", "sliding_window": 12, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True,
    },
    "gemma3": {
        "model_type": "gemma3_text", "sliding_window": 12, "query_pre_attn_scalar": 16, "num_hidden_layers": 7,
        "rope_theta": 100_000.0, "rope_local_base_freq": 1000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True,
    },
    "gemma3, other layers slide": {
        "model_type": "gemma3_text", "sliding_window": 12, "query_pre_attn_scalar": 16, "tie_word_embeddings": True,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "phi3": {"model_type": "phi3", "sliding_window": None},
    "phi3.5, longrope within its first context": {
        "model_type": "phi3", "rope_scaling": LONG, "original_max_position_embeddings": 256,
    },
    "phi3.5, longrope beyond it": {
        "model_type": "phi3", "rope_scaling": LONG, "original_max_position_embeddings": 16,
    },
    "phi4-mini, tied, partial rotation": {
        "model_type": "phi3", "partial_rotary_factor": 0.5, "tie_word_embeddings": True,
    },
}  # fmt: skip


def write_case(folder: Path, case: dict[str, Any], *, seed: int = 0) -> Path:
    """A checkpoint folder: the tiny ChatML tokenizer and weights large enough to keep logits apart."""
    write_tokenizer(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0], "pad_token_id": 0}))
    return write_weights(folder, case, seed=seed)


def write_weights(folder: Path, case: dict[str, Any], *, seed: int = 0) -> Path:
    """config.json and weights of a random model beside the tokenizer that lies there."""
    (folder / "config.json").write_text(json.dumps(SIZES | {"torch_dtype": "float32"} | case))
    model = load_model(folder, dtype="fp32", init="random")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Biases and norms too: left at zeros and ones they could be swapped or ignored unseen.
            weight.normal_(std=0.2 if weight.dim() == 1 else 0.15, generator=generator)
            if name.endswith("norm.weight") and not model.spec.norm_offset:
                weight += 1
    save_model(model, folder, torch.float32)
    return folder


def engine_of(folder: Path, *, sampling: dict[str, Any] | None = None) -> tuple[NativeEngine, Contract]:
    tokenizer = Tokenizer.load(folder)
    encoder = Encoder(tokenizer, Template.load(folder, tokenizer))
    model = load_model(folder, dtype="fp32")
    return NativeEngine(model, encoder, name="ours"), make_contract(encoder.template, tokenizer, sampling or {})


class LlamaCpp:
    """A GGUF file as llama.cpp reads it, in fp32 throughout, one thread."""

    def __init__(self, path: Path, *, adapter: Path | None = None, num_context: int = 512, **settings: Any) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.port, params.verbosity, params.warmup = num_context, 1, 0, -1, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.endpoint_props = True
        if adapter is not None:
            lora = xllamacpp.CommonAdapterLoraInfo()
            lora.path, lora.scale = str(adapter), 1.0
            params.lora_adapters = [lora]
        for name, value in settings.items():
            setattr(params, name, value)
        self._server = xllamacpp.Server(params)
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            self._server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with self._open(request, timeout=60) as reply:
                answer: dict[str, Any] = json.loads(reply.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        return answer

    def ids(self, text: str, *, reads_control: bool = True) -> list[int]:
        reply = self.ask("/tokenize", content=text, parse_special=reads_control, add_special=False)
        tokens: list[int] = reply["tokens"]
        return tokens

    def prompt(self, messages: list[dict[str, Any]], **more: Any) -> str:
        text: str = self.ask("/apply-template", messages=messages, **more)["prompt"]
        return text

    def greedy(self, prompt: list[int], num_new: int) -> list[int]:
        tokens: list[int] = self.ask(
            "/completion", prompt=prompt, n_predict=num_new, temperature=0.0, return_tokens=True, cache_prompt=False
        )["tokens"]
        return tokens

    def log_probs(self, prompt: list[int], size: int, *, plain: int) -> torch.Tensor:
        """log p of the next token, [size], before any bias. `plain` is chosen whatever they are: a token of plain
        letters, for the server tells nothing about one that stops or is half a character."""
        reply = self.ask(
            "/completion", prompt=prompt, n_predict=1, n_probs=size, temperature=0.0, cache_prompt=False,
            logit_bias=[[plain, 1e6]],
        )  # fmt: skip
        told = reply["completion_probabilities"][0]["top_logprobs"]
        found = torch.full((size,), torch.nan)
        found[[row["id"] for row in told]] = torch.tensor([row["logprob"] for row in told])
        return found
