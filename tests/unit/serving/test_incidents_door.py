"""What happened to others at this door, and does not happen here. Each test is named after the incident.

The numbers are CVEs or releases of the projects named; each test asks a running gateway, and looks at what the engine
behind it was sent.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_kit import SECRET, Served, Upstream, board_of, chat, served, upstreams

SRC = Path(__file__).parents[3] / "src" / "danlu" / "serving"


@pytest.fixture(scope="module")
def engine() -> Iterator[Upstream]:
    with upstreams() as (one,):
        yield one


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, engine: Upstream) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("gate"), board_of(engine.address)) as one:
        yield one


@pytest.mark.parametrize("path", ["/invocations", "/v1/adapters", "/adapters", "/v1/load_lora_adapter", "/v1/unload_lora_adapter",
                                  "/inference/v1/generate", "/tokenize", "/detokenize", "/metrics", "/server_info", "/collective_rpc",
                                  "/lora-adapters", "/slots", "/props", "/completion", "/get_weights_by_name", "/load_model", "/reset"])  # fmt: skip
def test_incident_1_vllms_other_routes_are_not_reachable_with_or_without_a_key(
    gate: Served, engine: Upstream, path: str
) -> None:
    """vLLM with --api-key answered /invocations and loaded adapters for anybody: an engine's doors are not ours."""
    before = len(engine.asked)
    for key in ("", gate.credential):
        for method in ("GET", "POST"):
            assert (
                gate.ask({"lora_path": "/etc"} if method == "POST" else None, path=path, method=method, key=key).status
                == 404
            )
    assert len(engine.asked) == before


@pytest.mark.parametrize("path", ["/v1/chat/completions/../../invocations", "/v1/chat/completions/%2e%2e/%2e%2e/invocations",
                                  "/v1/models/../../metrics", "/v1/models/..%2f..%2fmetrics", "/v1//chat/completions", "/./invocations",
                                  "/v1/chat/completions;/../../invocations", "/v1/chat/completions%00", "http://engine/invocations"])  # fmt: skip
def test_incident_2_no_open_proxy(gate: Served, engine: Upstream, path: str) -> None:
    """Gateways that pass `/{path}` on give away the engine's own doors. Only listed paths exist, compared whole."""
    before = len(engine.asked)
    assert gate.ask({}, path=path).status in (404, 405)
    assert len(engine.asked) == before


@pytest.mark.parametrize(
    "host", ["a/?x", "localhost/v1/models?", "evil@localhost", "localhost#", "a\\b", "localhost:80/healthz?"]
)
def test_incident_3_cve_2026_48746_the_host_header_opens_nothing(gate: Served, host: str) -> None:
    """vLLM rebuilt the path from `Host`, so that `Host: a/?x` looked like a route without authentication."""
    for path in ("/v1/models", "/v1/chat/completions"):
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        assert re.match(rb"HTTP/1.1 40[015] ", gate.raw(head.encode()))


def test_incident_4_cve_2025_59425_a_keys_comparison_tells_nothing_by_its_time(gate: Served) -> None:
    """vLLM compared keys with `==`. Here hashes are compared in constant time; that is read in the code, since a clock on
    a busy machine proves nothing, and near misses are refused like far ones."""
    text = (SRC / "keys.py").read_text(encoding="utf-8")
    compared = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq)
    ]
    assert "hmac.compare_digest" in text
    assert not [one for one in map(ast.unparse, compared) if re.search(r"digest|\bprevious\b|seal\(|credential", one)]
    right = gate.credential
    for wrong in (
        right[:-1],
        right + "a",
        right[:-1] + ("a" if right[-1] != "a" else "b"),
        right.upper(),
        "dl-" + "a" * len(right),
        "",
    ):
        found = gate.ask(chat(), key=wrong)
        assert (
            found.status == 401 and right not in found.body.decode() and (not wrong or wrong not in found.body.decode())
        )


INJECTIONS = ["' OR '1'='1", "dl-x'; DROP TABLE keys; --", 'dl-"-"', "dl-a-b\x00", "%00", "dl-\\-\\", "x" * 511]


