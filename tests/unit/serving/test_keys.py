"""Keys: made once, found from memory, rotated with an overlap, revoked everywhere within a second."""

import statistics
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import RunError
from danlu.serving.keys import Key, KeyBook, LiveKeys, Pepper, id_of, open_pepper
from danlu.serving.store import Store, open_store
from waiting_kit import PATIENCE_S, until_true

NOW = 1_795_357_000.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


@pytest.fixture
def pepper(tmp_path: Path) -> Pepper:
    return Pepper.open(tmp_path / "pepper")


@pytest.fixture
def book(store: Store, pepper: Pepper) -> KeyBook:
    return KeyBook(store, pepper)


def live(book: KeyBook) -> LiveKeys:
    return LiveKeys(book.store, book.pepper)


def test_a_key_is_found_by_its_whole_credential_alone(book: KeyBook) -> None:
    key, credential = book.create("front desk", ["law"], now=NOW)
    keys = live(book)
    assert keys.find(credential, NOW) == key
    assert key.may_use("law") and not key.may_use("tcm")
    for wrong in (
        credential[:-1],
        credential + "a",
        credential.upper(),
        credential[:-1] + "!",
        f" {credential}",
        key.id,
    ):
        assert keys.find(wrong, NOW) is None, wrong


def test_a_key_ends_at_its_time(book: KeyBook) -> None:
    _, credential = book.create("a", now=NOW, limits=Key("", "", (), expires=NOW + 10))
    keys = live(book)
    assert keys.find(credential, NOW + 9.9) and not keys.find(credential, NOW + 10)


def test_rotation_lets_both_secrets_in_for_a_while(book: KeyBook) -> None:
    key, old = book.create("a", now=NOW, limits=Key("", "", (), requests_per_minute=7))
    same, new = book.rotate("a", now=NOW, overlap_s=3600)
    assert same == key and id_of(new) == id_of(old) == key.id and new != old
    keys = live(book)
    assert keys.find(old, NOW + 3599) == keys.find(new, NOW + 3599) == key
    assert keys.find(old, NOW + 3600) is None and keys.find(new, NOW + 3600) == key


def test_a_second_rotation_ends_the_oldest_secret_at_once(book: KeyBook) -> None:
    _, first = book.create("a", now=NOW)
    _, second = book.rotate("a", now=NOW, overlap_s=3600)
    _, third = book.rotate("a", now=NOW + 1, overlap_s=3600)
    keys = live(book)
    assert [keys.find(one, NOW + 2) is not None for one in (first, second, third)] == [False, True, True]


def test_a_revoked_key_stays_so_with_all_its_secrets(book: KeyBook) -> None:
    key, old = book.create("a", now=NOW)
    _, new = book.rotate("a", now=NOW, overlap_s=3600)
    book.revoke(key.id, now=NOW + 1)
    keys = live(book)
    assert keys.find(old, NOW + 2) is None and keys.find(new, NOW + 2) is None
    for change in (lambda: book.rotate(key.id, now=NOW, overlap_s=0), lambda: book.change(key.id, key)):
        with pytest.raises(RunError) as error:
            change()
        assert error.value.key == "keys.not_good"


def test_changed_limits_keep_the_secret(book: KeyBook) -> None:
    key, credential = book.create("a", now=NOW)
    keys = live(book)
    book.change(key.id, Key("", "b", ("law",), concurrency=2))
    keys.refresh()
    found = keys.find(credential, NOW)
    assert found and (found.id, found.name, found.models, found.concurrency) == (key.id, "b", ("law",), 2)


def test_a_running_worker_sees_a_revocation(book: KeyBook, tmp_path: Path) -> None:
    """The worker has a connection of its own, as another process has."""
    key, credential = book.create("a", now=NOW)
    keys = LiveKeys(open_store(tmp_path), book.pepper)
    keys.watch()
    book.revoke(key.id, now=NOW)
    until_true(lambda: keys.find(credential, NOW) is None)
    keys.stop()


class Breaking:
    """A store whose connection breaks between the word that something changed and the rows."""

    errors = ()

    def __init__(self, store: Store) -> None:
        self._store, self.num_breaks = store, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def keys_since(self, seen: int) -> object:
        if self.num_breaks:
            self.num_breaks -= 1
            raise ConnectionResetError
        return self._store.keys_since(seen)


def test_a_revocation_is_seen_although_the_store_broke_off_behind_the_word_of_it(book: KeyBook, tmp_path: Path) -> None:
    """That something changed is told once: what followed was never asked again, and the key stayed good."""
    key, credential = book.create("a", now=NOW)
    store = Breaking(open_store(tmp_path))
    keys = LiveKeys(store, book.pepper)
    store.num_breaks = 2
    book.revoke(key.id, now=NOW)
    keys.watch()
    until_true(lambda: keys.find(credential, NOW) is None)
    assert store.num_breaks == 0
    keys.stop()


