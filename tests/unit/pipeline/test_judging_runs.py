"""What the judge of a run is sent, and what is kept back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.core.files import write_json
from danlu.data.sample import Conversation, Label, Message, Origin
from danlu.data.samples_file import write_samples
from danlu.pipeline.judge import Seat, judge
from danlu.recipe.recipe import Recipe
from danlu.run.run import Run
from teacher_kit import serving

SECRET, WORDED = "王五的体检结果异常，请尽快复查。", "请判断下面文字的类别：\n王五的体检结果异常，请尽快复查。\n类别："


class OutsideSeat(Seat):
    """A server on this machine that stands for one elsewhere."""

    @property
    def is_external(self) -> bool:
        return True


def row(name: str, question: str, **more: Any) -> dict[str, Any]:
    side = {"answers": [f"{name} says"], "right": True, "value": 1.0, "details": {}}
    return {"id": name, "task": "domain", "question": question, "reference": "ref", "group": "g", "language": "zh",
            "document": "", "base": side, "tuned": side | {"answers": [f"{name} says more"]}} | more  # fmt: skip


def test_confidential_rows_stay_here_also_where_training_worded_the_question(tmp_path: Path) -> None:
    run = Run.create(Recipe.from_tree({}), tmp_path)
    at, tags = Origin("rows.jsonl", 1), {"level": "confidential"}
    ask = Conversation((Message("user", "谁的工资最高？"), Message("assistant", "王五")), at, tags=tags)
    write_samples(run.path("dataset", "test.jsonl"), [Label(SECRET, "健康", at, tags=tags), ask])
    rows = [row("label", WORDED), row("asked", "谁的工资最高？"), row("free", "几点开门？", reference="")]
    write_json(run.path("report.json"), {"items": rows})
    with serving(lambda body: '{"reason": "r", "winner": "A", "score": 3}') as server:
        found = judge(run, OutsideSeat("j", server.url), sheet_rows=1)
        sent = str([body for body in server.bodies if "max_tokens" in body])
    assert found["withheld"] == 2 and [item["item"] for item in found["items"]] == ["free"]
    assert "王五" not in sent and "工资" not in sent and "几点开门" in sent
    assert "参考答案" not in sent.replace("与参考答案一致", "")  # no reference was made up
