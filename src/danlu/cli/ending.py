"""How a command ends when something is wrong: text and fix for people, one line of JSON for scripts, never a traceback.

Exit codes: 2 what a person can mend, 130 Ctrl-C, 0 where a pipe has read enough.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from danlu.cli.habits import knob_of
from danlu.cli.help import Group, UsageError, usage
from danlu.cli.options import choose_language
from danlu.cli.progress import stop_bars
from danlu.cli.voice import Voice
from danlu.core.errors import DanluError
from danlu.core.messages import listed, lookup, say

_NUMBERS = {
    "valid integer": "help.whole_number",
    "valid number": "help.number",
    "greater than or equal to": "help.at_least",
    "less than or equal to": "help.at_most",
}


class Verbs(Group):
    """The group of all commands, in the order a newcomer meets them."""

    chapters: ClassVar[Mapping[str, Sequence[str]]] = {
        "start": ("demo", "new", "advise", "explain", "list", "doctor"),
        "data": ("inspect", "convert", "prepare", "select", "why", "forget", "audit"),
        "train": ("check", "plan", "run", "train", "prune", "sweep", "round", "runs", "show", "track"),
        "judge": ("evaluate", "compare", "weigh", "judge", "examine"),
        "ship": ("export", "registry", "chat", "serve", "serving", "keys", "usage", "feedback", "bundle"),
    }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        choose_language(args)
        ctx.obj = Voice(as_json="--json" in args)
        with _told(ctx.obj):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _told(ctx.obj):
            return super().invoke(ctx)


@contextlib.contextmanager
def _told(voice: Voice) -> Iterator[None]:
    try:
        yield
    except DanluError as error:
        _end(voice, error.text, error.fix, error.to_json(), 2)
    except UsageError as error:
        _end_usage(voice, error)
    except KeyboardInterrupt:
        _end_with(voice, "cli.interrupted", 130)
    except BrokenPipeError:  # `danlu list formats | head -1` has read enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # the system refused: no permission, no space, no such device
        key = "cli.no_space" if error.errno == errno.ENOSPC else "cli.system"
        where = str(error.filename or "")
        _end_with(
            voice,
            key,
            2,
            where=where,
            what=error.strerror or type(error).__name__,
            file=where or say("cli.while_writing"),
        )


def _end_usage(voice: Voice, error: Any) -> None:
    """Words that fit no command: what they are, and the line that would do."""
    kind, message = type(error).__name__, error.format_message()
    if kind == "NoArgsIsHelpError":
        voice.say(message)
        sys.exit(2)
    key, values = "help.wrong", {"why": message}
    param = getattr(error, "param", None)  # only some of typer's errors know one
    if kind == "MissingParameter" and param is not None:
        words = [param.opts[-1]] if param.param_type_name == "option" else []
        key, values = "help.missing", {"name": " ".join([*words, param.metavar or ""]).strip()}
    elif kind == "NoSuchOption":
        key, values = _no_option(error)
    elif kind == "BadOptionUsage":
        key, values = "help.no_value", {"given": error.option_name}
    elif kind == "BadParameter" and param is not None:
        name = param.opts[-1] if param.param_type_name == "option" else param.metavar or param.name
        key, values = "help.value", {"name": name, "why": _why(error.message)}
    line, command = (usage(error.ctx), error.ctx.command_path) if error.ctx else ("", "danlu")
    _end_with(voice, key, 2, usage=line, command=command, **values)


def _no_option(error: Any) -> tuple[str, dict[str, str]]:
    """Which option was meant; where a knob was, and the command takes knobs, how they are given."""
    takes_knobs = error.ctx is not None and any(param.name == "overrides" for param in error.ctx.command.params)
    if takes_knobs and (knob := knob_of(error.option_name)):
        return "help.option_is_knob", {"given": error.option_name, "knob": knob}
    near = listed(error.possibilities or ())
    return ("help.no_option_but" if near else "help.no_option"), {"given": error.option_name, "nearest": near}


def _why(message: str) -> str:
    """typer's English about numbers in the reader's language; anything else as it is."""
    for words, key in _NUMBERS.items():
        if words in message:
            return say(key, bound=message.split()[-1])
    return message


def _end_with(voice: Voice, key: str, code: int, *, where: str = "", **values: Any) -> None:
    text, fix = (part.format(**values) for part in lookup(key))
    _end(voice, text, fix, {"error": key, "where": where, "message": text, "fix": fix}, code)


def _end(voice: Voice, text: str, fix: str, found: dict[str, Any], code: int) -> None:
    stop_bars()
    voice.fail(text, fix)
    voice.result(found)
    sys.exit(code)
