"""A real model's shape with random weights, end to end: prepare, train, evaluate; speed and peak memory as JSON.

    python bench/shape_run.py qwen2.5-7b OUT [--steps 20] [--device auto] [training.context=2048 ...]

For machines that reach no hub: weights are drawn, arithmetic and memory are those of the real model. Text and
tokenizer are the demo's, so accuracy means nothing here. Nothing is exported: drawn weights have no base to merge in.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import danlu
from danlu.cli.voice import Voice
from danlu.pipeline.demo import company_folder, peak_memory_bytes
from danlu.pipeline.device import choose_device, describe_hardware
from danlu.planning.bases import BASES
from danlu.planning.shapes import Shapes

BASE = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "max_position_embeddings": 32_768,
    "initializer_range": 0.02,
    "use_sliding_window": False,
    "vocab_size": 152_064,
    "tie_word_embeddings": False,
}
_GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "rope_theta": 10_000.0}
GEMMA = {
    "gemma-2": {
        **_GEMMA, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "sliding_window": 4096,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    },
    "gemma-3": {
        **_GEMMA, "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "sliding_window": 512,
        "sliding_window_pattern": 6, "rope_local_base_freq": 10_000.0, "rope_theta": 1_000_000.0,
    },
}  # fmt: skip
SHAPES = {
    "qwen2.5-7b": {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "heads": (28, 4)},
    "qwen2.5-1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "heads": (12, 2)},
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "heads": (14, 2)},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "heads": (4, 2)},
}


def shapes_of(name: str) -> Shapes:
    """What `write_shape` writes, as the planner reads it."""
    shapes = Shapes.read(config_of(name))
    assert shapes is not None, f"{name}: a dense decoder"
    return shapes


def config_of(name: str) -> dict[str, Any]:
    """Of SHAPES, with one vocabulary for all and a head of its own; or of a base that danlu knows, as it is."""
    if name not in SHAPES:
        known = BASES[name]
        kind = "qwen3" if known.has_qk_norm else "qwen2" if known.has_qkv_bias else "llama"
        gemma = GEMMA.get(name[:7], {})
        return BASE | {
            "architectures": [f"{kind.capitalize()}ForCausalLM"], "model_type": kind, "hidden_size": known.hidden,
            "intermediate_size": known.ffn, "num_hidden_layers": known.num_layers, "head_dim": known.head_dim,
            "num_attention_heads": known.num_heads, "num_key_value_heads": known.num_kv_heads,
            "vocab_size": known.vocab, "tie_word_embeddings": known.tied,
        } | gemma  # fmt: skip
    shape = dict(SHAPES[name])
    heads, kv_heads = shape.pop("heads")
    return {**BASE, **shape, "num_attention_heads": heads, "num_key_value_heads": kv_heads}


def write_shape(name: str, folder: Path) -> Path:
    """A folder with config and ember's tokenizer; weights are drawn when it is loaded."""
    config = config_of(name)
    ember = Path(str(resources.files("danlu.assets") / "ember"))
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(ember / file, folder / file)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    given = parser.parse_intermixed_args()
    company = company_folder()
    recipe = danlu.Recipe.from_tree(
        {
            "name": given.shape,
            "model": {"base": str(write_shape(given.shape, given.out / "base")), "init": "random"},
            "data": {
                "sources": [str(company / "qa.jsonl")],
                "validation": str(company / "validation.jsonl"),
                "split": {"test": 0.0, "validation": 0.0},
            },
            "training": {"max_steps": given.steps, "context": 2048, "batch_tokens": 16_384, "eval_every": 100},
            "evaluation": {
                "tasks": ["domain"],
                "questions": str(company / "test.jsonl"),
                "max_items": 8,
                "max_new_tokens": 8,
            },
            "exports": [],
        },
        given.overrides,
    )
    run = danlu.Run.create(recipe, given.out / "runs")
    voice = Voice()
    began = time.perf_counter()
    danlu.train(run, device=given.device, progress=voice.progress)
    trained_s = time.perf_counter() - began
    danlu.evaluate(run, device=given.device, progress=voice.progress)
    speeds = [step["tokens_per_s"] for step in run.events.read("step")][3:]
    told = {
        "shape": given.shape,
        "hardware": describe_hardware(choose_device(given.device)),
        "command": " ".join(sys.argv),
        "steps": given.steps,
        "tokens_per_s_median": round(statistics.median(speeds)) if speeds else None,
        "train_seconds_with_loading": round(trained_s, 1),
        "peak_host_memory_bytes": peak_memory_bytes(),
        "peak_device_memory_bytes": _peak_device_bytes(),
    }
    print(json.dumps(told, indent=2))
    (given.out / "result.json").write_text(json.dumps(told, indent=2) + "\n")


def _peak_device_bytes() -> int:
    import torch  # only here: the rest speaks to danlu

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


if __name__ == "__main__":
    main()
