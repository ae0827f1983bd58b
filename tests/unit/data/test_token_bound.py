"""A sure lower bound of a text's tokens: never above the tokens, near them where it matters, and silent where unsure."""

from __future__ import annotations

import json
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from chat_files import SPECIAL, TEXT, write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Rust
from tokenizers import models, normalizers, pre_tokenizers, trainers

from danlu.data.token_bound import TokenBound
from danlu.data.tokenizer import Tokenizer

ODD = [
    "e\u0301",
    "\u1112\u1161\u11ab",
    "\u2126",
    "\u0958",
    "=" * 30,
    " " * 40,
    "\u3000" * 9,
    "1234567",
    "출장",
    "😀",
    "▁▁",
    "\x00",
    "\ufdd0",
]


def byte_level(folder: Path, normalizer: Any = None) -> Tokenizer:
    write_tokenizer(folder)
    if normalizer is not None:
        path = folder / "tokenizer.json"
        rust = Rust.from_file(str(path))
        rust.normalizer = normalizer
        rust.save(str(path))
    return Tokenizer.load(folder)


def byte_fallback(folder: Path) -> Tokenizer:
    """As Llama 2's and Gemma's files are: no pre-tokenizer, spaces as ▁, unknown letters as bytes."""
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False, min_frequency=1)
    rust = Rust(models.BPE())
    rust.normalizer = normalizers.Replace(" ", "▁")
    rust.train_from_iterator([text.replace(" ", "▁") for text in TEXT], trainer)
    content = json.loads(rust.to_str())
    words = [f"<0x{byte:02X}>" for byte in range(256)] + list(content["model"]["vocab"])
    content["model"] |= {"vocab": {word: at for at, word in enumerate(words)}, "byte_fallback": True, "fuse_unk": True}
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def tokenizers_(tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    home = tmp_path_factory.mktemp("vocabularies")
    return [byte_level(home / "plain"), byte_level(home / "nfc", normalizers.NFC()), byte_fallback(home / "fallback")]


@given(st.lists(st.one_of(st.text(max_size=12), st.sampled_from([*ODD, *TEXT, *SPECIAL])), max_size=8).map("".join))
@settings(max_examples=300)
def test_a_text_has_at_least_so_many_tokens(tokenizers_: list[Tokenizer], text: str) -> None:
    for tokenizer in tokenizers_:
        assert tokenizer.least_tokens(text) <= len(tokenizer.encode_text(text)), tokenizer.folder.name


def test_a_letter_that_composing_makes_longer_is_counted_as_it_stands(tmp_path: Path) -> None:
    """NFC writes U+0958 as two letters: where nothing composes, a prompt that fits was taken for twice as long."""
    words = [f"<0x{byte:02X}>" for byte in range(256)] + ["\u0958"]
    vocabulary = {word: at for at, word in enumerate(words)}
    (tmp_path / "words").mkdir()
    Rust(models.BPE(vocabulary, [], byte_fallback=True)).save(str(tmp_path / "words" / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path / "words")
    assert tokenizer.least_tokens("\u0958" * 90) == len(tokenizer.encode_text("\u0958" * 90)) == 90
    assert tokenizer.least_tokens("\u212b" * 90) <= len(tokenizer.encode_text("\u212b" * 90))


def test_it_is_near_where_tokens_are_short(tokenizers_: list[Tokenizer]) -> None:
    for tokenizer in tokenizers_:
        assert tokenizer.least_tokens("7 " * 1000) == 1000, "no token of these has two digits"
        assert tokenizer.least_tokens("") == 0
    for tokenizer in tokenizers_[:2]:  # the third has whole sentences for tokens
        assert tokenizer.least_tokens("What is the travel allowance? " * 500) > 500


def test_control_tokens_count_as_the_one_token_that_they_are(tokenizers_: list[Tokenizer]) -> None:
    tokenizer = tokenizers_[0]
    start, end = tokenizer.control_id("<|start_header_id|>"), tokenizer.control_id("<|end_header_id|>")
    ids, _ = tokenizer.encode_parts([start, end] * 500)
    assert tokenizer.least_tokens("<|start_header_id|><|end_header_id|>" * 500) <= len(ids) == 1000


@pytest.mark.parametrize("normalizer", [normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()])
def test_nothing_is_said_where_a_normalizer_may_leave_anything_out(tmp_path: Path, normalizer: Any) -> None:
    assert byte_level(tmp_path / "own", normalizer).least_tokens("word " * 1000) == 0


def test_nothing_is_said_of_vocabularies_that_lack_bytes_or_drop_text(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "own")
    content = json.loads((tmp_path / "own" / "tokenizer.json").read_bytes())
    assert TokenBound.of(content, ()) is not None
    vocabulary = content["model"]["vocab"]
    assert TokenBound.of(content | {"model": {"type": "WordPiece", "vocab": {}}}, ()) is None
    del vocabulary["A"]
    assert TokenBound.of(content, ()) is None
    vocabulary["A"] = 0
    removed = pre_tokenizers.Split(",", "removed")
    content["pre_tokenizer"]["pretokenizers"].append(json.loads(removed.__getstate__()))
    assert TokenBound.of(content, ()) is None


def test_it_costs_what_counting_bytes_costs(tokenizers_: list[Tokenizer]) -> None:
    text = unicodedata.normalize("NFD", "naïve 出差住宿 1234 ") * 50_000
    began = time.process_time()
    assert tokenizers_[1].least_tokens(text) >= 200_000
    assert time.process_time() - began < 1.0  # 0.1 s for 1.2 MB
