"""What is counted, how workers are added up, and that Prometheus can read it."""

import asyncio
import dataclasses
import json
import re
import time
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

import danlu
from danlu.serving.drivers import DRIVERS
from danlu.serving.engine_figures import read_figures
from danlu.serving.exposition import METRICS, open_metrics, render, series_names
from danlu.serving.meters import Meters, Totals
from danlu.serving.tally import Tally

DONE = Tally(
    "chatcmpl-1", "/v1/chat/completions", "chat", "k", "law", "law@0123456789ab", "engine-0", 200, outcome="done",
    is_stream=True, is_counted=True, prompt_tokens=10, answer_tokens=21, num_tries=1, before_s=0.0004, first_s=0.3,
    whole_s=2.3,
)  # fmt: skip


def counted(*tallies: Tally) -> Meters:
    meters = Meters()
    for tally in tallies:
        meters.began()
        meters.ended(tally)
    return meters


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def read(page: bytes, name: str, **labels: str) -> float:
    return samples(page)[name, tuple(sorted(labels.items()))]


def page(*workers: Meters) -> bytes:
    totals = Totals()
    totals.take({f"worker-{n}": meters.counters() for n, meters in enumerate(workers)})
    return render(totals.sum(), {"in_flight": [((), totals.num_in_flight)]})


def test_an_answer_is_counted_once_everywhere():
    told = page(counted(DONE))
    lens = DONE.lens
    assert read(told, "danlu_requests_total", model="law", lens=lens, status="200") == 1
    assert read(told, "danlu_tokens_total", model="law", lens=lens, kind="answer") == 21
    assert read(told, "danlu_first_token_seconds_sum", lens=lens) == 0.3
    assert read(told, "danlu_first_token_seconds_bucket", lens=lens, le="0.2") == 0
    assert read(told, "danlu_first_token_seconds_bucket", lens=lens, le="0.35") == 1
    assert (
        read(told, "danlu_between_tokens_seconds_bucket", lens=lens, le="0.1") == 1
    )  # 2.0 s over 20 gaps, le is inclusive
    assert read(told, "danlu_answer_seconds_bucket", lens=lens, le="+Inf") == 1
    assert read(told, "danlu_requests_in_flight") == 0


def test_what_an_engine_declined_is_no_failure_of_it():
    """Anybody with a key could have set off the alarm for engines that fail, by prompts that are too long."""
    declined = dataclasses.replace(DONE, outcome="refused", status=400)
    assert b"danlu_engine_failures_total{" not in page(counted(declined, declined))
    failed = dataclasses.replace(DONE, outcome="failed", status=502)
    assert read(page(counted(declined, failed)), "danlu_engine_failures_total", replica="engine-0") == 1


def test_workers_are_added_up():
    told = page(counted(DONE, DONE), counted(DONE))
    assert read(told, "danlu_requests_total", model="law", lens=DONE.lens, status="200") == 3
    assert read(told, "danlu_answer_seconds_count", lens=DONE.lens) == 3


def test_a_worker_that_died_takes_nothing_back():
    """A counter that falls is read as a restart: `rate` would then count all that the others ever did once more."""
    totals = Totals()
    old, other = counted(DONE, DONE), counted(DONE)
    totals.take({"worker-0": old.counters(), "worker-1": other.counters()})
    totals.take({"worker-0": counted(DONE).counters(), "worker-1": other.counters()})  # it came back under its name
    assert totals.sum()["counters"]["requests"] == {f"law\x1f{DONE.lens}\x1f200": 4}
    totals.take({"worker-1": other.counters()})
    assert totals.sum()["counters"]["requests"] == {f"law\x1f{DONE.lens}\x1f200": 4}


def test_what_clients_write_makes_no_series():
    """A million invented model names must not be a million series in memory, here and in Prometheus."""
    meters = Meters()
    for n in range(1000):
        meters.began()
        meters.ended(
            Tally(f"x{n}", "/v1/chat/completions", model=f'evil{n}"}} 1\n', status=404, code="model_not_found")
        )
    told = meters.counters()["counters"]
    assert told["requests"] == {"\x1f\x1f404": 1000} and told["refusals"] == {"model_not_found": 1000}


