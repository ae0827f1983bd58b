"""Values planted in every place of every kind of sample: none is left in any file of the store, nor in a row.

Before, columns beside question and answer, groups, labels, tool schemas, names, numbers and keys of tool arguments were
stored as they stood, under `masked`.
"""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest

from danlu.data.flow.conveyor import convey
from danlu.data.flow.passing import Passing
from danlu.data.flow.plan import plan_shards
from danlu.data.flow.store import Store
from danlu.data.privacy import Keyring, Policy, PrivacyStage
from danlu.data.privacy.forgotten import Forgotten, macs_of
from danlu.data.privacy.sight import everything_of
from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Origin, Preference, Sample
from danlu.recipe.privacy import PrivacySection

AT = Origin("a.jsonl", 1)
PHONE, CARD = 13920126704, 6222021878017598986
NUMBERS = iter(range(13920100000, 13920199999))


def number() -> str:
    return str(next(NUMBERS))


def stage_of(folder: Path, *, forgotten: Forgotten | None = None, pack: str = "off") -> PrivacyStage:
    actions = {} if pack == "off" else {"confidential": "token", "restricted": "token"}
    section = PrivacySection.model_validate({"pack": pack, "levels": actions})
    return PrivacyStage(Policy.of(section), Keyring.open(folder / "keys.json"), forgotten=forgotten)


def call(arguments: object, **words: str) -> dict[str, object]:
    return {"id": words.get("id", "c1"), "type": "function", "function": {"name": "pay", "arguments": arguments}}


def tools(*values: str) -> tuple[dict[str, object], ...]:
    one, two, three, four = values
    phone = {"type": "string", "description": f"like {one}", "enum": [two], "default": int(three)}
    parameters = {"type": "object", "properties": {"phone": phone, four: {"type": "string"}}, "required": [four]}
    return ({"type": "function", "function": {"name": "pay", "description": one, "parameters": parameters}},)


def turns(*values: str) -> tuple[Message, ...]:
    a, b, c, d, e, f, g, h, i = values
    return (
        Message("user", f"电话{a}", name=f"u{b}" if not b.isdigit() else b),
        Message("assistant", "", reasoning=f"手机{c}", tool_calls=(call({"phone": int(d), e: 1, "in": [f, {"x": g}]}, id=h),)),
        Message("tool", json.dumps({"tel": int(i)}), name="pay", tool_call_id=h),
    )  # fmt: skip


def tags(*values: str) -> dict[str, object]:
    one, two, three, four, five, six = values
    return {"手机": one, two: "x", "list": [three, int(four)], "id": five, "source": six, "客户姓名": "欧阳锋铭"}


def planted() -> tuple[list[Sample], list[str]]:
    values = [number() for _ in range(200)]
    taken = iter(values)

    def take(count: int) -> list[str]:
        return [next(taken) for _ in range(count)]

    samples: list[Sample] = [
        Conversation(turns(*take(9)), AT, tools(*take(4)), *take(1), tags(*take(6))),
        Feedback(turns(*take(9)), True, AT, tools(*take(4)), *take(1), tags(*take(6))),
        Preference(turns(*take(9)), turns(*take(9)), turns(*take(9)), AT, tools(*take(4)), *take(1), tags(*take(6))),
        Label(*take(2), AT, *take(1), tags(*take(6))),
        Document(*take(1), AT, *take(2), tags(*take(6))),
    ]
    told = [value for value in values if any(value in text for one in samples for text in everything_of(one))]
    assert len(told) == len(values) - len(list(taken)), "every planted value is seen by who searches"
    return samples, [*told, "欧阳锋铭"]


def test_nothing_planted_anywhere_in_a_sample_is_left(tmp_path: Path) -> None:
    samples, values = planted()
    for sample, (masked, _) in zip(samples, stage_of(tmp_path, pack="medical")(samples), strict=True):
        assert masked is not None and masked.kind == sample.kind
        left = [value for value in values if value in repr(masked)]
        assert not left, (sample.kind, left)
        assert masked.group != "<手机号>" and (masked.group or "").startswith("g_")


