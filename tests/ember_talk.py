"""What `ember` is asked in tests of it elsewhere: texts and conversations, and our own engine on it to compare with."""

from __future__ import annotations

import torch

from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.engines.native import NativeEngine
from danlu.model.build import load_model

TEXTS = (
    "差旅补贴每天 80 元，凭发票在 30 天内报销。", "It's 3.14, isn't it? WE'LL see…", "2026年11月22日 １２３ ①② ½ ٣٤",
    "👩‍👩‍👧‍👦 🇨🇳 👍🏽", "a  b\t\tc\n\n\n  d \r\n e　f\u00a0g  ", "cafe\u0301 が か\u3099 \u1112\u1161\u11ab \u212b", "\x7f \u200b ſ ﬁ 한국어 ไทย",
)  # fmt: skip
"""Digits, spaces, emoji, scripts, and words that only normalisation makes equal (é as two code points)."""
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "查询天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}
CHATS = (
    ([{"role": "user", "content": "你好"}], []),
    ([{"role": "user", "content": "What is 2+2?"}], []),
    ([{"role": "user", "content": "把“早上好”翻译成英文。"}], []),
    (
        [
            {"role": "system", "content": "You are brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Name three colours."},
        ],
        [],
    ),
    ([{"role": "user", "content": "北京天气怎么样？"}], [WEATHER]),
    (
        [
            {"role": "user", "content": "北京天气怎么样？"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "晴，25 度", "tool_call_id": "1"},
        ],
        [WEATHER],
    ),
)


def engine_of(dtype: torch.dtype) -> NativeEngine:
    model = load_model("ember", dtype=dtype)
    tokenizer = Tokenizer.load(model.folder)
    return NativeEngine(model, Encoder(tokenizer, Template.load(model.folder, tokenizer)), name="ember")


def turns_of(chat: list[dict[str, object]]) -> list[Message]:
    return [
        Message(turn["role"], turn["content"], tool_calls=tuple(turn.get("tool_calls", ())))  # type: ignore[arg-type]
        for turn in chat
    ]


def prompts_of(engine: NativeEngine) -> list[list[int]]:
    return [engine.encoder.encode_prompt(turns_of(chat), tools) for chat, tools in CHATS]
