"""What is forwarded is masked where that was asked for, both ways, in streams cut anywhere; and nowhere else."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.recipe.serving import RedactSection
from danlu.serving.as_read import as_read
from danlu.serving.board import Board
from danlu.serving.keys import Key
from danlu.serving.mask import Mask
from danlu.serving.redact import SPARED, Redaction
from danlu.serving.redact_stream import HELD, MOST_HELD, Tail
from danlu.serving.router import Router
from gateway_kit import NUM_PROMPT, Play, _chunked, _head, answer, board_of, chat, chunk, served, upstreams, usage

MOBILE, MAIL, CARD, KEY = (
    "13800138000",
    "li.lei@example.com",
    "6222021234567890128",
    "sk-abcdEFGH1234567890abcdEFGH1234",
)
PEM = "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n" * 20 + "-----END PRIVATE KEY-----"
VALUES = (MOBILE, MAIL, CARD, KEY)
MASK = Mask()


def redaction(board: Board, questions: str = "never", answers: str = "never") -> Redaction | None:
    section = RedactSection(questions=questions, answers=answers)
    return Redaction.of(section, Router(board), bytes_per_token=2.0)


def streaming(*values: dict[str, object]) -> Play:
    """A stream of these events, and its end."""

    async def play(upstream, asked, writer) -> None:
        writer.write(_head("text/event-stream", "transfer-encoding: chunked\r\n"))
        for event in [*(b"data: " + orjson.dumps(value) + b"\n\n" for value in values), b"data: [DONE]\n\n"]:
            writer.write(_chunked(event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    return play


def tells(*words: str, finish: str = "stop") -> Play:
    """A stream of these pieces, with usage at its end."""
    ends = chunk({}, finish), chunk({}) | {"choices": [], "usage": usage(len(words))}
    return streaming(chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in words), *ends)


def text_of(got) -> str:
    return "".join(choice["delta"].get("content") or "" for event in got.events for choice in event.get("choices", ()))


def redacted_lines(served_) -> list[dict[str, object]]:
    return [line for line in served_.lines() if line["what"] == "redacted"]


# ---- off


@pytest.mark.parametrize("is_stream", [False, True])
def test_off_changes_nothing(tmp_path: Path, is_stream: bool) -> None:
    assert redaction(board_of("http://127.0.0.1:1")) is None
    with upstreams(tells(MOBILE, "。") if is_stream else None) as (upstream,):
        with served(tmp_path, board_of(upstream.address)) as one:
            got = one.ask(chat(messages=[{"role": "user", "content": MOBILE}], stream=is_stream))
            assert upstream.asked[0].body["messages"][0]["content"] == MOBILE
            assert "x-danlu-redacted" not in got.headers
            if is_stream:
                assert text_of(got) == MOBILE + "。"


# ---- questions


def test_a_question_is_masked_before_it_leaves(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {
        "name": "send_mail", "description": f"asks {MAIL}", "parameters": {
            "type": "object", "properties": {"to": {"type": "string", "description": f"e.g. {MAIL}"}}, "required": ["to"],
        }}}]  # fmt: skip
    called = {"id": "call_1", "type": "function", "function": {
        "name": "send_mail", "arguments": json.dumps({"to": MAIL, "tel": int(MOBILE)})}}  # fmt: skip
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "name": "zhang_san", "content": [{"type": "text", "text": f"我的手机号是{MOBILE}"}]},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": f"sent to {MAIL}"},
    ]
    with upstreams() as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, redaction=redaction(board, "always")) as one:
            got = one.ask(chat(messages=messages, tools=tools))
            assert got.status == 200, got.body
            sent = upstream.asked[0].body
            assert all(value not in json.dumps(sent, ensure_ascii=False) for value in (MOBILE, MAIL, "zhang_san"))
            arguments = json.loads(sent["messages"][2]["tool_calls"][0]["function"]["arguments"])
            assert arguments == {"to": "<EMAIL>", "tel": "<MOBILE>"}, "still JSON"
            assert sent["messages"][2]["tool_calls"][0]["id"] == sent["messages"][3]["tool_call_id"] == "call_1"
            assert sent["tools"][0]["function"]["name"] == "send_mail"
            assert sent["tools"][0]["function"]["parameters"]["required"] == ["to"]
            assert sent["messages"][0]["content"] == "Be brief."
            assert got.headers["x-danlu-redacted"] == "email=4, mobile=2, name=1"
            assert one.closing()["prompt_tokens"] == NUM_PROMPT
            (line,) = redacted_lines(one)
            assert line["id"] == got.headers["x-request-id"] and line["question"] == "email=4 mobile=2 name=1"
            assert not any(value in str(one.lines()) for value in (MOBILE, MAIL))


def test_a_completion_and_an_embedding_are_masked_too(tmp_path: Path) -> None:
    with upstreams() as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, redaction=redaction(board, "always", "always")) as one:
            for path, name in (("/v1/completions", "prompt"), ("/v1/embeddings", "input")):
                got = one.ask({"model": "law", name: [f"call {MOBILE}", "nobody"]}, path=path)
                assert got.status == 200, got.body
                assert upstream.asked[-1].body[name] == ["call <MOBILE>", "nobody"]
                refused = one.ask({"model": "law", name: [1, 2, 3]}, path=path)
                assert (refused.status, refused.code) == (400, "redact_ids")
            assert len(upstream.asked) == 2


def test_no_way_of_writing_json_and_no_parameters_name_lets_a_value_through() -> None:
    address = "北京市海淀区中关村大街27号3单元502室"
    written = json.dumps({"住址": address, "note": 'a "b" \\ c\n'})
    assert address not in written, "json.dumps writes \\u5317…"
    assert json.loads(MASK(written)) == {"住址": "<地址>", "note": 'a "b" \\ c\n'}
    untouched = json.dumps({"note": "张三丰 says nothing 😀"})
    assert MASK(untouched) == untouched
    properties = {"name": {"description": f"as {MOBILE}"}, "id": {"type": "string", "enum": [MOBILE]}}
    masked = MASK.all_of({"properties": properties, "required": ["name"], "name": "dial"}, spared=SPARED)
    assert MOBILE not in json.dumps(masked) and (masked["name"], masked["required"]) == ("dial", ["name"])


@pytest.mark.parametrize(
    "text", ["13800138000 " * 8000, "[" + "13800138000, " * 8000 + "1]", '{"n": 13800138000}\n' * 8000]
)
def test_many_values_in_a_text_take_no_more_time_each(text: str) -> None:
    began = time.process_time()
    assert MASK(text).count("<MOBILE>") == 8000
    assert time.process_time() - began < 4.0  # 0.2 s; where each value looked through the whole text, 3 s to 15 s


DENSE = ("13 8 1 3 8 0 " * 8000, "1 " * 50_000, "电话 1 3 8 0 0 " * 10_000, "北京市海淀区中关村大街27号" * 7000)


@pytest.mark.parametrize("text", DENSE, ids=lambda text: text[:12])
def test_spaced_digits_cost_microseconds_each_and_a_page_of_them_no_more_than_its_length(text: str) -> None:
    def cost(text: str) -> float:
        began = time.process_time()
        MASK(text)
        return time.process_time() - began

    part, whole = (min(cost(one) for _ in range(3)) for one in (text[: len(text) // 4], text))
    assert whole < 8 * part + 0.02, "linear"
    assert whole / len(text) < 40e-6  # 2 to 8 us on a quiet core; single digits held apart were 22


def test_a_question_too_dense_to_look_through_is_refused_and_a_long_one_is_not(tmp_path: Path) -> None:
    with upstreams() as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, redaction=redaction(board, "always")) as one:
            dense = [{"role": "user", "content": "13 8 0 " * 30_000}]
            refused = one.ask(chat(messages=dense))
            assert (refused.status, refused.code) == (413, "redact_dense"), refused.body
            assert (
                one.ask(chat(messages=[{"role": "user", "content": "合同约定的租金按月支付。" * 80_000}])).status == 200
            )
            assert len(upstream.asked) == 1


def test_limits_are_asked_before_anything_is_looked_through_and_a_refusal_gives_tokens_back(tmp_path: Path) -> None:
    """A key's large body of spaced digits cost seconds of CPU before its limits were asked."""
    dense = chat(messages=[{"role": "user", "content": "13 8 0 " * 30_000}])
    limits = Key("", "", (), requests_per_minute=2, tokens_per_minute=1_000_000)
    with upstreams() as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, redaction=redaction(board, "always"), limits=limits) as one:
            assert one.ask(dense).code == "redact_dense"
            got = one.ask(chat(messages=[{"role": "user", "content": MOBILE}]))
            assert got.status == 200 and int(got.headers["x-ratelimit-remaining-tokens"]) > 990_000
            assert upstream.asked[0].body["messages"][0]["content"] == "<MOBILE>"
            began = time.process_time()
            refused = one.ask(dense)
            assert (refused.status, refused.code) == (429, "rate_limit_exceeded"), refused.body
            assert time.process_time() - began < 0.5, "nothing was looked through"


