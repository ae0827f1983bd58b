"""Events on their way through: whatever the cuts, the same bytes; usage kept, its chunk held back, names rewritten."""

import json
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.openai.sse import BrokenError
from danlu.serving.events import Events, Usage, cleaned, usage_in, usage_of
from gateway_kit import LENS, NUM_PROMPT, WORDS, chunk, events, usage

ID = "chatcmpl-0123456789abcdef01234567"


def through(pieces: list[bytes], *, wants_usage: bool = False) -> tuple[bytes, Events]:
    found = Events(ID, LENS, wants_usage=wants_usage, most_bytes=4096)
    return b"".join(found.feed(piece) for piece in pieces), found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % len(data) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


def decoded(data: bytes) -> list[dict[str, object]]:
    return [orjson.loads(part[6:]) for part in data.split(b"\n\n") if part.startswith(b"data: {")]


@given(st.lists(st.integers(0, 10**6), max_size=30), st.booleans())
def test_cuts_change_nothing(places: list[int], wants_usage: bool) -> None:
    whole = b"".join(events())
    expected, _ = through([whole], wants_usage=wants_usage)
    found, stream = through(cut(whole, places), wants_usage=wants_usage)
    assert found == expected and stream.is_done
    assert stream.usage == Usage(NUM_PROMPT, len(WORDS)) and stream.num_tokens >= len(WORDS)


@given(st.lists(st.integers(0, 10**6), max_size=30))
def test_lines_may_end_with_a_carriage_return(places: list[int]) -> None:
    whole = b"".join(events()).replace(b"\n", b"\r\n")
    found, stream = through(cut(whole, places))
    assert stream.is_done and stream.usage == Usage(NUM_PROMPT, len(WORDS))
    assert found.count(b"data:") == len(events()) - 1


@given(st.lists(st.binary(max_size=60), max_size=12))
def test_whatever_an_engine_sends_is_passed_on_or_told_broken(pieces: list[bytes]) -> None:
    stream = Events(ID, LENS, wants_usage=False, most_bytes=256)
    try:
        for piece in pieces:
            assert isinstance(stream.feed(piece), bytes)
    except BrokenError:
        pass


def test_the_usage_chunk_is_kept_from_who_did_not_ask_for_it() -> None:
    without, _ = through(events())
    with_it, _ = through(events(), wants_usage=True)
    assert all("usage" not in one for one in decoded(without))
    assert decoded(with_it)[-1]["usage"] == usage(len(WORDS)) and decoded(with_it)[-1]["choices"] == []
    assert without.endswith(b"data: [DONE]\n\n")


def test_usage_beside_the_last_choice_stays_for_who_asked() -> None:
    last = b"data: " + orjson.dumps(chunk({}, "stop", usage=usage(5))) + b"\n\n"
    said = [*events()[:-3], last, b"data: [DONE]\n\n"]
    for wants_usage in (False, True):
        found, stream = through(said, wants_usage=wants_usage)
        assert decoded(found)[-1]["choices"] and stream.usage == Usage(NUM_PROMPT, 5)
        assert ("usage" in decoded(found)[-1]) == wants_usage


@pytest.mark.parametrize(
    "details", [{}, {"prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": None}]
)
def test_usage_in_every_event_is_told_once_at_most(details: dict[str, object]) -> None:
    """Clients add up what they are told (LangChain does)."""
    said = [
        b"data: " + orjson.dumps(chunk({"content": w}, usage=usage(n + 1) | details)) + b"\n\n"
        for n, w in enumerate(WORDS)
    ]
    first = (
        b"data: " + orjson.dumps({"usage": usage(0) | details} | chunk({"role": "assistant", "content": ""})) + b"\n\n"
    )
    for wants_usage in (False, True):
        found, stream = through([first, *said, *events()[-3:]], wants_usage=wants_usage)
        assert sum("usage" in one for one in decoded(found)) == wants_usage
        assert [one["choices"][0]["delta"].get("content") for one in decoded(found)[1:6]] == list(WORDS)  # type: ignore[index]
        assert stream.usage == Usage(NUM_PROMPT, len(WORDS))


