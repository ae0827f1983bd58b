"""A kitchen for tests of synthesis: a folder, a teacher on the loopback, and what was made."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Document
from danlu.data.synthesis import synthesise
from danlu.recipe.synthesis import SynthesisSection
from teacher_kit import READING, SILENT, TeacherServer, asked, items, qa

RULES = "# 休假办法\n\n员工满一年后每年享受年假10天。病假须在三日内提交医院证明。\n\n年假由部门经理审批，不得跨年使用。婚假为5天，产假为158天。"


GOOD = [
    qa("fact", "员工每年享受年假多少天？", "员工满一年后每年有10天年假。", "员工满一年后每年享受年假 10 天"),
    qa("how", "病假要怎样请？", "三日内提交医院证明。", "病假须在三日内提交医院证明"),
    qa("compare", "婚假和产假各有多少天？", "婚假5天，产假158天。", "婚假为5天", "产假为158天"),
    {"kind": "multi-turn", "turns": [
        {"question": "年假由谁审批？", "answer": "年假由部门经理审批。", "evidence": ["年假由部门经理审批"]},
        {"question": "没休完可以留到明年吗？", "answer": "不可以，年假不得跨年使用。", "evidence": ["不得跨年使用"]},
    ]},
]  # fmt: skip


class Kitchen:
    """A folder, a server and a section; `make` runs a synthesis and reads its yield."""

    def __init__(self, folder: Path, server: TeacherServer) -> None:
        self.folder, self.server, self.ledger = folder, server, Ledger()

    def make(self, *documents: Document, seeds: tuple[Conversation, ...] = (), base: Any = None, answered: tuple[Conversation, ...] = (),
             is_external: bool = False, **knobs: Any) -> list[Any]:  # fmt: skip
        teacher = self.server.teacher(self.folder / "cache")
        teacher.is_external = is_external
        return synthesise(
            documents, seeds, SynthesisSection(**knobs), teacher, self.folder, self.ledger, SILENT, reading=READING,
            base=base, answered=answered,
        )  # fmt: skip

    @property
    def told(self) -> dict[str, Any]:
        return json.loads((self.folder / "yield.json").read_text())

    @property
    def reasons(self) -> dict[str, int]:
        return {entry["reason"]: entry["count"] for entry in self.told["refused"]}


def saying(*rows: dict[str, Any], answerable: str = '{"answer": null, "evidence": []}') -> Any:
    def script(body: dict[str, Any]) -> str:
        return {"questions": items(*rows), "answerable": answerable}.get(asked(body), "{}")

    return script


PLANTED = {
    "figure": qa("fact", "婚假有几天？", "婚假为15天。", "婚假为5天"),
    "unit": qa("fact", "婚假有几天？", "婚假为5周。", "婚假为5天"),
    "name": qa("fact", "年假由谁审批？", "年假由王伟审批。", "年假由部门经理审批"),
    "negation": qa("fact", "年假可以跨年使用吗？", "年假可以跨年使用。", "不得跨年使用"),
    "unsupported": qa("why", "年假为什么要审批？", "为了统筹安排生产计划并保障客户服务质量。", "年假由部门经理审批"),
    "evidence_not_found": qa("fact", "陪产假有多少天？", "陪产假为15天。", "陪产假为15天"),
    "no_evidence": qa("fact", "产假有多少天？", "产假为158天。"),
    "evidence_short": qa("fact", "婚假有几天？", "5天。", "5天"),
    "question_figure": qa("fact", "入职20年的员工年假多少天？", "每年享受年假10天。", "每年享受年假10天"),
    "question_name": qa("fact", "按照SAP系统，婚假几天？", "婚假为5天。", "婚假为5天"),
    "points_at_text": qa("fact", "根据上文，婚假为几天？", "婚假为5天。", "婚假为5天"),
    "language": qa("fact", "How long is marriage leave?", "婚假为5天。", "婚假为5天"),
    "one_side": qa("compare", "婚假和产假哪个长？", "产假为158天。", "产假为158天"),
    "declines": qa("fact", "婚假有几天？", "休假办法没有提到婚假。", "婚假为5天"),
    "does_not_decline": qa("unanswerable", "丧假有几天？", "丧假一般为3天。"),
    "shape": {"kind": "fact", "question": "婚假有几天？"},
    "kind": qa("poem", "婚假有几天？", "婚假为5天。", "婚假为5天"),
}  # fmt: skip


TASK_WORDS = "改写 概括 翻译 分类 提取 续写 评价 计算 解释 比较 排序 列举 润色 纠错 命名 提问".split()


VOCABULARY = [chr(code) for code in range(0x4E8C, 0x4E8C + 900)]


def fifty(body: dict[str, Any]) -> str:
    """Ten tasks a request: seven new ones, one copy of an example, one alike, one that needs a picture."""
    draw = random.Random(body["messages"][-1]["content"])
    rows = []
    for _ in range(7):
        words = "".join(draw.sample(VOCABULARY, 12))
        rows.append(
            {"instruction": f"{draw.choice(TASK_WORDS)}：{words}", "input": "", "output": f"好的，{words[:6]}。"}
        )
    rows.append({"instruction": "把下面的句子改写得更正式。", "input": "", "output": "好。"})
    rows.append({"instruction": "看图写一段话", "input": "", "output": "图里有一只猫。"})
    rows.append({"instruction": "写一首诗", "input": "", "output": "作为AI语言模型，我无法写诗。"})
    return json.dumps({"items": rows}, ensure_ascii=False)