# ---- values that are hidden in how they are written

HIDDEN = {
    "zero width": "138\u200b0013\u200c8000",
    "soft hyphen": "13\u00ad800138000",
    "direction": "\u202d138001\u206638000\u202c",
    "joiner and mark": "1\u20603\ufeff8\ufe0f00138000",
    "control": "138\x0000138\x1f000",
    "full width": "１３８００１３８０００",
    "arabic": "١٣٨٠٠١٣٨٠٠٠",
    "devanagari": "१३८००१३८०००",
    "bold": "𝟏𝟑𝟖𝟎𝟎𝟏𝟑𝟖𝟎𝟎𝟎",
    "struck": "1\u03363\u03368\u03360\u03360\u03361\u03363\u03368\u03360\u03360\u03360",
    "odd spaces": "138\u00a00013\u20098000",
    "odd hyphens": "138\u20110013\u20128000",
    "percent": "%31%33%38%30%30%31%33%38%30%30%30",
    "percent, wide": "%EF%BC%91%EF%BC%93%EF%BC%98" + "00138000",
    "entities": "&#49;&#51;&#56;&#48;&#48;&#x31;&#x33;&#x38;&#x30;&#x30;&#x30;",
    "entities, wide": "&#65297;&#65299;&#xff18;00138000",
    "escaped": "\\u0031\\u0033\\x3800\\uff11\\uff138000",
    "letters O": "138OO138OOO",
    "letters О and l": "l38ООl38ООО",
    "numerals": "一三八零零一三八零零零",
    "numerals of money": "壹叁捌零零壹叁捌零零零",
    "numerals as they are said": "幺三八〇〇幺三八〇〇〇",
    "numerals and digits": "1三8零零一3８〇00",
    "numerals apart": "一 三 八 零 零 一 三 八 零 零 零",
    "digits apart": "1-3-8-0-0-1-3-8-0-0-0",
    "points": "1.3.8.0.0.1.3.8.0.0.0",
    "commas": "1, 3, 8, 0, 0, 1, 3, 8, 0, 0, 0",
    "pairs": "13_80_01_38_00_0",
    "groups": "138*0013*8000",
    "points of the middle": "138·0013·8000",
}


