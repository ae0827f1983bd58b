"""Another program's server as a child that behaves like ours: its secret comes by standard input, and it ends with us.

    python -m danlu.serving.drivers.keeper VARIABLE PROGRAM [ARGUMENT...]

reads the secret's line, starts PROGRAM with the secret in the environment variable of that name (`-`: none), and waits.
End of file (the parent is gone) or SIGTERM: PROGRAM is asked to end, and soon made to, with all that it started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

GRACE_S = 8.0
_ENDING = threading.Event()


def main(variable: str, *argv: str) -> int:
    secret = sys.stdin.buffer.readline().decode().strip()
    given = {**os.environ, variable: secret} if variable != "-" else None
    child = subprocess.Popen(list(argv), stdin=subprocess.DEVNULL, env=given)  # noqa: S603 - a driver's argument list
    signal.signal(signal.SIGTERM, lambda *_: _end(child))
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    code = child.wait()
    if _ENDING.is_set():
        _sweep()
    return code if code >= 0 else 128 - code  # our own parent sweeps


def _watch(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Asked first, and not asked for ever."""
    _ENDING.set()
    child.terminate()
    last = threading.Timer(GRACE_S, _sweep)
    last.daemon = True
    last.start()


def _sweep() -> None:
    """All that is left of this session, ourselves included."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
