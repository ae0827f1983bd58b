"""What a request meets before any engine: paths, methods, headers, keys, bodies. Over real sockets."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.openai.refused import RefusedError
from danlu.serving.caps import Caps
from danlu.serving.keys import Key
from gateway_kit import Served, Upstream, board_of, chat, served, upstreams
from waiting_kit import until_true

CAPS = Caps(most_body_bytes=20_000, most_header_bytes=4096, body_s=0.3, origins=("https://chat.example.com",))


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with upstreams() as (one,):
        yield one


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Served]:
    async def shout(key: Key, body: bytes) -> bytes:
        if b"no" in body:
            raise RefusedError("gateway.not_an_object", status=400)
        return b'{"key":"' + key.id.encode() + b'"}'

    folder = tmp_path_factory.mktemp("gate")
    with served(folder, board_of(upstream.address), caps=CAPS, endpoints={("POST", "/v1/feedback"): shout}) as one:
        yield one


def raw_request(
    gate: Served,
    *headers: str,
    path: str = "/v1/models",
    method: str = "GET",
    body: bytes = b"",
    host: str = "localhost",
) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        *([f"Host: {host}"] if host else []),
        f"Authorization: Bearer {gate.credential}",
        *headers,
        "Connection: close",
    ]
    return gate.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/chat/completions/", "/v1/../healthz", "//v1/models", "/V1/models",
                                  "/metrics", "/invocations", "/v1/adapters", "/tokenize", "/v1/load_lora_adapter", "/v1/files"])  # fmt: skip
def test_what_is_not_listed_is_not_there(gate: Served, upstream: Upstream, path: str) -> None:
    before = len(upstream.asked)
    for method in ("GET", "POST", "DELETE"):
        assert gate.ask(chat() if method == "POST" else None, path=path, method=method).status == 404
    assert len(upstream.asked) == before


def test_methods_that_are_not_listed_are_refused(gate: Served) -> None:
    found = gate.ask(None, path="/v1/chat/completions", method="GET")
    assert found.status == 405 and found.headers["allow"] == "POST" and found.code == "method_not_allowed"
    assert gate.ask(None, method="OPTIONS").status == 405
    assert gate.ask(None, path="/v1/models", method="DELETE").status == 405


def test_models_shows_what_the_key_may_use_and_nothing_else(gate: Served) -> None:
    assert [one["id"] for one in gate.ask(None, path="/v1/models", method="GET").json["data"]] == ["law", "法律"]
    narrow = gate.new_key(models=("法律",))
    assert [one["id"] for one in gate.ask(None, path="/v1/models", method="GET", key=narrow).json["data"]] == ["法律"]
    assert gate.ask(None, path="/v1/models/law", method="GET", key=narrow).code == "model_not_found"
    assert gate.ask(None, path="/v1/models/%E6%B3%95%E5%BE%8B", method="GET", key=narrow).json["id"] == "法律"
    denied, unknown = gate.ask(chat(), key=narrow), gate.ask(chat(model="nothing"), key=narrow)
    assert denied.status == unknown.status == 404 and denied.code == unknown.code  # nobody learns what exists


def test_health_needs_no_key_and_says_nothing_of_the_house(gate: Served) -> None:
    assert gate.ask(None, path="/healthz", method="GET", key="").json == {"status": "ok"}
    assert gate.ask(None, path="/readyz", method="GET", key="").json == {"status": "ready"}
    gate.gateway.is_draining = True
    assert gate.ask(None, path="/readyz", method="GET", key="").status == 503
    gate.gateway.is_draining = False


def test_a_draining_gateway_still_answers(gate: Served) -> None:
    gate.gateway.is_draining = True
    assert gate.ask(chat()).status == 200
    gate.gateway.is_draining = False


@pytest.mark.parametrize("host", ["", "a/?x", "a b", "evil.com/v1", "a,b", "[::1", "x:99999999", "é", "a\x00b"])
def test_hosts_that_are_none_are_refused(gate: Served, host: str) -> None:
    assert b" 400 " in raw_request(gate, host=host).split(b"\r\n", 1)[0]


def test_two_hosts_are_refused(gate: Served) -> None:
    assert b" 400 " in raw_request(gate, "Host: other").split(b"\r\n", 1)[0]


def test_only_named_hosts_are_served_where_they_are_named(tmp_path: Path, upstream: Upstream) -> None:
    with served(tmp_path, board_of(upstream.address), caps=Caps(hosts=("api.example.com", "::1"))) as gate:
        assert b" 200 " in raw_request(gate, host="API.example.com:8443")
        assert b" 200 " in raw_request(gate, host="[::1]:80")
        assert b"invalid_host" in raw_request(gate, host="rebound.example.org")


def test_browser_pages_need_to_be_named(gate: Served) -> None:
    assert gate.ask(chat(), origin="https://evil.example").code == "origin_refused"
    assert gate.ask(chat(), origin="null").status == 403
    found = gate.ask(chat(), origin="https://chat.example.com")
    assert found.status == 200 and found.headers["access-control-allow-origin"] == "https://chat.example.com"
    asked_first = gate.ask(None, method="OPTIONS", key="", origin="https://chat.example.com")
    assert asked_first.status == 204 and "authorization" in asked_first.headers["access-control-allow-headers"]


def test_a_key_is_the_same_key_in_every_header(gate: Served) -> None:
    for name in ("x_api_key", "api_key"):
        assert gate.ask(chat(), authorization="", **{name: gate.credential}).status == 200
    assert gate.ask(chat(), x_api_key=gate.credential).status == 200  # they agree
    assert gate.ask(chat(), x_api_key="dl-other-key").status == 401  # they do not
    for bad in (
        "",
        "Bearer",
        "Bearer ",
        "Basic dTpw",
        gate.credential,
        f"Bearer {gate.credential}x",
        "Bearer " + "k" * 2000,
        "Bearer é",
    ):
        found = gate.ask(chat(), authorization=bad.encode("latin-1").decode("latin-1"))
        assert found.status == 401 and found.code == "invalid_api_key" and "www-authenticate" in found.headers, bad


def test_a_revoked_or_expired_key_is_refused(gate: Served) -> None:
    assert gate.ask(chat(), key=gate.new_key(expires=time.time() + 1000)).status == 200
    soon = gate.new_key(expires=time.time() + 0.2)
    until_true(lambda: gate.ask(chat(), key=soon).status == 401)


def test_strangers_bodies_are_not_read(gate: Served) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    assert b" 401 " in gate.raw(head, told=b" 401 ")  # though the body never comes


def test_bodies_have_a_size(gate: Served) -> None:
    big = chat(messages=[{"role": "user", "content": "x" * 30_000}])
    found = gate.ask(big)
    assert found.status == 413 and found.code == "body_too_large"
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {gate.credential}\r\n"
    chunked = (
        head
        + "Transfer-Encoding: chunked\r\n\r\n"
        + "".join(f"{1000:x}\r\n{'x' * 1000}\r\n" for _ in range(30))
        + "0\r\n\r\n"
    )
    assert b" 413 " in gate.raw(chunked.encode(), told=b" 413 ")


LARGE = 8 * 2**20
"""More than the kernel keeps of a body that nobody reads: closing upon it resets the connection."""


def test_who_sends_too_much_can_read_why(gate: Served) -> None:
    """The connection was closed under a client that was still sending: it saw a reset, and no 413."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {gate.credential}\r\n"
    whole = f"{head}Content-Length: {LARGE}\r\n\r\n".encode() + b"x" * LARGE
    found = gate.raw(whole)
    assert found.startswith(b"HTTP/1.1 413 ") and b'"code":"body_too_large"' in found and b"100 Continue" not in found
    chunked = f"{head}Transfer-Encoding: chunked\r\n\r\n{LARGE:x}\r\n".encode() + b"x" * LARGE + b"\r\n0\r\n\r\n"
    assert b'"code":"body_too_large"' in gate.raw(chunked)
    packed = chunked.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1)
    assert gate.raw(packed).startswith(b"HTTP/1.1 415 ")