@pytest.mark.parametrize("written", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("around", ["{}", "call {} now", "我的手机号是{}，谢谢"])
def test_a_value_is_found_however_its_digits_are_written(written: str, around: str) -> None:
    masked = MASK(around.format(written))
    is_chinese = any("\u4e00" <= letter <= "\u9fff" for letter in around + written)
    token = "<手机号>" if is_chinese else "<MOBILE>"
    before, after = around.split("{}")
    assert masked.startswith(before) and masked.endswith(after) and token in masked, ascii(masked)
    left = masked.removeprefix(before).removesuffix(after).replace(token, "")
    assert not any(letter.isalnum() for letter in left), ascii(masked)
    out, _ = through(list(around.format(written)))
    assert out == masked, "streamed alike"


def test_an_address_with_wide_letters_or_invisible_ones_is_found() -> None:
    for written in ("li.lei＠example.com", "li.l\u00adei@exam\u200bple.com", "ｌｉ.ｌｅｉ@example.com"):
        assert MASK(f"mail {written} today") == "mail <EMAIL> today", ascii(written)


IDENTITY = "11010519491231002X"


@pytest.mark.parametrize(
    "written",
    ["11010519491231OO2X", "一一零一零五一九四九一二三一零零二X", "11010519491231002\u0425", "1-1-0-1-0-5-1-9-4-9-1-2-3-1-0-0-2X",
     "%31%31%30%31%30%35%31%39%34%39%31%32%33%31%30%30%32%58", "&#x31;&#x31;&#x30;&#x31;&#x30;&#x35;19491231002X"],
)  # fmt: skip
def test_an_identity_number_is_found_too_and_streams_alike(written: str) -> None:
    assert MASK(f"身份证号：{IDENTITY}。") == "身份证号：<身份证号>。"
    text = f"身份证号：{written}。" + "x" * 200
    assert MASK(text).startswith("身份证号：<身份证号>"), ascii(MASK(text))
    assert through(list(text))[0] == MASK(text)


def test_digits_in_a_column_are_found_where_all_of_them_are_there() -> None:
    """Of a stream each line goes out when it is at its end."""
    assert MASK("it is\n" + "\n".join(MOBILE) + "\nthanks") == "it is\n<MOBILE>\nthanks"


def test_letters_that_look_like_others_do_not_hide_an_address() -> None:
    for written in ("li.l\u0435i@example.com", "li.lei@\u0435\u0445ample.\u0441om", "li.lei%40example%2Ecom"):
        assert MASK(f"mail {written} today") == "mail <EMAIL> today", ascii(written)


@pytest.mark.parametrize(
    "text",
    ["一、二、三、四、五、六、七、八、九、十", "二〇二四年十二月三十一日", "1.3.8 and 1-3-8", "scores: 3-1, 0-0, 1-3, 8-0, 0-0", "50%30 天 100%25",
     "I loll, Io and Il", "版本 1.3.8.0.0.1", "2024-12-31 10:20:30", "0,1,0,1,1,0,1,0,1,1,1", "三三两两，一五一十，七七八八", "C:\\u0031\\x41 &#8230; &#10;"],
)  # fmt: skip
def test_lists_dates_and_idioms_are_no_numbers(text: str) -> None:
    assert MASK(text) == text


@pytest.mark.parametrize(
    "text", ["一三八零" * 30_000, "1-3-8-" * 30_000, "%31%33" * 30_000, "138OO" * 30_000, "&#49;x" * 20_000, "l 1 O " * 20_000]
)  # fmt: skip
def test_a_page_of_hidden_digits_costs_no_more_than_its_length(text: str) -> None:
    def cost(text: str) -> float:
        began = time.process_time()
        as_read(text)
        return time.process_time() - began

    part, whole = (min(cost(one) for _ in range(3)) for one in (text[: len(text) // 4], text))
    assert whole < 8 * part + 0.02, "linear"
    assert whole / len(text) < 10e-6  # 0.1 to 1 us on a quiet core


@given(st.text(alphabet="13８٨八零OlО%&#;x0\\uz\u200b -.,@é中", max_size=60), st.data())
@settings(max_examples=300)
def test_every_reading_knows_where_each_letter_stood(text: str, data: st.DataObject) -> None:
    """Spans of neighbours never overlap, never go back, and together with what was left out are the whole text."""
    read = as_read(text)
    if read is None:
        return
    spans = [read.span(at, at + 1) for at in range(len(read.text))]
    assert all(start < end for start, end in spans)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    assert not spans or (spans[0][0] >= 0 and spans[-1][1] <= len(text))
    for (start, end), letter in zip(spans, read.text, strict=True):
        if end - start == 1 and letter not in "0123456789Oox-@":
            assert text[start] == letter


@pytest.mark.parametrize(
    "text", ["naïve café, 10² m", "नमस्ते दुनिया", "👩\u200d👩\u200d👧 好的", "第①条　甲方：", "\ufeffHello"]
)
def test_what_is_not_personal_stays_as_it_was_written(text: str) -> None:
    assert MASK(text) == text


@given(
    pieces=st.lists(st.sampled_from(["a", " ", "\u200b", "\u00ad", "１", "好", "é", "e\u0301", "😀"]), max_size=12),
    cuts=st.lists(st.integers(0, 11), max_size=6),
)
@settings(max_examples=200)
def test_what_is_put_in_stands_where_the_value_stood(pieces: list[str], cuts: list[int]) -> None:
    inside = "".join(letter + "\u200b" * cuts.count(at) for at, letter in enumerate(MOBILE))
    before, after = "".join(pieces) + "。", "。" + "".join(reversed(pieces))
    assert (
        MASK(before + inside.rstrip("\u200b") + after)
        == before + ("<手机号>" if "好" in pieces else "<MOBILE>") + after
    )


@pytest.mark.parametrize("cut", range(1, 11))
def test_a_value_split_over_the_parts_of_a_message_is_masked(tmp_path: Path, cut: int) -> None:
    parts = [f"我的手机号是{MOBILE[:cut]}", "", f"{MOBILE[cut:]}。", "信箱 " + MAIL, " 再见"]
    with upstreams() as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, redaction=redaction(board, "always")) as one:
            content = [{"type": "text", "text": part} for part in parts]
            got = one.ask(chat(messages=[{"role": "user", "content": content}]))
            assert got.status == 200, got.body
            sent = upstream.asked[0].body["messages"][0]["content"]
            assert [part["text"] for part in sent] == ["我的手机号是<手机号>", "", "。", "信箱 <邮箱>", " 再见"]
            assert got.headers["x-danlu-redacted"] == "email=1, mobile=1"


def test_a_value_that_goes_on_in_the_next_turn_is_masked(tmp_path: Path) -> None:
    """Two requests would do it too; within one there is no need to let it through."""

    def sent(*said: object) -> tuple[list[object], str]:
        turns = [
            {"role": "user" if number % 2 == 0 else "assistant", "content": one} for number, one in enumerate(said)
        ]
        got = one_served.ask(chat(messages=turns))
        assert got.status == 200, got.body
        told = [turn["content"] for turn in upstream.asked[-1].body["messages"]]
        return told, got.headers.get("x-danlu-redacted", "")

    with upstreams(*[None] * 5) as (upstream, *_):
        board = board_of(upstream.address)
        with served(tmp_path, board, redaction=redaction(board, "always")) as one_served:
            assert sent("我的手机号是13800", "好的，请继续", " 138000\n") == (
                ["我的手机号是<手机号>", "好的，请继续", " \n"],
                "mobile=1",
            )
            assert sent("138", "yes?", "0013", "and?", "8000 it is") == (
                ["<MOBILE>", "yes?", "", "and?", " it is"],
                "mobile=1",
            )
            assert sent("mail li.lei@", "?", "example.com") == (["mail <EMAIL>", "?", ""], "email=1")
            assert sent("一三八零零", "?", "138OOO")[1] == "mobile=1"
            parts = [{"type": "text", "text": "call 13800"}]
            assert sent(parts, "?", "138000")[0][0][0]["text"] == "call <MOBILE>"
            untouched = ["In 2024", "?", "15 people came, 138", "?", "of them late"]
            assert sent(*untouched) == (untouched, "")


def test_parts_that_are_not_one_value_are_looked_at_alone() -> None:
    assert MASK.parts(["第5", MOBILE, "1"]) == ["第5", "<手机号>", "1"], "joined it would be another number"
    assert MASK.parts(["1", "3", "8", "0013", "8000", " ok"]) == ["<MOBILE>", "", "", "", "", " ok"]
    assert MASK.parts(['{"tel": 138', "00138000}"]) == ['{"tel": <MOBILE>', "}"]


def test_logprobs_are_refused_where_answers_are_masked_also_of_the_chosen_tokens_alone(tmp_path: Path) -> None:
    with upstreams() as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, redaction=redaction(board, answers="always")) as one:
            got = one.ask({"model": "law", "prompt": "a", "logprobs": 0}, path="/v1/completions")
            assert (got.status, got.code) == (400, "redact_logprobs")
            assert one.ask(chat(logprobs=False)).status == 200


def test_what_goes_to_a_url_is_masked_and_what_stays_in_the_house_is_not(tmp_path: Path) -> None:
    with upstreams(None, None) as (own, far):
        inside, outside = board_of(own.address, driver="native"), board_of(far.address)
        for number, board in enumerate((inside, outside)):
            with served(tmp_path / str(number), board, redaction=redaction(board, "urls", "urls")) as one:
                assert one.ask(chat(messages=[{"role": "user", "content": MOBILE}])).status == 200
        assert own.asked[0].body["messages"][0]["content"] == MOBILE
        assert far.asked[0].body["messages"][0]["content"] == "<MOBILE>"


# ---- answers


def test_an_answer_is_masked_and_counted_as_the_engine_counted(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": f"请拨打{MOBILE}。", "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "dial", "arguments": json.dumps({"n": MOBILE})}}]}  # fmt: skip
    body = answer(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])

    async def play(upstream, asked, writer) -> None:
        writer.write(_head("application/json", f"content-length: {len(body)}\r\n") + body)

    with upstreams(play) as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, redaction=redaction(board, answers="always")) as one:
            got = one.ask(chat())
            said = got.json["choices"][0]["message"]
            assert said["content"] == "请拨打<手机号>。" and MOBILE not in got.body.decode()
            assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"n": "<MOBILE>"}
            assert got.json["usage"] == usage(5) and one.closing()["answer_tokens"] == 5
            assert redacted_lines(one)[0]["answer"] == "mobile=2" and "question" not in redacted_lines(one)[0]
            assert "x-danlu-redacted" not in got.headers
            refused = one.ask(chat(logprobs=True))
            assert (refused.status, refused.code) == (400, "redact_logprobs")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_value_that_a_stream_is_cut_in_is_masked(tmp_path: Path, size: int) -> None:
    whole = f"您好，请致电{MOBILE}，或写信给 {MAIL} 。卡号：{CARD}，谢谢！祝好"
    words = ["".join(part) for part in itertools.batched(whole, size)] if hasattr(itertools, "batched") else [
        whole[at : at + size] for at in range(0, len(whole), size)
    ]  # fmt: skip
    with upstreams(tells(*words)) as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, redaction=redaction(board, answers="always")) as one:
            got = one.ask(chat(stream=True, stream_options={"include_usage": True}))
            assert text_of(got) == MASK(whole) and "<手机号>" in text_of(got)
            assert not any(value in got.body.decode() for value in (MOBILE, MAIL, CARD))
            assert got.body.endswith(b"data: [DONE]\n\n")
            assert got.events[-1]["usage"] == usage(len(words))
            assert [event["choices"][0].get("finish_reason") for event in got.events if event["choices"]][-1] == "stop"
            closing = one.closing()
            assert (closing["answer_tokens"], closing["is_counted"]) == (len(words), True)
            assert redacted_lines(one)[0]["answer"] == "bank_card=1 email=1 mobile=1"


