"""Supervised processes, real ones: started, watched, restarted, drained, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from danlu.core.errors import EngineError
from danlu.serving import processes
from danlu.serving.drivers.driver import Command
from danlu.serving.processes import Child, Patience
from danlu.serving.spawning import environment
from waiting_kit import until, until_true

QUICK = Patience(ready_s=10, unwell_s=0.5, ask_every_s=0.05, drain_s=2, term_s=1, first_wait_s=0.05, most_wait_s=0.2)
GOOD = """
import os, sys, pathlib, time
here = pathlib.Path(sys.argv[1])
secret = sys.stdin.readline().strip()
(here / "told").write_text(secret + "\\n" + repr(sys.argv) + "\\n" + repr(dict(os.environ)))
(here / f"up-{os.getpid()}").touch()
print("ready now", flush=True)
while os.read(0, 100):
    pass
"""
SHORT_LIVED = GOOD.replace(
    "while os.read(0, 100):\n    pass",
    "while not (here / f'seen-{os.getpid()}').exists():\n    time.sleep(0.01)\ntime.sleep(0.1)\nsys.exit(7)",
)
"""It dies of itself once it was seen to be ready."""


def child_of(folder: Path, script: str, *, patience: Patience = QUICK, **settings) -> Child:
    command = Command([sys.executable, "-c", script, str(folder)], {"FOR_ME": "1"}, "unix:none", "s3cret-in-stdin")
    name = "engine"
    made: list[Child] = []

    async def is_ready() -> bool:
        is_up = (folder / f"up-{made[0].pid}").exists()
        if is_up:
            (folder / f"seen-{made[0].pid}").touch()
        return is_up

    made.append(Child(name, command, log=folder / "engine.log", is_ready=is_ready, patience=patience, **settings))
    return made[0]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_the_secret_comes_by_standard_input_and_our_credentials_stay_with_us(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ours")
    monkeypatch.setenv("OPENAI_API_KEY", "ours")

    async def story() -> None:
        child = child_of(tmp_path, GOOD)
        await child.start()
        assert child.state == "ready" and is_alive(child.pid)
        pid = child.pid
        secret, argv, env = (tmp_path / "told").read_text().split("\n")
        assert secret == "s3cret-in-stdin" and "s3cret" not in argv + env
        assert "ours" not in env and "'FOR_ME': '1'" in env
        assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        await child.stop()
        assert child.state == "stopped" and child.pid == 0 and not is_alive(pid)

    asyncio.run(story())


def test_what_died_comes_back_and_routers_are_told(tmp_path) -> None:
    seen: list[str] = []

    async def story() -> None:
        child = child_of(tmp_path, GOOD, on_change=lambda which: seen.append(which.state))
        await child.start()
        first = child.pid
        await child.kill()
        await until(lambda: child.state == "ready" and child.pid not in (0, first))
        assert child.facts.num_starts == 2 and child.facts.last_end.startswith("SIGKILL: ready now")
        await child.stop()

    asyncio.run(story())
    assert seen == ["starting", "ready", "waiting", "starting", "ready", "stopping", "stopped"]


def test_a_first_start_that_fails_tells_its_last_words(tmp_path) -> None:
    async def story() -> None:
        child = child_of(tmp_path, "print('no such model'); raise SystemExit(3)")
        with pytest.raises(EngineError, match="exit 3: no such model") as told:
            await child.start()
        assert str(tmp_path / "engine.log") in told.value.fix
        assert child.state == "failed" and child.facts.num_starts == 1
        await child.stop()

    asyncio.run(story())


def test_one_that_never_answers_is_told_so(tmp_path) -> None:
    async def story() -> None:
        command = Command(["/bin/sh", "-c", "echo loading; exec sleep 60"], {}, "unix:none", "s")

        async def never() -> bool:
            return False

        child = Child("slow", command, log=tmp_path / "log", is_ready=never, patience=Patience(ready_s=1))
        with pytest.raises(EngineError, match="no answer within 1 s: loading"):
            await child.start()
        assert child.pid == 0 and child.state == "failed"

    asyncio.run(story())


def test_a_program_that_is_not_there(tmp_path) -> None:
    async def story() -> None:
        command = Command(["/no/such/program"], {}, "unix:none", "s")

        async def never() -> bool:
            return False

        child = Child("gone", command, log=tmp_path / "log", is_ready=never, patience=QUICK)
        with pytest.raises(EngineError, match="No such file"):
            await child.start()

    asyncio.run(story())


def test_who_dies_again_and_again_stays_down(tmp_path) -> None:

    async def story() -> None:
        patience = Patience(ready_s=10, ask_every_s=0.05, first_wait_s=0.02, most_wait_s=0.1, most_failures=4)
        child = child_of(tmp_path, SHORT_LIVED, patience=patience)
        await child.start()
        await until(lambda: child.state == "failed")
        assert child.facts.num_starts == 4 and child.facts.num_failures == 4 and "exit 7" in child.facts.last_end
        await child.stop()

    asyncio.run(story())


def test_the_first_death_is_made_good_at_once_and_waits_grow_up_to_a_ceiling(tmp_path, monkeypatch) -> None:
    waits: list[float] = []
    wait_for = asyncio.wait_for

    async def noted(what, timeout):
        waits.append(timeout)
        return await wait_for(what, timeout)

    async def story() -> None:
        patience = Patience(ready_s=10, ask_every_s=0.02, first_wait_s=0.11, most_wait_s=0.25, most_failures=5)
        child = child_of(tmp_path, SHORT_LIVED, patience=patience)
        await child.start()
        monkeypatch.setattr(processes.asyncio, "wait_for", noted)
        await until(lambda: child.state == "failed")

    asyncio.run(story())
    assert [wait for wait in waits if wait in (0.11, 0.22, 0.25, 0.44)] == [0.11, 0.22, 0.25]


def test_who_hangs_is_killed_and_started_again(tmp_path) -> None:
    async def story() -> None:
        child = child_of(tmp_path, GOOD)
        await child.start()
        hung = child.pid
        (tmp_path / f"up-{hung}").unlink()  # it lives, and answers no more
        await until(lambda: child.state == "ready" and child.pid not in (0, hung))
        assert not is_alive(hung) and "silent" in child.facts.last_end
        await child.stop()

    asyncio.run(story())


def test_stopping_drains_first_then_asks_then_kills_all_that_it_started(tmp_path) -> None:
    script = """
