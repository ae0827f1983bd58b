"""Questions that training has seen are not asked: a twin in the training data makes any score worthless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from danlu.data.sample import Document, Label, Preference, Sample
from danlu.data.similar import similar_pairs
from danlu.data.split import THRESHOLD, fold
from danlu.run.run import Run


@dataclass(frozen=True, slots=True)
class Sifted:
    """Questions that may be asked. `nearest` is the highest similarity (Jaccard of character 3-grams) that any of them
    has to a training prompt; the report shows it beside the score."""

    kept: list[Sample]
    num_leaks: int
    nearest: float


def without_leaks(samples: Sequence[Sample], run: Run) -> Sifted:
    """Leave out what training has seen: questions (the last of a conversation) that are a training prompt once width,
    case, punctuation and spaces are gone, or nearly one."""
    prompts: list[str] = run.read("dataset", "prompts.json")
    texts = [fold(turns[-1]) if (turns := asked(sample)) else "" for sample in samples]
    first = len(prompts)
    similarity = similar_pairs([*prompts, *texts], THRESHOLD)
    near = {right for left, right in similarity.pairs if left < first <= right}
    seen = set(prompts)
    fresh = [at for at, text in enumerate(texts) if not text or (text not in seen and first + at not in near)]
    nearest, _, _ = similarity.nearest([first + at for at in fresh if texts[at]], range(first))
    return Sifted([samples[at] for at in fresh], len(samples) - len(fresh), nearest)


def asked(sample: Sample) -> list[str]:
    """What a sample asks: each of the user's turns, or the text to judge; a document asks nothing."""
    match sample:
        case Document():
            return []
        case Label():
            return [sample.text]
        case Preference():
            turns = sample.prompt
        case _:
            turns = sample.messages
    return [turn.content for turn in turns if turn.role == "user"]