def test_calls_and_results_stay_one_and_json_stays_json(tmp_path: Path) -> None:
    row = Conversation(turns(*(number() for _ in range(9))), AT, ())
    ((masked, _),) = stage_of(tmp_path, pack="medical")([row])
    assert isinstance(masked, Conversation)
    _, asked, told = masked.messages
    assert asked.tool_calls[0]["id"] == told.tool_call_id
    assert orjson.loads(told.content) == {"tel": "<MOBILE>"}
    assert asked.tool_calls[0]["function"]["arguments"]["phone"] == "<MOBILE>"


@pytest.mark.parametrize(
    "text",
    [f'{{"tel": {PHONE}, "n": 3}}', f'[{PHONE},{CARD}]', f'{{"a": "call {PHONE}", "b": -{PHONE}}}',
     f'{{"tel": {PHONE}}}\n{{"tel": {PHONE}}}\n', f'{{"{PHONE}": 1}}', f'{{"x": {PHONE}.0}}'],
)  # fmt: skip
def test_a_masked_json_text_can_still_be_read(tmp_path: Path, text: str) -> None:
    ((masked, _),) = stage_of(tmp_path, pack="medical")([Document(text, AT)])
    assert isinstance(masked, Document) and str(PHONE) not in masked.text and str(CARD) not in masked.text
    assert all(orjson.loads(line) for line in masked.text.splitlines())


def test_rows_of_one_group_stay_one_group(tmp_path: Path) -> None:
    rows = [Document(text, AT, group="欧阳锋铭") for text in ("a", "姓名：欧阳锋铭", "b")] + [
        Document("c", AT, group="g7")
    ]
    groups = [sample.group for sample, _ in stage_of(tmp_path, pack="medical")(rows) if sample is not None]
    assert len(set(groups[:3])) == 1 and groups[0] != "欧阳锋铭" and groups[3] == "g7"


def test_two_headers_of_one_kind_stay_two_columns(tmp_path: Path) -> None:
    tags = {str(PHONE): "a", str(PHONE + 1): "b"}
    ((masked, _),) = stage_of(tmp_path, pack="medical")([Document("x", AT, tags=dict(tags))])
    assert masked is not None
    assert sorted(map(str, masked.tags.values()))[:2] == ["a", "b"] and not set(tags) & set(masked.tags)


def test_no_file_of_a_store_holds_a_planted_column(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.csv").write_text(
        "question,answer,客户姓名,手机,id,source,group,13920126709\n"
        + "".join(f"问题{n}？,答案{n},欧阳锋铭,1392012670{n},1392012671{n},1392012672{n},1392012673{n},x\n" for n in range(5))
    )  # fmt: skip
    (tmp_path / "b.jsonl").write_text(
        "".join(
            json.dumps({"text": f"好评{n}", "label": f"1392012674{n}"}, ensure_ascii=False) + "\n" for n in range(5)
        )
    )
    convey(
        plan_shards([tmp_path / "a.csv", tmp_path / "b.jsonl"]), Passing(privacy=stage_of(tmp_path, pack="medical")),
        Store(tmp_path / "store"), engine="local",
    )  # fmt: skip
    looked = 0
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            content, looked = path.read_bytes(), looked + 1
            for value in ("139201267", "欧阳锋铭"):
                found = [value.encode(code) in content for code in ("utf-8", "utf-16-le", "utf-32-le")]
                assert not any(found), (path.name, value)
    assert looked > 2


@pytest.mark.parametrize("at", range(5))
def test_what_is_to_be_forgotten_goes_wherever_it_stands(tmp_path: Path, at: int) -> None:
    samples, _ = planted()
    keyring = Keyring.open(tmp_path / "keys.json")
    for text in (text for text in everything_of(samples[at]) if "1392010" in text or "1392011" in text):
        value = text[text.index("139201") :][:11]
        stage = stage_of(tmp_path, forgotten=Forgotten(keyring.current, macs_of(value, keyring), ()))
        assert [sample is None for sample, _ in stage(samples)].count(True) == 1, (samples[at].kind, text)


def test_clean_rows_are_the_same_objects_inside(tmp_path: Path) -> None:
    row = Conversation(
        (Message("user", "a"), Message("assistant", "b")), AT, group="g1", tags={"topic": "leave", "n": 3}
    )
    ((masked, fates),) = stage_of(tmp_path, pack="medical")([row])
    assert isinstance(masked, Conversation) and masked.messages is row.messages and fates == ()
    assert masked.group == "g1" and masked.tags["topic"] == "leave" and masked.tags["n"] == 3
