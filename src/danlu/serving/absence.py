"""A database or a Redis that is away: said once when it goes and once when it is back, however often it is asked
between. A log of an outage is two lines, not one a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Absence:
    """`missed` and `found` at each look. `gone(fault)` is told the first fault, `back(seconds)` how long it was."""

    def __init__(
        self, gone: Callable[[Exception], None] | None = None, back: Callable[[float], None] | None = None
    ) -> None:
        self._gone, self._back = gone, back
        self._since: float | None = None

    def missed(self, fault: Exception) -> None:
        if self._since is None:
            self._since = time.monotonic()
            if self._gone is not None:
                self._gone(fault)

    def found(self) -> None:
        if self._since is not None:
            since, self._since = self._since, None
            if self._back is not None:
                self._back(round(time.monotonic() - since, 3))
