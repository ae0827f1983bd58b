"""An evaluation that is killed goes on where it stood, and what is remembered belongs to the very prompt it was asked
with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from danlu.data.sample import Message
from danlu.engines.engine import Answer, Flowing, Question, Rendering, Sampling
from danlu.evaluation.cache import CachedEngine
from waiting_kit import until_true

NUM = 40


class SlowEngine:
    """Gives an answer every 50 ms; a line in `log` for each, so that the test knows what was paid for."""

    name = digest = "slow"

    def __init__(self, log: Path, pause_s: float = 0.05, template: str = "{}") -> None:
        self.log, self.pause_s, self.template = log, pause_s, template

    def prompt_ids(self, question: Question) -> list[int]:
        return list(self.template.format(question.messages[-1].content).encode())

    def answers(self, questions: Sequence[Question], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        for number, question in enumerate(questions):
            time.sleep(self.pause_s)
            with self.log.open("a") as file:
                file.write(question.messages[-1].content + "\n")
            yield number, Answer(question.messages[-1].content.upper(), "stop", 3, 2, (1, 2), self.pause_s)

    def generate(
        self, questions: Sequence[Question], sampling: Sampling, *, watch: Callable[[int], None] | None = None
    ) -> list[Answer]:
        return [answer for _, answer in self.answers(questions, sampling)]


def asked(num: int = NUM) -> list[Question]:
    return [Question((Message("user", f"question {n}"),)) for n in range(num)]


def test_killed_at_any_moment_little_is_asked_again(tmp_path: Path) -> None:
    log, answers = tmp_path / "log", tmp_path / "answers"
    code = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[3:]; import test_answers_resume as t\n"
        "t.CachedEngine(t.SlowEngine(Path(sys.argv[1])), Path(sys.argv[2])).generate(t.asked(), t.Sampling())\n"
    )
    here = Path(__file__).parent
    child = subprocess.Popen([sys.executable, "-c", code, *map(str, (log, answers, here, here.parents[1]))])
    until_true(lambda: log.exists() and len(log.read_text().splitlines()) >= 25)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    num_paid = len(log.read_text().splitlines())
    (file,) = answers.iterdir()
    file.write_bytes(file.read_bytes()[:-9])  # and the last line torn
    again = CachedEngine(SlowEngine(log, pause_s=0.0), answers)
    found = again.generate(asked(), Sampling())
    assert [answer.text for answer in found] == [f"QUESTION {n}" for n in range(NUM)]
    # half a second's answers (10) may be lost, and the torn one
    assert NUM - num_paid <= again.num_asked <= NUM - num_paid + 12
    assert CachedEngine(SlowEngine(log), answers).generate(asked(), Sampling()) == found
    assert len(log.read_text().splitlines()) == num_paid + again.num_asked


def test_interrupted_answers_are_kept(tmp_path: Path) -> None:
    class Interrupted(SlowEngine):
        def answers(self, questions: Sequence[Question], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
            for number, answer in super().answers(questions, sampling):
                if number == 5:
                    raise KeyboardInterrupt
                yield number, answer

    with pytest.raises(KeyboardInterrupt):
        CachedEngine(Interrupted(tmp_path / "log", 0.0), tmp_path / "kept").generate(asked(), Sampling())
    again = CachedEngine(SlowEngine(tmp_path / "log", 0.0), tmp_path / "kept")
    again.generate(asked(), Sampling())
    assert again.num_asked == NUM - 5


def test_another_template_is_asked_anew(tmp_path: Path) -> None:
    """The same weights with another system prompt were once answered from the old one's memory."""
    first = CachedEngine(SlowEngine(tmp_path / "log", 0.0), tmp_path / "kept")
    first.generate(asked(4), Sampling())
    other = CachedEngine(SlowEngine(tmp_path / "log", 0.0, template="be brief: {}"), tmp_path / "kept")
    other.generate(asked(4), Sampling())
    assert (first.num_asked, other.num_asked) == (4, 4)
    same = CachedEngine(SlowEngine(tmp_path / "log", 0.0), tmp_path / "kept")
    same.generate(asked(4), Sampling())
    assert same.num_asked == 0


def test_what_asking_took_is_counted(tmp_path: Path) -> None:
    engine = CachedEngine(SlowEngine(tmp_path / "log", 0.0), tmp_path / "kept")
    engine.generate(asked(4), Sampling())
    again = CachedEngine(SlowEngine(tmp_path / "log", 0.0), tmp_path / "kept")
    seen: list[int] = []
    again.generate(asked(6), Sampling(), watch=seen.append)
    told = again.usage.to_json()
    assert told["answers"] == 6 and told["asked"] == 2 and told["prompt_tokens"] == 18 and told["answer_tokens"] == 12
    assert sum(seen) == 6 and isinstance(again.engine, Flowing) and isinstance(again.engine, Rendering)
