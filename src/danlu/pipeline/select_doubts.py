"""How much each row of a pool is in doubt, and what is suggested for it: one function per way to know.

`answers` and `probabilities` ask the run's model (loaded only then, with torch), `classifier` a plain one learnt from
the labels there are, `functions` the rules of a file, `scores` a file of numbers, `spread` nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import yaml

from danlu.core.errors import DataError, RecipeError
from danlu.core.messages import say
from danlu.core.progress import Progress
from danlu.data.encode import Encoder
from danlu.data.labelling.choosing import Doubts, disagreement, entropy
from danlu.data.labelling.classifier import PlainClassifier
from danlu.data.labelling.functions import LabelFunction, WeakLabels, apply_functions, load_functions
from danlu.data.labelling.task import Suggestion, Task
from danlu.data.ledger import Ledger
from danlu.data.quality.vectors import Vectors
from danlu.data.sample import Label, Message, Origin, Sample
from danlu.engines.engine import Engine, Question, Sampling

TEMPERATURE = 0.8
MAX_ANSWER_TOKENS = 128
_NOWHERE = Origin("-", 0)


@dataclass(frozen=True, slots=True)
class Doubted:
    """Per row of the pool: a doubt in [0, 1] and a suggestion or None."""

    doubts: Doubts
    suggestions: tuple[Suggestion | None, ...]
    weak: WeakLabels | None = None


def by_spread(tasks: Sequence[Task]) -> Doubted:
    """Nobody doubts: only diversity and density choose."""
    return Doubted(np.ones(len(tasks)), (None,) * len(tasks))


def by_classifier(vectors: Vectors, labels: Sequence[str | None], num_pool: int) -> Doubted:
    """A plain classifier learns from the labelled rows, which stand after the pool's own in `vectors`."""
    guess = PlainClassifier(vectors).learn(labels)
    pool = guess.probabilities[:num_pool]
    best = pool.argmax(axis=1)
    suggestions = tuple(
        Suggestion(guess.classes[int(place)], round(float(row[place]), 4), "classifier")
        for row, place in zip(pool, best, strict=True)
    )
    return Doubted(entropy(pool), suggestions)


def by_answers(
    tasks: Sequence[Task], engine: Engine, *, repeats: int, progress: Progress, encoder: Encoder | None = None
) -> Doubted:
    """The model answers each task several times, at temperature; how far the answers lie apart is the doubt. With
    choices, an answer that names one counts as that choice. The suggestion is the most frequent answer.

    `encoder`: of a model of ours, which is asked for a label in the words that it was trained on."""
    questions = [Question(_messages(task, encoder)) for task in tasks]
    drawn: list[list[str]] = [[] for _ in tasks]
    progress.start(say("select.asking", rows=len(tasks), repeats=repeats), len(tasks) * repeats)
    for seed in range(repeats):
        sampling = Sampling(max_new_tokens=MAX_ANSWER_TOKENS, temperature=TEMPERATURE, seed=seed)
        for place, answer in enumerate(engine.generate(questions, sampling, watch=progress.advance)):
            if answer.finish != "error":
                drawn[place].append(_named(answer.text, tasks[place].choices))
    progress.finish()
    suggestions = tuple(
        _commonest([text for text in answers if not task.choices or text in task.choices], len(answers), engine.name)
        for task, answers in zip(tasks, drawn, strict=True)
    )
    return Doubted(disagreement(drawn), suggestions)