def test_a_null_usage_in_each_chunk_is_not_the_last_word() -> None:
    said = [b"data: " + orjson.dumps(chunk({"content": word}, usage=None)) + b"\n\n" for word in WORDS]
    _, stream = through([*said, *events()[-2:]])
    assert stream.usage == Usage(NUM_PROMPT, len(WORDS))


def test_running_usage_settles_a_stream_that_ends_early() -> None:
    said = [b"data: " + orjson.dumps(chunk({"content": w}, usage=usage(n + 1))) + b"\n\n" for n, w in enumerate(WORDS)]
    _, stream = through(said[:3])
    assert stream.usage == Usage(NUM_PROMPT, 3)


def test_the_id_and_the_model_are_ours_in_every_event() -> None:
    found, _ = through(events())
    assert {(one["id"], one["model"]) for one in decoded(found)} == {(ID, LENS)}


def test_what_the_text_says_is_never_rewritten() -> None:
    """A quote inside a JSON string is always escaped, so text cannot look like a key."""
    nasty = (
        '"id":"engine-1","usage":{"prompt_tokens":999,"completion_tokens":9},"model":"/srv/models/x" data: [DONE]\n\n'
    )
    said = [b"data: " + orjson.dumps(chunk({"content": nasty})) + b"\n\n", *events()[-2:]]
    found, stream = through(said)
    assert decoded(found)[0]["choices"][0]["delta"]["content"] == nasty  # type: ignore[index]
    assert stream.usage == Usage(NUM_PROMPT, len(WORDS))


def test_tokens_are_counted_without_role_and_end() -> None:
    _, whole = through([*events()[:-2], b"data: [DONE]\n\n"])
    _, cut_off = through(events()[:4])
    assert whole.num_tokens == len(WORDS) and cut_off.num_tokens == 3 and whole.usage is None
    text = b'data: {"id":"a","model":"b","choices":[{"index":0,"text":"x data: {y"}]}\n\n'
    assert through([text, b": ping\n\n", text])[1].num_tokens == 2


def test_an_engines_error_is_not_shown_and_ends_the_stream() -> None:
    found, stream = through([events()[1], b'data: {"error": {"message": "CUDA at /srv/x"}}\n\n' + events()[2]])
    assert "CUDA" in stream.fault and b"CUDA" not in found and len(decoded(found)) == 1


@pytest.mark.parametrize("first", [b"data: {no json}\n\n", b"data: [1]\n\n", b'data: {"error": "no"}\n\n', b"x" * 5000])
def test_a_stream_that_begins_badly_is_broken(first: bytes) -> None:
    with pytest.raises(BrokenError):
        through([first])


def test_usage_of_an_answer_is_its_own() -> None:
    assert usage_in({"choices": [{"message": {"content": '"usage":{'}}], "usage": usage(3)}) == Usage(NUM_PROMPT, 3)
    assert usage_in({"usage": {"prompt_tokens": 7, "total_tokens": 7}}) == Usage(7, 0)
    for odd in (None, [], 3, {}, {"prompt_tokens": "7"}, {"prompt_tokens": -1}, {"prompt_tokens": True}):
        assert usage_in({"usage": odd}) is None
    assert usage_of(b'{"usage": null}') is None


