"""lm-evaluation-harness (EleutherAI), 0.4: chat tasks over `local-chat-completions`, likelihood tasks over
`local-completions`, items from its `samples_*.jsonl`.

Its own significance test takes base and tuned as if they had been asked different questions; ours pairs them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import orjson

from danlu.core.errors import EvaluationError
from danlu.evaluation.harnesses.harness import Answered, Order, distinct, json_lines, key_of, nothing_read, text_of

METRICS = ("exact_match", "acc", "acc_norm", "prompt_level_strict_acc", "pass@1", "f1", "em", "mcc", "bleu", "rougeL")
"""The metric of an item that counts, the first that is there."""


class LMEval:
    name = "lm-eval"
    program = "lm_eval[api]"

    def command(self, order: Order) -> list[str]:
        args = {"model": order.model, "num_concurrent": str(order.num_parallel), "max_retries": "3"}
        if order.scores:
            if order.tokenizer is None:
                raise EvaluationError("harness.no_tokenizer", where=order.url)
            kind = "local-completions"
            args |= {"base_url": f"{order.url}/completions", "tokenizer_backend": "huggingface",
                     "tokenizer": str(order.tokenizer), "tokenized_requests": "True"}  # fmt: skip
        else:
            kind = "local-chat-completions"
            args |= {"base_url": f"{order.url}/chat/completions", "tokenized_requests": "False",
                     "tokenizer_backend": "None"}  # fmt: skip
        args |= dict(order.options)
        for value in args.values():
            if "," in value:  # it would be read as further settings
                raise EvaluationError("harness.comma", where=value, given=self.name)
        told = ",".join(f"{key}={value}" for key, value in args.items())
        words = [str(order.python), "-m", "lm_eval", "run", "--model", kind, "--model_args", told,
                 "--tasks", *order.tasks, "--log_samples", "--output_path", str(order.folder)]  # fmt: skip
        words += [] if order.scores else ["--apply_chat_template"]
        words += ["--limit", str(order.limit)] if order.limit else []
        return words + (["--include_path", str(order.include)] if order.include else [])

    def read(self, folder: Path) -> list[Answered]:
        """The newest samples of each task: a folder may hold earlier runs'."""
        newest: dict[str, Path] = {}
        for path in sorted(folder.rglob("samples_*.jsonl")):
            newest[path.name.removeprefix("samples_").rpartition("_")[0]] = path
        rows = [row for task, path in newest.items() for row in self._rows(task, path)]
        if not rows:
            raise nothing_read(self.name, folder)
        return distinct(rows)

    def _rows(self, task: str, path: Path) -> list[Answered]:
        found = []
        samples = list(json_lines(path))
        counted = min((str(sample.get("filter")) for sample in samples), default="")
        for sample in samples:
            if str(sample.get("filter")) != counted:
                continue  # an item that is judged through several filters counts once
            metrics = sample.get("metrics") or [name for name in METRICS if name in sample]
            metric = next((name for name in METRICS if name in metrics and name in sample), None)
            metric = metric or next((name for name in metrics if isinstance(sample.get(name), int | float)), None)
            if metric is None or not isinstance(sample.get(metric), int | float):
                continue
            doc, arguments = sample.get("doc") or {}, sample.get("arguments") or {}
            doc = doc if isinstance(doc, dict) else {}
            question = _question(arguments) or str(doc.get("question") or "")
            key = str(sample.get("doc_hash") or key_of(question, text_of(sample.get("target"))))
            group = str(doc.get("document") or doc.get("group") or "")
            found.append(Answered(task, key, question, text_of(sample.get("target")), _answer(sample),
                                  float(sample[metric]), metric, group))  # fmt: skip
        return found


def _question(arguments: object) -> str:
    if isinstance(arguments, dict):
        arguments = [list(value.values()) if isinstance(value, dict) else value for value in arguments.values()]
    text = text_of(arguments)
    if text.startswith('[{"role"'):  # a conversation, as chat models are sent it
        with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError, IndexError):
            return text_of(orjson.loads(text)[-1]["content"])
    return text


def _answer(sample: dict[str, object]) -> str:
    """What was said; of several options the likeliest one's number."""
    said = sample.get("filtered_resps")
    if isinstance(said, list) and len(said) > 1 and all(isinstance(one, list) and len(one) == 2 for one in said):
        scores = [float(str(one[0])) for one in said]
        return f"option {scores.index(max(scores))}"
    return text_of(said)
