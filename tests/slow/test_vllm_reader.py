"""vLLM itself reads what is written for it. It lives in an environment of its own: put its `bin` on the PATH to run this.

On a CPU vLLM wants heads of 32 at least.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from danlu.data.sample import Message
from danlu.engines.engine import Question
from danlu.exports import EXPORTS
from danlu.exports.export import Facts, Subject, export
from danlu.exports.parity import record
from danlu.exports.proof import Promise, prove_reader, set_up
from danlu.exports.readers.vllm import VLLMReader
from danlu.exports.rounding import rounding_of
from tiny_chat import QUESTIONS, tuned_engine, write_base

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("vllm") is None, reason="vLLM is not on the PATH"),
]
PARTS = {"prompts", "logits", "answers", "stops"}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory):
    return tuned_engine(write_base(tmp_path_factory.mktemp("base"), size=128), size=0.05)


def written(kind: str, tuned: Any, folder: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    engine, contract = tuned
    manifest = export(
        EXPORTS.load(kind)(**settings), engine, folder, contract=contract, max_new_tokens=8,
        facts=Facts("tiny", base={"name": str(engine.model.folder), "revision": None, "digest": engine.model.digest}),
        probes=[[Message("user", text)] for text in QUESTIONS],
    )  # fmt: skip
    return {check["name"]: check for check in manifest.parity["checks"]}


@pytest.mark.parametrize(("kind", "settings"), [("vllm", {}), ("vllm", {"quantize": "int8"}), ("vllm-lora", {})])
def test_vllm_says_what_was_trained(kind: str, settings: dict[str, Any], tuned, tmp_path: Path) -> None:
    checks = written(kind, tuned, tmp_path / "out", **settings)
    found = {name: check for name, check in checks.items() if name.startswith("vllm_")}
    assert {f"vllm_{part}" for part in PARTS} <= set(found)
    assert {check["verdict"] for check in found.values()} == {"pass"}, found


def test_a_module_at_0_9_is_seen_through_vllm(tuned, tmp_path: Path) -> None:
    engine, contract = tuned
    probes = tuple(Question((Message("user", text),)) for text in QUESTIONS)
    records = tuple(record(engine, [engine.prompt_ids(probe) for probe in probes], max_new_tokens=8))
    facts = Facts("tiny", base={"name": "tiny", "revision": None, "digest": engine.model.digest})
    subject = Subject(engine, contract, facts, probes, records, 8)
    EXPORTS.load("vllm")().write(subject, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    kept = rounding_of(tensors["model.norm.weight"].dtype)
    tensors["model.layers.1.mlp.up_proj.weight"] *= 0.9
    save_file(tensors, path, metadata={"format": "pt"})
    bench = set_up(subject, Promise(("vllm",), matrices=kept, vectors=kept))
    checks = {check.name: check for check in prove_reader(VLLMReader(), subject, tmp_path, bench)}
    assert checks["vllm_weights"].verdict == "fail", checks
    # what comes after it would give the very same by a factor of its own
    assert "model.layers.1.mlp.up_proj: x0.900" in checks["vllm_weights"].note
