"""A running server, changed from the command line: the registry says what answers, versions go back and share, an engine
is killed, and a client that asks all the while is never told a lie."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

pytest.importorskip("uvicorn", reason='no server: pip install "danlu[serve]"')

import engine_kit
from danlu.run.artifact import Manifest
from danlu.run.registry import Registry, Version
from tiny_chat import QUESTIONS


def danlu(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "danlu", *words, "--json"], capture_output=True, text=True, timeout=120, check=False
    )
    value = json.loads(done.stdout)
    return value if done.returncode == 0 else {"refused": value}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two versions of one expert; `prod` is the first."""
    registry = Registry(tmp_path)
    for seed in (0, 1):
        folder = tmp_path / "law" / str(seed)
        shutil.copytree(engine_kit.artefact("adapter", seed), folder)
        manifest = Manifest.read(folder)
        registry.add(
            Version("law", 0, str(folder.relative_to(tmp_path)), manifest.digest, manifest.kind, "run", "", "")
        )
    registry.point("law", "prod", 1)
    return tmp_path


class Asking(threading.Thread):
    """A client with one question after the other. What is wrong with an answer stands in `wrong`."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(daemon=True)
        self.url, self.key = url, key
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.failures: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            self.ask(QUESTIONS[sum(self.seen.values()) % len(QUESTIONS)])

    def ask(self, question: str) -> None:
        turns = [{"role": "user", "content": question}]
        body = json.dumps({"model": "law", "messages": turns, "temperature": 0, "max_tokens": 160}).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{self.url}/v1/chat/completions", body, headers), timeout=60
            ) as reply:
                lens = unquote(reply.headers["x-danlu-lens"])
                answer = json.loads(reply.read())["choices"][0]["message"]["content"]
        except OSError as fault:
            self.failures.append(str(fault))
            return
        self.seen[lens] += 1
        seed = int(lens.partition("@")[0].removeprefix("tiny-"))
        if answer.strip() != engine_kit.ANSWERS[seed][QUESTIONS.index(question)].strip():
            self.wrong.append(f"{lens}: {question} → {answer}")


@contextmanager
def serving(runs: Path) -> Iterator[tuple[str, str]]:
    """(URL, key) of `danlu serve law@prod` with two engines."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    log = (runs / "serve.log").open("w+")
    words = ["law=law@prod", f"serving.port={port}", "serving.metrics_port=0", "serving.replicas=2", "--first-key"]
    server = subprocess.Popen(
        [sys.executable, "-m", "danlu", "serve", *words, "--runs", str(runs)], stdout=log, stderr=log, text=True
    )
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: (_is_up(url) and _key_in(runs / "serve.log")) or server.poll() is not None, 120)
        assert server.poll() is None, (runs / "serve.log").read_text()
        yield url, _key_in(runs / "serve.log")
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, (runs / "serve.log").read_text()
    finally:
        server.kill()
        server.wait()
        log.close()


def _key_in(log: Path) -> str:
    found = re.search(r"dl-[a-z0-9]{12}-[A-Za-z0-9]{40}", log.read_text())
    return found[0] if found else ""


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2):
            return True
    except OSError:
        return False


def until(holds: Callable[[], Any], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)


def test_a_server_is_changed_while_it_answers(runs: Path) -> None:
    at = ("--runs", str(runs))
    lenses = [f"tiny-{seed}@{Manifest.read(runs / 'law' / str(seed)).digest[:12]}" for seed in (0, 1)]

    def answers(status: dict[str, Any]) -> dict[str, float]:
        return {lens["name"]: lens["share"] for lens in status["models"][0]["lenses"]}

    with serving(runs) as (url, key):
        asking = Asking(url, key)
        asking.start()
        until(lambda: asking.seen[lenses[0]] > 3, 30)

        danlu("registry", "alias", "law:2", "prod", *at)  # rolled out by itself
        until(lambda: answers(danlu("serving", "status", *at)) == {lenses[1]: 1.0}, 30)
        until(lambda: asking.seen[lenses[1]] > 3, 30)
        assert danlu("serving", "rollback", "law", "--reason", "a look", *at)["to"] == {lenses[0]: 1.0}
        assert danlu("serving", "split", "law", "1=0.5", "2=0.5", *at)["to"] == dict.fromkeys(lenses, 0.5)
        before = asking.seen.copy()
        until(lambda: sum((asking.seen - before).values()) >= 20, 30)
        shares = asking.seen - before
        assert abs(shares[lenses[0]] - shares[lenses[1]]) <= 2, shares
        assert danlu("serving", "switch", "law", "7", *at)["refused"]["error"] == "registry.no_version"
        assert not asking.failures and not asking.wrong

        status = danlu("serving", "status", *at)
        replicas = status["pools"][0]["replicas"]
        os.kill(replicas[0]["pid"], signal.SIGKILL)
        until(lambda: [r["state"] for r in danlu("serving", "status", *at)["pools"][0]["replicas"]] == ["ready"] * 2
              and danlu("serving", "status", *at)["pools"][0]["replicas"][0]["num_starts"] == 2, 60)  # fmt: skip
        assert not asking.failures, "its one question was asked again elsewhere"
        done = danlu("serving", "reload", *at)
        assert done["workers"] and done["draining"] and set(done["workers"]).isdisjoint(done["draining"])
        until(lambda: len(danlu("serving", "status", *at)["workers"]) == 1, 60)
        asking.ended.set()
        asking.join(60)
        assert not asking.failures and not asking.wrong
    verdict = danlu("audit", "verify", *at)
    assert "refused" not in verdict, verdict
    acts = [json.loads(line)["action"] for line in (runs / "audit.jsonl").read_bytes().splitlines()]
    wanted = ["serving.opened", "serving.switch", "serving.rollback", "serving.split"]
    assert [act for act in acts if act in wanted] == wanted
    assert danlu("serving", "status", *at)["refused"]["error"] == "rollout.not_running"
