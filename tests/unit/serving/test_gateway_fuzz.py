"""Strangers' bytes: bodies, headers, chunks and broken HTTP. Never a 5xx, a crash or a hang; and schemathesis over the
document that the gateway tells of itself."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from danlu.openai.bodies import bodies
from danlu.serving.caps import Caps
from gateway_kit import Served, Upstream, board_of, chat, served, upstreams
from waiting_kit import PATIENCE_S

FIELDS = sorted({name for record in bodies(Caps()).values() for name in record.fields})
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
TRIES = settings(max_examples=150, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def engine() -> Iterator[Upstream]:
    with upstreams() as (one,):
        yield one


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, engine: Upstream) -> Iterator[Served]:
    caps = Caps(body_s=0.5, most_body_bytes=200_000)
    with served(tmp_path_factory.mktemp("gate"), board_of(engine.address), caps=caps) as one:
        yield one
        assert one.ask(chat()).status == 200, "it still answers after all of that"
        assert not one.gateway.router.on_replica


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=25,
)
TURNS = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "name", "tool_calls", "x"]),
        JSON | st.sampled_from(["user", "system", "tool"]),
    ),
    max_size=4,
)
BODIES = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=12), JSON, max_size=8)
NEAR = st.builds(
    lambda more, turns: chat() | ({"messages": turns} if turns else {}) | more,
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=2),
    st.none() | TURNS,
)


def calm(status: int) -> bool:
    return status == 200 or 400 <= status < 500


@TRIES
@given(body=BODIES | NEAR | JSON, path=st.sampled_from(PATHS))
def test_any_json_is_answered_or_refused(gate: Served, body: Any, path: str) -> None:
    found = gate.ask(json.dumps(body).encode(), path=path)
    assert calm(found.status), found.body
    if found.status != 200:
        assert set(found.json["error"]) == {"message", "type", "param", "code"}


@TRIES
@given(body=st.binary(max_size=400), path=st.sampled_from(PATHS))
def test_any_bytes_are_refused(gate: Served, body: bytes, path: str) -> None:
    assert 400 <= gate.ask(body, path=path).status < 500


@TRIES
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(["authorization", "x-api-key", "host", "origin", "content-type", "content-length", "content-encoding",
                             "transfer-encoding", "expect", "upgrade", "connection", "cookie", "x-forwarded-host", "accept"])
            | st.text("abcdefghijklmnop-_", min_size=1, max_size=20),
            st.binary(max_size=60).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b"")),
        ),
        max_size=12,
    ),
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "TRACE"]),
    path=st.sampled_from([*PATHS, "/v1/models", "/healthz", "/%ff%fe", "/" + "a" * 3000, "*"]),
)  # fmt: skip
def test_any_headers_are_answered_or_refused(
    gate: Served, headers: list[tuple[str, bytes]], method: str, path: str
) -> None:
    lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers)
    sent = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode() + lines + b"\r\n"
    found = gate.raw(sent, wait_s=0.6)
    status = re.match(rb"HTTP/1.1 (\d\d\d) ", found)
    assert not found or (status and (calm(int(status[1])) or status[1] == b"204")), found[:200]


@settings(TRIES, max_examples=60)
@given(sizes=st.lists(st.integers(1, 40), max_size=30), is_stream=st.booleans(), is_bad=st.booleans())
def test_any_chunking_of_a_body_is_the_same_body(gate: Served, sizes: list[int], is_stream: bool, is_bad: bool) -> None:
    body = json.dumps(chat(stream=is_stream), ensure_ascii=False).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {gate.credential}\r\nTransfer-Encoding: chunked\r\n\r\n"
    ).encode()
    parts, start = [], 0
    for size in [*sizes, len(body)]:
        part, start = body[start : start + size], start + size
        if part:
            parts.append(b"%x\r\n" % len(part) + part + b"\r\n")
    end = b"zz\r\n" if is_bad else b"0\r\n\r\n"
    found = gate.raw(head + b"".join(parts) + end, wait_s=1.0 if is_bad else PATIENCE_S)
    status = re.match(rb"HTTP/1.1 (\d\d\d) ", found)
    if is_bad:
        assert status is None or 400 <= int(status[1]) < 500
    else:
        assert status is not None and int(status[1]) == 200 and found.count("补贴".encode()) >= 1


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/models HTTP/0.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n",
    ],
)
def test_broken_http_is_refused(gate: Served, sent: bytes) -> None:
    found = gate.raw(sent, wait_s=0.4)
    assert not found or re.match(rb"HTTP/1.1 4\d\d ", found), found[:100]


def test_smuggled_requests_are_not_seen(gate: Served, engine: Upstream) -> None:
    """Length and chunking together: whatever the parser makes of it, no second request comes out of the body."""
    before = len(engine.asked)
    inner = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gate.credential}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
    outer = f"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: {len(inner) + 5}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
    gate.raw(outer.encode(), wait_s=0.4)
    assert len(engine.asked) == before


def test_schemathesis_finds_nothing(gate: Served) -> None:
    """What the document calls valid is taken and answered as it says, with a model that is served."""
    schemathesis = pytest.importorskip("schemathesis", reason='no schemathesis: pip install "danlu[test]"')
    from schemathesis import checks

    headers = {"Authorization": f"Bearer {gate.credential}"}
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{gate.port}/openapi.json")
    seen: set[tuple[str, int]] = set()
    for result in schema.get_all_operations():

        @settings(max_examples=20, suppress_health_check=list(HealthCheck), database=None)
        @given(case=result.ok().as_strategy())
        def try_one(case: Any) -> None:
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "law"
                if isinstance(case.body.get("tool_choice"), dict):  # names one of `tools`, which no schema can say
                    del case.body["tool_choice"]
            response = case.call(headers=headers)
            seen.add((case.operation.path, response.status_code))
            case.validate_response(response, checks=(
                checks.not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
                checks.response_schema_conformance, checks.positive_data_acceptance,
            ))  # fmt: skip

        try_one()
    assert {path for path, status in seen if status == 200} >= set(PATHS)


@pytest.mark.slow
def test_schemathesis_finds_nothing_with_all_its_checks(gate: Served, tmp_path: Path) -> None:
    """Also: what the document calls invalid is refused, undocumented methods too, and no endpoint works without its key."""
    pytest.importorskip("schemathesis", reason='no schemathesis: pip install "danlu[test]"')
    config = tmp_path / "schemathesis.toml"
    config.write_text(
        "[checks.negative_data_rejection]\nexpected-statuses = [400, 401, 404, 405, 408, 413, 415, 431]\n"
    )
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
        f"http://127.0.0.1:{gate.port}/openapi.json", "-H", f"Authorization: Bearer {gate.credential}", "--checks", "all",
        "--phases", "coverage,fuzzing", "--max-examples", "40", "--continue-on-failure",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "7 selected / 7 total" in done.stdout
