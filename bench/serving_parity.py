"""Is it the same model everywhere? 32 greedy tokens of a base and two adapters on it, from each engine as chat requests
get them, and through `danlu serve`, beside what transformers and PEFT make of the same files. The models are small and
were taught by heart, so an answer that differs is a fault and no rounding.

    python bench/serving_parity.py --out bench/results/serving-parity-2cores.json [--vllm /venv/bin/python]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import engine_kit as kit
import parity_trial as trial

ENGINES = ("native", "llamacpp-f32", "llamacpp-bf16")
SERVED = {
    "one": "adapter-0", "two": "adapter-1", "one-f32": "gguf-f32-0", "two-f32": "gguf-f32-1", "one-bf16": "gguf-bf16-0",
    "two-bf16": "gguf-bf16-1",
}  # fmt: skip
"""Models of the gateway: adapters on the native engine, whole GGUF files on llama.cpp."""


@contextlib.contextmanager
def gateway(home: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(url, key, what it told): `danlu serve` as people start it."""
    models = {name: str(kit.artefact(place[:-2], int(place[-1]))) for name, place in SERVED.items()}
    (home / "serving.yaml").write_text(json.dumps({"serving": {"port": 0, "metrics_port": 0, "models": models}}))
    words = ["serve", "--config", str(home / "serving.yaml"), "--first-key"]
    command = [sys.executable, "-m", "danlu", *words, "--runs", str(home / "runs"), "--json", "--lang", "en"]
    with (home / "serve.err").open("wb") as errors:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=os.environ | {"HOME": str(home)})
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        assert line, (home / "serve.err").read_text()[-3000:]
        told = json.loads(line)
        yield told["url"], told["first_key"], told
    finally:
        server.terminate()
        server.wait(60)


def ask(url: str, key: str, model: str, question: str) -> tuple[str, int]:
    body = {
        "model": model, "messages": [{"role": "user", "content": question}], "temperature": 0,
        "max_tokens": kit.NUM_TOKENS,
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as reply:
        told = json.loads(reply.read())
    return told["choices"][0]["message"]["content"], told["usage"]["completion_tokens"]


def through_gateway(expected: trial.Answers) -> tuple[dict[str, Any], list[str]]:
    """Adapters and GGUF files behind one gateway; no system prompt is sent, for it knows the trained one."""
    lenses = {"one": "one@1", "two": "two@1"}
    with tempfile.TemporaryDirectory(prefix="danlu-") as place, gateway(Path(place)) as (url, key, told):
        rows, differing = {}, []
        for model in SERVED:
            pairs = [(text, expected[lenses[model[:3]], text], ask(url, key, model, text)) for text in kit.QUESTIONS]
            rows[f"gateway {model}"] = row([(want, given) for _, want, given in pairs])
            differing += [f"gateway {model} {text!r}: {a!r} / {b!r}" for text, a, b in pairs if a[0] != b[0]]
        for choice in told["choices"]:
            print(f"  pool {choice['pool']}: {choice['driver']} serves {', '.join(choice['serves'])}")
    return rows, differing


def row(pairs: list[tuple[tuple[str, int], tuple[str, int]]]) -> dict[str, Any]:
    return {
        "num_answers": len(pairs), "num_equal": sum(want[0] == given[0] for want, given in pairs),
        "num_tokens": sum(given[1] for _, given in pairs),
        "num_32_tokens": sum(given[1] == kit.NUM_TOKENS for _, given in pairs),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--vllm", default="", help="the Python of an environment with vLLM")
    asked = parser.parse_args()
    expected = trial.oracle().answers
    rows: dict[str, Any] = {}
    differing: list[str] = []
    for name in (*ENGINES, *(("vllm",) if asked.vllm else ())):
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="danlu-") as place:
            found = asyncio.run(trial.through(name, Path(place), vllm=asked.vllm))
        rows[name] = row([(expected[key], found.answers[key]) for key in expected]) | {
            "template": sorted(set(found.grades.values())), "canaries": sorted(found.canaries.values()),
            "whole_s": round(time.monotonic() - began, 1),
        }  # fmt: skip
        differing += [f"{name} {line}" for line in trial.apart(expected, found.answers)]
        print(name, rows[name], flush=True)
    more, apart = through_gateway(expected)
    differing += apart
    for name, told in more.items():
        print(name, told)
    rows |= more
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "xllamacpp")}
    told = {
        "what": "greedy answers of a base and two LoRA adapters to 4 questions each, at most 32 tokens, held to those "
        "of transformers and PEFT in fp32 on the same bf16 files",
        "rows": rows, "differing": differing, "versions": versions,
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
    }  # fmt: skip
    if asked.out:
        asked.out.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    print("differing:", *(differing or ["none"]), sep="\n  ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
