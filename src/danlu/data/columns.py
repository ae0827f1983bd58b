"""What columns are called: the parts a training row may have, and the names people give them, in English and Chinese.

Names are compared without case, spaces, underscores and hyphens. `columns: {question: 问题}` in a recipe names a part
directly and wins over everything here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

NAMES: dict[str, tuple[str, ...]] = {
    "instruction": ("instruction", "instructions", "指令", "任务指令"),
    "input": ("input", "inputs", "输入", "补充输入"),
    "output": ("output", "outputs", "target", "输出"),
    "question": (
        "question",
        "prompt",
        "query",
        "ask",
        "problem",
        "user",
        "q",
        "user input",
        "问题",
        "提问",
        "问",
        "题目",
        "用户问题",
        "用户提问",
        "问句",
        "客户问题",
        "标准问题",
        "标准问",
        "咨询内容",
        "咨询问题",
        "患者问题",
        "患者提问",
        "病人问题",
        "问题描述",
        "问题内容",
        "常见问题",
        "user question",
        "customer question",
        "patient question",
        "question text",
        "human",
        "input",
        "inputs",
        "输入",
    ),
    "answer": (
        "answer",
        "response",
        "completion",
        "reply",
        "assistant",
        "a",
        "output",
        "outputs",
        "target",
        "solution",
        "答案",
        "回答",
        "回复",
        "答",
        "答复",
        "输出",
        "标准答案",
        "参考答案",
        "标准回答",
        "回复内容",
        "解答",
        "正确答案",
        "标准答复",
        "标准回复",
        "参考答复",
        "参考回复",
        "答复内容",
        "回答内容",
        "医生回答",
        "医生回复",
        "医生答复",
        "客服回答",
        "客服回复",
        "专家解答",
        "agent reply",
        "doctor answer",
        "answer text",
        "reply text",
        "bot",
        "gpt",
    ),
    "system": ("system", "system prompt", "系统", "系统提示", "系统提示词", "系统指令"),
    "history": ("history", "历史", "历史对话", "对话历史"),
    "messages": ("messages", "message", "消息"),
    "conversations": ("conversations", "conversation", "dialogue", "dialog", "dialogs", "turns", "对话", "多轮对话"),
    "tools": ("tools", "functions", "工具"),
    "chosen": (
        "chosen",
        "chosen response",
        "response chosen",
        "preferred",
        "accepted",
        "better",
        "chosen messages",
        "优选",
        "优选回答",
        "更好的回答",
        "好回答",
        "好的回答",
        "偏好回答",
        "正例",
    ),
    "rejected": (
        "rejected",
        "rejected response",
        "response rejected",
        "dispreferred",
        "worse",
        "rejected messages",
        "劣选",
        "劣选回答",
        "更差的回答",
        "坏回答",
        "差的回答",
        "拒绝回答",
        "负例",
    ),
    "desirable": ("desirable", "kto tag", "label", "thumbs up", "liked", "是否满意", "满意", "赞"),
    "text": (
        "text",
        "review",
        "sentence",
        "content",
        "document",
        "comment",
        "body",
        "review body",
        "passage",
        "raw content",
        "文本",
        "评论",
        "评价",
        "评论内容",
        "评价内容",
        "句子",
        "内容",
        "正文",
        "文章",
        "原文",
    ),
    "label": (
        "label",
        "labels",
        "sentiment",
        "class",
        "category",
        "star",
        "stars",
        "rating",
        "polarity",
        "标签",
        "情感",
        "情感倾向",
        "类别",
        "分类",
        "星级",
        "评分",
    ),
    "title": ("title", "标题", "篇名"),
    "reasoning": ("reasoning", "reasoning content", "thinking", "thought", "cot", "思考", "思考过程", "推理过程"),
    "group": ("group", "group id", "分组"),
    "weight": ("weight", "loss weight", "train"),
    "instances": ("instances",),
}
PARTS = tuple(NAMES)

_NOISE = re.compile(r"[\s_\-*:：()（）\[\]【】]+")
_LANGUAGE = re.compile(r"^(zh|en|cn)[_\-](?=\w)", re.IGNORECASE)


@functools.lru_cache(maxsize=4096)
def normal(name: str) -> str:
    """`Review_Body `, `reviewBody` and `review body` are one name."""
    return _NOISE.sub("", name).casefold()


_KNOWN = {
    part: {normal(name): rank for rank, name in reversed(list(enumerate(names)))} for part, names in NAMES.items()
}


@functools.lru_cache(maxsize=4096)
def _find(keys: tuple[str, ...], part: str) -> str | None:
    known = _KNOWN[part]
    ranked = sorted((known[normal(key)], place, key) for place, key in enumerate(keys) if normal(key) in known)
    return ranked[0][2] if ranked else None


def find(row: Mapping[str, Any], part: str) -> str | None:
    """The row's own name for a part, or None."""
    return _names(tuple(row)).get(part)


