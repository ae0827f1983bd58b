"""A quality score by rules for one row: 1 where nothing is amiss, multiplied down by each rule that is broken.

After the heuristics of Gopher (Rae et al. 2021, appendix A) and C4, for question and answer and for Chinese. A score
tells where to look; it does not drop a row (the cleaners do, by their own rules).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from danlu.data.split import fold

_SPACES = re.compile(r"\s+")
_SYMBOL = re.compile(r"[^\w\s，。！？；：、“”‘’（）《》,.!?;:'\"()\-%…·—]")
_BROKEN = re.compile(r"[\ufffd\x00-\x08]|锟斤拷|烫烫烫|&(?:nbsp|lt|gt|amp|quot);|<(?:br|p|div|span|td|tr|li)\b[^>]*>")
_OPEN_END = re.compile(r"(?:[,，、;；:：(（\-]|\b(?:and|or|the|of|to)|以及|或者|因为|并且)\s*$")
_REFUSAL = re.compile(
    r"作为(?:一个|一名)?(?:AI|人工智能|大?语言模型)|我(?:无法|不能)(?:回答|提供|协助|满足)|"
    r"as an? (?:ai|artificial intelligence|language model)|i(?:'m| am) (?:sorry|unable)|"
    r"i can(?:not|'t) (?:help|assist|answer|provide)",
    re.IGNORECASE,
)  # fmt: skip
_RUN = 8
"""Characters per window in which repetition is looked for."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`name` is a key `rule_<name>` of the room `report_data`; `weight` is what the score loses."""

    name: str
    weight: float
    is_broken: Callable[[str, str, str], bool]
    """(kind, prompt, answer)"""


def _is_short(kind: str, prompt: str, answer: str) -> bool:
    return kind not in ("label",) and len(answer.strip()) < (20 if kind == "document" else 2)


def _repeats(kind: str, prompt: str, answer: str) -> bool:
    """Windows of 8 characters that come again: over 30 % of a text is more than tables and lists of terms have."""
    plain = _SPACES.sub("", answer)
    windows = len(plain) - _RUN + 1
    if windows < 40:
        return False
    return 1 - len({plain[index : index + _RUN] for index in range(windows)}) / windows > 0.3


def _is_symbols(kind: str, prompt: str, answer: str) -> bool:
    text = answer if kind != "label" else prompt
    return len(text) >= 20 and len(_SYMBOL.findall(text)) / len(text) > 0.2


def _is_copied(kind: str, prompt: str, answer: str) -> bool:
    if kind in ("label", "document") or len(answer) < 12:
        return False
    asked, said = fold(prompt), fold(answer)
    return said == asked or (len(said) > 40 and said in asked and len(said) > 0.8 * len(asked))


def _text_of(kind: str, prompt: str, answer: str) -> str:
    return prompt if kind == "label" else f"{prompt}\n{answer}"


RULES = (
    Rule("short", 0.6, _is_short),
    Rule("repeats", 0.5, _repeats),
    Rule("copied", 0.6, _is_copied),
    Rule("broken", 0.4, lambda kind, prompt, answer: bool(_BROKEN.search(_text_of(kind, prompt, answer)))),
    Rule("symbols", 0.4, _is_symbols),
    Rule("refusal", 0.4, lambda kind, _, answer: kind == "conversation" and bool(_REFUSAL.search(answer[:120]))),
    Rule("open_end", 0.3, lambda kind, _, answer: kind != "label" and bool(_OPEN_END.search(answer[-12:]))),
)


def judge(kind: str, prompt: str, answer: str) -> tuple[float, tuple[str, ...]]:
    """The score in (0, 1] and the names of the rules that are broken."""
    broken = [rule for rule in RULES if rule.is_broken(kind, prompt, answer)]
    score = 1.0
    for rule in broken:
        score *= 1 - rule.weight
    return round(score, 4), tuple(rule.name for rule in broken)
