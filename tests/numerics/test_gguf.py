"""GGUF of every family through llama.cpp: the same next-token probabilities and greedy tokens as our own engine.

Oracle: llama.cpp itself. fp32 files in fp32 arithmetic leave only the order of sums, so a wrong angle, bias, row order,
window or cap cannot hide; prompts are longer than the windows that slide.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from danlu.adapters.lora import LoRA
from danlu.adapters.peft_format import read_pairs
from danlu.data.sample import Message
from danlu.engines.engine import Question
from danlu.exports.gguf.lora import write_lora
from danlu.exports.gguf.write import About, write_model
from llamacpp_kit import CASES, LlamaCpp, engine_of, write_case
from tiny_chat import QUESTIONS

pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
NEW_TOKENS = 12
EXACT, GELU = 1e-4, 4e-3
"""|Δ log p|, any token, fp32 against fp32. Measured: at most 2e-5, and 1.3e-3 where GELU is: llama.cpp looks it up in a
table of fp16."""


@pytest.mark.parametrize("case", CASES)
def test_a_family_computes_the_same_in_llamacpp(case: str, tmp_path: Path) -> None:
    engine, contract = engine_of(write_case(tmp_path / "base", CASES[case]))
    path = tmp_path / "model.gguf"
    reach = 512 if "beyond" in case else 0
    described = write_model(
        engine.model,
        path,
        contract=contract,
        source=tmp_path / "base",
        about=About("tiny"),
        quantize="f32",
        reach=reach,
    )
    llama = LlamaCpp(path, num_context=described.context)
    noise = GELU if "gelu" in engine.model.spec.activation else EXACT
    questions = [Question((Message("user", text),)) for text in QUESTIONS]
    prompts = [engine.prompt_ids(question) for question in questions]
    assert min(map(len, prompts)) > 16, "longer than the windows and first contexts of the cases"
    for question, prompt in zip(questions, prompts, strict=True):
        text = llama.prompt([{"role": "user", "content": question.messages[0].content}])
        assert llama.ids(text) == prompt
    size, (plain,) = engine.model.spec.vocab_size, engine.encoder.tokenizer.encode_text("a")
    for prompt, logits_TV in zip(prompts, engine.logits(prompts), strict=True):
        ours = logits_TV[-1].log_softmax(-1)
        torch.testing.assert_close(llama.log_probs(prompt, size, plain=plain), ours, atol=noise, rtol=0)
    for prompt, ours in zip(prompts, engine.continue_ids(prompts, NEW_TOKENS), strict=True):
        theirs = llama.greedy(prompt, NEW_TOKENS)
        assert theirs == ours or theirs + list(set(ours) & set(contract.stop_ids)) == ours


ADAPTED = ("llama3.2, tied", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "phi3")


@pytest.mark.parametrize("case", ADAPTED)
def test_an_adapter_computes_the_same_on_llamacpps_base(case: str, tmp_path: Path) -> None:
    engine, contract = engine_of(write_case(tmp_path / "base", CASES[case]))
    write_model(
        engine.model, tmp_path / "base.gguf", contract=contract, source=tmp_path / "base", about=About("tiny"),
        quantize="f32",
    )  # fmt: skip
    adapter = LoRA(rank=3, alpha=5.0).attach(engine.model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in adapter.parameters().items():
            if name.endswith("lora_B"):
                weight.normal_(std=0.3, generator=generator)
    adapter.save(tmp_path / "adapter")
    pairs = read_pairs(tmp_path / "adapter", engine.model)
    pairs = {name: pair for name, pair in pairs.items() if "k_proj" not in name}  # a module without a pair
    for name in [name for name in adapter.layers if "k_proj" in name]:
        adapter.layers[name].is_disabled = True
    some = next(iter(pairs))
    pairs[some] = dataclasses.replace(pairs[some], B=pairs[some].B / 2, scaling=pairs[some].scaling * 2)
    write_lora(pairs, engine.model, tmp_path / "lora.gguf", about=About("tiny", base="tiny"))
    llama = LlamaCpp(tmp_path / "base.gguf", adapter=tmp_path / "lora.gguf")
    prompt = engine.prompt_ids(Question((Message("user", QUESTIONS[0]),)))
    (plain,) = engine.encoder.tokenizer.encode_text("a")
    noise = GELU if "gelu" in engine.model.spec.activation else EXACT
    ours = next(iter(engine.logits([prompt])))[-1].log_softmax(-1)
    with adapter.disabled():
        bare = next(iter(engine.logits([prompt])))[-1].log_softmax(-1)
    assert float((ours - bare).abs().max()) > 0.1, "the adapter says something"
    theirs = llama.log_probs(prompt, engine.model.spec.vocab_size, plain=plain)
    torch.testing.assert_close(theirs, ours, atol=noise, rtol=0)