def by_probabilities(tasks: Sequence[Task], engine: Engine, encoder: Encoder, progress: Progress) -> Doubted:
    """How likely the model finds each choice as the answer (log-probabilities, normalised over the choices); the
    doubt is their entropy. Rows too long for the model are in full doubt."""
    choices = tasks[0].choices if tasks else ()
    if len(choices) < 2:
        raise DataError("select.no_choices")
    probabilities = np.full((len(tasks), len(choices)), 1 / len(choices))
    progress.start(say("select.scoring", rows=len(tasks)), len(tasks))
    silent = Ledger()
    for place, task in enumerate(tasks):
        encoded = [encoder.encode(Label(task.text, choice, _NOWHERE), silent) for choice in choices]
        if all(len(found) == 1 for found in encoded):
            logs = np.array([score.total for score in engine.score([found[0] for found in encoded])])
            weights = np.exp(logs - logs.max())
            probabilities[place] = weights / weights.sum()
        progress.advance()
    progress.finish()
    best = probabilities.argmax(axis=1)
    suggestions = tuple(
        Suggestion(choices[int(place)], round(float(row[place]), 4), engine.name)
        for row, place in zip(probabilities, best, strict=True)
    )
    return Doubted(entropy(probabilities), suggestions)


def by_functions(tasks: Sequence[Task], functions: Sequence[LabelFunction]) -> Doubted:
    """Where labelling functions contradict each other or keep silent, a person is worth most."""
    weak = apply_functions(functions, [task.text for task in tasks])
    doubts = entropy(weak.consensus.probabilities)
    silent = np.array([label is None for label in weak.labels], bool)
    doubts[silent] = 1.0
    suggestions = tuple(
        None if label is None else Suggestion(label, sureness, "functions")
        for label, sureness in zip(weak.labels, weak.sureness, strict=True)
    )
    return Doubted(doubts, suggestions, weak)


def by_scores(tasks: Sequence[Task], path: Path) -> Doubted:
    """Doubts from a JSONL file: `score` (higher is more doubtful), with `id`, `text` or `origin` to say of which row.
    Scores are brought to [0, 1] by their own smallest and largest; a row without one is not in doubt."""
    scores: dict[str, float] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
            key = next(str(row[name]) for name in ("id", "text", "origin") if row.get(name))
            scores[key] = float(row["score"])
        except (orjson.JSONDecodeError, StopIteration, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError("select.bad_score", where=f"{path}:{number}") from error
    found = [next((scores[key] for key in (one.id, one.text, one.origin) if key in scores), None) for one in tasks]
    known = [score for score in found if score is not None]
    if not known:
        raise DataError("select.no_score_fits", where=str(path), rows=len(tasks))
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    doubts = np.array([0.0 if score is None else (score - low) / span if high > low else 1.0 for score in found])
    return Doubted(doubts, (None,) * len(tasks))


def read_functions(path: Path) -> list[LabelFunction]:
    """Labelling functions of a YAML (or JSON) file."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError("select.no_functions", where=str(path)) from error
    return load_functions(value, str(path))


def known_labels(samples: Sequence[Sample]) -> Mapping[str, int]:
    """Classes of the labelled rows and how many rows each has."""
    return Counter(sample.label for sample in samples if isinstance(sample, Label))


def _messages(task: Task, encoder: Encoder | None) -> tuple[Message, ...]:
    """What the model is asked: the conversation so far, or the text, with the choices where there are some."""
    if task.turns and not task.choices:
        roles = {"system": "system", "assistant": "assistant", "tool": "tool"}
        return tuple(Message(roles.get(role, "user"), content) for role, content in task.turns)  # type: ignore[arg-type]
    if task.choices and encoder is not None:
        return encoder.conversation(Label(task.text, "", _NOWHERE)).messages[:1]
    if task.choices:
        return (Message("user", say("select.ask_choice", text=task.text, choices=" / ".join(task.choices))),)
    return (Message("user", task.text),)


def _named(answer: str, choices: Sequence[str]) -> str:
    """The choice that an answer names first; the answer itself where it names none."""
    places = [(answer.find(choice), -len(choice), choice) for choice in choices if choice in answer]
    return min(places)[2] if places else answer


def _commonest(answers: Sequence[str], num_drawn: int, model: str) -> Suggestion | None:
    """What was answered most often, and in which share of all that was drawn."""
    if not answers:
        return None
    value, often = Counter(answers).most_common(1)[0]
    return Suggestion(value, round(often / num_drawn, 4), model)
