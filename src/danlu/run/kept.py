"""Reading back what danlu itself has written: gone or damaged is said in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import RunError
from danlu.core.files import read_json


def read_kept(path: Path) -> Any:
    """A JSON file that danlu itself has written; RunError when it is gone or no longer JSON."""
    try:
        return read_json(path)
    except FileNotFoundError as error:
        raise RunError("run.file_missing", where=str(path)) from error
    except orjson.JSONDecodeError as error:
        raise RunError("run.file_damaged", where=str(path), why=str(error)) from error
