"""Random answers and references in Chinese, English and both, for tests beside independent oracles."""

from __future__ import annotations

import random
from collections.abc import Iterator

CHINESE = "出差补贴每天按照规定报销住宿费用员工年假审批经理财务部门发票日期不超过元天年月请在三个工作日内提交"
ENGLISH = "the travel allowance is paid per day and hotel costs are reimbursed by finance after approval of receipts within days".split()
MARKS = ["，", "。", ",", ".", " ", "！", "(", "）", "\n", "：", "-"]


def text(dice: random.Random, *, length: int | None = None) -> str:
    """A random run of Chinese characters, English words, numbers and marks; sometimes empty."""
    kind = dice.choice(["zh", "en", "both"])
    pieces: list[str] = []
    for _ in range(dice.randint(0, 30) if length is None else length):
        fate = dice.random()
        if fate < 0.1:
            pieces.append(dice.choice(MARKS))
        elif fate < 0.18:
            pieces.append(dice.choice(["80", "3.5", "２０２４", "A4", "%", "1,200"]))
        elif kind == "zh" or (kind == "both" and dice.random() < 0.5):
            pieces.append(dice.choice(CHINESE))
        else:
            word = dice.choice(ENGLISH)
            pieces.append(f" {word.title() if dice.random() < 0.2 else word} ")
    return "".join(pieces)


def twin(dice: random.Random, original: str) -> str:
    """The text with pieces cut, moved and changed: what a model's answer is to its reference."""
    pieces = list(original) if any(char in CHINESE for char in original) else original.split(" ")
    joint = "" if any(char in CHINESE for char in original) else " "
    for _ in range(dice.randint(0, 6)):
        if pieces:
            at = dice.randrange(len(pieces))
            pieces[at : at + dice.randint(1, 3)] = dice.choice([[], [dice.choice(CHINESE)], pieces[at : at + 1] * 2])
    return joint.join(pieces)


def pairs(num: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """(answer, reference): half of them related."""
    dice = random.Random(seed)
    for number in range(num):
        reference = text(dice)
        yield (twin(dice, reference) if number % 2 else text(dice)), reference