import os, signal, subprocess, sys, pathlib, time
here = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (here / "asked").touch())  # and goes on
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(here / "inner").write_text(str(inner.pid))
(here / f"up-{os.getpid()}").touch()
while True:
    time.sleep(0.1)
"""
    order: list[str] = []

    async def story() -> None:
        child = child_of(tmp_path, script)
        await child.start()
        pid, inner = child.pid, int((tmp_path / "inner").read_text())

        async def drain() -> None:
            order.append(f"drain while {child.state}, asked: {(tmp_path / 'asked').exists()}")
            await asyncio.sleep(0.1)

        await child.stop(drain=drain)
        assert (tmp_path / "asked").exists() and not is_alive(pid)
        await until(lambda: not is_alive(inner))  # it is killed with its parent, and nobody of us waits for its end

    asyncio.run(story())
    assert order == ["drain while stopping, asked: False"]


def test_a_drain_that_hangs_does_not_hold_us(tmp_path) -> None:
    async def story() -> None:
        child = child_of(tmp_path, GOOD, patience=Patience(ask_every_s=0.05, drain_s=0.2, term_s=1))
        await child.start()
        began = time.monotonic()
        await child.stop(drain=lambda: asyncio.sleep(60))
        assert time.monotonic() - began < 30 and child.state == "stopped"

    asyncio.run(story())


PARENT = """
import asyncio, signal, sys
from pathlib import Path
from danlu.serving.drivers.driver import Command
from danlu.serving.processes import Child
folder = Path(sys.argv[1])
async def ready(): return (folder / "up").exists()
async def main():
    command = Command(sys.argv[3:], {}, "", "secret")
    child = Child("x", command, log=folder / "log", is_ready=ready, death_signal=signal.Signals[sys.argv[2]])
    await child.start()
    print(child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
DEAF = "import pathlib,sys,time; pathlib.Path(sys.argv[1],'up').touch(); time.sleep(60)"


def start_parent(folder: Path, death: str, argv: list[str]) -> tuple[subprocess.Popen, int]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), death, *argv], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux'")
def test_a_server_that_is_killed_leaves_no_engine_behind(tmp_path) -> None:
    """Even one that never looks at its standard input."""
    parent, pid = start_parent(tmp_path, "SIGKILL", [sys.executable, "-c", DEAF, str(tmp_path)])
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    until_true(lambda: not is_alive(pid))


def test_other_peoples_programs_end_with_their_keeper(tmp_path) -> None:
    """vLLM starts processes of its own; the keeper is told by the end of its input, and ends the session."""
    script = (
        "import os,pathlib,subprocess,sys,time\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "(here / 'facts').write_text(f\"{os.getpid()} {inner.pid} {os.environ['ITS_KEY']} {sys.argv}\")\n"
        "(here / 'up').touch()\n"
        "time.sleep(60)\n"
    )
    keeper = [
        sys.executable,
        "-m",
        "danlu.serving.drivers.keeper",
        "ITS_KEY",
        sys.executable,
        "-c",
        script,
        str(tmp_path),
    ]
    parent, keeper_pid = start_parent(tmp_path, "SIGTERM", keeper)
    outer, inner, key, argv = (tmp_path / "facts").read_text().split(maxsplit=3)
    assert key == "secret" and "secret" not in argv
    assert b"secret" not in Path(f"/proc/{keeper_pid}/cmdline").read_bytes()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    until_true(lambda: not any(map(is_alive, (keeper_pid, int(outer), int(inner)))))


def test_a_log_does_not_grow_without_bound(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 20_000)
    script = GOOD.replace(
        "while os.read(0, 100):\n    pass", "while True:\n    print('x' * 999, flush=True)\n    time.sleep(0.002)"
    )

    async def story() -> None:
        child = child_of(tmp_path, script)
        await child.start()
        await until((tmp_path / "engine.log.1").exists)
        await asyncio.sleep(0.5)
        assert (tmp_path / "engine.log").stat().st_size < 400_000
        await child.stop()

    asyncio.run(story())
    assert (tmp_path / "engine.log").stat().st_mode & 0o077 == 0


def test_what_children_see_of_our_environment(monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy")
    given = environment({"MINE": "1"})
    assert given["PATH"] and given["MINE"] == "1"
    assert not {"HF_TOKEN", "HTTP_PROXY"} & set(given)
