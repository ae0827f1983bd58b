"""What an evaluation asks: the recipe's tasks, each with its items, none of which training has seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from danlu.core.errors import EvaluationError
from danlu.core.messages import say
from danlu.core.progress import Progress
from danlu.data.certificate import VALIDATION
from danlu.data.dataset import Dataset
from danlu.data.encode import Encoder
from danlu.data.finding import SourceSpec
from danlu.data.flow.kept import open_kept
from danlu.data.flow.store import Store
from danlu.data.ledger import Ledger
from danlu.data.sample import Document, Label, Preference, Sample, replace
from danlu.data.samples_file import read_samples
from danlu.data.sources import read
from danlu.data.tokens import Tokens
from danlu.engines.engine import Sampling
from danlu.evaluation.items import Item, choose_items, choose_whole, judged_by, load_questions
from danlu.evaluation.probes import load_suite
from danlu.evaluation.runner import Assignment
from danlu.evaluation.tasks.consistency import Consistency
from danlu.evaluation.tasks.domain import Domain
from danlu.evaluation.tasks.edge import Edge
from danlu.evaluation.tasks.forgetting import Forgetting, Passage, passages_from
from danlu.evaluation.tasks.general import General
from danlu.evaluation.tasks.memorisation import Excerpt, Memorisation
from danlu.evaluation.tasks.preference import Pair, pairs_from
from danlu.evaluation.tasks.preference import Preference as PreferenceTask
from danlu.evaluation.tasks.probes import Probes
from danlu.pipeline.furnace import STORE
from danlu.pipeline.leaks import without_leaks
from danlu.pipeline.taught import count_taught
from danlu.recipe.evaluation import EvaluationSection
from danlu.run.run import Run

NUM_EXCERPTS = 128
"""Rows read again of the train part, and as many of those held out."""
_WANTS = {
    "domain": "evaluation.questions", "consistency": "evaluation.questions", "edge": "evaluation.edge",
    "preference": "evaluation.preference", "forgetting": "evaluation.general", "probes": "evaluation.probes",
    "memorisation": "evaluation.questions",
}  # fmt: skip
"""Where a task's material is named, for saying why it is not run."""


def read_rows(path: str, progress: Progress) -> list[Sample]:
    """Rows of a file of questions; the first that cannot be asked are named."""
    ledger = Ledger()
    samples = list(read([SourceSpec(path)], ledger))
    for entry in ledger.rejects[:5]:
        progress.note(str(entry))
    return samples


def worded(sample: Sample, encoder: Encoder) -> Sample:
    """A label is asked for in the very words it was trained with."""
    if not isinstance(sample, Label):
        return sample
    return encoder.conversation(replace(sample, tags=sample.tags | {"metric": "label"}))


