"""Real tokenizers through llama.cpp: the same ids of texts and of rendered prompts as our own tokenizer gives.

The texts are llama.cpp's own hard cases (spaces, line ends, digits, scripts, emoji) and bilingual ones.
"""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from danlu.data.contract import golden_conversations
from danlu.data.templates import TEMPLATES
from danlu.data.tokenizer import Tokenizer as Ours
from danlu.engines.engine import Question
from danlu.exports.gguf import sentencepiece_file
from danlu.exports.gguf.pretokenizers import NAMES
from danlu.exports.gguf.vocabulary import Kind, read_vocabulary
from danlu.exports.gguf.write import About, write_model
from danlu.exports.oracle import turn_of
from llamacpp_kit import CASES, LlamaCpp, engine_of, write_weights

gguf = pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
SHARED = Path(__file__).parents[4] / "shared" / "data" / "tokenizers"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tokenizers are not here")
TEXTS = [
    "出差一天补贴多少?80 元/天。", "Hello, y'all! How are you 😁 ?我想在apple工作1314151天~", "  two spaces\n\n\ttab\r\n",
    "def f(x):\n    return x ** 2  # 平方", "ÄÖÜ é ñ ß Привет мир こんにちは 안녕 ไทย 𝔘𝔫𝔦", "12345678901 3.14159 1,000,000", "a", "中",
    "I'VE don't WE'LL it's", "<s> </s> [INST] text <|im_end|>",
]  # fmt: skip
SIZE = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16}  # fmt: skip


def hard_texts() -> list[str]:
    """llama.cpp's own test texts, and ours; in NFC, which llama.cpp does not make."""
    path = SHARED / "ggml-vocab-gpt-2.gguf.inp"
    found = path.read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n") if path.is_file() else []
    return [unicodedata.normalize("NFC", text) for text in [*TEXTS, *found] if text]


def write_config(folder: Path, bos: str, eos: str, template: str, **more: Any) -> None:
    config = {"bos_token": bos, "eos_token": eos, "chat_template": template, "add_bos_token": True} | more
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


NO_MARKS = ("gpt-4o", "tekken")
"""llama.cpp's rules of these names know no combining marks."""


def has_marks(text: str) -> bool:
    return any(unicodedata.category(char).startswith("M") for char in text)


def split(rule: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}


def step_of(step: tuple[str, Any]) -> dict[str, Any]:
    """A step of NAMES as tokenizer.json writes it."""
    kind, value = step
    if kind == "Split":
        return split(value)
    if kind == "Digits":
        return {"type": "Digits", "individual_digits": value}
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": value}


def train(steps: tuple[Any, ...], folder: Path, *, ignore_merges: bool) -> None:
    """A byte-level BPE that cuts texts in these steps, trained on texts in which every rule matters."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    content = json.loads(tokenizer.to_str())
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [step_of(step) for step in steps]}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([*hard_texts(), *hard_texts()], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_config(folder, "<|endoftext|>", "<|endoftext|>", TEMPLATES.load("plain"), add_bos_token=False)


def from_pieces(name: str, folder: Path, template: str, **more: Any) -> None:
    shutil.copyfile(SHARED / name, folder / "tokenizer.model")
    write_config(folder, "<s>", "</s>", TEMPLATES.load(template), unk_token="<unk>", **more)


def as_fast(folder: Path, prefix: str) -> None:
    """The same SentencePiece vocabulary as a tokenizer.json, as Llama 2 (`legacy`) or newer files write it."""
    model = sentencepiece_file.read(folder / "tokenizer.model")
    known = {piece.text: number for number, piece in enumerate(model.pieces)}
    ranked = sorted(
        (-piece.score, known[left], known[piece.text[len(left) :]], left, piece.text[len(left) :])
        for piece in model.pieces if piece.kind == Kind.NORMAL
        for left in (piece.text[:at] for at in range(1, len(piece.text))) if left in known and piece.text[len(left) :] in known
    )  # fmt: skip
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    legacy = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    content = {
        "version": "1.0", "truncation": None, "padding": None, "post_processor": None,
        "added_tokens": [
            {"id": number, "content": piece.text, "special": True, "lstrip": False, "rstrip": False, "normalized": False,
             "single_word": False}
            for number, piece in enumerate(model.pieces) if piece.kind in (Kind.CONTROL, Kind.UNKNOWN)
        ],
        "normalizer": {"legacy": legacy, "first": None, "never": replace}[prefix],
        "pre_tokenizer": {
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False,
        } if prefix == "first" else None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True, "vocab": known,
            "merges": [[left, right] for *_, left, right in ranked],
        },
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))


def llama_of(folder: Path, target: Path, *, family: str = "llama2", num_rows: int | None = None):
    size = num_rows or Ours.load(folder).vocab_size
    if not (folder / "model.safetensors").is_file():
        write_weights(folder, CASES[family] | SIZE | {"vocab_size": size, "eos_token_id": None, "pad_token_id": None})
    engine, contract = engine_of(folder)
    write_model(engine.model, target, contract=contract, source=folder, about=About("tiny"), quantize="bf16")
    return engine, contract, LlamaCpp(target)


def check_prompts(engine, llama: LlamaCpp) -> int:
    """Golden conversations by llama.cpp's own template engine and tokenizer."""
    num = 0
    for name, (messages, tools) in golden_conversations(engine.encoder.template).items():
        if name in ("control", "thinking", "tools"):  # marks in words are marks there; a thought is a field there
            continue
        text = llama.prompt([turn_of(message) for message in messages[:-1]])
        ours = engine.prompt_ids(Question(messages[:-1], tools))
        bos = llama.ids("", reads_control=True)
        assert not bos
        assert with_bos(engine, llama.ids(text)) == ours, name
        num += 1
    return num


