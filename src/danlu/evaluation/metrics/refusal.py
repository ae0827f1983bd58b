"""Refusal: a question whose answer is in no document should be answered with "not stated", in whatever words.

Details mark a `hedged` refusal, one that says "not stated" and then, after a but, gives a figure of its own or a guess
("probably …"): that is an invention, and counts as wrong.
"""

from __future__ import annotations

import re

from danlu.evaluation.fold import final_answer, find, fold, numbers
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Verdict

_CHINESE = re.compile(
    r"(?:没有|并没有|没|并未|暂未|尚未|未|暂无|并无|无)[^。！？!?，,；;]{0,14}"
    r"(?:提到|提及|说明|规定|写明|写到|注明|载明|列明|记载|涉及|给出|包含|公布|明确|找到|查到|信息|答案|内容|资料|依据|交代|交待)"
    r"|(?:无法|不能|没法|难以)[^。！？!?，,；;]{0,8}(?:回答|确定|确认|判断|得知|答复|提供|查到)"
    r"|(?:不知道|不清楚|不了解|不确定|查不到|找不到|未知|答不上来)"
    r"|(?:手册|文件|制度|资料|文档|规定|材料|原文|文中|正文|文章|上文|公告|通知)[^。！？!?]{0,6}"
    r"(?:没有|没|未)(?:说|写|提|讲|规定)"
)
_ENGLISH = re.compile(
    r"\b(?:(?:is|are|was|were|does|do|did|has|have)(?:\s?n[o']t|\s+not)|not|never|nowhere)\b[^.!?;]{0,40}?"
    r"\b(?:state|stated|states|say|mention|mentioned|specif\w+|cover(?:ed)?|includ\w+|contain\w*|provid\w+|described?"
    r"|defined?|documented|found|available|address(?:ed)?|given|listed|know|sure|answer)\b"
    r"|\b(?:don't|do not|doesn't|does not|didn't|isn't|aren't|can't|cannot|can not|couldn't|could not|unable to)\b"
    r"[^.!?;]{0,40}?\b(?:state|say|mention|specify|cover|include|contain|provide|describe|define|address|know|answer"
    r"|find|determine|tell|confirm|stated|mentioned|specified|covered|listed|given|found|sure)\b"
    r"|\bno (?:information|mention|rule|answer|such (?:rule|information|policy)|data|record)\b|\bunknown\b|^\W*n/a\W*$",
    re.IGNORECASE,
)
_FURTHER = re.compile(r"其他|其它|更多|另外|\b(?:else|other|further|additional|more)\b", re.IGNORECASE)
"""Nothing *else* is stated: that is said after an answer."""
_GUESS = re.compile(
    r"(?:根据常识|按常理|一般来说|通常|推测|估计|大概|应该是|很?可能[是为])"
    r"|\b(?:probably|likely|presumably|typically|usually|my guess|I(?: would|'d)? guess)\b",
    re.IGNORECASE,
)
_ADVICE = re.compile(r"询问|咨询|联系|查[看阅询]|核实|\b(?:ask|contact|check|consult)\b", re.IGNORECASE)
_BUT = re.compile(r"但是|但|不过|然而|\bbut\b|\bhowever\b", re.IGNORECASE)


class Refusal:
    name = "refusal"

    def score(self, answer_text: str, item: Item) -> Verdict:
        answer = final_answer(answer_text).replace("’", "'")
        refuses = says_not_stated(answer)
        accepted = any(find(fold(text), fold(answer)) >= 0 for text in item.accept)
        hedged = refuses and _invents_after_but(answer, item)
        right = accepted or (refuses and not hedged)
        return Verdict(float(right), right, {"refused": refuses} | ({"hedged": True} if hedged else {}))


def says_not_stated(answer: str) -> bool:
    """Whether an answer says that it does not know, or that the documents do not say."""
    found = [*_CHINESE.finditer(answer), *_ENGLISH.finditer(answer)]
    return any(not _FURTHER.search(match[0]) for match in found)


def _invents_after_but(answer: str, item: Item) -> bool:
    parts = _BUT.split(answer, maxsplit=1)
    known = numbers(fold(item.text)) | numbers(fold(item.reference))
    if len(parts) < 2:
        return False
    is_guess = _GUESS.search(parts[1]) is not None and _ADVICE.search(parts[1]) is None
    return is_guess or bool(numbers(fold(parts[1])) - known)
