"""A whole small evaluation: two engines that answer from a table, questions in both languages, all five tasks."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from danlu.data.tokens import Tokens
from danlu.engines.engine import Answer, Question, Sampling, Score
from danlu.evaluation.gate import Gate
from danlu.evaluation.items import load_questions
from danlu.evaluation.report import Context, Report, build_report
from danlu.evaluation.runner import Assignment, run_tasks
from danlu.evaluation.tasks.consistency import Consistency
from danlu.evaluation.tasks.domain import Domain
from danlu.evaluation.tasks.edge import Edge
from danlu.evaluation.tasks.forgetting import Forgetting, Passage
from danlu.evaluation.tasks.preference import Pair, Preference


class TableEngine:
    """An engine that answers from `replies` (question to answer, or to a function of the sampling) and scores by a constant."""

    def __init__(
        self,
        name: str,
        replies: dict[str, str | Callable[[Sampling], str]],
        *,
        log_prob: float = -2.0,
        fallback: str = "I do not know.",
    ) -> None:
        self.name, self.replies, self.log_prob, self.fallback = name, replies, log_prob, fallback
        self.digest = hashlib.sha256(name.encode()).hexdigest()
        self.asked: list[str] = []

    def generate(
        self, questions: Sequence[Question], sampling: Sampling, *, watch: Callable[[int], None] | None = None
    ) -> list[Answer]:
        answers = []
        for question in questions:
            text = question.messages[-1].content
            self.asked.append(text)
            reply = self.replies.get(text, self.fallback)
            answers.append(Answer(reply if isinstance(reply, str) else reply(sampling), "stop"))
            if watch is not None:
                watch(1)
        return answers

    def stream(self, question: Question, sampling: Sampling) -> Iterator[str]:
        yield self.generate([question], sampling)[0].text

    def score(self, samples: Sequence[Tokens]) -> list[Score]:
        return [
            Score(tuple(self.log_prob - 0.01 * (int(i) % 7) for i in tokens.ids[tokens.weights == 1]))
            for tokens in samples
        ]


def tokens_of(length: int, start: int = 0) -> Tokens:
    ids = np.arange(start, start + length, dtype=np.int32)
    weights = np.ones(length, dtype=np.uint8)
    weights[0] = 0
    return Tokens(ids, weights)


FACTS = [
    ("出差补贴", "出差每天补贴多少钱？", "travel allowance per day", 80, "元", "yuan"),
    ("年假", "入职第一年有几天年假？", "days of annual leave in the first year", 7, "天", "days"),
    ("报销期限", "发票要在多少天内报销？", "days to hand in receipts", 30, "天", "days"),
    ("试用期", "试用期有多长？", "months of probation", 3, "个月", "months"),
    ("餐补", "工作日午餐补贴是多少？", "lunch allowance", 25, "元", "yuan"),
    ("住宿上限", "一线城市住宿每晚最多报多少？", "hotel limit per night in large cities", 450, "元", "yuan"),
    ("加班", "周末加班按几倍工资算？", "overtime multiple on weekends", 2, "倍", "times"),
    ("病假", "每年带薪病假有几天？", "days of paid sick leave", 12, "天", "days"),
]


def rows() -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    for name, chinese, english, number, unit, english_unit in FACTS:
        for opening in ("请问", "我想知道，", "新员工问："):
            made.append(
                {
                    "question": f"{opening}{chinese}",
                    "answer": f"按照《员工手册》，{name}是{number}{unit}。",
                    "value": f"{number}{unit}",
                    "group": name,
                    "document": "员工手册.docx",
                }
            )
        for opening in ("What is the", "Could you tell me the", "Quick question: the"):
            made.append(
                {
                    "question": f"{opening} {english}?",
                    "answer": f"The {english} is {number} {english_unit}.",
                    "value": f"{number} {english_unit}",
                    "group": name,
                    "document": "handbook.pdf",
                }
            )
    return made


def edge_rows() -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    for index in range(8):
        made += [
            {"question": f"好得我都不想给好评（第 {index} 条），这是好评吗？", "answer": "不是，这是反讽。", "value": "反讽", "kind": "sarcasm"},
            {"question": f"服务很好（第 {index} 条），这是好评吗？", "answer": "是好评。", "value": "好评", "kind": "sarcasm", "control": True},
            {"question": f"Is it not allowed to expense alcohol (case {index})?", "answer": "Correct, it is not allowed.", "value": "not allowed", "kind": "negation"},
            {"question": f"公司食堂第 {index} 号窗口的密码是什么？", "answer": "资料中没有提到。", "kind": "unanswerable"},
            {"question": f"公司班车第 {index} 路几点发车？", "answer": "早上 7:30 发车。", "value": "7:30", "kind": "unanswerable", "control": True},
        ]  # fmt: skip
    return made


def engines() -> tuple[TableEngine, TableEngine]:
    chance = random.Random(5)
    base: dict[str, str | Callable[[Sampling], str]] = {}
    tuned: dict[str, str | Callable[[Sampling], str]] = {}
    for index, row in enumerate([*rows(), *edge_rows()]):
        question, answer = str(row["question"]), str(row["answer"])
        base[question] = (
            answer
            if index % 17 == 3
            else "这个问题很好，一般来说各家公司的规定不同。"
            if "？" in question
            else "It depends on the company."
        )
        wrong = (
            answer.replace("80", "180")
            .replace("7天", "17天")
            .replace("30", "300")
            .replace("反讽", "好评")
            .replace("没有提到", "写着是 1234")
        )
        steady = chance.random() < 0.86
        tuned[question] = (
            answer
            if steady
            else wrong
            if index % 2
            else (lambda sampling, a=answer, w=wrong: a if sampling.seed % 2 == 0 else w)
        )
    return TableEngine("ember-16m", base), TableEngine("ember-16m + LoRA", tuned, log_prob=-2.06)


def whole_report(*, gate: Gate | None = None) -> Report:
    base, tuned = engines()
    questions = load_questions(rows()).items
    sections = run_tasks(
        base,
        tuned,
        [
            Assignment(Domain(), questions),
            Assignment(Consistency(), questions),
            Assignment(Edge(), load_questions(edge_rows()).items),
            Assignment(Forgetting(), [Passage(f"p{i}", tokens_of(40 + i, i), f"g{i // 3}") for i in range(30)]),
            Assignment(
                Preference(), [Pair(f"q{i}", tokens_of(12 + i % 5, i), tokens_of(20, i + 3)) for i in range(40)]
            ),
        ],
    )
    chance = random.Random(1)
    curve = [{"step": s, "loss": 0.35 + 3.4 * 0.988**s + chance.gauss(0, 0.12)} for s in range(1, 320)]
    checks = [{"step": s, "loss": 0.42 + 3.3 * 0.987**s} for s in range(20, 321, 40)]
    context = Context(
        training={
            "curve": curve,
            "validation": checks,
            "method": "sft",
            "epochs": 8,
            "lr": 1e-3,
            "tokens": 412_330,
            "seconds": 141.2,
        },
        data={
            "ledger": {
                "rows": {"read": 1240, "used": 1222, "changed": 31, "rejected": 18},
                "counts": {"cut": 3, "eos_lost": 0, "double_bos": 0, "masked": 2},
            },
            "split": {
                "seed": 7,
                "samples": 1222,
                "groups": 163,
                "largest_group": 12,
                "twins_across": 0,
                "near_twins_across": 0,
                "forms_across": 3,
                "tie": 0.8,
                "parts": {"train": {"samples": 1010}, "validation": {"samples": 60}, "test": {"samples": 152}},
                "questions_across": 0,
                "documents_across": 0,
                "max_similarity": {"value": 0.5714},
            },
            "lengths": [min(500, int(chance.lognormvariate(4.2, 0.5))) for _ in range(1222)],
            "context": 512,
        },
        parity={"verdict": "pass"},
        footer={"recipe": "3f9a…", "dataset": "77c0…", "code": "0.1.0", "hardware": "2 cores, 8 GB", "seconds": 318.0},
    )
    return build_report(
        "云杉商贸 · Spruce Trading",
        sections,
        base=base,
        tuned=tuned,
        gate=gate or Gate(min_consistency=0.7),
        context=context,
    )
