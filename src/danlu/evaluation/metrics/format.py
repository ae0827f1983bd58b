"""Format: the answer keeps the rules of form that its item names, to the letter. What it says is not judged.

`rules` of the item, one or more of `danlu.evaluation.form.RULES`: {"json": true, "keys": ["name", "amount"]},
{"bullets": 3, "language": "zh", "max_chars": 120}, {"schema": {...}}, {"regex": "..."}, {"no_extra": true}.
right: strictly all. value: the share kept. Details: `broken`, and `loose`: whether all hold once a fence and polite
prose around the answer are taken away (the strict and loose of IFEval, Zhou et al. 2023).
"""

from __future__ import annotations

from danlu.core.errors import EvaluationError
from danlu.evaluation.fold import final_answer
from danlu.evaluation.form import broken_rules, loosened
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Verdict


class Format:
    name = "format"

    def score(self, answer_text: str, item: Item) -> Verdict:
        answer, where = final_answer(answer_text), f"item {item.id}"
        if not item.rules:
            raise EvaluationError("evaluation.no_rules", where=where, given=self.name)
        broken = broken_rules(answer, item.rules, where=where) if answer else list(item.rules)
        details: dict[str, object] = {"broken": broken} if broken else {}
        if broken:
            loose = loosened(answer)
            details["loose"] = bool(loose) and not broken_rules(loose, item.rules, where=where)
        return Verdict(1 - len(broken) / len(item.rules), not broken, details)