TIMINGS = {"prompt_n": 17, "prompt_ms": 0.84, "predicted_n": 5}


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("is_split", [False, True])
def test_what_an_engine_tells_of_itself_stays_here(separators: tuple[str, str], is_split: bool) -> None:
    """llama.cpp's `timings` and build, vLLM's token ids: they reached clients, and said what answers them."""

    def said(value: dict[str, object]) -> bytes:
        return b"data: " + json.dumps(value, separators=separators).encode() + b"\n\n"

    def told(delta: dict[str, object], finish: str | None = None, **more: object) -> bytes:
        value = {"system_fingerprint": "b0-unknown"} | chunk(delta, finish) | {"prompt_token_ids": None} | more
        value["choices"] = [{"stop_reason": None} | value["choices"][0] | {"token_ids": None}]
        return said(value)

    nasty = ',"system_fingerprint":"b0-unknown", "token_ids":null,"timings":{}'
    pieces = [
        told({"role": "assistant", "content": ""}), told({"content": nasty}), told({"content": "x"}),
        told({}, "stop", timings=TIMINGS), said(chunk({}) | {"choices": [], "usage": usage(2), "timings": TIMINGS}),
        b"data: [DONE]\n\n",
    ]  # fmt: skip
    for wants_usage in (False, True):
        found, stream = through(pieces if is_split else [b"".join(pieces)], wants_usage=wants_usage)
        rows = decoded(found)
        assert len(rows) == 4 + wants_usage and stream.is_done and stream.usage == Usage(NUM_PROMPT, 2)
        for row in rows:
            assert set(row) <= {"id", "object", "created", "model", "choices", "usage"}
            assert all(set(choice) == {"index", "delta", "finish_reason"} for choice in row["choices"])  # type: ignore[attr-defined]
        assert rows[1]["choices"][0]["delta"]["content"] == nasty  # type: ignore[index]


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("wants_usage", [False, True])
def test_what_an_engine_tells_otherwise_in_each_event_stays_here_too(
    separators: tuple[str, str], size: int, wants_usage: bool
) -> None:
    """Numbers, objects, and texts that change: only what was the same in every event was taken out."""
    nasty = ',"queue":3,"host":"gpu-1","stats":{"a":1}'

    def told(number: int, delta: dict[str, object], finish: str | None = None, **more: object) -> bytes:
        odd = {"queue": number, "stats": {"kv": number / 7, "names": ["x"]}, "host": f"gpu-{number}"}
        value = odd | chunk(delta, finish) | more
        value["choices"] = [{"rank": number} | value["choices"][0] | {"seen": [number]}]  # type: ignore[index]
        return b"data: " + json.dumps(value, separators=separators).encode() + b"\n\n"

    whole = told(0, {"role": "assistant", "content": ""}) + told(1, {"content": nasty}, usage=usage(1))
    whole += told(2, {"content": "x"}) + told(3, {}, "stop") + b"data: [DONE]\n\n"
    found, stream = through([whole[at : at + size] for at in range(0, len(whole), size)], wants_usage=wants_usage)
    rows = decoded(found)
    assert len(rows) == 4 and stream.is_done and stream.usage == Usage(NUM_PROMPT, 1) and stream.num_tokens == 2
    for row in rows:
        assert set(row) == {"id", "object", "created", "model", "choices"} and (row["id"], row["model"]) == (ID, LENS)
        assert all(set(choice) == {"index", "delta", "finish_reason"} for choice in row["choices"])  # type: ignore[attr-defined]
    assert [row["choices"][0]["delta"].get("content") for row in rows] == ["", nasty, "x", None]  # type: ignore[index]


@pytest.mark.parametrize(("first", "then"), [(None, [7]), (False, True), (None, "warm")])
def test_what_said_nothing_in_the_first_event_stays_here_too(first: object, then: object) -> None:
    """vLLM's `token_ids` are null beside the role, and lists from there on."""

    def told(said: object, delta: dict[str, object], finish: str | None = None) -> bytes:
        value = chunk(delta, finish)
        value["choices"] = [value["choices"][0] | {"token_ids": said}]  # type: ignore[index]
        return b"data: " + json.dumps(value).encode() + b"\n\n"

    whole = [told(first, {"role": "assistant", "content": ""}), told(then, {"content": "x"}), told(then, {}, "stop")]
    found, _ = through([*whole, b"data: [DONE]\n\n"])
    assert len(decoded(found)) == 3 and b"token_ids" not in found


def test_a_whole_answer_has_openais_fields_only() -> None:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "x"},
        "finish_reason": "stop",
        "stop_reason": None,
    }
    said = {"object": "chat.completion", "choices": [choice], "timings": TIMINGS, "system_fingerprint": "b0"}
    assert cleaned(said, ID, LENS) == {
        "object": "chat.completion", "model": LENS, "id": ID,
        "choices": [{name: choice[name] for name in ("index", "message", "finish_reason")}],
    }  # fmt: skip
