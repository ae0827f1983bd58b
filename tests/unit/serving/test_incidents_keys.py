"""What happened to others' keys, limits and journals, and what of it cannot happen here."""

import ast
import asyncio
import hmac
import re
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_journal import closing, opening

from danlu.serving import keys as keys_module
from danlu.serving import redis_limits, store, store_postgres, store_sqlite, usage
from danlu.serving.journal import FOLDER, FileJournal
from danlu.serving.keys import Key, KeyBook, LiveKeys, Pepper
from danlu.serving.limit_table import SharedTable
from danlu.serving.limits import Admission, Limiter, LocalLimiter
from danlu.serving.redis_limits import RedisLimiter
from danlu.serving.store import Store, open_store

NOW = 1_795_357_000.0
INJECTIONS = [
    "' OR '1'='1", "dl-' OR 1=1 --aaaa-" + "a" * 40, "dl-aaaaaaaaaaaa-" + "'; DROP TABLE keys; --".ljust(40, "x"),
    "dl-aaaaaaaaaaa\x00-" + "a" * 40, "dl-%s-%s", "dl-" + "?" * 12 + "-" + "?" * 40, "\ud800" * 20, "dl-" * 10_000,
    "dl-аааааааааааа-" + "a" * 40,  # Cyrillic
]  # fmt: skip


@pytest.fixture(params=["sqlite", "postgres"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "postgres":
        (tmp_path / store.URL).write_text(request.getfixturevalue("postgres_url"))
    return tmp_path


class Watched:
    """A real store that remembers every value a question brought to it."""

    def __init__(self, inner: Store) -> None:
        self.values: list[object] = []
        self._read = inner._database.read
        inner._database.read = self.read

    def read(self, statement: str, values: object = ()) -> list:
        self.values += list(values)
        return self._read(statement, values)


def test_incident_4_keys_are_hashed_with_a_pepper_and_compared_in_constant_time(home: Path) -> None:
    """CVE-2025-59425: a key compared with `==` tells by its time how much of it was right."""
    book = KeyBook(open_store(home), Pepper.open(home / "pepper"))
    key, credential = book.create("a", now=NOW)
    (sealed,) = book.all()
    secret = credential.rpartition("-")[2]
    assert sealed.digest == hmac.digest((home / "pepper").read_bytes(), credential.encode(), "sha256")
    assert secret not in repr(sealed) and secret.encode() not in sealed.digest
    source = Path(keys_module.__file__).read_text(encoding="utf-8")
    find = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "find"
                and "credential" in ast.unparse(node.args) and node.body and "compare_digest" in ast.unparse(node))  # fmt: skip
    compared = [ast.unparse(node) for node in ast.walk(find) if isinstance(node, ast.Compare)]
    assert not [one for one in compared if "digest" in one or "previous " in one or "credential" in one], compared
    assert ast.unparse(find).count("compare_digest") == 2 and key.id in credential


@pytest.mark.parametrize("credential", INJECTIONS)
def test_incident_5_the_key_check_brings_no_text_of_a_client_to_the_database(home: Path, credential: str) -> None:
    """CVE-2026-42208: SQL injection in the key check, before any authentication."""
    opened = open_store(home)
    watched = Watched(opened)
    live = LiveKeys(opened, Pepper.open(home / "pepper"))
    book = KeyBook(open_store(home), Pepper.open(home / "pepper"))
    book.create("a", now=NOW)
    watched.values.clear()
    assert live.find(credential, NOW) is None
    live.refresh()
    assert watched.values == [-1], "a change's number, and nothing that a client said"
    assert len(book.all()) == 1


@given(name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=50))
@settings(max_examples=50)
def test_incident_5_names_and_models_are_values(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    book = KeyBook(open_store(home), Pepper.open(home / "pepper"))
    if name.strip() and name.isprintable():
        key, _ = book.create(name, [name], now=NOW)
        assert book.all()[0].key == key


def test_incident_5_statements_are_constants() -> None:
    """No statement is put together from parts: ruff's S608 holds us to most of it, this to the rest."""
    sql = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|PRAGMA|ALTER)\b")
    for module in (store, store_sqlite, store_postgres, usage, keys_module):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            built = isinstance(node, ast.JoinedStr | ast.BinOp) and sql.search(ast.unparse(node))
            assert not built, f"{module.__name__}:{node.lineno}"
    assert "eval(" not in Path(redis_limits.__file__).read_text(encoding="utf-8")


def test_incident_5_a_journal_that_somebody_wrote_into_is_no_way_into_the_database(home: Path) -> None:
    evil = "x'); DROP TABLE usage; --"
    journal = FileJournal(home / FOLDER, "w0")
    journal.opened(opening(evil))
    journal.closed(closing(evil))
    journal.close()
    opened = open_store(home)
    usage.JournalReader(home, opened).fold()
    assert opened.answer(evil) == ("abcdefghijkl", "law", "law@0123456789ab")


def test_incident_7_one_key_learns_nothing_of_anothers_answers(tmp_path: Path) -> None:
    """CVE-2026-45349: continue another's chat by its id. Who asks for an answer is held against whose it was."""
    journal = FileJournal(tmp_path / FOLDER, "w0")
    journal.opened(opening("chatcmpl-1"))
    journal.close()
    opened = open_store(tmp_path)
    usage.JournalReader(tmp_path, opened).fold()
    assert opened.answer("chatcmpl-1")[0] == "abcdefghijkl" and opened.answer("chatcmpl-2") is None


def test_incident_17_a_key_says_nothing_of_its_secret(tmp_path: Path) -> None:
    """Keys went to whatever answered. Here a credential is printed once: no store, log or error holds it again."""
    book = KeyBook(open_store(tmp_path), Pepper.open(tmp_path / "pepper"))
    key, credential = book.create("a", now=NOW)
    _, rotated = book.rotate("a", now=NOW, overlap_s=60)
    book.store.close()
    for path in tmp_path.rglob("*"):
        whole = path.read_bytes()
        assert credential[16:].encode() not in whole and rotated[16:].encode() not in whole, path
    assert keys_module.id_of(credential) == key.id and keys_module.id_of("my password") == ""
    with sqlite3.connect(tmp_path / store.DATABASE) as link:
        assert link.execute("SELECT digest FROM keys").fetchone()[0] != credential


@pytest.mark.parametrize("kind", ["private", "shared", "redis"])
def test_token_limits_are_not_multiplied_by_the_number_of_workers(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A gateway whose tokens a minute were counted in each replica apart let N times as many through."""

    def limiter() -> Limiter:
        if kind == "redis":
            return RedisLimiter(request.getfixturevalue("redis_url"), num_workers=4)
        return LocalLimiter(SharedTable(tmp_path / "table")) if kind == "shared" else LocalLimiter()

    async def ask() -> int:
        workers = [limiter() for _ in range(1 if kind == "private" else 4)]
        asked = Key("tokenlimited", "a", ("*",), tokens_per_minute=1000)
        found = await asyncio.gather(*(workers[n % len(workers)].reserve(asked, 90, time.time()) for n in range(200)))
        for worker in workers:
            await worker.close()
        return sum(isinstance(one, Admission) for one in found)

    assert asyncio.run(ask()) == 11


def test_an_aborted_request_gives_back_what_it_did_not_use() -> None:
    """A limiter without refunds locks a client out that hung up early."""
    limiter, asked = LocalLimiter(), Key("abcdefghijkl", "a", ("*",), tokens_per_minute=1000, concurrency=1)
    for _ in range(11):
        found = limiter.reserve_now(asked, 900, NOW)
        assert isinstance(found, Admission)
        limiter.settle_now(found, 10, NOW)
