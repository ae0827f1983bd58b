"""What engines tell of themselves: cache in use, answers being computed, requests that wait inside. Each driver knows
its engine's names for them; those that it lacks, or no longer has, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MOST_BYTES = 4 * 2**20
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[^\n]*\})? ([-+0-9.eE]+)(?: -?\d+)?$", re.M)


def read_figures(text: bytes, called: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """Key of `exposition.STANDING` to value, of an engine's own `/metrics`; `called` is what its driver says that they
    are called there (`About.figures`). Series of one name are added up (a share: the largest)."""
    wanted = {name: key for key, names in called.items() for name in names}
    found: dict[str, float] = {}
    for name, number in _SAMPLE.findall(text[:MOST_BYTES].decode("utf-8", "replace")):
        key = wanted.get(name)
        if key is None:
            continue
        try:
            value = float(number)
        except ValueError:
            continue
        found[key] = max(found.get(key, 0.0), value) if key == "cache" else found.get(key, 0.0) + value
    return found
