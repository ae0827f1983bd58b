"""Figures as Prometheus reads them (text format 0.0.4), on a port of their own.

`METRICS` is the whole list: the dashboard and the alert rules in `assets/serving` may name nothing else, and a test
holds them to it. Nothing here is told by clients: labels are the board's names and our own words.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from danlu.serving.bind import is_loopback
from danlu.serving.meters import BOUNDS, SEPARATOR

Kind = Literal["counter", "gauge", "histogram"]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NAMES = ("127.0.0.1", "localhost", "[::1]")
"""By which a scraper may call us: a page in a browser that pointed its own name here is refused."""


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


COUNTED: dict[str, Metric] = {
    "requests": Metric("danlu_requests_total", "counter", ("model", "lens", "status"), "Requests by what answered."),
    "tokens": Metric("danlu_tokens_total", "counter", ("model", "lens", "kind"), "Tokens, kind prompt or answer."),
    "refusals": Metric("danlu_refusals_total", "counter", ("code",), "Requests that no engine was asked about."),
    "aborts": Metric("danlu_aborts_total", "counter", ("lens",), "Answers that clients hung up on."),
    "failures": Metric("danlu_engine_failures_total", "counter", ("replica",), "Answers that an engine broke off."),
    "retries": Metric("danlu_retries_total", "counter", ("lens",), "Further replicas asked before the first byte."),
    "uncounted": Metric("danlu_uncounted_total", "counter", ("lens",), "Answers whose tokens no engine counted."),
    "unstopped": Metric("danlu_unstopped_total", "counter", ("lens",), "Answers that an engine did not stop in time."),
}
OBSERVED: dict[str, Metric] = {
    "first": Metric("danlu_first_token_seconds", "histogram", ("lens",), "Until the first byte of a stream."),
    "between": Metric("danlu_between_tokens_seconds", "histogram", ("lens",), "Between two tokens of a stream, mean."),
    "answer": Metric("danlu_answer_seconds", "histogram", ("lens",), "Whole answers."),
    "gateway": Metric("danlu_gateway_seconds", "histogram", ("lens",), "Until an engine was asked: our own share."),
}
STANDING: dict[str, Metric] = {
    "in_flight": Metric("danlu_requests_in_flight", "gauge", (), "Requests under way."),
    "workers": Metric("danlu_workers", "gauge", (), "Gateway workers that answer."),
    "board": Metric("danlu_board_number", "gauge", (), "The snapshot that is in use; it grows with each change."),
    "up": Metric("danlu_replica_up", "gauge", ("replica", "pool", "driver"), "1 where it takes requests."),
    "starts": Metric("danlu_replica_starts_total", "counter", ("replica",), "Starts of the engine's process."),
    "outstanding": Metric("danlu_replica_outstanding", "gauge", ("replica",), "Answers leased to it now."),
    "lenses": Metric("danlu_replica_lenses", "gauge", ("replica",), "Lenses loaded in it, its base included."),
    "cache": Metric("danlu_engine_cache_ratio", "gauge", ("replica",), "Share of its key-value cache in use."),
    "running": Metric("danlu_engine_running", "gauge", ("replica",), "Answers that the engine computes now."),
    "queue": Metric("danlu_engine_waiting", "gauge", ("replica",), "Requests that wait inside the engine."),
    "keys_stale": Metric("danlu_keys_stale_seconds", "gauge", (), "For how long keys could not be looked up anew."),
    "limits_alarm": Metric("danlu_limits_alarm", "gauge", (), "1 where limits are counted by a makeshift."),
    "journal_failing": Metric("danlu_journal_failing", "gauge", (), "1 where the journal cannot be written."),
    "certificate": Metric("danlu_certificate_expires_seconds", "gauge", (), "When the certificate ends, since 1970."),
}
METRICS: tuple[Metric, ...] = (*COUNTED.values(), *OBSERVED.values(), *STANDING.values())
Standing = Mapping[str, Sequence[tuple[tuple[str, ...], float]]]
"""Key of STANDING to (labels, value)."""


def render(totals: Mapping[str, Any], standing: Standing) -> bytes:
    """The page: what workers counted (`Totals.sum`), and how things stand."""
    lines: list[str] = []
    for key, metric in COUNTED.items():
        lines += _head(metric)
        for labels, value in totals["counters"].get(key, {}).items():
            lines.append(_line(metric.name, metric.labels, labels.split(SEPARATOR), value))
    for key, metric in OBSERVED.items():
        lines += _head(metric)
        for lens, row in totals["histograms"].get(key, {}).items():
            lines += _histogram(metric, lens, row, BOUNDS[key])
    for key, metric in STANDING.items():
        lines += _head(metric)
        lines += [_line(metric.name, metric.labels, labels, value) for labels, value in standing.get(key, ())]
    return ("\n".join(lines) + "\n").encode()


def series_names(metric: Metric) -> set[str]:
    """What a query may call it."""
    if metric.kind == "histogram":
        return {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    return {metric.name}


def _head(metric: Metric) -> list[str]:
    return [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]


def _histogram(metric: Metric, lens: str, row: Sequence[float], bounds: Sequence[float]) -> Iterable[str]:
    total = 0.0
    for bound, count in zip((*map(str, bounds), "+Inf"), row[1:], strict=True):
        total += count
        yield _line(f"{metric.name}_bucket", ("lens", "le"), (lens, bound), total)
    yield _line(f"{metric.name}_sum", ("lens",), (lens,), row[0])
    yield _line(f"{metric.name}_count", ("lens",), (lens,), total)


def _line(name: str, labels: Sequence[str], values: Sequence[str], value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(said)}"' for label, said in zip(labels, values, strict=True))
    number = str(int(value)) if float(value).is_integer() else repr(float(value))
    return f"{name}{{{inside}}} {number}" if inside else f"{name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


# ---- the door

Page = Callable[[], Awaitable[bytes]]


async def open_metrics(host: str, port: int, page: Page) -> asyncio.Server:
    """Answers `GET /metrics`, a connection a question. OSError where the port is taken. On the loopback only this
    machine's own names are answered to; elsewhere a scraper's network has its own names for us."""
    is_own = is_loopback(host)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.LimitOverrunError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(10.0):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                status, body = await _reply(head, page, is_own=is_own)
                told = f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
                writer.write((told + "Connection: close\r\n\r\n").encode() + body)
                await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, host, port, limit=16 * 2**10)


async def _reply(head: Sequence[str], page: Page, *, is_own: bool) -> tuple[str, bytes]:
    host = next((line.partition(":")[2].strip() for line in head[1:] if line.lower().startswith("host:")), "")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if is_own and name.lower() not in _NAMES:
        return "421 Misdirected Request", b"not here\n"
    method, _, rest = head[0].partition(" ")
    if method != "GET" or rest.partition(" ")[0].partition("?")[0] != "/metrics":
        return "404 Not Found", b"not here\n"
    return "200 OK", await page()
