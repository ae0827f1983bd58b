"""Planted hallucinations are refused, sound answers are not: rule by rule, and on the demo company's own answers."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from importlib import resources
from pathlib import Path

import pytest

from danlu.data.language import language_of
from danlu.data.ledger import Ledger
from danlu.data.sample import Document
from danlu.data.sources import read
from danlu.data.synthesis.belonging import fault_of_belonging
from danlu.data.synthesis.facts import fault_of_answer, fault_of_core, figures
from danlu.data.synthesis.words import content_of, rouge_l, tokens_of
from teacher_kit import READING, SILENT

LEAVE = "员工满一年后每年享受年假10天，由部门经理审批，不得跨年使用，最多可分三次休完。"
TRAVEL = "Staff may claim up to 80 euros a night. Claims are approved by the line manager within five working days and are not paid in cash."

SOUND = [
    (LEAVE, "满一年的员工每年有10天年假。", "年假有几天？"),
    (LEAVE, "满一年后每年十天。", "年假有几天？"),
    (LEAVE, "由部门经理审批。", "年假由谁审批？"),
    (LEAVE, "不可以，年假不得跨年使用。", "年假能跨年使用吗？"),
    (LEAVE, "最多分3次。", "年假最多分几次休？"),
    (TRAVEL, "Up to 80 euros a night.", "How much may staff claim for a night?"),
    (TRAVEL, "The line manager approves claims within 5 working days.", "Who approves claims?"),
    (TRAVEL, "No, claims are not paid in cash.", "Are claims paid in cash?"),
    ("| 项目 | 天数 |\n| 年假 | 15 |", "年假为15天。", "年假有几天？"),
    ("有效期三年，费用为1,200元。", "费用1200元，有效期3年。", "费用和有效期各是多少？"),
    ("会议9:00开始。", "会议上午9点开始。", "会议几点开始？"),
]
INVENTED = [
    (LEAVE, "满一年后每年有15天年假。", "figure"),
    (LEAVE, "满一年后每年有10个工作日年假。", "unit"),
    (LEAVE, "满一年后每年有10周年假。", "unit"),
    (LEAVE, "由王伟经理审批。", "name"),
    (LEAVE, "由张建国审批。", "name"),
    (LEAVE, "由人力资源部审批。", "name"),
    (LEAVE, "由 HR 审批。", "name"),
    (LEAVE, "年假可以跨年使用。", "negation"),
    (LEAVE, "年假至少分三次休完。", "opposite"),
    (LEAVE, "由部门经理审批，同时需要附上医疗证明原件。", "unsupported"),
    (LEAVE, "2024年5月1日起每年10天。", "figure"),
    (TRAVEL, "Up to 90 euros a night.", "figure"),
    (TRAVEL, "Up to 80 dollars a night.", "unit"),
    (TRAVEL, "Up to 80 euros a week.", "unit"),
    (LEAVE, "满一年后每月享受年假10天。", "unit"),
    (TRAVEL, "Claims are approved by Alice Johnson.", "name"),
    (TRAVEL, "The line manager approves claims through SAP Concur.", "name"),
    (TRAVEL, "Claims are paid in cash.", "negation"),
    (TRAVEL, "Claims are not approved by the line manager.", "negation"),
    (TRAVEL, "Staff may claim at least 80 euros a night.", "opposite"),
    (
        TRAVEL,
        "Claims are approved within five working days after audit by external tax consultants.",
        "unsupported|opposite",
    ),
    ("会议9:00开始。", "会议10:00开始。", "figure"),
    ("温度不超过25度。", "温度超过25度。", "negation"),
    ("There is no fee.", "There is a fee.", "negation"),
]


@pytest.mark.parametrize("evidence, answer, question", SOUND)
def test_what_the_evidence_says_may_be_said(evidence: str, answer: str, question: str) -> None:
    assert fault_of_answer(answer, evidence, question, READING, support=0.6) is None


@pytest.mark.parametrize("evidence, answer, reason", INVENTED)
def test_what_the_evidence_does_not_say_is_refused(evidence: str, answer: str, reason: str) -> None:
    fault = fault_of_answer(answer, evidence, "", READING, support=0.6)
    assert fault is not None and fault.reason in reason.split("|"), fault


def company() -> tuple[dict[str, str], list[dict[str, str]]]:
    folder = Path(str(resources.files("danlu.assets") / "company"))
    texts: dict[str, str] = defaultdict(str)
    for sample in read([folder / "documents"], Ledger(), progress=SILENT):
        assert isinstance(sample, Document)
        texts[Path(sample.origin.file).name.partition("#")[0]] += sample.text + "\n"
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text("utf-8").splitlines()]
    return texts, [row for row in rows if row.get("document")]


def lies(answer: str, draw: random.Random) -> list[str]:
    """An answer made wrong: another number, an added duty, a named person, an added system."""
    is_chinese = language_of(answer) == "zh"
    made = [
        answer
        + (
            "同时需要提供上级主管单位盖章的书面证明。"
            if is_chinese
            else " You also need a stamped letter from the regional tax office."
        ),
        ("由王伟负责，" if is_chinese else "Alice Johnson decides: ") + answer,
        answer + ("在 OA-7 系统提交。" if is_chinese else " Submit it in the OA-7 system."),
    ]
    number = re.search(r"\d+", answer)
    if number:
        made.append(answer[: number.start()] + str(int(number[0]) + draw.choice([1, 5, 10])) + answer[number.end() :])
    return made


def test_the_company_s_answers_stand_and_no_lie_does() -> None:
    """Every distinct answer of the demo's test set against the sentence of its document that is most like it."""
    texts, rows = company()
    draw = random.Random(1)
    accepted, told, missed, refused = 0, 0, [], []
    known: set[str] = set()
    for row in rows:
        answer = re.sub(r"（《.*?》）|\s*\([^()]*\)$", "", row["answer"])
        if answer in known:
            continue
        known.add(answer)
        sentences = [s for s in re.split(r"[\n。]|(?<=[a-z])\. ", texts[Path(row["document"]).name]) if s.strip()]
        words = set(content_of(answer))
        evidence = max(sentences, key=lambda s: (len(words & set(content_of(s))), -len(s)))
        fault = fault_of_answer(answer, evidence, row["question"], READING, support=0.65)
        accepted += fault is None
        refused += [] if fault is None else [(answer, fault)]
        for lie in lies(answer, draw):
            told += 1
            missed += [] if fault_of_answer(lie, evidence, row["question"], READING, support=0.65) else [lie]
    assert len(known) > 100 and accepted >= 0.95 * len(known), refused
    assert told > 400 and not missed


