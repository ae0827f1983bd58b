"""Replay: general data against forgetting, by default what the base itself answers to general prompts.

A model forgets least of what it goes on saying: answers of its own, to prompts that have nothing to do with the domain,
keep it where it was, and bring no licence with them. danlu ships two hundred prompts (CC0); answers are drawn once
per base and kept.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from importlib import resources
from pathlib import Path

import orjson

from danlu.core.errors import DataError
from danlu.core.files import read_json
from danlu.core.messages import say
from danlu.core.progress import Progress
from danlu.data.language import language_of
from danlu.data.sample import Conversation, Message, Origin
from danlu.data.synthesis.teacher import OPEN, Ask, Teacher
from danlu.data.synthesis.words import tokens_of
from danlu.engines.cache import AnswerCache
from danlu.pipeline.base import Base, open_base
from danlu.pipeline.local_teacher import LocalTeacher
from danlu.planning.shapes import Shapes
from danlu.recipe.recipe import Recipe
from danlu.recipe.synthesis import ReplaySection

MIN_PARAMS = 100_000_000
MAX_ANSWER_TOKENS = 320
ROUNDS = 4
"""How often a prompt is answered at most, each time with other dice."""
PER_TURN = 48
"""Prompts between two looks at whether it is enough."""
TEMPERATURE = 0.8
_TRANSLATES = ("翻译", "用英语", "Translate")


def make_replay(recipe: Recipe, num_tokens: int, cache_folder: Path, progress: Progress) -> list[Conversation]:
    """What the base says to general prompts: samples of about `num_tokens` tokens or more (fewer where there are no
    more), in the order to take them; [] where it is not asked.

    The prompts are danlu's own or the recipe's; answers are cached in `cache_folder` by base, template and prompt, so
    any run of this base finds them, and more tokens begin with the same answers. `source: base` asks it; `auto` where
    no file is named, and it has a template, was not initialised at random, has at least 100 million parameters, and
    torch and a GPU are there; else nothing, said once. Samples carry `made_by` "replay". The caller mixes:
    `data.replay.ratio` of all train tokens, and no more than that.
    """
    section = recipe.data.replay
    if section.source == "none" or not section.ratio or num_tokens <= 0 or file_of(section) is not None:
        return []
    name = Path(recipe.model.base).name
    base = open_base(recipe.model, progress=progress)
    why = _why_not(recipe, base, must=section.source == "base")
    if why is not None:
        if section.source == "base":
            raise DataError("synthesis.replay_needs_base", where="data.replay.source", base=name, why=why)
        progress.note(say("synthesis.replay_left_out", base=name, why=why))
        return []
    prompts = read_prompts(Path(section.prompts) if section.prompts else None)
    cache = AnswerCache(cache_folder)
    teacher = LocalTeacher(recipe.model, cache, seed=recipe.training.seed, progress=progress, keeps_thinking=True)
    try:
        return answered(prompts, num_tokens, teacher, _counter(base), progress)
    finally:
        teacher.close()


def file_of(section: ReplaySection) -> str | None:
    """The file that is replayed; None where the base is asked, or nothing is replayed. DataError where it has no
    name."""
    if section.source == "file" and section.path is None:
        raise DataError("synthesis.no_replay_file", where="data.replay.path")
    return section.path if section.source in ("file", "auto") and section.ratio else None


def serves(section: ReplaySection, accepts: Collection[str]) -> bool:
    """Whether there can be replay for a stage that learns from these kinds: a base answers in conversations, and is not
    asked for a stage that reads documents or pairs."""
    return section.source != "none" and (file_of(section) is not None or "conversation" in accepts)


def read_prompts(path: Path | None) -> list[str]:
    """Prompts of a file: one a line, or JSON lines with `prompt`, `question` or `instruction`; else danlu's own."""
    where = "danlu.assets/replay/prompts.jsonl" if path is None else str(path)
    try:
        content = (
            resources.files("danlu.assets").joinpath("replay", "prompts.jsonl").read_text("utf-8")
            if path is None
            else path.read_text("utf-8-sig")
        )
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("data.cannot_open", where=where, detail=str(error)) from error
    prompts = [text for line in content.splitlines() if (text := _prompt(line))]
    if not prompts:
        raise DataError("data.no_files", where=where)
    return list(dict.fromkeys(prompts))