def test_arguments_of_a_streamed_call_come_whole_and_masked(tmp_path: Path) -> None:
    def call(**function: str) -> dict[str, object]:
        more = {"id": "c1", "type": "function"} if "name" in function else {}
        return {"tool_calls": [{"index": 0, **more, "function": function}]}

    arguments = json.dumps({"to": MAIL, "n": int(MOBILE)})
    pieces = [call(name="dial", arguments=""), *(call(arguments=letter) for letter in arguments)]

    with upstreams(streaming(*map(chunk, pieces), chunk({}, "tool_calls"))) as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, redaction=redaction(board, answers="always")) as one:
            got = one.ask(chat(stream=True))
            calls = [
                c for event in got.events for choice in event["choices"] for c in choice["delta"].get("tool_calls", ())
            ]
            assert calls[0]["id"] == "c1" and calls[0]["function"]["name"] == "dial"
            told = "".join(c["function"].get("arguments", "") for c in calls)
            assert json.loads(told) == {"to": "<EMAIL>", "n": "<MOBILE>"}
            assert got.events[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_what_an_engine_tells_beside_its_texts_is_not_passed_on(tmp_path: Path) -> None:
    pieces = [chunk({"content": "好。", "reasoning_details": [{"type": "reasoning.text", "text": MOBILE}]})]
    pieces[0]["choices"][0]["logprobs"] = {"content": [{"token": MOBILE, "logprob": 0.0}]}

    with upstreams(streaming(*pieces, chunk({}, "stop"))) as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, redaction=redaction(board, answers="always")) as one:
            got = one.ask(chat(stream=True))
            assert text_of(got) == "好。" and MOBILE not in got.body.decode()


