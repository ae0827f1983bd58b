"""The line between server and workers: boards arrive, leases are told, and either end may die."""

import asyncio
import os
import stat
from pathlib import Path

import orjson
import pytest

from danlu.core.errors import RunError
from danlu.serving.ask import Ask
from danlu.serving.board import Board, Lens, Model, Replica
from danlu.serving.line import MAX_PATH_BYTES, Line, WorkerLine, reachable
from danlu.serving.router import Router
from waiting_kit import PATIENCE_S, until

ASK = Ask("chatcmpl-1", "chat", "law", {"messages": []}, False, False, 5, 16)


def board(number: int, lens: str = "law@1") -> Board:
    replica = Replica("r0", "p", "native", "unix:/r0", "s", "ready", (("law@1", "law@1"), ("law@2", "law@2")))
    return Board(number, (Model("law", ((lens, 1.0),), 0),), (Lens("law@1", "p"), Lens("law@2", "p")), (replica,))


def test_a_worker_takes_boards_and_tells_what_it_has_leased(tmp_path: Path) -> None:
    async def story() -> None:
        line, router, heard = Line(tmp_path / "line.sock"), Router(), []
        await line.open()
        worker = WorkerLine(line.path, router, "w0", counters=lambda: {"requests": 3}, told=heard.append)
        running = asyncio.create_task(worker.run())
        await line.expect("w0")
        line.show(board(1))
        assert await line.agreed(1, within_s=PATIENCE_S)
        lease = router.lease("law", ASK)
        await until(lambda: line.outstanding("law@1") == 1)
        line.show(board(2, "law@2"))
        assert await line.agreed(2, within_s=PATIENCE_S)
        assert not await line.idle("law@1", 2, within_s=0.2), "an answer is under way"
        assert not await line.free("r0", 2, within_s=0.1)
        assert router.lease("law", ASK).lens.name == "law@2"
        waiting = asyncio.create_task(line.idle("law@1", 2, within_s=PATIENCE_S))
        lease.release("done")
        assert await waiting
        await until(lambda: line.posts["w0"].counters == {"requests": 3})
        assert line.posts["w0"].num_leased == {"law@1": 1, "law@2": 1}
        line.tell({"keys": 7})
        await until(lambda: heard == [{"keys": 7}])
        running.cancel()
        await line.close()

    asyncio.run(story())


def test_workers_hear_what_the_others_have_leased(tmp_path: Path) -> None:
    async def story() -> None:
        line, routers = Line(tmp_path / "line.sock"), [Router() for _ in range(3)]
        await line.open()
        workers = [WorkerLine(line.path, router, f"w{n}") for n, router in enumerate(routers)]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        line.show(board(1))
        await until(lambda: all(router.board.number for router in routers))
        leases = [router.lease("law", ASK) for router in (routers[0], routers[0], routers[1])]
        await until(lambda: [router.others for router in routers] == [{"r0": 1}, {"r0": 2}, {"r0": 3}])
        leases[0].release("done")
        await until(lambda: [router.others for router in routers] == [{"r0": 1}, {"r0": 1}, {"r0": 2}])
        running[0].cancel()  # killed: what it had is not held against the replica for ever
        await until(lambda: [router.others for router in routers[1:]] == [{}, {"r0": 1}])
        await line.close()
        await until(lambda: not any(router.others for router in routers))  # nobody knows any more
        for task in running:
            task.cancel()

    asyncio.run(story())


def test_a_worker_goes_on_with_its_last_board_and_comes_back(tmp_path: Path) -> None:
    async def story() -> None:
        router = Router()
        first = Line(tmp_path / "line.sock")
        await first.open()
        worker = WorkerLine(first.path, router, "w0")
        running = asyncio.create_task(worker.run())
        await until(lambda: "w0" in first.posts)
        first.show(board(1))
        assert await first.agreed(1, within_s=PATIENCE_S)
        await first.close()
        await until(lambda: not worker.is_connected)
        assert router.lease("law", ASK).lens.name == "law@1", "no line, and it answers"
        second = Line(tmp_path / "line.sock")  # the server was started again
        second.show(board(5, "law@2"))
        await second.open()
        await until(lambda: worker.is_connected and router.board.number == 5)
        await until(lambda: second.outstanding("law@1") == 1)
        running.cancel()
        await second.close()

    asyncio.run(story())


def test_what_is_agreed_waits_for_a_living_worker_without_a_line_and_not_for_a_dead_one(tmp_path: Path) -> None:
    async def story() -> None:
        line = Line(tmp_path / "line.sock")
        await line.open()
        await line.expect("w1")
        line.show(board(1))
        assert not await line.agreed(1, within_s=0.1)
        assert not await line.idle("law@1", 1, within_s=0.1), "it may have leased anything"
        waiting = asyncio.create_task(line.agreed(1, within_s=PATIENCE_S))
        await asyncio.sleep(0.05)
        await line.forget("w1")
        assert await waiting
        await line.close()

    asyncio.run(story())


def test_a_worker_that_stops_reading_is_let_go(tmp_path: Path) -> None:
    """It would hold every later board in the server's memory."""

    async def story() -> None:
        line = Line(tmp_path / "line.sock")
        await line.open()
        with reachable(line.path) as name:
            _reader, writer = await asyncio.open_unix_connection(name)
        hello = {"worker": "w0", "board": 0, "lenses": {}, "replicas": {}, "leased": {}}
        writer.write(orjson.dumps(hello) + b"\n")
        await until(lambda: "w0" in line.posts)
        wide = tuple(Lens(f"law@{n}", "p", label="x" * 900_000) for n in range(8))
        for number in range(1, 15):
            line.show(Board(number, (), wide, ()))
        await until(lambda: "w0" not in line.posts)
        writer.close()
        await line.close()

    asyncio.run(story())


def test_words_that_are_none_end_one_connection(tmp_path: Path) -> None:
    async def story() -> None:
        line = Line(tmp_path / "line.sock")
        await line.open()
        for rubbish in (b"hello\n", b'{"worker": 3}\n', b'{"board": 1}\n', b"[]\n", b"\xff\xfe\n"):
            with reachable(line.path) as name:
                reader, writer = await asyncio.open_unix_connection(name)
            writer.write(rubbish)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        await line.close()

    asyncio.run(story())


def test_the_socket_is_for_its_owner_alone_and_no_two_servers_share_it(tmp_path: Path) -> None:
    async def story() -> None:
        line = Line(tmp_path / "line.sock")
        await line.open()
        assert stat.S_IMODE(os.stat(line.path).st_mode) == 0o600
        with pytest.raises(RunError) as refusal:
            await Line(tmp_path / "line.sock").open()
        assert refusal.value.key == "rollout.is_running"
        await line.close()
        (tmp_path / "line.sock").touch()  # a killed one left it
        again = Line(tmp_path / "line.sock")
        await again.open()
        await again.close()

    asyncio.run(story())


def test_a_long_path_is_reached_all_the_same(tmp_path: Path) -> None:
    async def story() -> None:
        deep = tmp_path / ("x" * MAX_PATH_BYTES) / "line.sock"
        line, router = Line(deep), Router()
        await line.open()
        running = asyncio.create_task(WorkerLine(deep, router, "w0").run())
        line.show(board(1))
        await until(lambda: router.board.number == 1)
        running.cancel()
        await line.close()

    asyncio.run(story())