def with_bos(engine, ids: list[int]) -> list[int]:
    """llama.cpp's server takes a template's BOS off where it adds its own."""
    bos = engine.encoder.tokenizer.bos_id
    return (
        ids
        if bos is None or ids[:1] == [bos]
        else [bos, *ids]
        if engine.encoder.template.texts["default"].find("bos_token") >= 0
        else ids
    )


@pytest.mark.parametrize("steps", NAMES, ids=[f"{name} {n}" for n, name in enumerate(NAMES.values())])
@pytest.mark.parametrize("ignore_merges", [False, True])
def test_each_way_of_cutting_texts_has_the_name_that_cuts_them_so(
    steps: tuple[Any, ...], ignore_merges: bool, tmp_path: Path
) -> None:
    train(steps, tmp_path, ignore_merges=ignore_merges)
    engine, _, llama = llama_of(tmp_path, tmp_path / "m.gguf", family="qwen2")
    name = read_vocabulary(tmp_path, engine.model.spec.vocab_size, first_ids=frozenset()).pre
    texts = [text for text in hard_texts() if name not in NO_MARKS or not has_marks(text)]
    for text in texts:
        assert llama.ids(text, reads_control=False) == engine.encoder.tokenizer.encode_text(text), ascii(text)


@needs_shared
@pytest.mark.parametrize("prefix", ["pieces", "legacy", "first", "never"])
def test_sentencepiece_as_model_or_as_json(prefix: str, tmp_path: Path) -> None:
    from_pieces("mistral_tokenizer.model.v1", tmp_path, "mistral")
    if prefix != "pieces":
        as_fast(tmp_path, prefix)
        (tmp_path / "tokenizer.model").unlink()
    engine, _, llama = llama_of(tmp_path, tmp_path / "m.gguf", family="mistral")
    assert check_prompts(engine, llama) == 4
    if prefix == "first":  # in the middle of a prompt there is no space before a text, so the file has none at all
        return
    for text in hard_texts():
        assert llama.ids(text, reads_control=False) == engine.encoder.tokenizer.encode_text(text), ascii(text)


@needs_shared
def test_marks_of_newer_mistral_files(tmp_path: Path) -> None:
    from_pieces("mistral_tokenizer_240323.model.v3", tmp_path, "mistral", legacy=True)
    engine, _, llama = llama_of(tmp_path, tmp_path / "m.gguf", family="mistral", num_rows=33_000)
    assert check_prompts(engine, llama) == 4
    for text in hard_texts():
        assert llama.ids(text, reads_control=False) == engine.encoder.tokenizer.encode_text(text), ascii(text)
