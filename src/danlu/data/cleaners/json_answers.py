"""json_answers: answers that are no valid JSON although the prompt asks for JSON and nothing else, or although the
answer sets out to be JSON. An answer in words to a question about JSON is none of this rule's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from danlu.data.cleaners.cleaner import Batch, Cues, Finding

_ASKED = re.compile(
    r"(?:以|用|按照?|返回|输出|生成|回复|给出|转换|转成|转为|整理成|提供|使用|填写)[^\n]{0,12}json|json(?:格式|形式|对象|数组|字符串|输出|返回)"
    r"|(?:return|output|respond|reply|answer|format|give|produce|generate|provide|convert)[^\n]{0,40}json|(?:as|in|valid)json"
)
_ONLY = re.compile(
    r"(?:只|仅|仅仅|只需|只能|必须|直接)(?:需|要|能|可|以)?(?:返回|输出|回复|给出|用|以)[^\n]{0,10}json"
    r"|(?:only|just)[^\n]{0,16}json|json(?:object|array)?only|nothingbut[^\n]{0,8}json"
)
_JSON = re.compile(r"json")
_CUE = Cues("json")
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)(?:\n```|\Z)", re.S | re.I)


class JsonAnswers:
    name = "json_answers"

    def key(self) -> dict[str, Any]:
        return {"version": 1}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        found: dict[int, Finding] = {}
        for row in {row for row, _, _ in batch.folded_asked.search(_JSON, _CUE)}:
            answer = batch.body[row].strip()
            asked = batch.folded_asked[row]
            if not batch.is_answer(row) or not answer or not _ASKED.search(asked):
                continue
            sets_out = answer.startswith(("{", "[", "```json", "```JSON"))
            if (sets_out or _ONLY.search(asked)) and not holds_json(answer):
                found[row] = Finding("invalid_json")
        return found


def holds_json(answer: str) -> bool:
    """Is the answer, a fenced block of it, or what stands between its outer brackets JSON?"""
    return any(map(_is_json, _candidates(answer)))


def _candidates(answer: str) -> list[str]:
    found = [answer, *_FENCE.findall(answer)]
    for opening, closing in ("{}", "[]"):
        first, last = answer.find(opening), answer.rfind(closing)
        if 0 <= first < last:
            found.append(answer[first : last + 1])
    return found


def _is_json(text: str) -> bool:
    try:
        value = orjson.loads(text)
    except ValueError:
        # one value on each line is JSON too, as far as a reader of JSON Lines is concerned
        lines = [line for line in text.splitlines() if line.strip()]
        return len(lines) > 1 and all(line.lstrip().startswith(("{", "[")) and _is_json(line) for line in lines)
    return isinstance(value, dict | list)
