"""The embedded base in llama.cpp: its tensors, tokenizer and template written down as GGUF, nothing else changed.

`write_gguf` is all the conversion there is; a product's export is not tested here. It says `tokenizer.ggml.pre = qwen2`,
and that is the claim on trial: ids of texts and prompts, log-probabilities over the whole vocabulary, greedy answers.

One thing llama.cpp never does: Unicode normalisation. Text that is not in NFC (é as two code points) becomes other ids
there, with Qwen2's own tokenizers as with this one.
"""

from __future__ import annotations

import json
import unicodedata
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from danlu.engines.native import NativeEngine
from ember_talk import CHATS, TEXTS, WEATHER, engine_of, prompts_of, turns_of

pytestmark = pytest.mark.slow
NEW_TOKENS = 48
LOG_PROB_NOISE = {"F32": 1e-3, "F16": 5e-2}
"""Bounds of |Δ log p|, any token. Measured: 4e-5 and 8e-3."""


def write_gguf(folder: Path, target: Path, kind: str) -> None:
    """A Qwen2 checkpoint with a byte-level BPE; matrices as `kind`, norms and biases as F32."""
    import gguf

    config, text, speech = (
        json.loads((folder / f"{name}.json").read_bytes()) for name in ("config", "tokenizer", "tokenizer_config")
    )
    out = gguf.GGUFWriter(target, "qwen2")
    out.add_block_count(config["num_hidden_layers"])
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(config["num_attention_heads"])
    out.add_head_count_kv(config["num_key_value_heads"])
    out.add_rope_freq_base(config["rope_theta"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_file_type(gguf.LlamaFileType.ALL_F32 if kind == "F32" else gguf.LlamaFileType.MOSTLY_F16)

    tokens: dict[int, tuple[str, int]] = {
        number: (token, gguf.TokenType.NORMAL) for token, number in text["model"]["vocab"].items()
    }
    for row in text["added_tokens"]:
        tokens[row["id"]] = row["content"], gguf.TokenType.CONTROL if row["special"] else gguf.TokenType.USER_DEFINED
    assert sorted(tokens) == list(range(config["vocab_size"])), "each row of the embedding has its token"
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list([tokens[number][0] for number in sorted(tokens)])
    out.add_token_types([tokens[number][1] for number in sorted(tokens)])
    out.add_token_merges([" ".join(pair) for pair in text["model"]["merges"]])
    out.add_eos_token_id(config["eos_token_id"])
    out.add_pad_token_id(config["pad_token_id"])
    out.add_add_bos_token(speech["add_bos_token"])
    out.add_chat_template(speech["chat_template"])

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        dtype = torch.float16 if kind == "F16" and tensor.ndim > 1 else torch.float32
        out.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), tensor.to(dtype).numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


class LlamaCpp:
    """llama.cpp's own server in this process, asked over loopback."""

    def __init__(self, path: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.port, params.verbosity = 1024, 1, 0, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(params)
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            self._server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with self._open(request, timeout=120) as reply:
            answer: dict[str, Any] = json.loads(reply.read())
        return answer

    def ids(self, text: str, *, reads_control: bool) -> list[int]:
        reply = self.ask("/tokenize", content=text, parse_special=reads_control, add_special=False)
        tokens: list[int] = reply["tokens"]
        return tokens

    def complete(self, prompt: list[int], num_new: int, num_probs: int = 0) -> dict[str, Any]:
        return self.ask(
            "/completion", prompt=prompt, n_predict=num_new, n_probs=num_probs, temperature=0.0,
            return_tokens=True, cache_prompt=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> NativeEngine:
    return engine_of(torch.float32)


@pytest.fixture(scope="module", params=["F32", "F16"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def llama(engine: NativeEngine, kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
    path = tmp_path_factory.mktemp("gguf") / f"ember-{kind}.gguf"
    write_gguf(engine.model.folder, path, kind)
    yield LlamaCpp(path)
    path.unlink()


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def every_character() -> Iterator[str]:
    """Texts that hold each assigned character of a plane-wide sweep between letters, digits and spaces."""
    skipped = {"Cn", "Co", "Cs"}  # unassigned (noncharacters too), private, surrogates
    chars = [char for char in map(chr, range(1, 0x32000)) if unicodedata.category(char) not in skipped]
    chars = [char for char in chars if nfc(char) == char]
    for start in range(0, len(chars), 2000):
        yield "".join(f"a{char}b 1{char}2 {char}{char} x\n" for char in chars[start : start + 2000])


@pytest.mark.parametrize("text", TEXTS)
def test_the_same_ids_of_texts(engine, llama, text):
    assert llama.ids(nfc(text), reads_control=False) == engine.encoder.tokenizer.encode_text(text)


def test_the_same_split_at_every_character(engine, llama):
    """Another split rule, or a table of letters from another Unicode, shows here. Digits taken in threes would not: no
    token of ember's joins two."""
    num_texts = 0
    for text in every_character():
        text = nfc(text)
        assert llama.ids(text, reads_control=False) == engine.encoder.tokenizer.encode_text(text), ascii(text[:80])
        num_texts += 1
    assert num_texts > 60


def test_marks_are_read_as_transformers_reads_them(engine, llama):
    tokenizer = engine.encoder.tokenizer
    text = "".join(f"a{mark}1 {mark}\n" for mark in tokenizer.marks)
    ids = llama.ids(text, reads_control=True)
    assert ids == transformers.AutoTokenizer.from_pretrained(engine.model.folder)(text)["input_ids"]
    assert set(tokenizer.marks.values()) <= set(ids)
    assert not set(tokenizer.control_tokens.values()) & set(llama.ids(text, reads_control=False))


def test_the_same_prompts(engine, llama):
    for (chat, tools), ids in zip(CHATS, prompts_of(engine), strict=True):
        text = engine.encoder.template.render(turns_of(chat), tools, add_generation_prompt=True).text
        asked = {"messages": chat} | ({"tools": tools} if tools else {})
        assert llama.ask("/apply-template", **asked)["prompt"] == text
        assert llama.ids(text, reads_control=True) == ids


def test_the_same_probabilities(engine, llama, kind):
    prompts = prompts_of(engine)
    size = engine.model.spec.vocab_size
    for prompt, logits_TV in zip(prompts, engine.logits(prompts), strict=True):
        told = llama.complete(prompt, 1, size)["completion_probabilities"][0]["top_logprobs"]
        theirs = torch.full((size,), torch.nan)
        theirs[[row["id"] for row in told]] = torch.tensor([row["logprob"] for row in told])
        torch.testing.assert_close(theirs, logits_TV[-1].log_softmax(-1), atol=LOG_PROB_NOISE[kind], rtol=0)


def test_the_same_greedy_answers(engine, llama, kind):
    """Token by token; where round-off may decide a near tie, the two leading tokens must be nearly tied in ours."""
    prompts = prompts_of(engine)
    for prompt, ours in zip(prompts, engine.continue_ids(prompts, NEW_TOKENS), strict=True):
        theirs = llama.complete(prompt, NEW_TOKENS)["tokens"]
        if theirs == ours:
            continue
        place = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        best = next(engine.logits([prompt + ours[:place]]))[-1].topk(2).values
        assert best[0] - best[1] < 2 * LOG_PROB_NOISE[kind], f"{ours[place:]} against {theirs[place:]}"


def test_the_server_chats(engine, llama):
    """Its own path from messages to an answer: template, control tokens, stop, and a tool call read back."""
    for (chat, tools), ids in zip(CHATS[:4], prompts_of(engine), strict=False):
        assert not tools
        answer = engine.encoder.answer_text(engine.continue_ids([ids], NEW_TOKENS)[0])
        reply = llama.ask("/v1/chat/completions", messages=chat, temperature=0.0, max_tokens=NEW_TOKENS)
        assert reply["choices"][0]["message"]["content"] == answer
        assert reply["usage"]["prompt_tokens"] == len(ids)
    reply = llama.ask(
        "/v1/chat/completions", messages=CHATS[4][0], tools=[WEATHER], temperature=0.0, max_tokens=NEW_TOKENS
    )
    (called,) = reply["choices"][0]["message"]["tool_calls"]
    assert called["function"]["name"] == "weather"
    assert set(json.loads(called["function"]["arguments"])) == {"city"}
