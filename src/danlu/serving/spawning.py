"""Starting a process that belongs to us: a session of its own (so that all it starts ends with it), standard input as a
pipe whose end means that we are gone, a signal from the kernel when we die, and a little of our environment. Linux; on
other systems without the kernel's part. Who watches over it is `processes.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

GIVEN = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH",
    "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH",
    "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "HF_HOME",
)  # fmt: skip
"""What children see of our environment: where programs and devices are; no credentials."""
LAST_WORDS = 600
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


async def spawn(
    argv: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    *,
    pass_fds: Sequence[int] = (),
    death_signal: signal.Signals = signal.SIGKILL,
) -> asyncio.subprocess.Process:
    """Its input is a pipe; what it prints goes to the end of `log`. OSError where there is no such program."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.PIPE, stdout=descriptor, stderr=descriptor, env=environment(env),
            start_new_session=True, pass_fds=tuple(pass_fds), preexec_fn=_bound_to_us(death_signal),
        )  # fmt: skip
    except OSError as fault:
        os.write(descriptor, f"{argv[0]}: {fault}\n".encode())
        raise
    finally:
        os.close(descriptor)


def environment(further: Mapping[str, str]) -> dict[str, str]:
    """What a child is given: little of ours, and what its command adds. The loopback is reached without a proxy."""
    ours = {name: os.environ[name] for name in GIVEN if name in os.environ}
    return ours | {"no_proxy": "127.0.0.1,localhost", "PYTHONUNBUFFERED": "1"} | dict(further)


def signal_session(pid: int, which: signal.Signals) -> None:
    """To all that stayed in the session's group; its number is the child's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, which)


def last_words(log: Path) -> str:
    """The end of what it printed, on one line; "" where it printed nothing."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    told = " / ".join(line.strip() for line in lines[-6:] if line.strip())
    return "".join(c if c.isprintable() else " " for c in told)[-LAST_WORDS:]


def _bound_to_us(death_signal: signal.Signals) -> Callable[[], None] | None:
    """Runs between fork and exec, so it only makes system calls: the kernel ends the child when we die, and no program
    that it starts gains rights."""
    if _LIBC is None:
        return None
    number = int(death_signal)

    def bind() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    return bind
