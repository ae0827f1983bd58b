"""refusals: answers that decline, or that speak of themselves as a machine ("作为一个人工智能…").

A model trained on them learns to decline. An answer that says that the given material does not hold what was asked is
none: that is what it should say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from danlu.data.cleaners.cleaner import Batch, Cues, Finding

_BEGINNING = 120
"""Folded characters of an answer within which it would have declined."""
_MACHINE = re.compile(
    r"作为(?:一[个名款位种])?(?:由\w{1,12}(?:开发|训练|研发)的)?(?:大型|大规模|智能|虚拟)?"
    r"(?:ai|人工智能|语言模型|自然语言处理)(?:模型|助手|助理|程序|系统|机器人|语言模型|智能助手|聊天机器人)*(?:我|没有|无法|不能|并?不)"
    r"|asana?(?:large)?(?:ai|artificialintelligence|languagemodel)(?:language|model|assistant|chatbot|based)*i"
    r"|i(?:m|am)(?:just|only|merely)?ana?(?:ai|artificialintelligence)(?:language|model|assistant|chatbot)*(?:and|so|i)"
)
_DECLINES = re.compile(
    r"(?:很?抱歉|对不起|不好意思|非常遗憾|很遗憾|请原谅)\w{0,12}?(?:无法|不能|没办法|没法|不可以|不便|没有能力|难以|不会)"
    r"(?:为您|为你|给您|给你|向您|帮您|帮你|直接|再|继续)*(?:回答|提供|协助|帮助|完成|满足|执行|生成|讨论|处理|给出|参与|支持|做到|透露|回应|创作|编写|帮忙)"
    r"|我(?:无法|不能)(?:回答|协助|满足)(?:您的|你的|这个|这类|该|此类)(?:问题|请求|要求)"
    r"|(?:im|iam)(?:very|really|so|terribly)?sorry(?:but)?(?:i)(?:cant|cannot|amnotable|amunable|munable|mnotable|wont|donthave)"
    r"|sorry(?:but)?i(?:cant|cannot|wont|amunable|munable|amnotable|mnotable)"
    r"|iapologi[sz]e(?:but)?i(?:cant|cannot|amunable|munable|amnotable|mnotable)"
    r"|i(?:cant|cannot|wont|amunableto|munableto|amnotableto|mnotableto)(?:assist|help|fulfill|comply|provide|engage|create|generate)"
    r"(?:you)?(?:with)?(?:that|this|suchrequests?|yourrequest|withyour)"
)
_OF_MACHINES = Cues(*(f"作为{what}" for what in "一由大智虚a人语自"), "asan", "asai", "asal", "iman", "imju", "imon",
                    "imme", "imaa", "imai", "iama", "iamj", "iamo", "iamm")  # fmt: skip
_OF_DECLINES = Cues(
    *("很抱歉", "抱歉", "对不起", "不好意思", "非常遗憾", "很遗憾", "请原谅"),
    *(f"我{cannot}{what}" for cannot in ("无法", "不能") for what in ("回", "协", "满")),
    *(
        me + how
        for me in ("im", "iam")
        for how in ("sorry", "very", "really", "sosorry", "terribly", "unable", "notable")
    ),
    *("sorryi", "sorrybut", "iapologi", "icant", "icannot", "iwont"),
)
_GROUNDED = re.compile(
    r"资料|文档|文件|原文|文中|文本|文章|材料|上下文|给定|所给|提供的信息|提供的内容|知识库|检索|记录"
    r"|document|passage|context|providedtext|giventext|sources?|article|materials?|records?"
)


class Refusals:
    name = "refusals"

    def key(self) -> dict[str, Any]:
        return {"version": 1}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        found: dict[int, Finding] = {}
        folded = batch.folded_body
        for row, match, place in folded.search(_DECLINES, _OF_DECLINES):
            if place < _BEGINNING and batch.is_answer(row):
                said = match.string[: match.end() + _BEGINNING]
                if not _GROUNDED.search(said):
                    found[row] = Finding("refusal")
        for row, _, place in folded.search(_MACHINE, _OF_MACHINES):
            if place < _BEGINNING and batch.is_answer(row):
                found.setdefault(row, Finding("speaks_as_ai"))
        return found