def test_find_does_not_wait_for_the_store(book: KeyBook, tmp_path: Path) -> None:
    """Another process holds the database for itself; who asks for a key does not notice."""
    _, credential = book.create("a", now=NOW)
    keys = LiveKeys(open_store(tmp_path), book.pepper)
    keys.watch()
    other = open_store(tmp_path)
    with other._database.writing() as run:
        run("UPDATE facts SET value = value")
        began = time.perf_counter()
        for _ in range(500):
            assert keys.find(credential, NOW)
        assert time.perf_counter() - began < 30
    keys.stop()


def test_a_store_that_is_away_is_told_and_what_is_known_holds(book: KeyBook, tmp_path: Path) -> None:
    _, credential = book.create("a", now=NOW)
    store = open_store(tmp_path)
    keys, told = LiveKeys(store, book.pepper), threading.Event()
    store.close()
    keys.watch(failed=lambda error: told.set())
    assert told.wait(PATIENCE_S) and keys.find(credential, NOW) and keys.stale_s > 0
    keys.stop()


@given(wrong=st.text(max_size=200) | st.from_regex(r"dl-[a-z0-9]{12}-[A-Za-z0-9]{40}", fullmatch=True))
@settings(max_examples=200)
def test_no_text_is_a_key_but_a_key(wrong: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert _some_keys(tmp_path_factory).find(wrong, NOW) is None


_MADE: list[LiveKeys] = []


def _some_keys(factory: pytest.TempPathFactory) -> LiveKeys:
    if not _MADE:
        home = factory.mktemp("home")
        book = KeyBook(open_store(home), Pepper.open(home / "pepper"))
        for number in range(20):
            book.create(f"key {number}", now=NOW)
        _MADE.append(live(book))
    return _MADE[0]


def test_a_storm_of_wrong_keys_costs_little_and_fills_nothing(book: KeyBook) -> None:
    _, credential = book.create("a", now=NOW)
    keys = live(book)

    def cost_s(of: str) -> float:
        return min(_spent(lambda: keys.find(of, NOW)) for _ in range(5))

    right = cost_s(credential)
    assert right < 100e-6  # 8 us on a quiet core
    for wrong in (credential[:-1] + "x", "dl-" + "0" * 12 + "-" + "0" * 40, "hello", ""):
        assert cost_s(wrong) < 2.5 * right, wrong
    assert len(keys._keys) == 1


def _spent(act: object) -> float:
    began = time.process_time()
    for _ in range(1000):
        act()
    return (time.process_time() - began) / 1000


def test_the_pepper_is_made_once_and_never_in_the_database(store: Store, tmp_path: Path) -> None:
    made: list[Pepper] = []
    threads = [threading.Thread(target=lambda: made.append(Pepper.open(tmp_path / "new"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({pepper.mark for pepper in made}) == 1
    secret = (tmp_path / "new").read_bytes()
    assert len(secret) == 32 and (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    KeyBook(store, made[0]).create("a", now=NOW)
    store.close()
    whole = b"".join(path.read_bytes() for path in tmp_path.glob("serving.db*"))
    assert secret not in whole and secret.hex().encode() not in whole


def test_a_pepper_that_others_may_read_is_refused(tmp_path: Path) -> None:
    Pepper.open(tmp_path / "pepper")
    (tmp_path / "pepper").chmod(0o644)
    with pytest.raises(RunError) as error:
        Pepper.open(tmp_path / "pepper")
    assert error.value.key == "keys.pepper_open"


def test_a_second_machine_makes_no_pepper_of_its_own(book: KeyBook, tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        open_pepper(book.store, tmp_path / "elsewhere" / "pepper")
    assert error.value.key == "keys.pepper_missing"


def test_a_name_that_two_keys_have_is_not_guessed(book: KeyBook) -> None:
    first, _ = book.create("a", now=NOW)
    book.create("a", now=NOW)
    with pytest.raises(RunError) as error:
        book.revoke("a", now=NOW)
    assert error.value.key == "keys.ambiguous" and first.id in str(error.value)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201])
def test_a_key_needs_a_name(book: KeyBook, name: str) -> None:
    with pytest.raises(RunError):
        book.create(name, now=NOW)


def test_wrong_and_right_keys_take_alike_long(book: KeyBook) -> None:
    """Medians of interleaved questions: what differs between ids that exist and those that do not would show here."""
    _, credential = book.create("a", now=NOW)
    keys = live(book)
    known, unknown = credential[:-1] + ("x" if credential[-1] != "x" else "y"), "dl-" + "a" * 12 + credential[15:]
    times: dict[str, list[float]] = {known: [], unknown: []}
    for _ in range(3000):
        for asked, taken in times.items():
            began = time.perf_counter()
            keys.find(asked, NOW)
            taken.append(time.perf_counter() - began)
    first, second = (statistics.median(taken) for taken in times.values())
    assert 0.7 < first / second < 1.4