def test_of_a_stream_that_breaks_nothing_half_is_sent(tmp_path: Path) -> None:
    pieces = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "第一句。"}),
        chunk({"content": "电话 138001"}),
    ]
    sent = [b"data: " + orjson.dumps(one) + b"\n\n" for one in pieces]

    async def play(upstream, asked, writer) -> None:
        writer.write(_head("text/event-stream", "transfer-encoding: chunked\r\n") + b"".join(map(_chunked, sent)))
        await writer.drain()
        raise ConnectionResetError

    with upstreams(play) as (upstream,):
        board = board_of(upstream.address)
        with served(tmp_path, board, redaction=redaction(board, answers="always")) as one:
            got = one.ask(chat(stream=True))
            assert text_of(got) == "第一句。" and "138001" not in got.body.decode()
            assert got.events[-1]["error"]["code"] == "engine_failed"


# ---- texts in pieces


def through(pieces: Sequence[str]) -> tuple[str, list[int]]:
    """What comes out, and after each piece how much was held back."""
    tail, out, held, came = Tail(MASK, Counter()), "", [], 0
    for piece in pieces:
        out += tail.feed(piece)
        came += len(piece)
        held.append(len(tail._text) - tail._at)
    return out + tail.feed("", is_last=True), held


FILLER = st.sampled_from([
    "好的。", "请看合同第十二条，", "The term of the lease is two years. ", "\n\n- ", " ", "，", "see the annex, ", "100 元",
    "房屋租赁合同约定的租金按月支付，逾期的应当支付违约金，具体金额由双方另行协商确定并以书面形式记录在案，",
])  # fmt: skip


