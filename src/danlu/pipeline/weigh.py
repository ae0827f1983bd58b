"""weigh: a prompt, retrieval, the tuned model and both, on the user's own questions and documents.

All four arms run on one set of weights (the base answers with the adapter off). Quality is judged as in `evaluate`,
latency is measured one question at a time, cost from the time or the tokens of all. Writes weigh.json and weigh.html.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import EvaluationError
from danlu.core.files import sha256_json, write_json, write_text
from danlu.core.messages import current_language, say
from danlu.core.progress import Progress, Silent
from danlu.data.finding import SourceSpec
from danlu.data.ledger import Ledger
from danlu.data.passages import cut_documents
from danlu.data.sample import Conversation, Document, Message, Preference, Sample
from danlu.data.samples_file import read_samples
from danlu.data.sources import read
from danlu.engines.engine import Question, Sampling
from danlu.engines.native import NativeEngine
from danlu.evaluation.arms.asking import ARMS, USES_PASSAGES, USES_TUNED, Asking, Name
from danlu.evaluation.arms.mix import Measured, recommend
from danlu.evaluation.arms.retrieval import Embedder, Found, Passage, Reranker, Retriever
from danlu.evaluation.arms.wishes import PAGE, Wishes
from danlu.evaluation.cache import CachedEngine
from danlu.evaluation.clusters import clusters
from danlu.evaluation.fold import find, fold
from danlu.evaluation.items import Item, choose_items, load_questions
from danlu.evaluation.stats import compare, holm
from danlu.evaluation.tasks.task import Result, judge, shown, totals
from danlu.evaluation.usage import Usage, percentiles
from danlu.openai.address import Address
from danlu.pipeline.device import describe_hardware
from danlu.pipeline.leaks import without_leaks
from danlu.pipeline.open_engine import Engines, open_engines
from danlu.pipeline.remote_teacher import is_loopback
from danlu.pipeline.weigh_html import render_weighed
from danlu.run.run import Run
from danlu.version import VERSION

WEIGHED = "weigh.json"


def weigh(run: Run, wishes: Wishes, *, device: str = "auto", progress: Progress | None = None) -> dict[str, Any]:
    """Measure the four arms of a trained run; the JSON that is kept as weigh.json."""
    progress = progress or Silent()
    with run.acting("weigh"):
        engines = open_engines(run, device=device, progress=progress)
        items = _items(run, engines, wishes, progress)
        retriever = _retriever(run, engines, wishes, progress)
        progress.note(say("weigh.told", items=len(items), passages=len(retriever.passages)))
        scale = _Scale(run, engines, wishes, items, retriever, progress)
        measured = {name: scale.measure(name) for name in ARMS}
        groups = clusters(items)
        weighed = {
            "arms": {name: arm.to_json(items) for name, arm in measured.items()},
            "comparisons": comparisons({name: arm.results for name, arm in measured.items()}, groups),
            "recommended": recommend(
                {name: Measured(tuple(r.right for r in arm.results), arm.cost) for name, arm in measured.items()},
                [found.certainty for found in scale.found], groups,
            ),
            "retrieval": scale.retrieval(), "upkeep": _upkeep(run, retriever), "unit": scale.unit,
            "items": _rows(items, measured), "num_items": len(items),
            "footer": {
                "recipe": run.recipe.digest[:12], "code": f"danlu {VERSION}", "command": f"danlu weigh {run.name}",
                "hardware": describe_hardware(engines.tuned.model.device.type),
            },
        }  # fmt: skip
        write_json(run.path(WEIGHED), weighed)
        write_text(run.path(PAGE), render_weighed(weighed, run.recipe.name, current_language()))
        return weighed


@dataclass(slots=True)
class Arm:
    """One arm measured. `cost` is of an answer, in the unit of all arms."""

    name: Name
    results: list[Result]
    usage: Usage
    latencies: list[float]
    cost: float

    def to_json(self, items: Sequence[Item]) -> dict[str, Any]:
        """A section as those of `evaluate`, so that the same tests and pages apply."""
        found = totals(items, self.results)
        return found | {
            "latency_s": percentiles(self.latencies), "cost_per_1000": 1000 * self.cost,
            "prompt_tokens": self.usage.num_prompt_tokens / max(1, self.usage.num_answers),
            "answer_tokens": self.usage.num_tokens / max(1, self.usage.num_answers), "usage": self.usage.to_json(),
        }  # fmt: skip


class _Scale:
    """Asks the arms, one after the other."""

    def __init__(
        self,
        run: Run,
        engines: Engines,
        wishes: Wishes,
        items: Sequence[Item],
        retriever: Retriever,
        progress: Progress,
    ) -> None:
        self.run, self.engines, self.wishes, self.items, self.progress = run, engines, wishes, items, progress
        self.retriever = retriever
        self.sampling = Sampling(max_new_tokens=run.recipe.evaluation.max_new_tokens)
        self.found: list[Found] = [retriever.find(item.text, wishes.num_passages) for item in items]
        context = engines.tuned.model.spec.context
        self.asking = Asking(
            lambda question: len(engines.tuned.prompt_ids(question)), max(1, context - self.sampling.max_new_tokens),
            _examples(run, wishes.num_examples), wishes.instructions,
        )  # fmt: skip
        self.num_shown: list[int] = []
        self.unit = "money" if wishes.price or wishes.price_per_h is not None else "seconds"

    def engine(self, name: Name) -> NativeEngine:
        return self.engines.tuned if USES_TUNED[name] else self.engines.base

    def measure(self, name: Name) -> Arm:
        questions = [self._question(name, item, found) for item, found in zip(self.items, self.found, strict=True)]
        cached = CachedEngine(self.engine(name), self.run.path("answers"))
        self.progress.start(say("weigh.asking", arm=say(f"weigh.{name}")), len(questions))
        answers = cached.generate(questions, self.sampling, watch=self.progress.advance)
        self.progress.finish()
        results = []
        for item, answer in zip(self.items, answers, strict=True):
            verdict = judge(answer, item)
            results.append(Result(item.id, verdict.value, verdict.right, (shown(answer),), verdict.details))
        return Arm(name, results, cached.usage, self._latencies(name, questions), self._cost(name, cached.usage))

    def _question(self, name: Name, item: Item, found: Found) -> Question:
        match name:
            case "prompt":
                return self.asking.prompt(item)
            case "tuned":
                return self.asking.tuned(item)
            case "rag" | "both":
                question, num = self.asking.rag(item, found.passages)
                if name == "rag":
                    self.num_shown.append(num)
                return question

    def _latencies(self, name: Name, questions: Sequence[Question]) -> list[float]:
        """Whole answers, one question at a time, nothing remembered, the search for passages included."""
        every = max(1, len(questions) // max(1, self.wishes.num_timed))
        seconds = []
        for place in range(0, len(questions), every)[: self.wishes.num_timed]:
            began = time.perf_counter()
            if USES_PASSAGES[name]:
                self.retriever.find(self.items[place].text, self.wishes.num_passages)
            self.engine(name).generate([questions[place]], self.sampling)
            seconds.append(time.perf_counter() - began)
        return seconds

    def _cost(self, name: Name, usage: Usage) -> float:
        """Of one answer: by tokens where they have a price, else this machine's time, in money where it has one."""
        num = max(1, usage.num_answers)
        if self.wishes.price is not None:
            return self.wishes.price.of(usage.num_prompt_tokens, usage.num_tokens) / num
        seconds = usage.seconds / num
        if USES_PASSAGES[name]:
            seconds += sum(found.seconds for found in self.found) / len(self.found)
        return seconds if self.wishes.price_per_h is None else seconds * self.wishes.price_per_h / 3600

    def retrieval(self) -> dict[str, Any]:
        """How often what was found, and what of it fitted into the prompt, holds the right value."""
        hits = [_holds(item, found.passages) for item, found in zip(self.items, self.found, strict=True)]
        shown_hits = [
            _holds(item, found.passages[:num])
            for item, found, num in zip(self.items, self.found, self.num_shown, strict=True)
        ]
        known = [place for place, item in enumerate(self.items) if item.values]
        share = {
            name: sum(flags[place] for place in known) / len(known) if known else None
            for name, flags in (("found", hits), ("shown", shown_hits))
        }
        seconds = percentiles([found.seconds for found in self.found])
        return {"passages": len(self.retriever.passages), "num_asked_for": self.wishes.num_passages,
                "num_shown": sum(self.num_shown) / max(1, len(self.num_shown)), "value": share, "seconds": seconds,
                "embedder": self.wishes.embedder.model if self.wishes.embedder else None,
                "reranker": self.wishes.reranker.model if self.wishes.reranker else None}  # fmt: skip


