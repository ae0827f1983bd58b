"""EvalScope (ModelScope), 1.x: any of its data sets over an OpenAI-compatible URL, items from its reviews.

Its BLEU and ROUGE of Chinese are not ours; accuracies are what its `sample_score` says.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from danlu.core.errors import EvaluationError
from danlu.core.files import dump_json
from danlu.evaluation.harnesses.harness import Answered, Order, distinct, json_lines, key_of, nothing_read, text_of

_SPLIT = re.compile(r"_(test|val|dev)$")
METRICS = ("acc", "accuracy", "exact_match", "mean_acc", "AverageAccuracy", "f1", "Rouge-L-F", "Rouge-L-R", "bleu-1")


class EvalScope:
    name = "evalscope"
    program = "evalscope"

    def command(self, order: Order) -> list[str]:
        if order.scores:
            raise EvaluationError("harness.no_scores", where=order.url, given=self.name)
        config = {"max_tokens": order.max_new_tokens, "temperature": 0.0, "seed": 0}
        words = [str(order.python), "-m", "evalscope.cli.cli", "eval", "--model", order.model, "--api-url", order.url,
                 "--api-key", "EMPTY", "--eval-type", "openai_api", "--datasets", *order.tasks,
                 "--generation-config", dump_json(config, indent=False).decode(), "--seed", "0",
                 "--eval-batch-size", str(order.num_parallel), "--work-dir", str(order.folder),
                 "--no-timestamp"]  # fmt: skip
        words += ["--limit", str(order.limit)] if order.limit else []
        if order.include:
            local = {task: _own(order.include, task) for task in order.tasks}
            words += ["--dataset-args", dump_json(local, indent=False).decode()]
        for name, value in order.options.items():
            words += [f"--{name}", value]
        return words

    def read(self, folder: Path) -> list[Answered]:
        rows = [
            row
            for path in sorted(folder.rglob("reviews/*/*.jsonl"))
            for line in json_lines(path)
            if (row := _row(path.stem, line)) is not None
        ]
        if not rows:
            raise nothing_read(self.name, folder)
        return distinct(rows)


def _own(include: Path, task: str) -> dict[str, Any]:
    """Where a task's own data lies: in a folder of its name, or in the one given. Its `general_…` tasks know their
    subsets only by being told: each file is one."""
    folder = (include / task if (include / task).is_dir() else include).resolve()
    told: dict[str, Any] = {"local_path": str(folder)}
    if task.startswith("general_"):
        files = [path for path in sorted(folder.glob("*")) if path.suffix in (".jsonl", ".csv", ".tsv", ".parquet")]
        told["subset_list"] = sorted({_SPLIT.sub("", path.stem) for path in files})
    return told


def _row(task: str, line: dict[str, Any]) -> Answered | None:
    sample = line.get("sample_score") or {}
    score = sample.get("score") or {}
    values = score.get("value") or {}
    named = [*METRICS[:4], score.get("main_score_name"), *METRICS, *values]
    metric = next((name for name in named if name and isinstance(values.get(name), int | float)), None)
    if metric is None:
        return None
    question = _question(line.get("messages") or line.get("input"))
    reference = text_of(line.get("target"))
    answer = str(score.get("extracted_prediction") or score.get("prediction") or "")
    return Answered(task, key_of(question, reference), question, reference, answer, float(values[metric]), metric,
                    str((sample.get("sample_metadata") or {}).get("group") or ""))  # fmt: skip


def _question(given: Any) -> str:
    """The last user's turn of a list of turns, or the text itself."""
    if isinstance(given, list):
        turns = [turn for turn in given if isinstance(turn, dict) and turn.get("role", "user") == "user"]
        return text_of(turns[-1].get("content")) if turns else ""
    return text_of(given)
