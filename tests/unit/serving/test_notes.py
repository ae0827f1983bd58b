"""A model's note stands below each of its answers in words, once; the model, the books and what is kept never see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.core.messages import say
from danlu.recipe.serving import RedactSection, ServedSection
from danlu.serving.board import Board
from danlu.serving.keys import Key
from danlu.serving.notes import Notes
from danlu.serving.redact import Redaction
from danlu.serving.router import Router
from gateway_kit import LENS, NUM_PROMPT, answer, board_of, chat, chunk, sends, served, status, upstreams, usage
from worker_kit import Engine, Stage

ZH, EN = (say("disclaimer.medical", language) for language in ("zh", "en"))
MOBILE = "13800138000"


def notes(board: Board, note: str = "medical", name: str = "law") -> Notes | None:
    return Notes.of([ServedSection(name=name, target="runs/x", note=note)], Router(board))


def streaming(*values: dict[str, Any]) -> Any:
    return sends(*(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values), b"data: [DONE]\n\n")


def text_of(got: Any) -> str:
    return "".join(choice["delta"].get("content") or "" for event in got.events for choice in event.get("choices", ()))


def test_no_note_is_nothing_at_all(tmp_path: Path) -> None:
    board = board_of("http://127.0.0.1:1")
    assert Notes.of([ServedSection(name="law", target="runs/x"), ServedSection(target="runs/y")], Router(board)) is None
    with (
        upstreams() as (upstream,),
        served(tmp_path, board_of(upstream.address), notes=notes(board, name="other")) as one,
    ):
        got = one.ask(chat())
        assert "x-danlu-note" not in got.headers and ZH not in got.json["choices"][0]["message"]["content"]


def test_a_note_needs_the_name_that_clients_say() -> None:
    with pytest.raises(ValueError, match="a name"):
        ServedSection(target="runs/x", note="legal")


def test_a_whole_answer_ends_with_it_and_is_counted_without(tmp_path: Path) -> None:
    with upstreams() as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, notes=notes(board)) as one:
            plain = json.loads(answer())["choices"][0]["message"]["content"]
            got = one.ask(chat())
            assert got.json["choices"][0]["message"]["content"] == f"{plain}\n\n{ZH}"
            assert got.headers["x-danlu-note"] == "medical"
            assert got.json["usage"]["completion_tokens"] == json.loads(answer())["usage"]["completion_tokens"]
            assert one.closing()["prompt_tokens"] == NUM_PROMPT
            english = one.ask(chat(messages=[{"role": "user", "content": [{"type": "text", "text": "how much?"}]}]))
            assert english.json["choices"][0]["message"]["content"].endswith(f"\n\n{EN}")
            # the immutable name behind the model is the same model
            assert one.ask(chat(model=LENS)).headers["x-danlu-note"] == "medical"


@pytest.mark.parametrize("last", ["", "。"], ids=["reason alone", "last words beside the reason"])
def test_a_stream_ends_with_it_once_in_each_choice(tmp_path: Path, last: str) -> None:
    ends = [chunk({"content": last} if last else {}, "stop"), chunk({}) | {"choices": [], "usage": usage(2)}]
    with upstreams(streaming(chunk({"role": "assistant", "content": ""}), chunk({"content": "80元"}), *ends)) as (up,):
        board = board_of(up.address)
        with served(tmp_path, board, notes=notes(board, "仅供参考。")) as one:
            got = one.ask(chat(stream=True))
            assert text_of(got) == f"80元{last}\n\n仅供参考。"
            assert [c["finish_reason"] for event in got.events for c in event["choices"]][-1] == "stop"
            assert got.body.endswith(b"data: [DONE]\n\n") and got.headers["x-danlu-note"] == "own"
            assert one.closing()["answer_tokens"] == 2


@pytest.mark.parametrize("choice", ["x", {"finish_reason": ["stop"]}, {"finish_reason": "stop", "message": [1]},
                                    {"finish_reason": "stop", "message": {"content": [1]}}])  # fmt: skip
def test_an_odd_choice_of_an_engine_passes_as_it_is(tmp_path: Path, choice: Any) -> None:
    with upstreams(status(200, answer(choices=[choice]))) as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, notes=notes(board)) as one:
            got = one.ask(chat())
            assert got.status == 200 and got.json["choices"] == [choice]


def test_answers_that_programs_read_stay_as_they_are(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calls = answer(choices=[{"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call]},
                             "finish_reason": "tool_calls"}])  # fmt: skip
    with upstreams(status(200, calls), None) as (tools, plain):
        for upstream, more in ((tools, {}), (plain, {"response_format": {"type": "json_object"}})):
            board = board_of(upstream.address)
            with served(tmp_path / upstream.address[-5:], board, notes=notes(board)) as one:
                got = one.ask(chat(**more))
                assert got.status == 200 and ZH not in got.body.decode() and got.headers["x-danlu-note"] == "medical"


def test_what_a_client_sends_back_and_what_is_kept_is_without_it(tmp_path: Path) -> None:
    kept: list[tuple[bytes, bytes]] = []

    class Keeper:
        def keep(self, id: str, key: Key, lens: str, question: bytes, answer: bytes, is_stream: bool) -> None:
            kept.append((question, answer))

    messages = [
        {"role": "user", "content": "住宿呢?"},
        {"role": "assistant", "content": f"300元。\n\n{ZH}"},
        {"role": "user", "content": "and meals?"},
    ]
    plays = None, streaming(chunk({"role": "assistant", "content": "80"}), chunk({}, "stop"))
    for play, is_stream in zip(plays, (False, True), strict=True):
        with upstreams(play) as (upstream,):
            board = board_of(upstream.address)
            keeps = Key("", "", (), keeps_bodies=True)
            with served(tmp_path / str(is_stream), board, limits=keeps, notes=notes(board), keeper=Keeper()) as one:
                got = one.ask(chat(messages=messages, stream=is_stream))
                assert EN in got.body.decode()
                assert upstream.asked[0].body["messages"][1]["content"] == "300元。"
    for question, said in kept:
        assert ZH not in json.dumps(json.loads(question), ensure_ascii=False) and EN.encode() not in said
        assert said.startswith((b"{", b"data: ")) and b'"stop"' in said
    assert len(kept) == 2


def test_it_stands_below_what_was_masked(tmp_path: Path) -> None:
    stream = streaming(chunk({"role": "assistant", "content": ""}), chunk({"content": MOBILE}), chunk({}, "stop"))
    with upstreams(stream, None) as (streams, whole):
        for upstream in (streams, whole):
            board = board_of(upstream.address)
            section = RedactSection(answers="always")
            masks = Redaction.of(section, Router(board), bytes_per_token=2.0)
            folder = tmp_path / upstream.address[-5:]
            with served(folder, board, notes=notes(board, f"call {MOBILE}"), redaction=masks) as one:
                got = one.ask(chat(stream=upstream is streams))
                text = text_of(got) if upstream is streams else got.json["choices"][0]["message"]["content"]
                assert text.endswith(f"\n\ncall {MOBILE}"), "the note is the operator's own"
                assert text.count(MOBILE) == 1


def test_a_completion_has_it_in_its_text(tmp_path: Path) -> None:
    with upstreams() as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, notes=notes(board)) as one:
            got = one.ask({"model": "law", "prompt": "补贴"}, path="/v1/completions")
            plain = json.loads(answer())["choices"][0]["message"]["content"]
            assert got.json["choices"][0]["text"] == f"{plain}\n\n{ZH}"


def test_a_worker_takes_it_from_its_settings(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Engine())
    try:
        stage.show()
        stage.start(models=[{"name": "law", "target": "law@prod", "note": "legal"}])
        stage.wait()
        _, reply = stage.ask()
        text = json.loads(reply.read())["choices"][0]["message"]["content"]
        assert text.endswith("\n\n" + say("disclaimer.legal", "en")) and reply.headers["x-danlu-note"] == "legal"
    finally:
        stage.close()
