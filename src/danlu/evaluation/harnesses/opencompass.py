"""OpenCompass (Shanghai AI Laboratory), 0.5: a configuration written for it, items from its predictions and details.

It pins old versions of what others need new, so it always lives in an environment of its own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import EvaluationError
from danlu.core.files import write_text
from danlu.evaluation.harnesses.harness import Answered, Order, distinct, key_of, nothing_read, text_of

_NAMED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_PLAIN = re.compile(r"[\w\-]+")
_RIGHT = ("correct", "is_correct", "score")


class OpenCompass:
    name = "opencompass"
    program = "opencompass"

    def command(self, order: Order) -> list[str]:
        if order.scores:
            raise EvaluationError("harness.no_scores", where=order.url, given=self.name)
        path = order.folder / "danlu_config.py"
        write_text(path, config_of(order))
        words = [str(order.python), "-m", "opencompass.cli.main", str(path), "--work-dir", str(order.folder),
                 "--dump-eval-details", "--max-num-workers", "1", "--mode", "all"]  # fmt: skip
        for name, value in order.options.items():
            words += [f"--{name}", value]
        return words

    def read(self, folder: Path) -> list[Answered]:
        """Of the newest run only: each has a folder of its own, named by the time."""
        runs = sorted({path.parents[2] for path in folder.rglob("predictions/*/*.json")})
        rows = [] if not runs else [
            row for path in sorted(runs[-1].glob("predictions/*/*.json")) for row in self._rows(path)
        ]  # fmt: skip
        if not rows:
            raise nothing_read(self.name, folder)
        return distinct(rows)

    def _rows(self, path: Path) -> list[Answered]:
        predictions = _object(path)
        results = _object(path.parents[2] / "results" / path.parent.name / path.name)
        values = _values(predictions, results)
        found = []
        for number, (name, row) in enumerate(predictions.items()):
            value = values.get(name, values.get(str(number)))
            if value is None:
                continue
            question, reference = _question(row.get("origin_prompt")), text_of(row.get("gold"))
            answer = text_of(row.get("prediction"))
            task = path.stem.removesuffix("_0")
            key = key_of(question, reference)
            found.append(Answered(task, key, question, reference, answer, value, "correct"))
        return found


def config_of(order: Order) -> str:
    """A configuration file: the model at its URL; data sets by their own configurations' names, or, where `include` has
    a file `<task>.jsonl` or `.csv`, that file as a data set of one's own."""
    given = {"path": order.model, "openai_api_base": f"{order.url}/chat/completions", "key": "EMPTY"}
    own = {task: file for task in order.tasks if (file := _own_file(order.include, task)) is not None}
    named = [task for task in order.tasks if task not in own]
    for task in named:
        if not _NAMED.fullmatch(task):
            raise EvaluationError("harness.bad_task", where="--task", given=task, expected="package.module:datasets")
    names = [(f"datasets_{n}", *task.rpartition(":")[::2]) for n, task in enumerate(named)]
    imports = "\n".join(f"    from {module} import {what} as {name}" for name, module, what in names)
    sets = [f"*{name}" for name, _, _ in names]
    sets += [f"dict(path={str(file.resolve())!r}, abbr={task!r}, infer_method='gen')" for task, file in own.items()]
    # of a file of one's own the reader is made later, by what stands at the top level
    test_range = (
        "\nfor dataset in datasets:\n    dataset.get('reader_cfg', dataset)['test_range'] = "
        f"'[0:{order.limit}]'\ndel dataset"
        if order.limit
        else ""
    )
    # it counts tokens by a file from the web, unless it is told of a tokenizer here
    counting = f", tokenizer_path={str(order.tokenizer)!r}" if order.tokenizer is not None else ""
    reading = f"with read_base():\n{imports}\n\n" if names else ""
    return (
        "from mmengine.config import read_base\nfrom opencompass.models import OpenAI\n\n"
        f"{reading}datasets = [{', '.join(sets)}]{test_range}\n"
        f"models = [dict(type=OpenAI, abbr={order.model!r}, path={given['path']!r}, key={given['key']!r},\n"
        f"               openai_api_base={given['openai_api_base']!r}, query_per_second={order.num_parallel},\n"
        f"               max_out_len={order.max_new_tokens}, max_seq_len=4096, batch_size={order.num_parallel},\n"
        f"               temperature=0.0, retry=3{counting})]\n"
    )


def _own_file(include: Path | None, task: str) -> Path | None:
    if include is None or not _PLAIN.fullmatch(task):
        return None
    return next((file for ending in (".jsonl", ".csv") if (file := include / f"{task}{ending}").is_file()), None)


def _object(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _values(predictions: dict[str, Any], results: dict[str, Any]) -> dict[str, float]:
    """By an item's name, or its place, how it was judged. Evaluators that tell only their mean are taken to have asked
    for equal texts where that gives their very mean; else nothing is said of single items."""
    details = results.get("details")
    if isinstance(details, list):
        details = {str(number): detail for number, detail in enumerate(details)}
    if not isinstance(details, dict):
        return {}
    told = {name: value for name, detail in details.items() if (value := _value(detail)) is not None}
    if told or details.get("type") != "GEN":
        return told
    rows = {name: row for name, row in details.items() if isinstance(row, dict) and name in predictions}
    equal = {
        name: float(text_of(row.get("predictions")) == text_of(row.get("references"))) for name, row in rows.items()
    }
    mean, score = 100 * sum(equal.values()) / max(1, len(equal)), results.get("accuracy")
    return equal if isinstance(score, int | float) and abs(mean - score) < 1e-6 else {}


def _value(detail: Any) -> float | None:
    if not isinstance(detail, dict):
        return None
    for name in _RIGHT:
        value = detail.get(name)
        if isinstance(value, list):
            value = sum(map(bool, value)) / len(value) if value else None
        if isinstance(value, bool | int | float):
            return float(value) / (100 if float(value) > 1 else 1)
    return None


def _question(prompt: Any) -> str:
    if isinstance(prompt, list):
        turns = [turn for turn in prompt if isinstance(turn, dict) and turn.get("role") in ("HUMAN", "user")]
        return text_of(turns[-1].get("prompt") or turns[-1].get("content")) if turns else ""
    return text_of(prompt)