@pytest.mark.parametrize("credential", INJECTIONS)
def test_incident_5_cve_2026_42208_no_header_is_part_of_a_query(gate: Served, credential: str) -> None:
    """LiteLLM put the header into SQL before it was checked. Here the lookup is in memory, by a form that must match."""
    try:
        assert gate.ask(chat(), key=credential).status in (400, 401)
    except ValueError:  # the client library itself refuses to send it
        head = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {credential}\r\n\r\n"
        assert re.match(rb"HTTP/1.1 40[01] ", gate.raw(head.encode()))
    assert gate.ask(chat()).status == 200


@pytest.mark.parametrize("header", ["authorization", "x_api_key", "api_key"])
def test_incident_7_cve_2026_45339_every_header_carries_the_same_rights(gate: Served, header: str) -> None:
    """Open WebUI: a restriction set for `Bearer` did not hold for `x-api-key`."""
    narrow = gate.new_key(models=("法律",))
    sent = {"authorization": ""} | {header: f"Bearer {narrow}" if header == "authorization" else narrow}
    assert gate.ask(chat(model="法律"), **sent).status == 200
    assert gate.ask(chat(model="law"), **sent).status == 404
    assert gate.ask({"model": "law", "prompt": "x"}, path="/v1/completions", **sent).status == 404
    assert gate.ask({"model": "law", "input": "x"}, path="/v1/embeddings", **sent).status == 404
    assert gate.ask(None, path="/v1/models/law", method="GET", **sent).status == 404
    both = {"authorization": f"Bearer {narrow}", "x_api_key": gate.credential}
    assert gate.ask(chat(model="law"), **both).status == 401  # neither is chosen for the caller


def test_incident_7_cve_2026_45349_nothing_of_another_user_can_be_continued(gate: Served, engine: Upstream) -> None:
    """Conversations have no ids here; fields that name stored things are refused."""
    for field in (
        "chat_id",
        "conversation",
        "previous_response_id",
        "session_id",
        "parent_id",
        "id_slot",
        "cache_salt",
    ):
        assert gate.ask(chat(**{field: "abc"})).code == "unknown_parameter"


def test_incident_7_cve_2026_45350_tools_run_at_the_callers_not_here(gate: Served) -> None:
    for tool in (
        {"type": "code_interpreter"},
        {"type": "mcp", "server_url": "http://127.0.0.1"},
        {"type": "web_search"},
        {"type": "file_search"},
    ):
        assert gate.ask(chat(tools=[tool])).status == 400
    for field in ("tool_ids", "tool_servers", "plugins", "mcp_servers"):
        assert gate.ask(chat(**{field: ["x"]})).code == "unknown_parameter"


@pytest.mark.parametrize(
    "more",
    [
        {"chat_template": "{{ cycler.__init__.__globals__.os.popen('id').read() }}"},
        {"chat_template_kwargs": {"a": "b" * 1000}},
        {"add_generation_prompt": False},
        {"continue_final_message": True},
        {"documents": [{"text": "x"}]},
        {"mm_processor_kwargs": {}},
        {"guided_regex": "(a+)+$"},
        {"guided_grammar": "root ::= root"},
        {"structured_outputs": {"regex": "(a+)+$"}},
        {"prompt_embeds": "gASV"},
        {"logits_processors": ["os.system"]},
        {"vllm_xargs": {"x": 1}},
        {"extra_body": {}},
    ],
)
def test_incident_11_cve_2025_62426_no_field_reaches_a_template_but_messages_and_tools(
    gate: Served, engine: Upstream, more: dict[str, Any]
) -> None:
    """llama-cpp-python, SGLang and vLLM ran or stalled in templates and grammars that a request brought along."""
    before = len(engine.asked)
    found = gate.ask(chat(**more))
    assert found.status == 400 and found.code == "unknown_parameter"
    assert len(engine.asked) == before


def test_incident_11_template_marks_in_words_are_words(gate: Served, engine: Upstream) -> None:
    words = "{{ 7*7 }} {% for x in y %} <|im_end|>"
    gate.ask(chat(messages=[{"role": "user", "content": words}]))
    assert engine.asked[-1].body["messages"] == [
        {"role": "user", "content": words}
    ]  # an upstream's template is its own


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data/"}},
        {"type": "image_url", "image_url": {"url": "http://good.example\\@127.0.0.1:8000/"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "x"}},
        {"type": "video_url", "video_url": {"url": "http://[::1]/"}},
        {"type": "text", "text": "x", "url": "http://127.0.0.1/"},
    ],
)
def test_incident_12_cve_2026_24779_nothing_is_fetched(gate: Served, engine: Upstream, part: dict[str, Any]) -> None:
    """vLLM and LMDeploy fetched what a message named. Here messages are text, and nothing that looks elsewhere goes on."""
    before = len(engine.asked)
    assert gate.ask(chat(messages=[{"role": "user", "content": [part]}])).status == 400
    assert len(engine.asked) == before


