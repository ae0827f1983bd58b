"""The whole of serving on the command line: artefacts, `danlu serve`, a key, OpenAI's own client, limits, usage,
feedback that becomes training data, a reload, the end. Two experts on one base; nothing is trained but two tiny
adapters by heart."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from danlu.data.ledger import Ledger
from danlu.data.sources import read
from engine_kit import ANSWERS, artefact
from tiny_chat import QUESTIONS

openai = pytest.importorskip("openai", reason="OpenAI's client is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")


class Home:
    """An account with runs, and `danlu` on its command line."""

    def __init__(self, folder: Path):
        self.folder, self.runs = folder, folder / "runs"
        self.environment = os.environ | {"HOME": str(folder)}
        self.server: subprocess.Popen | None = None
        self.told: dict = {}

    def danlu(self, *words: str, code: int = 0) -> dict:
        command = [sys.executable, "-m", "danlu", *words, "--runs", str(self.runs), "--json", "--lang", "en"]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=120, check=False)
        assert done.returncode == code, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}

    def serve(self, *words: str) -> dict:
        command = [sys.executable, "-m", "danlu", "serve", *words, "--runs", str(self.runs), "--json", "--lang", "en"]
        with (self.folder / "serve.err").open("wb") as errors:
            self.server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=self.environment)
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        assert line, (self.folder / "serve.err").read_text()[-3000:]
        self.told = json.loads(line)
        return self.told

    def stop(self) -> int:
        assert self.server is not None
        self.server.send_signal(signal.SIGTERM)
        return self.server.wait(40)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("story"))
    yield made
    if made.server is not None and made.server.poll() is None:
        made.server.kill()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(get, within_s=10.0):
    until = time.monotonic() + within_s
    while not (found := get()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def test_the_story(home: Home) -> None:
    metrics = free_port()
    experts = [f"law={artefact('adapter', 0)}", f"medicine={artefact('adapter', 1)}"]
    config = home.folder / "serving.yaml"
    config.write_text('serving: {engine: native, workers: 2, bodies: masked, prices: {"*": [1.0, 10.0]}}\n')
    told = home.serve(
        *experts, "serving.port=0", f"serving.metrics_port={metrics}", "--first-key", "--config", str(config)
    )
    # two experts share one engine, and a first key was made because there was none
    assert {model["model"] for model in told["models"]} == {"law", "medicine"}
    assert len(told["choices"]) == 1 and told["choices"][0]["driver"] == "native"
    assert told["first_key"].startswith("dl-") and told["notes"] == []
    url = told["url"]

    made = home.danlu("keys", "create", "app", "--model", "law", "--rpm", "4", "--keep-bodies")
    secret = made["key"]
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0, timeout=60)
    wait_for(lambda: _lists(client))  # a new key is known within a second
    assert [model.id for model in client.models.list()] == ["law"]

    answer = client.chat.completions.create(
        model="law", messages=[{"role": "user", "content": QUESTIONS[0]}], temperature=0, max_tokens=120
    )
    assert answer.choices[0].message.content == ANSWERS[0][0]
    pieces, usage = [], None
    for event in client.chat.completions.create(
        model="law", messages=[{"role": "user", "content": QUESTIONS[1]}], temperature=0, max_tokens=120, stream=True,
        stream_options={"include_usage": True},
    ):  # fmt: skip
        pieces += [choice.delta.content or "" for choice in event.choices]
        usage = event.usage or usage
    assert "".join(pieces) == ANSWERS[0][1] and usage is not None and len(pieces) > 3

    # another expert on the same base, with the first key; not with this one
    everything = openai.OpenAI(base_url=f"{url}/v1", api_key=told["first_key"], max_retries=0, timeout=60)
    other = everything.chat.completions.create(
        model="medicine", messages=[{"role": "user", "content": QUESTIONS[0]}], temperature=0, max_tokens=120
    )
    assert other.choices[0].message.content == ANSWERS[1][0]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="medicine", messages=[{"role": "user", "content": "?"}])
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="dl-wrong", max_retries=0).models.list()

    # four a minute, exactly, over both workers
    refused = None
    for _ in range(3):
        try:
            client.chat.completions.create(model="law", messages=[{"role": "user", "content": "?"}], max_tokens=1)
        except openai.RateLimitError as error:
            refused = error
    assert refused is not None and refused.response.headers["retry-after"]
    assert refused.response.headers["x-ratelimit-limit-requests"] == "4"

    # usage: what the engine counted, to the token
    def used():
        rows = [
            row
            for row in home.danlu("usage", "--by", "key,model", "--config", str(config))["rows"]
            if row["model"] == "law"
        ]
        return rows if rows and rows[0]["done"] == 4 else None

    (row,) = wait_for(used, 20) or ()
    sums = answer.usage.prompt_tokens + usage.prompt_tokens
    assert row["prompt_tokens"] >= sums and row["cost"] > 0 and row["open"] == 0

    _feedback(home, url, secret, told["first_key"], answer.id)
    _figures(metrics)

    # a reload changes the workers, and nobody notices
    assert home.danlu("serving", "reload")["workers"]
    again = everything.chat.completions.create(
        model="law", messages=[{"role": "user", "content": QUESTIONS[0]}], temperature=0, max_tokens=120
    )
    assert again.choices[0].message.content == ANSWERS[0][0]

    # `danlu chat` of this account knows the server that it started
    command = [sys.executable, "-m", "danlu", "chat", url, "--model", "law", "--json", "--lang", "en"]
    done = subprocess.run(
        command,
        input=f"{QUESTIONS[0]}\n",
        capture_output=True,
        text=True,
        env=home.environment,
        timeout=120,
        check=False,
    )
    assert json.loads(done.stdout.splitlines()[-1])["answer"], done.stderr

    # the end: a stream under way is finished, everything is settled, no process is left
    stream = everything.chat.completions.create(
        model="law", messages=[{"role": "user", "content": QUESTIONS[0]}], max_tokens=120, stream=True
    )
    next(iter(stream))
    assert home.stop() == 0, (home.folder / "serve.err").read_text()[-2000:]
    assert [event.choices[0].finish_reason for event in stream if event.choices][-1] in ("stop", "length")
    assert "Traceback" not in (home.folder / "serve.err").read_text()
    for path in (home.runs / "serving" / "logs").glob("*.log"):
        assert "Traceback" not in path.read_text(), path.read_text()[-2000:]
    assert home.danlu("audit", "verify")
    lines = [
        json.loads(line)
        for path in (home.runs / "serving" / "journal").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    whats = [line["what"] for line in lines]
    assert whats.count("opened") == whats.count("closed") >= 8


def _lists(client) -> bool:
    with contextlib.suppress(openai.AuthenticationError):
        return bool(list(client.models.list()))
    return False


def _feedback(home: Home, url: str, secret: str, stranger: str, id: str) -> None:
    """By whoever got the answer; masked; and it becomes rows that a recipe reads."""
    said = {"id": id, "rating": "down", "corrected": "问人事部,电话 13912345678。"}
    assert _post(f"{url}/v1/feedback", stranger, said)[0] == 404
    status, reply = _post(f"{url}/v1/feedback", secret, said)
    assert status == 200 and reply["trains"] and reply["stored"] == ["rating", "corrected"]
    assert home.danlu("feedback", "show")
    out = home.folder / "rows"
    told = home.danlu("feedback", "export", str(out))
    assert told["fates"] == {"corrected": 1}
    ledger = Ledger()
    (pair,) = read([out / "pairs.jsonl"], ledger)
    assert pair.kind == "preference" and pair.rejected[0].content == ANSWERS[0][0]
    assert "13912345678" not in (out / "pairs.jsonl").read_text() and "问人事部" in pair.chosen[0].content
    (sample,) = read([out / "samples.jsonl"], ledger)
    assert sample.kind == "conversation" and sample.messages[-1].content == pair.chosen[0].content


def _figures(port: int) -> None:
    def page() -> dict:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        return {
            (s.name, *sorted(s.labels.items())): s.value
            for f in text_string_to_metric_families(text)
            for s in f.samples
        }

    def has_all() -> bool:
        done = [
            value
            for key, value in page().items()
            if key[0] == "danlu_requests_total" and ("model", "law") in key and ("status", "200") in key
        ]
        return sum(done) == 4

    assert wait_for(has_all)
    found = page()
    assert found[("danlu_workers",)] == 2
    assert [value for key, value in found.items() if key[0] == "danlu_replica_up"] == [1]
    assert found[("danlu_refusals_total", ("code", "rate_limit_exceeded"))] >= 1


def _post(url: str, key: str, body: dict) -> tuple[int, dict]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
