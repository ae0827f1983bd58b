"""This machine's memory, as a process may use it: a container's limit counts where it is lower than the machine."""

from __future__ import annotations

import os
from pathlib import Path

UNKNOWN_BYTES = 8 * 2**30
"""Where the system does not tell."""
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_MEMINFO = Path("/proc/meminfo")


def total_bytes() -> int:
    """All of it."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return UNKNOWN_BYTES
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_container_limits()])


def available_bytes() -> int:
    """What can be taken without anything being swapped out: caches of files count as free."""
    try:
        lines = _MEMINFO.read_text(encoding="utf-8").splitlines()
        kibibytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return min([int(kibibytes) * 1024, *_container_limits()])
    except (OSError, StopIteration, ValueError, IndexError):  # not Linux
        return total_bytes()


def _container_limits() -> list[int]:
    limits = []
    for file in _CGROUPS:
        try:
            limits.append(int(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # no container, or "max"
            continue
    return limits
