"""Workers that share Postgres and Redis, as on several machines: one limit, one usage, one pepper."""

import json
import threading
import time

from danlu.serving.store import open_store
from danlu.serving.usage import JournalReader
from worker_kit import Engine, Stage

RPM = 20


def test_two_workers_keep_one_limit_and_one_book(tmp_path, redis_url, postgres_url):
    for name, url in (("redis.url", redis_url), ("postgres.url", postgres_url)):
        (tmp_path / name).write_text(url + "\n")
        (tmp_path / name).chmod(0o600)
    stage = Stage(tmp_path / "home", Engine(words=2), store_url=postgres_url, requests_per_minute=RPM)
    section = {
        "workers": 2,
        "limits": {"kind": "redis", "url_file": str(tmp_path / "redis.url")},
        "store": {"kind": "postgres", "url_file": str(tmp_path / "postgres.url")},
    }
    try:
        stage.show()
        for name in ("w0", "w1"):
            stage.start(name, **section)
            stage.wait(name)
        found = []

        def ask_some():
            for _ in range(10):
                _, reply = stage.ask()
                found.append((reply.status, json.loads(reply.read())))

        threads = [threading.Thread(target=ask_some) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = [answer for status, answer in found if status == 200]
        assert len(done) == RPM and {status for status, _ in found} == {200, 429}
        # either worker knows whose answer it was, whoever gave it
        time.sleep(0.2)
        store = open_store(stage.home, postgres_url)
        JournalReader(stage.home, store).fold()
        assert {store.answer(answer["id"])[1] for answer in done} == {"law"}
        (total,) = {sum(row.answer_tokens for row in store.sums("2000-01-01", "2999-01-01"))}
        assert total == 2 * RPM
        store.close()
    finally:
        stage.close()