def test_names_of_models_cannot_break_the_page():
    hostile = Tally("x", "/v1", model='a"} 9\nfoo 1\\', lens='l"\n\\', status=200, outcome="done", is_counted=True)
    told = page(counted(hostile))
    assert read(told, "danlu_requests_total", model=hostile.model, lens=hostile.lens, status="200") == 1
    assert not any(name == "foo" for name, _ in samples(told))


def test_every_metric_is_announced_with_its_kind():
    families = {family.name: family.type for family in text_string_to_metric_families(page(counted(DONE)).decode())}
    for metric in METRICS:
        assert families[metric.name.removesuffix("_total")] == metric.kind, metric.name
    names = [name for metric in METRICS for name in series_names(metric)]
    assert len(names) == len(set(names))


def test_counting_costs_microseconds():
    meters, began = Meters(), time.process_time()
    for _ in range(20_000):
        meters.began()
        meters.ended(DONE)
    assert (time.process_time() - began) / 20_000 < 20e-6  # 1.4 us when quiet


def test_the_door_answers_its_own_machine_only():
    async def ask(head: str) -> bytes:
        async def told() -> bytes:
            return b"danlu_workers 1\n"

        server = await open_metrics("127.0.0.1", 0, told)
        async with server:
            host, port = server.sockets[0].getsockname()[:2]
            assert host == "127.0.0.1"
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(head.encode())
            reply = await reader.read()
            writer.close()
            return reply

    good = asyncio.run(ask("GET /metrics HTTP/1.1\r\nHost: localhost:9464\r\n\r\n"))
    assert good.startswith(b"HTTP/1.1 200 OK") and good.endswith(b"danlu_workers 1\n")
    for head in (
        "GET /metrics HTTP/1.1\r\nHost: rebound.example:9464\r\n\r\n",
        "GET /metrics HTTP/1.1\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /../secret HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "\x00\xff\r\n\r\n",
    ):
        reply = asyncio.run(ask(head))
        assert reply.startswith(b"HTTP/1.1 4") and b"danlu_workers" not in reply


def test_engines_figures_are_read_in_their_own_words():
    vllm = (
        b'# HELP x\nvllm:kv_cache_usage_perc{engine="0",model_name="a b"} 0.25\nvllm:num_requests_running{e="0"} 3.0\n'
    )
    vllm += b'vllm:num_requests_running{e="1"} 2.0\nvllm:num_requests_waiting{e="0"} nan\n'
    called = {name: DRIVERS.load(name).about.figures for name in ("vllm", "llamacpp")}
    assert read_figures(vllm, called["vllm"]) == {"cache": 0.25, "running": 5.0}
    llamacpp = b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 4 1700000000\n"
    assert read_figures(llamacpp, called["llamacpp"]) == {"running": 1.0, "queue": 4.0}
    assert read_figures(llamacpp, called["vllm"]) == {} == read_figures(b"\xff{}} 1\n" * 10, called["vllm"])


NAMES = {name for metric in METRICS for name in series_names(metric)}
ASSETS = Path(danlu.__file__).parent / "assets" / "serving"


def test_the_dashboard_names_only_metrics_that_exist():
    """Panels that stay empty because a metric was renamed are noticed during an outage, not before."""
    board = json.loads((ASSETS / "grafana.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    asked += [mark["expr"] for mark in board["annotations"]["list"]]
    assert len(asked) > 20
    named = {name for expression in asked for name in re.findall(r"\bdanlu_\w+", expression)}
    assert named <= NAMES, named - NAMES
    assert not {metric.name for metric in METRICS if not series_names(metric) & named}


def test_alert_rules_name_only_metrics_that_exist():
    rules = yaml.safe_load((ASSETS / "rules.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    for rule in rules:
        named = set(re.findall(r"\bdanlu_\w+", rule["expr"]))
        assert named and named <= NAMES, rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")") and rule["annotations"]["summary"]