def names_of(row: Mapping[str, Any]) -> Mapping[str, str]:
    """Part to the row's own name, for all parts that it has: for who asks for several."""
    return _names(tuple(row))


@functools.lru_cache(maxsize=4096)
def _names(keys: tuple[str, ...]) -> dict[str, str]:
    """All parts that rows with these columns have."""
    return {part: name for part in PARTS if (name := _find(keys, part)) is not None}


def answers(row: Mapping[str, Any]) -> tuple[str, ...]:
    """All columns of the row that are named as answers are."""
    return _answers(tuple(row))


@functools.lru_cache(maxsize=4096)
def _answers(keys: tuple[str, ...]) -> tuple[str, ...]:
    """A letter alone may as well be a choice among several (A, B, C, D)."""
    return tuple(key for key in keys if normal(key) in _KNOWN["answer"] and not re.fullmatch("[a-z]", normal(key)))


def get(row: Mapping[str, Any], part: str) -> Any:
    """The value of a part, None where the row has none."""
    name = find(row, part)
    return row[name] if name is not None else None


def has(row: Mapping[str, Any], *parts: str) -> bool:
    return all(find(row, part) is not None for part in parts)


def rest(row: Mapping[str, Any], parts: Iterable[str]) -> dict[str, Any]:
    """Short columns that are none of `parts`, single values or lists of them: what a sample carries along as tags.

    `rules`, what a question's metric is told, may be an object."""
    free = _others(tuple(row), tuple(parts))
    return {key: row[key] for key in free if _is_short(row[key]) or (key == "rules" and _is_rules(row[key]))}


def dropped(rows: Iterable[Mapping[str, Any]], parts: tuple[str, ...]) -> Iterator[str]:
    """Row by row the columns that `rest` does not carry along: long texts and objects."""
    for row in rows:
        kept = rest(row, (*parts, "group"))
        yield from (name for name in rest_names(row, (*parts, "group")) if name not in kept and row[name])


def rest_names(row: Mapping[str, Any], parts: Iterable[str]) -> tuple[str, ...]:
    """Names of the columns that are none of `parts`."""
    return _others(tuple(row), tuple(parts))


@functools.lru_cache(maxsize=4096)
def _others(keys: tuple[str, ...], parts: tuple[str, ...]) -> tuple[str, ...]:
    taken = {_find(keys, part) for part in parts}
    return tuple(key for key in keys if key not in taken)


def _is_short(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 32 and all(isinstance(part, str | int | float) and len(str(part)) <= 200 for part in value)
    return isinstance(value, str | int | float | bool) and len(str(value)) <= 200


def _is_rules(value: Any) -> bool:
    """An object, or its JSON in a cell, of a size that people write."""
    is_object = isinstance(value, dict) or (isinstance(value, str) and value.lstrip().startswith("{"))
    return is_object and len(str(value)) <= 8000


def without_language(row: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    """For rows with `zh_instruction`, `en_instruction`, ...: the row of the first language, and that prefix."""
    prefixes = [found[0] for key in row if (found := _LANGUAGE.match(key))]
    if not prefixes:
        return None
    prefix = prefixes[0]
    plain = {key.removeprefix(prefix) if key.startswith(prefix) else key: value for key, value in row.items()}
    return plain, prefix
