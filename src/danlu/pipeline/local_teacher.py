"""A teacher on this machine: an engine around a model folder, loaded when something must be asked; nothing leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from danlu.core.files import sha256_file, sha256_json
from danlu.core.progress import Progress
from danlu.data.synthesis.teacher import Ask, Reply
from danlu.engines.cache import AnswerCache
from danlu.engines.engine import Engine, Question, Sampling
from danlu.model.shards import known_digest
from danlu.pipeline.base import open_base
from danlu.pipeline.replies import found_reply, without_thinking
from danlu.recipe.model import ModelSection

CHUNK = 16
"""Requests between two writes of a local teacher's answers."""
_WORDS = (".json", ".jinja", ".model", ".txt")
"""Files beside the weights: configuration, tokenizer, template."""


class LocalTeacher:
    """A model of this machine, loaded when something has to be asked that was not answered before. Nothing leaves."""

    is_external = False
    levels: frozenset[str] = frozenset()

    def __init__(
        self,
        section: ModelSection,
        cache: AnswerCache,
        *,
        seed: int,
        progress: Progress,
        keeps_thinking: bool = False,
    ) -> None:
        self.section, self._cache, self._seed, self._progress = section, cache, seed, progress
        self._keeps_thinking = keeps_thinking
        self.name = Path(section.base).name
        self._engine: Engine | None = None
        self._identity = ""
        self._num_asked = self._num_found = self._num_prompt_tokens = self._num_tokens = 0

    @classmethod
    def of(cls, engine: Engine, section: ModelSection, cache: AnswerCache, *, progress: Progress) -> LocalTeacher:
        """Around an engine that is open already."""
        teacher = cls(section, cache, seed=0, progress=progress)
        teacher._engine, teacher._identity, teacher.name = engine, engine.digest, engine.name
        return teacher

    @property
    def identity(self) -> str:
        """Of the weights, of what is beside them, and of how the base is read; computed without loading it."""
        if not self._identity:
            base = open_base(self.section, progress=self._progress)
            words = sorted(path for path in base.folder.iterdir() if path.suffix in _WORDS and path.is_file())
            shown = [known_digest(base.folder) if self.section.init == "pretrained" else "",
                     [(path.name, sha256_file(path)) for path in words]]  # fmt: skip
            read_as = self.section.model_dump(mode="json", exclude={"base", "hub", "mirror"})
            seed = self._seed if self.section.init == "random" else None
            self._identity = sha256_json([shown, read_as, seed])
        return self._identity

    def answer(self, asks: Sequence[Ask], *, watch: Callable[[int], None] | None = None) -> list[Reply]:
        replies: dict[int, Reply] = {}
        todo: dict[Sampling, dict[str, list[int]]] = {}
        for place, ask in enumerate(asks):
            sampling = Sampling(ask.max_new_tokens, ask.temperature, seed=ask.seed)
            spoken = [[turn.role, turn.content] for turn in ask.messages]
            how = [ask.max_new_tokens, ask.temperature, ask.seed, self._keeps_thinking]
            key = sha256_json({"teacher": self.identity, "asked": spoken, "how": how})
            if found := found_reply(self._cache, key):
                replies[place] = found
                self._num_found += 1
            else:
                todo.setdefault(sampling, {}).setdefault(key, []).append(place)
        if watch is not None:
            watch(len(replies))
        for sampling, places in todo.items():
            for keys in _chunks(list(places)):
                self._ask([(key, asks[places[key][0]], places[key]) for key in keys], sampling, replies)
                if watch is not None:
                    watch(sum(len(places[key]) for key in keys))
        return [replies[place] for place in range(len(asks))]

    def cost(self) -> dict[str, Any]:
        return {
            "teacher": self.name, "requests": self._num_asked, "from_cache": self._num_found,
            "prompt_tokens": self._num_prompt_tokens, "answer_tokens": self._num_tokens,
        }  # fmt: skip

    def close(self) -> None:
        """Let the model go, where this teacher loaded it."""
        self._engine = None

    def _ask(self, orders: list[tuple[str, Ask, list[int]]], sampling: Sampling, replies: dict[int, Reply]) -> None:
        if self._engine is None:
            from danlu.pipeline.loading import load_engine  # torch: only when something must be computed

            self._engine = load_engine(self.section, seed=self._seed, progress=self._progress)
        answers = self._engine.generate([Question(ask.messages) for _, ask, _ in orders], sampling)
        for (key, _, places), answer in zip(orders, answers, strict=True):
            self._num_asked += 1
            self._num_prompt_tokens += answer.num_prompt_tokens
            self._num_tokens += answer.num_tokens
            if answer.finish == "error":
                replies |= dict.fromkeys(places, Reply("", "error", answer.error))
                continue
            finish: Literal["stop", "length"] = "length" if answer.finish == "length" else "stop"
            reply = Reply(answer.text if self._keeps_thinking else without_thinking(answer.text), finish)
            replies |= dict.fromkeys(places, reply)
            self._cache.keep(key, {"text": reply.text, "finish": finish, "model": self.name})


def _chunks(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), CHUNK):
        yield keys[start : start + CHUNK]