@given(
    parts=st.lists(st.one_of(FILLER, st.sampled_from([f" {value} " for value in VALUES])), max_size=25),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=8),
)
@settings(max_examples=300)
def test_no_cut_lets_a_value_through(parts: list[str], cuts: list[int]) -> None:
    whole, sizes, at, pieces = "".join(parts), itertools.cycle(cuts), 0, []
    while at < len(whole):
        size = next(sizes)
        pieces.append(whole[at : at + size])
        at += size
    out, held = through(pieces)
    assert not any(value in out for value in VALUES)
    plain = whole
    for one in reversed(MASK.found(whole)):
        plain = plain[: one.start] + "\0" + plain[one.end :]
    for part in plain.split("\0"):
        assert part in out, "what is not personal comes as it was"
    assert max(held, default=0) <= HELD + max(map(len, VALUES))


def test_a_key_of_many_lines_is_held_until_its_end() -> None:
    whole = f"Here it is:\n{PEM}\nKeep it safe."
    out, held = through([whole[at : at + 5] for at in range(0, len(whole), 5)])
    assert out == "Here it is:\n<PRIVATE_KEY>\nKeep it safe." and max(held) >= len(PEM) - 30


def test_what_is_held_is_bounded() -> None:
    out, held = through(["A1" * 50] * 400)
    assert max(held) <= MOST_HELD + 100 and len(out) == 40_000
    out, held = through(["-----BEGIN PRIVATE KEY-----\n"] + ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n"] * 600)
    assert max(held) <= MOST_HELD + 100 and "PRIVATE_KEY" in out


def test_a_sentence_is_sent_when_it_is_at_its_end() -> None:
    tail = Tail(MASK, Counter())
    assert tail.feed("租金按月支付") == ""
    assert tail.feed("。逾期") == "租金按月支付。"
    assert tail.feed("的\n") == "逾期的\n"


def test_it_costs_little_an_event() -> None:
    words = [f"word{n} " for n in range(400)]
    best = 1.0
    for _ in range(3):
        tail, began = Tail(MASK, Counter()), time.process_time()
        for word in words:
            tail.feed(word)
        best = min(best, (time.process_time() - began) / len(words))
    assert best < 200e-6  # 15 us on a quiet core
