"""The command line, called in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.strip().splitlines()[-1])


def danlu(*words: object, input: str | None = None) -> Said:
    """`danlu WORDS...` in this process. An exception that is not an exit is a traceback for the user, and raised here."""
    from typer.testing import CliRunner

    from danlu.cli.main import app

    done = CliRunner().invoke(app, [str(word) for word in words], input=input)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert "Traceback" not in done.output
    return Said(done.exit_code, done.stdout, done.stderr)
