"""Real servers for tests: Redis and Postgres on free loopback ports, as nobody's root. Skipped, with the reason, where
their programs are absent.

Postgres refuses to run as root: it is started as the user `postgres` there, in a folder of its own. A test gets an
empty database.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from waiting_kit import PATIENCE_S, until_true

_DEBIAN = Path("/usr/lib/postgresql")


def free_port() -> int:
    """Below those that outgoing connections are given: none takes it before the server does, or while it is stopped."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", random.SystemRandom().randrange(20_000, 32_000)))
            return int(one.getsockname()[1])


class RedisServer:
    """One that a test may stop, freeze and start again; it keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self.program = shutil.which("redis-server")
        if self.program is None:
            pytest.skip("no redis-server here: apt-get install redis-server")
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.child: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        assert self.program is not None
        self.child = _child(
            [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", str(self.folder), "--daemonize", "no"], self.folder / "redis.log",
        )  # fmt: skip
        _await_port(self.port, self.child, self.folder / "redis.log")

    def stop(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.child.wait()

    def freeze(self) -> None:
        assert self.child is not None
        self.child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.child is not None
        self.child.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running_redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="danlu-redis-") as folder:
        server = RedisServer(Path(folder))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty database of a Redis that all tests share."""
    redis = pytest.importorskip("redis", reason="no Redis client: pip install redis")
    with redis.Redis(port=redis_server.port) as client:
        client.flushall()
    return redis_server.url


class PostgresServer:
    """One that a test may stop, freeze and start again; what was committed stays."""

    def __init__(self, folder: Path) -> None:
        self.program, initdb = _program("postgres"), _program("initdb")
        try:
            self.account = pwd.getpwuid(os.getuid()) if os.getuid() else pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("Postgres wants a user with a name who is not root, and there is none here")
        self.folder, self.port = folder, free_port()
        self.url = f"postgresql://danlu@127.0.0.1:{self.port}/postgres"
        """As its superuser."""
        os.chown(folder, self.account.pw_uid, self.account.pw_gid)
        made = subprocess.run(
            [initdb, "-D", str(folder / "data"), "-A", "trust", "-U", "danlu", "-E", "UTF8", "--locale=C", "--no-sync",
             "--no-instructions"], capture_output=True, text=True, cwd=folder, **_as(self.account),
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        self.child: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        log = self.folder / "log"
        self.child = _child(
            [self.program, "-D", str(self.folder / "data"), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1",
             "-c", "fsync=off", "-c", f"unix_socket_directories={self.folder}"], log, **_as(self.account),
        )  # fmt: skip
        _await_port(self.port, self.child, log)
        asks = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        until_true(  # its port is there before it has replayed its log
            lambda: subprocess.run(asks, cwd=self.folder, check=False).returncode == 0,
            lambda: log.read_text(errors="replace")[-2000:],
        )

    def stop(self) -> None:
        """At once, as a crash; the next start replays its log."""
        assert self.child is not None
        self.child.send_signal(signal.SIGQUIT)
        self.child.wait(PATIENCE_S)

    def freeze(self) -> None:
        """All of it: connections are served by processes of their own."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def _pids(self) -> list[int]:
        assert self.child is not None
        children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        return [self.child.pid, *map(int, children)]


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    pytest.importorskip("psycopg", reason="no Postgres client: pip install psycopg[binary]")
    folder = Path(tempfile.mkdtemp(prefix="danlu-pg-"))
    server = None
    try:
        server = PostgresServer(folder)
        yield server
    finally:
        if server is not None and server.child is not None and server.child.poll() is None:
            server.thaw()
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server, as its superuser; its database is `postgres`."""
    with running_postgres() as server:
        yield server.url


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """An empty database; connections that a test before it left open are closed."""
    import psycopg

    def is_empty() -> bool:
        try:
            with psycopg.connect(postgres_server, autocommit=True) as link:
                link.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                             "AND backend_type = 'client backend'")  # fmt: skip
                link.execute("DROP SCHEMA public CASCADE")
                link.execute("CREATE SCHEMA public")
        except psycopg.OperationalError:  # the port answers a little before the server does
            return False
        return True

    until_true(is_empty)
    return postgres_server


def _program(name: str) -> str:
    found = shutil.which(name) or next(map(str, sorted(_DEBIAN.glob(f"*/bin/{name}"), reverse=True)), None)
    if found is None:
        pytest.skip(f"no {name} here: apt-get install postgresql")
    return found


def _as(account: pwd.struct_passwd) -> dict[str, int | list[int]]:
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}


def _child(argv: Sequence[str], log: Path, **account: int | list[int]) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=log.parent, **account)


def _await_port(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        assert child.poll() is None, log.read_text(errors="replace")[-2000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    until_true(answers, lambda: log.read_text(errors="replace")[-2000:])