class Assignments:
    """The recipe's tasks with their items."""

    def __init__(self, run: Run, encoder: Encoder, progress: Progress) -> None:
        self.run, self.encoder, self.progress = run, encoder, progress
        self.section: EvaluationSection = run.recipe.evaluation
        self.seed = run.recipe.data.split.seed
        self.sifted: dict[str, dict[str, float]] = {}
        """Per file of questions: how many are asked, how many were left out, and the nearest one to training; of the
        domain's also how many ask for an answer that training shows (`taught.py`)."""

    def asking(self, questions: Path) -> list[Assignment]:
        """A file of the user's own alone."""
        return [Assignment(self._domain_task(), self._asked(str(questions)))]

    def validating(self) -> list[Assignment]:
        """Questions made of the validation part, which training watches and is never taught; the test part stays
        shut."""
        store = Store(self.run.folder.parent / STORE)
        kept = open_kept(self.run.path("dataset"), store)
        is_meant = iter(kept.columns["part"] == VALIDATION) if kept is not None else iter(())
        rows = kept.rows(lambda *_: bool(next(is_meant))) if kept is not None else ()
        samples = [row.sample for _, row in rows]
        asked = [sample for sample in samples if sample and not isinstance(sample, Document | Preference)]
        items = judged_by(load_questions([worded(sample, self.encoder) for sample in asked]).items, self.section.metric)
        if not items:
            raise EvaluationError("sweep.no_validation", where="data.split.validation")
        return [Assignment(self._domain_task(), choose_items(items, self.section.max_items, seed=self.seed))]

    def chosen(self, only: Iterable[str] | None = None) -> list[Assignment]:
        """The recipe's tasks (or those of them in `only`) that have something to ask; the others are noted."""
        wanted = [task for task in self.section.tasks if only is None or task in set(only)]
        found = [assignment for task in wanted for assignment in self._assign(task) if assignment.items]
        if not found:
            raise EvaluationError("pipeline.no_questions", where="evaluation.questions")
        for task in wanted:
            if task not in {assignment.task.name for assignment in found}:
                self.progress.note(say("pipeline.task_skipped", task=task, key=_WANTS[task]))
        return found

    def _assign(self, task: str) -> list[Assignment]:
        match task:
            case "domain":
                return [Assignment(self._domain_task(), self._domain())]
            case "consistency":
                drawn = Sampling(self.section.max_new_tokens, temperature=self.section.temperature)
                return [Assignment(Consistency(drawn, repeats=self.section.repeats), self._domain())]
            case "edge":
                return [Assignment(Edge(self._greedy()), self._asked(self.section.edge) if self.section.edge else ())]
            case "probes":
                return [Assignment(Probes(self._greedy()), self._probes())]
            case "preference":
                return [Assignment(PreferenceTask(), self._pairs())]
            case "forgetting":
                general = Assignment(General(self._greedy()), self._general())
                return [Assignment(Forgetting(), self._passages()), general]
            case "memorisation":
                return [Assignment(Memorisation(self._greedy()), self._excerpts())]
        raise AssertionError(f"a task of the recipe without a join: {task}")

    def _domain_task(self) -> Domain:
        return Domain(self._greedy(), beside=self.section.beside)

    def _greedy(self) -> Sampling:
        return Sampling(max_new_tokens=self.section.max_new_tokens)

    def _domain(self) -> Sequence[Item]:
        path = self.section.questions
        items = self._asked(path) if path or self._held_out() else ()
        facts = self.sifted.get(path or "data.split.test")
        if facts is not None and "taught" not in facts:
            num_taught = count_taught(items, self.run, self._text)
            facts |= {} if num_taught is None else {"taught": num_taught, "looked_up": len(items)}
        return items

    def _asked(self, path: str | None) -> Sequence[Item]:
        """Questions of a file, or of the held-out part, without those that have a twin in training."""
        samples = read_rows(path, self.progress) if path else self._held_out()
        where = path or "data.split.test"
        sifted = without_leaks(samples, self.run)
        num_leaks = sifted.num_leaks
        if num_leaks and where not in self.sifted:
            self.progress.note(say("pipeline.leak", count=num_leaks, total=len(samples)))
        loaded = load_questions([worded(sample, self.encoder) for sample in sifted.kept]).items
        items = judged_by(loaded, self.section.metric)
        self.sifted[where] = {"asked": len(items), "left_out": num_leaks, "nearest": round(sifted.nearest, 4)}
        if not items:
            key = "pipeline.all_leak" if num_leaks else "pipeline.no_questions"
            raise EvaluationError(key, where=where, total=num_leaks)
        return choose_items(items, self.section.max_items, seed=self.seed)

    def _probes(self) -> Sequence[Item]:
        """danlu's own suites, none of which any training holds."""
        suites = [load_suite(name) for name in self.section.probes]
        return [item for suite in suites for item in choose_whole(suite, self.section.max_items, seed=self.seed)]

    def _general(self) -> Sequence[Item]:
        """danlu's own general questions, and the user's."""
        own = self._asked(self.section.general_questions) if self.section.general_questions else ()
        return [*choose_items(load_suite("forgetting"), self.section.max_items, seed=self.seed), *own]

    def _held_out(self) -> list[Sample]:
        path = self.run.path("dataset", "test.jsonl")
        return [s for s in read_samples(path) if not isinstance(s, Document | Preference)] if path.is_file() else []

    def _pairs(self) -> tuple[Pair, ...]:
        """Held-out preference pairs: the recipe's file, or those of the held-out part."""
        path = self.run.path("dataset", "test.jsonl")
        source = read_rows(self.section.preference, self.progress) if self.section.preference else read_samples(path)
        return pairs_from(source, self._encode)

    def _passages(self) -> tuple[Passage, ...]:
        """General text: the recipe's file, or the small set that comes with danlu; which one is said."""
        own = str(resources.files("danlu.assets") / "company" / "general.jsonl")
        path = self.section.general or own
        self.progress.note(say("pipeline.general_text", path=path))
        return passages_from([s for s in read_rows(path, self.progress) if isinstance(s, Document)], self._encode)

    def _excerpts(self) -> list[Excerpt]:
        """Rows that the last stage was trained on, and as many that no stage has seen; [] where either is none."""
        prepared = self.run.outcome("prepare") or {}
        dataset = Dataset.open(self.run.path("dataset", prepared["stages"][-1]), verify=False)
        part = dataset.part("train")
        at = self._some(len(part))
        trained = [(f"trained-{i}", part[i][0], part.rows[i].get("group", "")) for i in at]
        unseen = self._unseen()
        held_out = [(f"held-out-{i}", unseen[i][0], unseen[i][1]) for i in self._some(len(unseen))]
        if not trained or not held_out:
            return []
        rows = [(*row, True) for row in trained] + [(*row, False) for row in held_out]
        return [
            Excerpt(name, tokens, self._text(tokens), is_trained, group or "")
            for name, tokens, group, is_trained in rows
            if tokens.num_supervised
        ]

    def _unseen(self) -> list[tuple[Tokens, str]]:
        """Questions with their answers, or held-out documents, as they would have been trained on."""
        if self.section.questions:
            samples = without_leaks(read_rows(self.section.questions, self.progress), self.run).kept
        else:
            path = self.run.path("dataset", "test.jsonl")
            samples = list(read_samples(path)) if path.is_file() else []
        found = []
        for sample in samples:
            encoded = self._encode(sample)
            if encoded:
                found.append((encoded[0], sample.group or ""))
        return found

    def _some(self, count: int) -> list[int]:
        drawn = np.random.default_rng(self.seed).permutation(count)[: self.section.max_items or NUM_EXCERPTS]
        return sorted(int(index) for index in drawn[:NUM_EXCERPTS])

    def _text(self, tokens: Tokens) -> str:
        """What was learnt, as text."""
        return self.encoder.tokenizer.decode(tokens.ids[tokens.weights == 1].tolist(), skip_control=True)

    def _encode(self, sample: Sample) -> list[Tokens]:
        return self.encoder.encode(sample, Ledger())
