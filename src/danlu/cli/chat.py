"""`danlu chat`: talk to a run or an artefact in the terminal; `/base` shows the untouched base beside it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import danlu
from danlu.cli.targets import is_artifact, open_target
from danlu.cli.voice import Voice
from danlu.core.errors import DanluError
from danlu.core.messages import say
from danlu.data.sample import Message
from danlu.engines.engine import Classifying, Engine, Question, Sampling

MAX_NEW_TOKENS = 512
_COMMAND = re.compile("/[a-z?]*")


def talk(target: str, runs: Path, voice: Voice, *, allow_unproven: bool = False) -> None:
    """A conversation until /quit, Ctrl-D or the end of a piped input. With --json one line of JSON per answer. An
    artefact that failed its proof is refused, unless `allow_unproven`."""
    converse(_sit_down(target, runs, voice, allow_unproven=allow_unproven))


def converse(table: Table) -> None:
    """Questions and answers until somebody leaves."""
    voice = table.voice
    if not voice.as_json:
        hello = "cli.chat_hello" if table.base is not None else "cli.chat_hello_alone"
        voice.say(say(hello, name=table.tuned.name), "bold")
    while (line := _ask(voice)) is not None:
        word = line.partition(" ")[0]
        if line in ("/quit", "/exit", "/bye"):
            return
        if line == "/new":
            table.turns.clear()
        elif word == "/base":
            table.ask_base(line.removeprefix("/base").strip())
        elif _COMMAND.fullmatch(
            line.partition(" ")[0]
        ):  # a slip or a wish for help; a path such as /etc/hosts is a question
            voice.fail(say("cli.chat_commands", given=line.partition(" ")[0]))
        elif line:
            table.ask(line)


def _sit_down(target: str, runs: Path, voice: Voice, *, allow_unproven: bool) -> Table:
    if is_artifact(target):
        tuned = danlu.open_artifact(Path(target), allow_unproven=allow_unproven, progress=voice.progress)
        base = tuned.base() if tuned.adapter is not None else None
        return Table(voice, tuned, base, Sampling(max_new_tokens=MAX_NEW_TOKENS))
    run = open_target(target, (), runs)
    engines = danlu.open_engines(run, progress=voice.progress)
    sampling = Sampling(max_new_tokens=run.recipe.evaluation.max_new_tokens)
    return Table(voice, engines.tuned, engines.base, sampling)


@dataclass
class Table:
    """Who talks: the tuned model, the base beside it (a merged artefact has none), and what was said so far."""

    voice: Voice
    tuned: Engine
    base: Engine | None
    sampling: Sampling
    turns: list[Message] = field(default_factory=list)

    def ask(self, question: str) -> None:
        self.turns.append(Message("user", question))
        answer = self._answer(self.tuned, self.turns, "tuned", "green")
        if answer is None:
            self.turns.pop()
        else:
            self.turns.append(Message("assistant", answer))

    def ask_base(self, question: str) -> None:
        """Without a question, the last one again."""
        question = question or next((turn.content for turn in reversed(self.turns) if turn.role == "user"), "")
        if self.base is None:
            self.voice.fail(say("cli.chat_no_base"))
        elif question:
            self._answer(self.base, [Message("user", question)], "base", "bright_black")

    def _answer(self, engine: Engine, turns: list[Message], side: str, style: str) -> str | None:
        """None when there was no answer: a prompt beyond the context must not end the conversation."""
        pieces: list[str] = []
        question = Question(tuple(turns))
        if isinstance(engine, Classifying):
            return self._class(engine, question, side, style)
        try:
            for piece in engine.stream(question, self.sampling):
                pieces.append(piece)
                if not self.voice.as_json:
                    self.voice.say(piece, style, end="")
        except DanluError as error:
            self._refuse(error, question, side)
            return None
        if not self.voice.as_json:
            self.voice.say("")
        answer = "".join(pieces)
        self.voice.result({"model": side, "question": turns[-1].content, "answer": answer})
        return answer

    def _class(self, engine: Classifying, question: Question, side: str, style: str) -> str | None:
        """The likeliest class with its probability; the text alone counts, not what was said before."""
        try:
            told = engine.probabilities(question)
        except DanluError as error:
            self._refuse(error, question, side)
            return None
        answer, share = next(iter(told.items()))
        if not self.voice.as_json:
            self.voice.say(f"{answer}  {share:.1%}", style)
        self.voice.result(
            {"model": side, "question": question.messages[-1].content, "answer": answer, "probabilities": told}
        )
        return answer

    def _refuse(self, error: DanluError, question: Question, side: str) -> None:
        self.voice.fail(error.text, error.fix)
        self.voice.result({"model": side, "question": question.messages[-1].content} | error.to_json())


def _ask(voice: Voice) -> str | None:
    try:
        return input("> " if sys.stdin.isatty() and not voice.as_json else "").strip()
    except EOFError:
        return None
