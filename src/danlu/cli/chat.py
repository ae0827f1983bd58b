"""`danlu chat`: talk to a run or an artefact in the terminal; `/base` shows the untouched base beside it."""

from __future__ import annotations

from pathlib import Path

from danlu.cli.targets import is_artifact, open_target
from danlu.cli.voice import Voice
from danlu.core.errors import DanluError
from danlu.core.messages import say
from danlu.data.sample import Message
from danlu.engines.engine import Question, Sampling
from danlu.engines.native import NativeEngine
from danlu.pipeline.open_engine import open_artifact, open_engines


def talk(target: str, runs: Path, voice: Voice) -> None:
    """A conversation until /quit, Ctrl-D or the end of a piped input."""
    base: NativeEngine | None = None
    sampling = Sampling(max_new_tokens=512)
    if is_artifact(target):
        tuned = open_artifact(Path(target))
        if tuned.adapter is not None:
            base = tuned.base()
    else:
        run = open_target(target, (), runs)
        engines = open_engines(run, progress=voice.progress)
        tuned, base = engines.tuned, engines.base
        sampling = Sampling(max_new_tokens=run.recipe.evaluation.max_new_tokens)
    voice.say(say("cli.chat_hello", name=tuned.name), "bold")
    turns: list[Message] = []
    while (line := _ask()) is not None:
        if line in ("/quit", "/exit", "/bye"):
            return
        if line == "/new":
            turns = []
        elif line.startswith("/base"):
            question = line.removeprefix("/base").strip() or next(
                (t.content for t in reversed(turns) if t.role == "user"), ""
            )
            if base is not None and question:
                _answer(base, [Message("user", question)], sampling, voice, "bright_black")
        elif line:
            turns.append(Message("user", line))
            turns.append(Message("assistant", _answer(tuned, turns, sampling, voice, "green")))


def _ask() -> str | None:
    try:
        return input("> ").strip()
    except EOFError:
        return None


def _answer(engine: NativeEngine, turns: list[Message], sampling: Sampling, voice: Voice, style: str) -> str:
    pieces = []
    try:
        for piece in engine.stream(Question(tuple(turns)), sampling):
            pieces.append(piece)
            voice.say(piece, style, end="")
    except DanluError as error:  # a prompt beyond the context must not end the conversation
        voice.fail(error.text, error.fix)
    voice.say("")
    return "".join(pieces)