def test_who_asks_first_need_not_send_it(gate: Served) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {gate.credential}\r\nContent-Length: {LARGE}\r\nExpect: 100-continue\r\n\r\n"
    found = gate.raw(head.encode())
    assert found.startswith(b"HTTP/1.1 413 ") and b"100 Continue" not in found


def test_the_official_client_is_told_that_it_sent_too_much(gate: Served) -> None:
    openai = pytest.importorskip("openai", reason="the official client: pip install openai")
    with openai.OpenAI(base_url=gate.url, api_key=gate.credential, max_retries=0) as client:
        turns = [{"role": "user", "content": "x" * LARGE}]
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="law", messages=turns)
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")


def test_bodies_have_a_time(gate: Served) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {gate.credential}\r\nContent-Length: 500\r\n\r\n{{"
    assert b" 408 " in gate.raw(head.encode(), told=b" 408 ")


def test_bodies_are_json_said_to_be_json(gate: Served) -> None:
    assert gate.ask(chat(), content_type="text/plain").code == "content_type"  # no form of a browser can send it
    assert gate.ask(chat(), content_type="application/json; charset=utf-8").status == 200
    assert gate.ask(chat(), content_encoding="gzip").code == "content_encoding"
    for bad in (b"", b"{", b'{"a":NaN}', b"\xff\xfe", b'{"a":"\\ud800"}', b"[" * 100_0):
        assert gate.ask(bad).code == "invalid_json", bad
    for bad in (b"[]", b"null", b'"x"', b"3"):
        assert gate.ask(bad).code == "not_an_object"


def test_headers_have_a_size(gate: Served) -> None:
    assert gate.ask(chat(), x_long="a" * 5000).status == 431
    assert gate.ask(chat(), **{f"x_{n}": "a" for n in range(80)}).status == 431


def test_every_answer_has_an_id_and_errors_have_openais_shape(gate: Served) -> None:
    found = gate.ask(chat(n=99))
    assert found.headers["x-request-id"].startswith("req_")
    assert set(found.json["error"]) == {"message", "type", "param", "code"} and found.json["error"]["param"] == "n"


def test_other_doors_have_the_same_key_and_limits(gate: Served) -> None:
    assert gate.ask({}, path="/v1/feedback").json == {"key": gate.key.id}
    assert gate.ask({"no": 1}, path="/v1/feedback").code == "not_an_object"
    assert gate.ask({}, path="/v1/feedback", key="").status == 401


def test_limits_are_told_as_openai_tells_them(gate: Served) -> None:
    key = gate.new_key(requests_per_minute=2, tokens_per_minute=100_000)
    first = gate.ask(chat(max_tokens=5), key=key)
    assert first.headers["x-ratelimit-limit-requests"] == "2" and first.headers["x-ratelimit-limit-tokens"] == "100000"
    assert gate.ask(chat(max_tokens=5), key=key).status == 200
    third = gate.ask(chat(max_tokens=5), key=key)
    assert third.status == 429 and third.code == "rate_limit_exceeded" and int(third.headers["retry-after"]) >= 1


def test_a_used_up_quota_is_not_tried_again(gate: Served) -> None:
    key = gate.new_key(tokens_per_month=100)
    found = gate.ask(chat(max_tokens=500), key=key)
    assert found.status == 429 and found.headers.get("x-should-retry") == "false"


def test_refusals_are_counted_without_names_of_strangers(gate: Served) -> None:
    gate.ask(chat(model="a-name-nobody-serves"))
    gate.ask(None, path="/some/strangers/path", method="GET")
    assert "a-name-nobody-serves" not in str(gate.gateway.meters.counters())  # type: ignore[attr-defined]
    assert "strangers" not in str(gate.gateway.meters.counters())  # type: ignore[attr-defined]