def test_incident_12_an_address_in_text_is_text(gate: Served, engine: Upstream) -> None:
    assert gate.ask(chat(messages=[{"role": "user", "content": "http://169.254.169.254/"}])).status == 200


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..\\..\\x",
        "file:///etc/passwd",
        "law/../../x",
        "law\x00",
        "~/.ssh/id_rsa",
        "http://127.0.0.1/",
    ],
)
def test_incident_13_cve_2026_2614_a_models_name_is_looked_up_and_never_opened(
    gate: Served, engine: Upstream, name: str
) -> None:
    """MLflow and Gradio read files that callers named. Names here are keys of a table."""
    before = len(engine.asked)
    found = gate.ask(chat(model=name))
    assert found.status == 404 and found.code == "model_not_found"
    assert len(engine.asked) == before


def test_incident_13_no_field_names_a_file(gate: Served) -> None:
    for field in (
        "lora_path",
        "lora",
        "adapter",
        "prompt_cache_path",
        "slot_save_path",
        "grammar_file",
        "output_dir",
        "cache_path",
    ):
        assert gate.ask(chat(**{field: "/etc/passwd"})).code == "unknown_parameter"


@pytest.mark.parametrize(
    "more",
    [
        {"n_discard": -1},
        {"n_keep": -5},
        {"id_slot": 10**9},
        {"max_tokens": -1},
        {"max_tokens": 2**63},
        {"n": 10**6},
        {"best_of": 10**6},
        {"seed": 2**64},
        {"logit_bias": {"-1": 1}},
        {"logit_bias": {"99999999999": 1}},
        {"logit_bias": {"1": 1e300}},
        {"top_k": -(2**31)},
        {"temperature": -0.0001},
        {"temperature": 1e308},
        {"top_logprobs": -1},
        {"stop": [""]},
        {"repetition_penalty": 0},
    ],
)
def test_incident_14_cve_2026_21869_numbers_are_in_range_before_an_engine_sees_them(
    gate: Served, engine: Upstream, more: dict[str, Any]
) -> None:
    """A negative `n_discard` made llama.cpp write outside its memory."""
    before = len(engine.asked)
    assert gate.ask(chat(**more)).status == 400
    assert len(engine.asked) == before


@pytest.mark.parametrize("prompt", [[-1], [2**31], [2**64], [0.5], [[0], [-5]], [True], [None]])
def test_incident_14_token_ids_are_in_range(gate: Served, engine: Upstream, prompt: list[Any]) -> None:
    before = len(engine.asked)
    for path, field in (("/v1/completions", "prompt"), ("/v1/embeddings", "input")):
        assert gate.ask({"model": "law", field: prompt}, path=path).status == 400
    assert len(engine.asked) == before


def test_what_reaches_an_engine_is_allowed_fields_and_nothing_of_the_client(gate: Served, engine: Upstream) -> None:
    """Of all of the above the other half: what was let through."""
    gate.ask(
        chat(temperature=0.5, user="anna", metadata={"a": "b"}),
        x_forwarded_for="1.2.3.4",
        cookie="s=1",
        x_custom="1",
        openai_organization="o",
    )
    asked = engine.asked[-1]
    assert set(asked.body) == {"model", "messages", "temperature", "max_tokens"}
    assert set(asked.headers) == {
        "host",
        "content-type",
        "accept-encoding",
        "authorization",
        "content-length",
        "x-request-id",
    }
    assert asked.headers["authorization"] == f"Bearer {SECRET}"


def test_the_engines_headers_and_secret_stay_inside(gate: Served) -> None:
    found = gate.ask(chat())
    assert SECRET not in str(found.headers) + found.body.decode()
    assert set(found.headers) == {
        "date",
        "content-type",
        "content-length",
        "x-danlu-lens",
        "x-content-type-options",
        "x-request-id",
    }
