"""Ember's tokenizer: exact size, Qwen2's split, nothing lost, the same ids in transformers, ChatML as it is written."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

FOLDER = Path(__file__).parents[3] / "src" / "danlu" / "assets" / "ember"
TOKENIZER = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
TEXTS = [
    "出差期间每天补助 1,350.50 元/天（含税）。",
    "It's 5:30 p.m.; we'll meet\r\n\r\n  at   room B-207!\t",
    "👩‍👩‍👧 😀 𠮷野家 龘靐齉 é ñ ß Ω ½ \u200b",
    "   前导空格\n\n\n空行   ",
    "x" * 300 + "。" * 50,
]


def decode(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=False)


def test_vocabulary_is_exactly_the_embedding_rows_and_control_tokens_stand_last() -> None:
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert TOKENIZER.get_vocab_size(with_added_tokens=True) == config["vocab_size"] == 12_288
    assert sorted(TOKENIZER.get_added_tokens_decoder()) == list(range(12_279, 12_288))
    assert TOKENIZER.token_to_id("<|im_end|>") == config["eos_token_id"]
    assert TOKENIZER.token_to_id("<|endoftext|>") == config["pad_token_id"]


def test_weights_stay_under_32_megabytes() -> None:
    c = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    width, kv = c["hidden_size"], c["hidden_size"] // c["num_attention_heads"] * c["num_key_value_heads"]
    attention = 2 * width * width + width + 2 * (width * kv + kv)
    layer = attention + 3 * width * c["intermediate_size"] + 2 * width
    parameters = c["vocab_size"] * width + c["num_hidden_layers"] * layer + width
    assert parameters == 15_738_880
    assert 2 * parameters < 31_900_000  # leaves room for the file's header


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip_loses_nothing(text: str) -> None:
    assert decode(TOKENIZER.encode(text).ids) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=150)
def test_any_composed_text_comes_back(text: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    assert decode(TOKENIZER.encode(composed).ids) == composed


def test_digits_stand_alone_as_in_qwen2() -> None:
    pieces = [decode([number]) for number in TOKENIZER.encode("2026年，80元").ids]
    assert [piece for piece in pieces if piece.isdigit()] == list("202680")


def test_transformers_gives_the_same_ids_and_stop_token() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(FOLDER)
    for text in [*TEXTS, "<|im_start|>user\n你好<|im_end|>\n<think>\n</think>"]:
        assert theirs(text)["input_ids"] == TOKENIZER.encode(text).ids
    assert theirs.eos_token == "<|im_end|>"


def test_chat_template_is_chatml_with_tools_and_invents_no_system_prompt() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(FOLDER)
    chat = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    rendered = theirs.apply_chat_template(chat, tokenize=False)
    assert rendered == "<|im_start|>user\n问<|im_end|>\n<|im_start|>assistant\n答<|im_end|>\n"
    asked = theirs.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert asked.endswith("<|im_end|>\n<|im_start|>assistant\n")
    call = {"type": "function", "function": {"name": "clock", "arguments": {"city": "北京"}}}
    chat = [
        chat[0],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "9:00"},
        {"role": "tool", "content": "10:00"},
    ]
    rendered = theirs.apply_chat_template(chat, tools=[{"name": "clock"}], tokenize=False)
    assert rendered.startswith("<|im_start|>system\n# Tools\n")
    assert '<tool_call>\n{"name": "clock", "arguments": {"city": "北京"}}\n</tool_call><|im_end|>\n' in rendered
    assert rendered.count("<|im_start|>user\n") == 2
    assert rendered.endswith("<tool_response>\n10:00\n</tool_response><|im_end|>\n")
