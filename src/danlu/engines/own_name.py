"""What a process is called in the system's list (`ps`, `top`), once it became something else than it was started as.

Linux keeps a process' command line in its own memory, where it can be written over, as far as it reaches: who means to
become something else was started with an argument of blanks. Elsewhere, and where the system hides it, nothing happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_BEGIN, _END = 45, 46
"""Of the fields of /proc/PID/stat behind the name: where the command line begins and ends (proc(5): 48 and 49)."""


def be_called(argv: Sequence[str]) -> None:
    """From now on it is listed as having been started so; what has no room is cut off."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        begin, size = int(fields[_BEGIN]), int(fields[_END]) - int(fields[_BEGIN])
        if begin and size > 1:
            told = b"\0".join(map(os.fsencode, argv))[: size - 1]
            ctypes.memmove(begin, told.ljust(size, b"\0"), size)