def answered(
    prompts: Sequence[str], num_tokens: int, teacher: Teacher, count: Callable[[str], int], progress: Progress
) -> list[Conversation]:
    """The base's own sound answers, until they hold so many tokens or every prompt was answered `ROUNDS` times."""
    kept: list[Conversation] = []
    said: set[tuple[str, str]] = set()
    total = 0
    progress.start(say("synthesis.asking_replay", teacher=teacher.name))
    turns = [(number, prompt) for number in range(ROUNDS) for prompt in prompts]
    for start in range(0, len(turns), PER_TURN):
        if total >= num_tokens:
            break
        turn = turns[start : start + PER_TURN]
        asks = [
            Ask((Message("user", prompt),), OPEN, MAX_ANSWER_TOKENS, TEMPERATURE, seed=number)
            for number, prompt in turn
        ]
        for (_, prompt), reply in zip(turn, teacher.answer(asks, watch=progress.advance), strict=True):
            text = reply.text.strip()
            if reply.finish != "stop" or not is_sound(prompt, text) or (prompt, text) in said:
                continue
            said.add((prompt, text))
            turns_said = (Message("user", prompt), Message("assistant", text))
            tags = {"made_by": "replay", "teacher": teacher.name, **OPEN.tags()}
            kept.append(Conversation(turns_said, Origin("replay", len(kept) + 1), tags=tags))
            total += count(prompt) + count(text)
    progress.finish()
    progress.note(say("synthesis.replay_made", kept=len(kept), tokens=total))
    return kept


def is_sound(prompt: str, answer: str) -> bool:
    """Whether an answer is worth repeating: it says something, in the prompt's language, and does not go in circles."""
    if len(answer) < 2:
        return False
    if not any(word in prompt for word in _TRANSLATES) and language_of(answer) not in (language_of(prompt), "other"):
        return False
    return not goes_in_circles(answer)


def goes_in_circles(text: str) -> bool:
    """Loops of a model that found no end: a line said four times, or a run of eight tokens."""
    lines = Counter(line.strip() for line in text.splitlines() if len(line.strip()) > 3)
    if lines and max(lines.values()) > 3:
        return True
    tokens = tokens_of(text)
    runs = Counter(tuple(tokens[start : start + 8]) for start in range(len(tokens) - 7))
    return bool(runs) and max(runs.values()) > 3


def _why_not(recipe: Recipe, base: Base, *, must: bool) -> str | None:
    """Why the base does not answer prompts here, in words; None when it does. Who asks for it by name (`must`) may have
    a small base and wait for a CPU."""
    if base.template is None:
        return say("synthesis.why_base_no_template")
    if recipe.model.init == "random":
        return say("synthesis.why_base_random")
    if importlib.util.find_spec("torch") is None:
        return say("synthesis.why_base_no_torch")
    if must:
        return None
    shapes = Shapes.read(read_json(base.folder / "config.json"))
    if shapes is not None and shapes.num_params < MIN_PARAMS:
        return say("synthesis.why_base_small", params=round(shapes.num_params / 1e6))
    from danlu.pipeline.device import choose_device  # torch: asked last

    return say("synthesis.why_base_no_gpu") if choose_device("auto") == "cpu" else None


def _counter(base: Base) -> Callable[[str], int]:
    return lambda text: len(base.tokenizer.encode_text(text))


def _prompt(line: str) -> str:
    """The prompt of one line, "" where it holds none."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line.strip()
    if not isinstance(row, dict):
        return line.strip()
    return next(
        (row[key].strip() for key in ("prompt", "question", "instruction") if isinstance(row.get(key), str)), ""
    )