def test_languages() -> None:
    assert language_of("使用 Python 的 asyncio 库编写服务") == "zh"
    assert language_of("The café on Rue 5") == "en"
    assert language_of("これは日本語です") == "other" and language_of("12 + 3") == "other"


def test_rouge_l_is_the_paper_s_and_reads_chinese() -> None:
    assert rouge_l(tokens_of("police killed the gunman"), tokens_of("police kill the gunman")) == pytest.approx(0.75)
    assert rouge_l(tokens_of("今天天气很好"), tokens_of("今天天气不好")) == pytest.approx(10 / 12)
    assert rouge_l(tokens_of("abc"), tokens_of("")) == 0.0
    assert rouge_l(tokens_of("今天"), tokens_of("明年"), at_least=0.7) == 0.0


LEAVES = "婚假为5天，产假为158天。"
STAY = "Managers may claim 120 euros a night; staff may claim 80 euros."
TABLE = "| 职级 | 标准 |\n| 经理 | 800元 |\n| 员工 | 500元 |"
YEARS = "员工满一年后享受年假10天，满十年后15天。"


@pytest.mark.parametrize(
    "evidence, question, answer, is_sound",
    [
        (LEAVES, "婚假有几天？", "婚假为158天。", False),
        (LEAVES, "婚假有几天？", "158天。", False),
        (LEAVES, "婚假有几天？", "5天。", True),
        (LEAVES, "婚假和产假各有几天？", "婚假5天，产假158天。", True),
        (LEAVES, "婚假和产假各有几天？", "婚假158天，产假5天。", False),
        (LEAVES, "婚假和产假各有几天？", "分别是5天和158天。", True),
        (YEARS, "满十年的员工年假多少天？", "15天。", True),
        (YEARS, "满一年的员工年假多少天？", "15天。", False),
        (STAY, "How much may managers claim?", "Managers may claim 80 euros.", False),
        (STAY, "How much may staff claim?", "Staff may claim 80 euros.", True),
        (TABLE, "经理的标准是多少？", "经理标准为500元。", False),
        (TABLE, "员工的标准是多少？", "员工标准为500元。", True),
    ],
)
def test_a_true_figure_of_something_else_is_a_lie(evidence: str, question: str, answer: str, is_sound: bool) -> None:
    fault = fault_of_belonging(question, answer, evidence, READING)
    assert (fault is None) is is_sound


