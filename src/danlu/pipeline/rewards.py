"""What a stage with rewards is handed: the model that is being trained answers, and metrics judge it.

Answers come from the engine of this process with the weights as they are in memory, adapter attached; training itself
knows neither engines nor metrics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from danlu.adapters.adapter import Attached
from danlu.core.errors import TrainingError
from danlu.core.messages import say
from danlu.data.dataset import Dataset
from danlu.data.encode import Encoder
from danlu.data.samples_file import sample_of
from danlu.data.tokens import Tokens
from danlu.engines.engine import Answer, Sampling
from danlu.engines.native import NativeEngine
from danlu.evaluation.items import Item, load_questions
from danlu.evaluation.metrics import METRICS
from danlu.model.model import Model
from danlu.recipe.method import GRPOSection
from danlu.training.batches import Items
from danlu.training.methods.grpo import Answer as Rewarded

LOOKED_AT = 256
"""References that are judged themselves before anything is trained."""


class Rewards:
    """A `training.methods.grpo.Ask`. `seed` and what is asked decide what is drawn, nothing else."""

    def __init__(
        self, model: Model, attached: Attached, encoder: Encoder, dataset: Dataset, section: GRPOSection, *, seed: int
    ) -> None:
        self.section, self.encoder, self.dataset, self.seed = section, encoder, dataset, seed
        self.engine = NativeEngine(model, encoder, name="policy", adapter=attached)
        self.metrics = {name: METRICS.load(name, where=f"method.rewards.{name}")() for name in section.rewards}
        self.items = _questions(dataset, encoder)

    def __call__(self, part: str, items: Items, *, number: int | None) -> list[list[Rewarded]]:
        num = self.section.group if number is not None else 1
        prompts = [self.prompt(part, int(item)) for item in items]
        answers = self.engine.continue_each(
            [prompt for prompt in prompts for _ in range(num)],
            [self._sampling(number, int(item), place) for item in items for place in range(num)],
        )
        return [
            [self._rewarded(part, int(item), prompt, answer) for answer in answers[at * num : (at + 1) * num]]
            for at, (item, prompt) in enumerate(zip(items, prompts, strict=True))
        ]

    def prompt(self, part: str, item: int) -> list[int]:
        """What inference would be asked, to the token; a prompt that was cut to fit is asked as it was cut."""
        asked = self.items[part][item].question
        ids = self.encoder.encode_prompt(asked.messages, asked.tools)
        tokens = self.dataset.part(part)[item][0]
        if tokens.ids[: len(ids)].tolist() == ids:
            return ids
        begins = np.flatnonzero(np.diff(tokens.weights.astype(np.int8)) == 1) + 1
        return [int(token) for token in tokens.ids[: begins[-1]]]

    def remarks(self) -> Iterator[str]:
        """What the references earn, where that is not all there is to earn."""
        most = sum(max(0.0, weight) for weight in self.section.rewards.values())
        items = self.items["train"][:LOOKED_AT]
        earned = [self._worth(self._values(item.reference, item)) for item in items]
        if (mean := sum(earned) / len(earned)) < most - 1e-6:
            yield say("pipeline.reference_reward", earned=f"{mean:.3f}", most=f"{most:g}")

    def _sampling(self, number: int | None, item: int, place: int) -> Sampling:
        if number is None:
            return Sampling(self.section.max_new_tokens)
        digest = hashlib.sha256(f"{self.seed} {number} {item} {place}".encode()).digest()
        seed = int.from_bytes(digest[:8], "little")
        return Sampling(self.section.max_new_tokens, self.section.temperature, seed=seed)

    def _rewarded(self, part: str, item: int, prompt: list[int], answer: Answer) -> Rewarded:
        if answer.finish == "error":
            origin = self.dataset.part(part).rows[item]["origin"]
            raise TrainingError("pipeline.unanswered", where=origin, problem=answer.error)
        ids = np.array([*prompt, *answer.ids], dtype=np.int32)
        weights = np.zeros(len(ids), dtype=np.uint8)
        weights[len(prompt) :] = 1
        values = self._values(answer.text, self.items[part][item])
        return Rewarded(Tokens(ids, weights), values, is_cut=answer.finish == "length")

    def _values(self, text: str, item: Item) -> dict[str, float]:
        return {name: metric.score(text, item).value for name, metric in self.metrics.items()}

    def _worth(self, values: dict[str, float]) -> float:
        return sum(weight * values[name] for name, weight in self.section.rewards.items())


def _questions(dataset: Dataset, encoder: Encoder) -> dict[str, Sequence[Item]]:
    """What is asked and how it is judged, of every row of every part: all together, for the classes of labels are those
    of all rows."""
    sizes = {name: len(dataset.part(name)) for name in dataset.names}
    samples = [sample_of(row["asked"]) for name in sizes for row in dataset.part(name).rows]
    found = load_questions(samples, ask_label=encoder.conversation).items
    assert len(found) == len(samples), "rows without a reference were refused when the data was prepared"
    parts: dict[str, Sequence[Item]] = {}
    start = 0
    for name, size in sizes.items():
        parts[name] = found[start : start + size]
        start += size
    return parts
