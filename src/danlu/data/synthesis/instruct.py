"""Self-Instruct (Wang et al. 2023): new tasks from examples, round by round, into a pool that grows.

Each request shows eight examples, six of the seeds and two of what was made before; a task whose instruction has
ROUGE-L of 0.7 or more with one in the pool is refused. Within a round all requests see the pool as the round began, so
the order in which replies come changes nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import orjson

from danlu.data.language import Language, language_of
from danlu.data.sample import Conversation, Message, Origin, Sample
from danlu.data.synthesis.facts import Fault
from danlu.data.synthesis.prompts import fenced, messages, told
from danlu.data.synthesis.replies import text_at
from danlu.data.synthesis.teacher import OPEN, Ask, Clearance
from danlu.data.synthesis.words import Reading, rouge_l, tokens_of

NUM_SEED_SHOTS, NUM_MADE_SHOTS = 6, 2
ALIKE = 0.7
PER_REQUEST = 10
PER_ROUND = 4
PATIENCE = 3
"""Rounds in a row that bring almost nothing before the work ends."""
_NEEDS_MORE = re.compile(
    r"图片|图像|看图|照片|截图|附件|链接|网址|音频|视频|上传|下图|如图"
    r"|\b(?:image|picture|photo|screenshot|attach(?:ed|ment)|link|url|website|audio|video|upload(?:ed)?)\b|https?://",
    re.IGNORECASE,
)
_EXCUSE = re.compile(
    r"作为(?:一个|一名)?(?:AI|人工智能|语言模型)|我(?:无法|不能)(?:完成|提供|回答)"
    r"|\bas an? (?:ai|language model)\b|\bI(?:'m| am) (?:sorry|unable)\b|\bI can(?:no|')t\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Task:
    """An instruction, material it works on (often none), and what a good answer is."""

    instruction: str
    material: str
    output: str
    clearance: Clearance = OPEN

    @property
    def prompt(self) -> str:
        return f"{self.instruction}\n\n{self.material}" if self.material else self.instruction

    def to_json(self) -> dict[str, str]:
        return {"instruction": self.instruction, "input": self.material, "output": self.output}


def seed_tasks(seeds: Sequence[Sample], language: Language) -> list[Task]:
    """The user's examples as tasks; danlu's own in this language where there are none."""
    tasks = [task for seed in seeds if (task := _task_of(seed)) is not None]
    if tasks:
        return tasks
    content = resources.files("danlu.assets").joinpath("synthesis", "seeds.jsonl").read_bytes()
    rows = [orjson.loads(line) for line in content.splitlines() if line.strip()]
    wanted = "zh" if language == "zh" else "en"
    return [Task(row["instruction"], row["input"], row["output"]) for row in rows if row["language"] == wanted]


def _task_of(sample: Sample) -> Task | None:
    if not isinstance(sample, Conversation):
        return None
    turns = [turn for turn in sample.messages if turn.role in ("user", "assistant")]
    if len(turns) < 2 or turns[0].role != "user" or turns[1].role != "assistant":
        return None
    return Task(turns[0].content, "", turns[1].content, Clearance.of(sample))


class Pool:
    """All tasks so far, and what has been made."""

    def __init__(self, seeds: Sequence[Task]) -> None:
        self.seeds, self.made = list(seeds), list[Task]()
        self._tokens = [tokens_of(task.instruction) for task in seeds]

    def shots(self, seed: str) -> list[Task]:
        """Six seeds and two made before, in a random order; more seeds while nothing was made."""
        draw = random.Random(seed)  # noqa: S311 - examples, no secret
        made = draw.sample(self.made, min(NUM_MADE_SHOTS, len(self.made)))
        num_seeds = min(len(self.seeds), NUM_SEED_SHOTS + NUM_MADE_SHOTS - len(made))
        chosen = [*draw.sample(self.seeds, num_seeds), *made]
        draw.shuffle(chosen)
        return chosen

    def nearest(self, instruction: str) -> float:
        """The highest ROUGE-L to anything in the pool, as far as it reaches the limit; 0.0 below."""
        tokens = tokens_of(instruction)
        return max((rouge_l(tokens, other, at_least=ALIKE) for other in self._tokens), default=0.0)

    def add(self, task: Task) -> None:
        self.made.append(task)
        self._tokens.append(tokens_of(task.instruction))


def ask_tasks(pool: Pool, language: Language, topic: str | None, num: int, *, temperature: float, seed: str) -> Ask:
    shots = pool.shots(seed)
    examples = "\n".join(orjson.dumps(task.to_json()).decode() for task in shots)
    user = told(
        language, "instruct_wanted", count=num, examples=fenced(examples),
        topic=told(language, "instruct_topic", topic=topic) if topic else "",
    )  # fmt: skip
    dice = random.Random(seed).getrandbits(31)  # noqa: S311 - the teacher's dice
    clearance = Clearance.highest(task.clearance for task in shots)
    return Ask(messages(told(language, "instruct"), user), clearance, min(8192, 300 + 400 * num), temperature, dice)


def check_task(
    item: dict[str, Any], pool: Pool, language: Language, clearance: Clearance, reading: Reading
) -> Task | Fault:
    """The item as a task, or why it is refused."""
    task = Task(text_at(item, "instruction", "question", "prompt"), text_at(item, "input", "context"),
                text_at(item, "output", "answer", "response"), clearance)  # fmt: skip
    if not task.instruction or not task.output:
        return Fault("shape", {})
    if not 4 <= len(task.instruction) <= 1500 or len(task.prompt) > 6000 or len(task.output) > 6000:
        return Fault("length", {"given": f"{len(task.prompt)}/{len(task.output)}"})
    if language_of(task.instruction) not in (language, "other"):
        return Fault("language", {"given": language_of(task.instruction)})
    if found := _NEEDS_MORE.search(task.instruction):
        return Fault("needs_more", {"given": found[0]})
    if _EXCUSE.search(task.output):
        return Fault("excuse", {"given": task.output[:60]})
    if reading.fold(task.output) in (reading.fold(task.instruction), reading.fold(task.prompt)):
        return Fault("echo", {})
    if (alike := pool.nearest(task.instruction)) >= ALIKE:
        return Fault("alike", {"share": round(alike, 2)})
    return task


def sample_of(task: Task, number: int, teacher: str) -> Conversation:
    tags = {"made_by": "teacher", "teacher": teacher, "question": "instruction", "parents": [], **task.clearance.tags()}
    turns = (Message("user", task.prompt), Message("assistant", task.output))
    return Conversation(turns, Origin("self-instruct", number), tags=tags)
