"""Spare processes: what an engine that died is made of again, so that clients wait for a model and not for libraries."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from lens_kit import QUICK, until

import engine_kit as kit
from danlu.serving.drivers import DRIVERS
from danlu.serving.drivers.driver import Command, EngineSpec
from danlu.serving.processes import Child
from danlu.serving.spares import Spare, Spares

WAITS = """
import json, os, sys
order = json.loads(sys.stdin.readline() or sys.exit(0))
secret = sys.stdin.readline().strip()
log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(log, f"{os.getpid()} {order['argv'][-1]} {secret}\\n".encode())
sys.stdin.read()
"""


def called(pid: int) -> list[str]:
    """What the system's list shows of a process."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").split(b"\0")
    return [word.decode() for word in words]


def is_alive(pid: int) -> bool:
    return (
        Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    )


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_spare_is_kept_given_away_once_and_ends_with_us(tmp_path: Path) -> None:
    async def story() -> None:
        spare = Spare([sys.executable, "-c", WAITS], tmp_path / "spare.log")
        assert spare.take() is None and spare.memory_bytes == 0
        await asyncio.gather(spare.keep(), spare.keep())
        pid = spare.pid
        assert pid and is_alive(pid)
        await until(lambda: spare.memory_bytes > 2**20)
        process = spare.take()
        assert process is not None and process.pid == pid and spare.take() is None
        await spare.keep()
        assert spare.pid not in (0, pid)
        second = spare.pid
        await spare.close()
        await spare.keep()
        assert not is_alive(second) and not spare.pid, "nothing is started after the end"
        assert is_alive(pid), "what was given away is not ours"
        process.kill()
        await process.wait()

    asyncio.run(story())


def test_a_child_is_made_of_the_spare_and_without_one_as_ever(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    command = Command([sys.executable, "-c", "import sys; sys.stdin.read()", "mine"], {}, "", "s3cret", ["x"])

    async def story() -> None:
        async def is_ready() -> bool:
            return True

        spare = Spare([sys.executable, "-c", WAITS], tmp_path / "spare.log")
        child = Child("engine", command, log=log, is_ready=is_ready, patience=QUICK, spare=spare)
        await child.start()
        await spare.keep()
        waiting = spare.pid
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: child.state == "ready" and child.pid == waiting)
        await until(lambda: log.exists() and log.read_text() == f"{waiting} mine s3cret\n")
        os.kill(waiting, signal.SIGKILL)
        await until(lambda: child.state == "ready" and child.pid not in (0, waiting))
        assert child.facts.num_starts == 3
        await child.stop()

    asyncio.run(story())


def test_a_spare_that_hangs_costs_a_moment_and_not_the_patience_for_a_model(tmp_path: Path) -> None:
    command = Command([sys.executable, "-c", "import sys; sys.stdin.read()"], {}, "", "s3cret", ["x"])

    async def story() -> None:
        async def is_ready() -> bool:
            return child.pid != waiting

        spare, waiting = Spare([sys.executable, "-c", WAITS], tmp_path / "spare.log"), -1
        patience = replace(QUICK, ready_s=60.0, order_s=0.5)
        child = Child("engine", command, log=tmp_path / "engine.log", is_ready=is_ready, patience=patience, spare=spare)
        await child.start()
        await spare.keep()
        waiting = spare.pid
        os.kill(waiting, signal.SIGSTOP)
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: child.pid == waiting)
        await until(lambda: child.state == "ready" and child.pid not in (0, waiting))
        assert "spare" in child.facts.last_end and not is_alive(waiting)
        await child.stop()

    asyncio.run(story())


def test_an_engine_of_ours_comes_back_for_a_fraction_of_its_first_start(tmp_path: Path) -> None:
    """6 s in the middle and 19 at worst on a busy machine, of which libraries took nearly all."""
    driver = DRIVERS.load("native")()
    command = driver.command(EngineSpec(kit.base(), context=256, num_threads=1, dtype="float32"), tmp_path)
    assert command is not None

    async def story() -> None:
        spares = Spares(tmp_path)
        child = Child(
            "engine", command, log=tmp_path / "engine.log", patience=QUICK, spare=spares.of(command),
            is_ready=lambda: driver.is_ready(command.address, command.secret),
        )  # fmt: skip
        await child.start()
        first_s = cpu_s(child.pid)
        await spares.keep()
        (spare,) = spares.all.values()
        await until(lambda: cpu_s(spare.pid) > 0.5 * first_s and not is_running(spare.pid))
        waiting, before_s = spare.pid, cpu_s(spare.pid)
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: child.state == "ready" and child.pid == waiting)
        assert cpu_s(waiting) - before_s < 0.25 * first_s
        assert called(waiting) == [str(word) for word in command.argv], "and not the spare's"
        await child.stop()
        await spares.close()

    asyncio.run(story())


def test_a_name_without_room_is_cut_off_and_harms_nothing(tmp_path: Path) -> None:
    words = "import os, sys; from danlu.engines.own_name import be_called; be_called(['x' * 9000, 'more']); "
    words += "print(open('/proc/self/cmdline').read().rstrip('\\0'), os.environ['KEPT'], sys.argv[-1])"
    argv = [sys.executable, "-c", words, "last"]
    said = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"KEPT": "kept"}, check=True)
    shown, kept, last = said.stdout.split()
    assert set(shown) == {"x"} and len(shown) == sum(len(word) + 1 for word in argv) - 1
    assert (kept, last) == ("kept", "last")


def is_running(pid: int) -> bool:
    """False where it waits for input."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S"


def test_no_spare_is_kept_for_a_model_that_takes_far_longer_to_read(tmp_path: Path) -> None:
    driver = DRIVERS.load("native")()
    small = driver.command(EngineSpec(kit.base()), tmp_path / "a")
    (tmp_path / "big").mkdir()
    with (tmp_path / "big" / "model.safetensors").open("wb") as file:
        file.truncate(5 * 2**30)  # sparse
    big = driver.command(EngineSpec(tmp_path / "big"), tmp_path / "b")
    assert small is not None and small.spare and big is not None and not big.spare
