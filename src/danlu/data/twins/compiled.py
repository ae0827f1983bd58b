"""Whether compiled loops pay: numba, where it is installed, costs seconds before it saves microseconds.

The loops (`loops_*.py`) give the very same numbers as the numpy code that they stand in for, which is what runs without
numba and on little data. On two cores of 2023: numba's import and loading kept machine code take 0.5 s of CPU in each
process, compiling it for the first time on a machine 5 s. So a process works in numpy until that has cost about as
much as the loops would have: never more than twice the best, whatever is still to come.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar, cast

Given = ParamSpec("Given")
Found = TypeVar("Found")
WARM_UNITS, COLD_UNITS = 5_000_000, 80_000_000
"""Units of text that numpy folds and signs in about the time that loading, or compiling, the loops takes."""


_compiling = threading.RLock()


class _Loop(Generic[Given, Found]):
    """A loop that becomes machine code on its first call, so that its module is imported for nothing where numba is
    not wanted, or not there."""

    def __init__(self, loop: Callable[Given, Found], *, is_woven: bool) -> None:
        self._loop, self._is_woven = loop, is_woven

    def __call__(self, *given: Given.args, **named: Given.kwargs) -> Found:
        return self._linked(*given, **named)

    @functools.cached_property
    def _linked(self) -> Callable[Given, Found]:
        """The code, once all loops of this module are code: numba looks there for what a loop calls."""
        own = self._loop.__globals__
        with _compiling:
            for name, other in list(own.items()):
                if isinstance(other, _Loop):
                    own[name] = other.code
        return self.code

    @functools.cached_property
    def code(self) -> Callable[Given, Found]:
        """numba's, compiled for the types of each call."""
        from numba import njit  # optional, and half a second to import

        if self._is_woven:
            return cast(Callable[Given, Found], njit(forceinline=True, nogil=True)(self._loop))
        try:
            return cast(Callable[Given, Found], njit(cache=True, nogil=True)(self._loop))
        except RuntimeError:  # neither beside the source nor in the user's own folder can anything be written
            return cast(Callable[Given, Found], njit(nogil=True)(self._loop))


def compiled(loop: Callable[Given, Found]) -> _Loop[Given, Found]:
    """Machine code for the types of a call, kept beside the source."""
    return _Loop(loop, is_woven=False)


def woven(loop: Callable[Given, Found]) -> _Loop[Given, Found]:
    """Made part of whatever compiled loop calls it, as the compiler proper sees it: straight code stays straight."""
    return _Loop(loop, is_woven=True)


class Purse:
    """What this process has spent in numpy so far."""

    def __init__(self) -> None:
        self.num_units = 0
        self._lock = threading.Lock()

    def is_worth(self, num_units: int) -> bool:
        """Whether text of that many more units is for the loops."""
        with self._lock:
            spent = self.num_units + num_units
            if spent >= COLD_UNITS or (spent >= WARM_UNITS and is_kept()):
                return has_numba()
            self.num_units = spent
            return False


purse = Purse()


@functools.cache
def has_numba() -> bool:
    """Is numba here, and does it get on with this numpy?"""
    try:
        import numba  # noqa: F401 - slow to load, and only asked after where it would pay
    except ImportError:
        return False
    return True


@functools.cache
def is_kept() -> bool:
    """Was machine code of the loops kept by an earlier process? (Made for another version, it is made anew.) Numba says
    where: of a package that this user cannot write to, in a folder of the user's own."""
    if not has_numba():
        return False
    from numba.core import config  # as slow to load
    from numba.misc.appdirs import AppDirs

    here = Path(__file__).parent
    elsewhere = Path(config.CACHE_DIR or AppDirs("numba", False).user_cache_dir)
    is_beside = not config.CACHE_DIR and any((here / "__pycache__").glob("loops_*.nbi"))
    return is_beside or any(elsewhere.glob(f"{here.name}_*/loops_*.nbi"))
