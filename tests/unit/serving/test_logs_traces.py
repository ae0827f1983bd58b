"""Logs hold who, what and how long, on one line each; traces the same, to a collector that was named."""

import dataclasses
import json
import os
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from danlu.core.errors import RunError
from danlu.serving.logs import MOST_TEXT, RequestLog, line_of
from danlu.serving.tally import Tally

DONE = Tally(
    "chatcmpl-1", "/v1/chat/completions", "chat", "k1", "law", "law@1", "engine-0", 200, outcome="done", whole_s=0.5
)


@pytest.mark.parametrize("evil", ['x"}\n{"key": "admin"', "a\r\nb", "a\u2028b\u2029c\x85d", "\x1b[2J\x00", "\ud800"])
def test_nobody_writes_lines_of_his_own(evil):
    """Log injection: a model called `x\\n{"key": "admin"…` looked like somebody else's request."""
    line = line_of(0.0, dataclasses.replace(DONE, model=evil, code=evil))
    assert len(line.decode().splitlines()) == 1 and line.count(b"\n") == 1
    assert json.loads(line)["key"] == "k1"
    assert "\x1b" not in line.decode()


def test_a_line_holds_no_more_than_it_says(tmp_path):
    log = RequestLog(tmp_path / "logs" / "worker-0.jsonl")
    log.ended(dataclasses.replace(DONE, model="m" * 10_000))
    log.event("stopping", left=3)
    log.close()
    first, second = map(json.loads, (tmp_path / "logs" / "worker-0.jsonl").read_text().splitlines())
    assert set(first) == {"time", "id", "path", "kind", "key", "model", "lens", "replica", "status", "code", "outcome", "is_stream", "prompt_tokens", "answer_tokens", "num_tries", "before_s", "first_s", "whole_s"}  # fmt: skip
    assert len(first["model"]) == MOST_TEXT and first["time"].endswith("Z")
    assert second["event"] == "stopping" and second["left"] == 3
    assert stat.S_IMODE((tmp_path / "logs" / "worker-0.jsonl").stat().st_mode) == 0o600


def test_logs_do_not_fill_the_disk(tmp_path):
    log = RequestLog(tmp_path / "w.jsonl", most_bytes=2000)
    for _ in range(5):
        for _ in range(20):
            log.ended(DONE)
    log.close()
    log = RequestLog(tmp_path / "w.jsonl", most_bytes=2000)
    for _ in range(20):
        log.ended(DONE)
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files[0] == "w.jsonl" and "w.jsonl.1" in files and len(files) <= 5


def test_a_full_disk_costs_lines_not_answers(tmp_path):
    log = RequestLog(tmp_path / "w.jsonl")
    os.close(log._file)
    log._file = os.open("/dev/full", os.O_WRONLY)
    log.ended(DONE)
    log.close()
    assert log.num_dropped == 1


def test_telemetry_is_not_even_loaded_unless_asked():
    code = "import sys, danlu.serving.traces, danlu.serving.logs\nsys.exit(any(m.startswith('opentelemetry') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_spans_reach_the_collector_without_a_word_of_the_talk():
    pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is not installed")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="its HTTP exporter is not installed")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from danlu.serving.traces import Traces

    got = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            import gzip

            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    traces = Traces(f"http://127.0.0.1:{server.server_address[1]}", worker="worker-0")
    traces.ended(dataclasses.replace(DONE, before_s=0.001, first_s=0.1, answer_tokens=7))
    traces.close()
    server.shutdown()
    (path, body) = got[0]
    assert path == "/v1/traces"
    span = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans[0]
    facts = {entry.key: entry.value.string_value or entry.value.int_value for entry in span.attributes}
    assert facts["gen_ai.usage.output_tokens"] == 7 and facts["gen_ai.response.model"] == "law@1"
    assert span.end_time_unix_nano - span.start_time_unix_nano == 500_000_000
    assert [event.name for event in span.events] == ["engine asked", "first byte"]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    from danlu.serving.traces import Traces

    with pytest.raises(RunError) as caught:
        Traces("http://127.0.0.1:1")
    assert "opentelemetry" in str(caught.value)