def test_figures_swapped_between_the_company_s_sentences_are_mostly_seen() -> None:
    """Each answer against five sentences around its own: none is refused, and nine of ten swapped figures are."""
    texts, rows = company()
    num_swapped = num_seen = 0
    for row in rows:
        answer = re.sub(r"（《.*?》）|\s*\([^()]*\)$", "", row["answer"])
        sentences = [s for s in re.split(r"[\n。]|(?<=[a-z])\. ", texts[Path(row["document"]).name]) if s.strip()]
        words = set(content_of(answer))
        best = max(
            range(len(sentences)), key=lambda i: (len(words & set(content_of(sentences[i]))), -len(sentences[i]))
        )
        evidence = "\n".join(sentences[max(0, best - 2) : best + 3])
        assert fault_of_belonging(row["question"], answer, evidence, READING) is None, (row, evidence)
        told = [one for one in figures(READING.fold(answer)) if one[1]]
        near = [
            one for one in figures(READING.fold(evidence)) if told and one[1] == told[0][1] and one[0] != told[0][0]
        ]
        if near:
            swapped = re.sub(rf"(?<!\d){re.escape(told[0][0])}(?!\d)", near[0][0], answer)
            num_swapped += swapped != answer
            num_seen += fault_of_belonging(row["question"], swapped, evidence, READING) is not None
    assert num_swapped > 30 and num_seen >= 0.85 * num_swapped, (num_swapped, num_seen)


MORE_LIES = [
    ("报销打款日为周四。", "报销在周三打款。"), ("周一至周五开放。", "周六开放。"), ("员工可以申请调休。", "员工必须申请调休。"),
    ("全体员工参加。", "部分员工参加。"), ("下午2点开会。", "上午2点开会。"), ("停车免费。", "停车收费。"), ("本次休假为带薪假。", "本次休假为无薪假。"),
    ("需要经理审批。", "不需要经理审批。"), ("押金不退。", "押金可退。"), ("年假10天。", "年假至少10天。"), ("入职满3个月可转正。", "入职满3年可转正。"),
    ("Leave is paid.", "Leave is unpaid."), ("Overtime is unpaid.", "Overtime is paid."), ("Staff may join.", "Staff must join."),
    ("The office opens at 9 am.", "The office opens at 9 pm."), ("The deposit is refundable.", "The deposit is non-refundable."),
]  # fmt: skip
MORE_TRUTHS = [
    ("周一至周五开放。", "周三也开放。"), ("上限为80元。", "最多80元。"), ("员工可以申请调休。", "可以申请调休。"), ("不超过3天。", "最多3天。"),
    ("登录密码每180天更换一次。", "密码每180天换一次。"), ("无线网密码由前台发放。", "无线网密码在前台领取。"), ("满10年享受15天年假。", "工作满10年有15天年假。"),
    ("Doors open at 9 am on all working days.", "Doors open at 9 am."), ("Unused days expire.", "Unused days expire at the end."),
]  # fmt: skip


@pytest.mark.parametrize("evidence, answer", MORE_LIES)
def test_small_words_turn_a_rule_round(evidence: str, answer: str) -> None:
    assert fault_of_answer(answer, evidence, "", READING, support=0.55) is not None


@pytest.mark.parametrize("evidence, answer", MORE_TRUTHS)
def test_small_words_may_be_said_otherwise(evidence: str, answer: str) -> None:
    assert fault_of_answer(answer, evidence, "", READING, support=0.55) is None


@pytest.mark.parametrize(
    "question, evidence, truth, lie",
    [
        (
            "What colour is the visitor badge?",
            "The visitor badge is red.",
            "The visitor badge is red.",
            "The visitor badge is blue.",
        ),
        ("费用由谁承担？", "费用由公司承担。", "费用由公司承担。", "费用由员工承担。"),
        ("年假有几天？", "| 年假 | 15 |", "年假为15天。", "年假为年度。"),
    ],
)
def test_what_the_answer_adds_to_the_question_is_what_counts(
    question: str, evidence: str, truth: str, lie: str
) -> None:
    assert fault_of_core(question, truth, evidence, READING) is None
    assert fault_of_core(question, lie, evidence, READING) is not None
