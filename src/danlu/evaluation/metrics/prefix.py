"""Prefix: the answer begins with the value or an accepted variant (yes-no questions).

"Answer:" and 答案是 before it do not count. A variant that goes on into another word is not it: 不 (no) neither begins
不知道 (don't know) nor 不一定 (not always), 没 not 没错 (quite right), 对 not 对不起 (sorry), "no" not "no idea".
"""

from __future__ import annotations

import re

from danlu.evaluation.fold import Folded, final_answer, fold
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Verdict

_LEAD = re.compile(
    r"^[\s*_#`>]*(?:(?:最终)?(?:答案|回答|结论|答)\s*(?:应?[是为]\s*[:：]?|[:：])"
    r"|(?:the |my )?(?:final )?(?:answer|conclusion)\s*(?:\bis\b\s*:?|:))\s*",
    re.IGNORECASE,
)
_OTHER_WORDS: dict[str, tuple[str, ...]] = {
    "不": ("知", "清楚", "确定", "一定", "好说", "错", "明确", "了解"), "没": ("错", "问题"), "未": ("必", "知"),
    "无": ("法", "疑", "论", "从"), "是": ("否", "不是"), "对": ("不", "于", "此"), "会": ("议",), "有": ("可能", "待"),
    "no": ("idea", "problem", "doubt", "worry", "worries"), "not": ("sure", "certain", "necessarily"),
}  # fmt: skip


class Prefix:
    name = "prefix"

    def score(self, answer_text: str, item: Item) -> Verdict:
        answer = fold(_LEAD.sub("", final_answer(answer_text)))
        wanted = (*(item.values or (item.reference,)), *item.accept)
        matched = next((text for text in wanted if _begins(answer, fold(text))), None)
        return Verdict(float(matched is not None), matched is not None, {"matched": [matched]} if matched else {})


def _begins(answer: Folded, start: Folded) -> bool:
    if not start or answer[: len(start)] != start:
        return False
    rest = answer[len(start) :]
    return not any(rest[: len(word)] == word for word in map(fold, _OTHER_WORDS.get("".join(start), ())))
