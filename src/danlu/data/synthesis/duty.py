"""The small words that turn a rule round: may, must, must not; above, below; not. Read out of one clause.

No grammar: lists, longest first. What a list cannot tell counts as "nothing said", and decides nothing.
"""

from __future__ import annotations

import re

_DUTIES = [
    ("forbid", r"不得|不可以|不可(?![缺抗避])|不能|不准|不许|不允许|不应当|不应|禁止|严禁|无权|不予"
               r"|\b(?:may|must|shall|can|should|could) not\b|\b(?:cannot|mustn['’]t|can['’]t|shan['’]t|shouldn['’]t)"
               r"|\b(?:not|never) (?:be )?(?:allowed|permitted|entitled)\b|\b(?:forbidden|prohibited|banned)\b"),
    ("exempt", r"不必|无需|无须|不需要?|不用|毋须|可以不|可不|免予"
               r"|\bneed(?:s)? not\b|\b(?:do|does|did)(?: not|n['’]t) (?:have to|need)\b"
               r"|\bnot (?:be )?(?:required|obliged|mandatory)\b|\b(?:optional|voluntary|needn['’]t)\b"),
    ("oblige", r"应当|必须|务必|须(?!知)|(?<=[，一-鿿])应(?![急用聘届收付对答])|需要"
               r"|\b(?:must|shall|has to|have to|had to|required to"
               r"|obliged to|mandatory|obligatory|needs? to)\b"),
    ("permit", r"可以|有权|允许|准许|可(?=[由按在向以])|能够|\b(?:may|can|allowed|permitted|entitled)\b"),
]  # fmt: skip
_DUTY = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _DUTIES), re.IGNORECASE)
_FOLLOWS_FROM = {
    "forbid": {"forbid"},
    "exempt": {"exempt", "permit"},
    "oblige": {"oblige"},
    "permit": {"permit", "exempt"},
}
"""A duty an answer may tell of, and those of the evidence that hold it."""

_NUMBER_NOT = (
    r"(?:不得|不能|不应|不可|不准|不|未|(?:may |must |shall |can |should |does |do |is |are )?(?:not|never) (?:be )?)"
)
_UPPER = (
    r"超过|高于|多于|大于|超出|长于|晚于|逾|以上|满(?=[一二三四五六七八九十百千两半\d])"
    r"|\b(?:above|over(?= [\d$€£])|more than|longer than|later than|greater than|higher than|exceed\w*|in excess of)\b"
)
_LOWER = (
    r"低于|少于|小于|短于|早于|不足(?=[一二三四五六七八九十百千两半\d])|以下|以内|之内"
    r"|\b(?:below|under(?= [\d$€£])|less than|fewer than|shorter than|earlier than|lower than|smaller than)\b"
)
_BOUND = re.compile(
    rf"(?P<at_most>{_NUMBER_NOT}\s*(?:{_UPPER})|至多|最多|最高(?!人民|法院|检察|级|工资|额)|上限|封顶"
    rf"|\b(?:at most|no more than|no later than"
    rf"|no longer than|up to|maximum|within)\b)"
    rf"|(?P<at_least>{_NUMBER_NOT}\s*(?:{_LOWER})|至少|最少|最低(?!工资|标准|额|生活)"
    rf"|\b(?:at least|no less than|no fewer than|minimum)\b)"
    rf"|(?P<above>{_UPPER})|(?P<below>{_LOWER})",
    re.IGNORECASE,
)
_UPWARDS = {"at_least": True, "above": True, "at_most": False, "below": False}
_NOT = re.compile(
    r"(?:不得|不可以|不可|不能|不准|不许|不允许|不应当|不应|禁止|严禁|无权|不予|不必|无需|无须|不需要|不需|不用|没有|并非|未经|未能|免予)"
    r"|不(?![动同断仅但管论锈便良])|(?<![因限])未(?![来成])|无(?![论偿期形线人])"
    r"|\b(?:not|never|cannot|without|neither|nor|nobody|none|forbidden|prohibited|unless)\b"
    r"|\bno\b(?!,| (?:more|less|later|fewer|longer)\b)"
    r"|[a-z]n['’]t\b",
    re.IGNORECASE,
)
_RELATIVE = re.compile(r"(?:没有|未|不(?![得应准能可予许允]))[^，。；、]{1,8}的(?=[一-鿿])")
"""没有休完的年假: denies of which leave is spoken, not what is said of it."""
_ASKED_BOTH = re.compile(r"是不是|能不能|可不可以|要不要|会不会|有没有|需不需要|是否")


def duties(clause: str) -> set[str]:
    """Of `forbid`, `exempt`, `oblige`, `permit`."""
    return set(duties_in_order(clause))


def duties_in_order(clause: str) -> list[str]:
    return [str(found.lastgroup) for found in _DUTY.finditer(_BOUND.sub(" ", clause))]


def follows(duty: str, known: set[str]) -> bool:
    """Whether one of the known duties holds this one."""
    return bool(_FOLLOWS_FROM[duty] & known)


def directions(clause: str) -> set[bool]:
    """True for a bound from below (at least, above), False for one from above."""
    return set(directions_in_order(clause))


def directions_in_order(clause: str) -> list[bool]:
    return [_UPWARDS[str(found.lastgroup)] for found in _BOUND.finditer(clause)]


def is_denied(clause: str) -> bool:
    """Whether the clause denies, two denials being none; the "not" of "not above" is the bound's."""
    plain = _RELATIVE.sub("", _ASKED_BOTH.sub("", _BOUND.sub(" ", clause)))
    return len(_NOT.findall(plain)) % 2 == 1
