"""Where vLLM is: in an environment of its own, whose python a recipe may name. No torch: `danlu check` asks too."""

from __future__ import annotations

import shutil
from pathlib import Path


def program(python: str | None) -> str | None:
    """Where `vllm` is: beside the interpreter that was named, or on the path; None where it is not."""
    if python is not None:
        beside = Path(python).expanduser().parent / "vllm"
        return str(beside) if beside.is_file() else None
    return shutil.which("vllm")


def programs(python: str | None) -> tuple[str, ...]:
    """The reader's name where it can be asked. A program that was named must be there: asking it will say so."""
    return ("vllm",) if python is not None or program(None) is not None else ()