def comparisons(results: dict[Name, list[Result]], groups: Sequence[Hashable]) -> list[dict[str, Any]]:
    """Every pair of arms, paired by item; p adjusted for looking at all of them (Holm)."""
    pairs = [(one, other) for place, one in enumerate(results) for other in list(results)[place + 1 :]]
    found = {
        f"{one} {other}": compare(
            [result.right for result in results[one]], [result.right for result in results[other]], groups
        ).to_json()
        for one, other in pairs
    }
    adjusted = holm({name: row["p"] for name, row in found.items()})
    return [
        {"base": one, "tuned": other, "difference": found[f"{one} {other}"], "p_adjusted": adjusted[f"{one} {other}"]}
        for one, other in pairs
    ]


def _items(run: Run, engines: Engines, wishes: Wishes, progress: Progress) -> tuple[Item, ...]:
    """The user's questions, else those the recipe evaluates on; none that has a twin in training."""
    path = wishes.questions or (Path(run.recipe.evaluation.questions) if run.recipe.evaluation.questions else None)
    held_out = run.path("dataset", "test.jsonl")
    samples: list[Sample] = []
    if path is not None:
        samples = list(read([SourceSpec(str(path))], Ledger()))
    elif held_out.is_file():
        samples = [sample for sample in read_samples(held_out) if not isinstance(sample, Document | Preference)]
    sifted = without_leaks(samples, run)
    if sifted.num_leaks:
        progress.note(say("pipeline.leak", count=sifted.num_leaks, total=len(samples)))
    items = load_questions(sifted.kept, ask_label=engines.encoder.conversation).items
    if not items:
        raise EvaluationError("arms.no_questions", where=str(path or held_out))
    return choose_items(items, wishes.max_items, seed=run.recipe.data.split.seed)


