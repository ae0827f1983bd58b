"""The command line: parse, call the pipeline, print. Nothing is decided here.

The modules below load when a verb first asks for them, so that `danlu check` stays well under half a second.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danlu.cli import (
        advising,
        auditing,
        beginning,
        bundling,
        calling,
        chat,
        checking,
        comparing,
        converting,
        doctor,
        examining,
        explain,
        inspecting,
        judging,
        keying,
        metering,
        new,
        opinions,
        preparing,
        proving,
        registering,
        rolling,
        rounding,
        selecting,
        serving,
        shelves,
        show,
        show_plan,
        sweeping,
        targets,
        tracking,
        weighing,
        why,
    )

__all__ = [
    "advising",
    "auditing",
    "beginning",
    "bundling",
    "calling",
    "chat",
    "checking",
    "comparing",
    "converting",
    "doctor",
    "examining",
    "explain",
    "inspecting",
    "judging",
    "keying",
    "metering",
    "new",
    "opinions",
    "preparing",
    "proving",
    "registering",
    "rolling",
    "rounding",
    "selecting",
    "serving",
    "shelves",
    "show",
    "show_plan",
    "sweeping",
    "targets",
    "tracking",
    "weighing",
    "why",
]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'danlu.cli' has no attribute {name!r}")
    return importlib.import_module(f"danlu.cli.{name}")