def _retriever(run: Run, engines: Engines, wishes: Wishes, progress: Progress) -> Retriever:
    """Passages of the documents named, else of those that were trained on."""
    paths = [str(path) for path in wishes.documents] or [source.path for source in run.recipe.data.sources]
    documents = [s for s in read([SourceSpec(path) for path in paths], Ledger()) if isinstance(s, Document)]
    tokenizer = engines.encoder.tokenizer
    cut = cut_documents(
        documents, max_tokens=wishes.passage_tokens, min_tokens=wishes.passage_tokens // 4,
        count=lambda text: len(tokenizer.encode_text(text)),
    )  # fmt: skip
    passages = [
        Passage(part.text, part.origin.document or part.origin.file, tuple(part.tags.get("headings") or ()))
        for part in cut
    ]
    vectors = run.path("answers", "vectors")
    for endpoint in (wishes.embedder, wishes.reranker):
        if endpoint is not None and not is_loopback(host := Address.parse(endpoint.url).host):
            progress.note(say("weigh.sent", num=len(passages), host=host))
    return Retriever(
        passages,
        embedder=Embedder(wishes.embedder, vectors) if wishes.embedder else None,
        reranker=Reranker(wishes.reranker) if wishes.reranker else None,
    )


def _examples(run: Run, num: int) -> tuple[tuple[Message, Message], ...]:
    """Questions and answers of the training data, drawn by digest, one a group: what a prompt can show."""
    found: dict[str, tuple[str, tuple[Message, Message]]] = {}
    rows: list[Sample] = []
    for source in run.recipe.data.sources:
        if num > 0:
            format_ = None if source.format == "auto" else source.format
            rows += read([SourceSpec(source.path, format_, dict(source.columns))], Ledger())
    for sample in rows:
        if isinstance(sample, Conversation) and [turn.role for turn in sample.messages] == ["user", "assistant"]:
            ask, answer = (Message(turn.role, turn.content) for turn in sample.messages)
            digest = sha256_json([ask.content, answer.content])
            group = sample.group or digest
            if group not in found or digest < found[group][0]:
                found[group] = (digest, (ask, answer))
    return tuple(pair for _, pair in sorted(found.values(), key=lambda entry: entry[0])[:num])


def _holds(item: Item, passages: Sequence[Passage]) -> bool:
    texts = [fold(passage.shown) for passage in passages]
    return bool(item.values) and all(
        any(find(fold(way), text) >= 0 for text in texts for way in (value, *item.accept)) for value in item.values
    )


def _upkeep(run: Run, retriever: Retriever) -> dict[str, Any]:
    """What a change of the documents costs each way: a new index, or a new training."""
    steps = [step for step in run.events.read("step") if step.get("tokens_per_s")]
    train_s = sum(step["num_tokens"] / step["tokens_per_s"] for step in steps)
    return {"index_s": round(retriever.build_s, 3), "train_s": round(train_s, 1)}


def _rows(items: Sequence[Item], measured: dict[Name, Arm]) -> list[dict[str, Any]]:
    return [
        {"id": item.id, "question": item.text, "reference": item.reference,
         "arms": {name: arm.results[place].to_json() for name, arm in measured.items()}}
        for place, item in enumerate(items)
    ]  # fmt: skip
