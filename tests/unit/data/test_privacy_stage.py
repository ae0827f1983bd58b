"""What is done about findings: actions, pseudonyms, levels, records; and that nothing secret gets out on the way."""

import logging
import pickle
import random
import re
from pathlib import Path
from typing import get_args

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import DanluError, DataError, RecipeError
from danlu.data.formats import format as formats
from danlu.data.identity import sample_id
from danlu.data.privacy import (
    Keyring,
    Policy,
    PrivacyStage,
    grade,
    level,
    level_of,
    policy,
    read_records,
    write_records,
)
from danlu.data.privacy.detectors import DETECTORS
from danlu.data.privacy.fakes import is_own
from danlu.data.privacy.finding import KINDS, SECRETS, Finding
from danlu.data.privacy.forgotten import Forgotten, macs_of
from danlu.data.privacy.known import load_names
from danlu.data.sample import Conversation, Document, Message, Origin, Preference, Sample, replace
from danlu.recipe import privacy as recipe_privacy
from danlu.recipe.privacy import PrivacySection

ROW = (
    "患者张伟，身份证号310115198605188368，联系电话17320926211，家住北京市朝阳区建国路88号。张先生的邮箱是zw@163.com，"
    "卡号6222 0218 7801 7598 986，微信号：zhang_88，QQ号：284210953，京A12345，护照号E12345678，HKID A123456(3)，"
    "税号9133010625AH2A7B8E，病历号：ZY20231234，IMEI 490154203237518。张伟已出院。"
)
ENGLISH = (
    "My name is John Carter, card 4111 1111 1111 1111, SSN 123-45-6789, NINO AB123456C, call (415) 555-0132 or "
    "+44 20 7946 0958. Mr. Carter lives at 12 Baker Street, London. IP 8.8.8.8, MAC 00:1A:2B:3C:4D:5E, "
    "GB82 WEST 1234 5698 7654 32."
)
VALUES = (
    "张伟", "310115198605188368", "17320926211", "建国路88号", "zw@163.com", "7801 7598 986", "zhang_88", "284210953",
    "京A12345", "E12345678", "A123456", "9133010625AH2A7B8E", "ZY20231234", "490154203237518", "John", "Carter",
    "4111 1111", "123-45-6789", "AB123456C", "555-0132", "7946 0958", "Baker", "8.8.8.8", "00:1A:2B:3C:4D:5E", "5698 7654",
)  # fmt: skip


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring.open(tmp_path / "keys" / "privacy.keys")


def stage_of(keyring: Keyring, *, forgotten: Forgotten | None = None, **words: object) -> PrivacyStage:
    section = PrivacySection.model_validate({"pack": "off"} | words)
    return PrivacyStage(Policy.of(section), keyring, forgotten=forgotten)


def all_of(action: str) -> dict[str, object]:
    return {"levels": dict.fromkeys(("public", "internal", "confidential", "restricted"), action)}


def document(text: str, **tags: object) -> Document:
    return Document(text, Origin("a.md", 3), tags=dict(tags))


def text_of(stage: PrivacyStage, text: str, **tags: object) -> str:
    ((sample, _),) = stage([document(text, **tags)])
    assert isinstance(sample, Document)
    return sample.text


def test_each_action_does_what_it_says(keyring: Keyring) -> None:
    row = "电话17320926211，患者张伟"
    assert text_of(stage_of(keyring), row) == row
    assert text_of(stage_of(keyring, **all_of("mask")), row) == "电话173****6211，患者张*"
    assert text_of(stage_of(keyring, **all_of("token")), row) == "电话<手机号>，患者<姓名>"
    assert text_of(stage_of(keyring, **all_of("token")), "call (415) 555-0132") == "call <PHONE>"
    fake = text_of(stage_of(keyring, **all_of("pseudonym")), row)
    assert re.fullmatch(r"电话100\d{8}，患者[\u4e00-\u9fff]{3}", fake)
    ((sample, fates),) = stage_of(keyring, **all_of("drop"))([document(row)])
    assert sample is None and [(fate.action, fate.reason) for fate in fates] == [("drop", "privacy_dropped")]
    assert fates[0].values == {"found": "mobile 1, name 1"}


def test_a_kind_goes_before_a_level_and_the_recipe_before_the_pack(keyring: Keyring) -> None:
    policy = Policy.of(PrivacySection(pack="finance", actions={"mobile": "mask"}, levels={"internal": "drop"}))
    assert policy.actions["mobile"] == "mask" and policy.actions["uscc"] == "drop"
    assert policy.actions["name"] == "pseudonym" and policy.actions["password"] == "token"
    assert {policy.actions[kind] for kind in SECRETS} <= {"token", "drop"}


def test_policies_are_refused_in_words(tmp_path: Path) -> None:
    for section, key in (
        (PrivacySection(pack="medicine"), "privacy.no_pack"),
        (PrivacySection(actions={"moble": "mask"}), "privacy.unknown_kind"),
        (PrivacySection(actions={"password": "pseudonym"}), "privacy.secret_action"),
    ):
        with pytest.raises(RecipeError) as caught:
            Policy.of(section)
        assert caught.value.key == key and str(caught.value)
    for text in (
        "levels: {restricted: burn}",
        "actions: {nope: mask}",
        "more: 1",
        "- 1",
        "a: [",
        "levels: {high: mask}",
    ):
        pack = tmp_path / "pack.yaml"
        pack.write_text(text)
        with pytest.raises(RecipeError):
            Policy.of(PrivacySection(pack=str(pack)))
    pack.write_text("min_score: 0.9\nlevels: {restricted: drop}")
    assert Policy.of(PrivacySection(pack=str(pack))).min_score == 0.9


@pytest.mark.parametrize("pack", ["minimal", "finance", "medical", "legal"])
def test_packs_can_be_read_and_speak_both_languages(pack: str) -> None:
    policy = Policy.of(PrivacySection(pack=pack))
    assert set(policy.actions) == set(KINDS) and set(policy.notice) == {"en", "zh"}
    assert policy.actions["resident_id"] in ("token", "pseudonym") and policy.actions["api_key"] in ("token", "drop")


def test_one_person_has_one_alias_in_all_rows_runs_and_processes(keyring: Keyring) -> None:
    """Pseudonyms that change from row to row teach a model that nobody is anybody."""
    stage = stage_of(keyring, **all_of("pseudonym"))
    first = text_of(stage, "患者张伟，电话17320926211")
    again = Keyring.open(keyring.path)
    again.rotate()  # records move to another key, aliases stay
    other = pickle.loads(pickle.dumps(stage_of(again, **all_of("pseudonym"))))
    alias, phone = first.removeprefix("患者").split("，电话")
    assert (
        text_of(other, "联系人：张伟 +86 173-2092-6211") == f"联系人：{alias} +86 {phone[:3]}-{phone[3:7]}-{phone[7:]}"
    )
    assert text_of(stage, "患者张磊") != f"患者{alias}"


def test_a_person_named_in_parts_stays_one_person(keyring: Keyring) -> None:
    masked = text_of(stage_of(keyring, **all_of("pseudonym")), "患者张伟来了。张先生说疼。张伟走了。")
    alias = masked[2:5]
    assert masked == f"患者{alias}来了。{alias[0]}先生说疼。{alias}走了。"
    english = text_of(stage_of(keyring, **all_of("pseudonym")), "My name is John Carter. Mr. Carter left.")
    full = re.match(r"My name is (\w+ \w\. (\w+))\. Mr\. (\w+) left\.", english)
    assert full and full[2] == full[3], english


@pytest.mark.parametrize("text", [ROW, ENGLISH])
def test_pseudonyms_can_never_be_real_and_a_second_pass_leaves_them_alone(keyring: Keyring, text: str) -> None:
    stage = stage_of(keyring, **all_of("pseudonym"))
    masked = text_of(stage, text)
    words = r"(?<![A-Za-z]){}(?![A-Za-z])"  # John is no part of Johnson
    assert not [value for value in VALUES if re.search(words.format(re.escape(value)), masked)]
    left = [hit for hit in stage.find([masked])[0] if len(hit.value) > 1 and not is_own(hit, keyring)]
    left = [hit for hit in left if hit.kind != "name" or " " in hit.value or not hit.value.isascii()]  # surnames alone
    assert left == [], "a pseudonym passed for a real value"
    assert text_of(stage, masked, made_by="teacher", parents=["s_1"]) == masked


NUMBERS = {
    "resident_id": "310115198605188368", "bank_card": "6222021878017598986", "uscc": "9133010625AH2A7B8E",
    "mobile": "17320926211", "iban": "GB82WEST12345698765432", "imei": "490154203237518", "us_ssn": "123-45-6789",
    "birth_date": "1986-05-18", "landline": "010-88886666", "plate": "京A12345", "passport": "E12345678", "hk_id": "A123456(3)", "qq": "284210953",
}  # fmt: skip
CUES = {
    "qq": "QQ号：",
    "passport": "护照号",
    "imei": "IMEI ",
    "us_ssn": "SSN ",
    "landline": "电话",
    "birth_date": "DOB ",
}


@given(st.sampled_from(sorted(NUMBERS)), st.integers(0, 10**9))
@settings(max_examples=150)
def test_no_pseudonym_passes_its_own_check(keyring: Keyring, kind: str, salt: int) -> None:
    """Whatever the value, its fake keeps the form and is never found again."""
    rng = random.Random(salt)
    value = re.sub(r"\d", lambda _: rng.choice("0123456789"), NUMBERS[kind])
    from danlu.data.privacy import fakes

    fake = fakes.pseudonym(Finding(0, len(value), kind, 1.0, "t", value), value, keyring)
    assert len(fake) == len(value) and re.sub("[0-9A-Za-z]", "x", fake) == re.sub("[0-9A-Za-z]", "x", value)
    scanner = stage_of(keyring).scanner
    assert not [hit for hit in scanner.scan([CUES.get(kind, "") + fake])[0] if hit.kind == kind]


def test_a_real_name_is_hardly_ever_taken_for_an_alias(keyring: Keyring) -> None:
    stage = stage_of(keyring, **all_of("pseudonym"))
    alias = text_of(stage, "姓名：王建国")[3:]
    assert is_own(Finding(0, 3, "name", 1.0, "t", alias), keyring)
    real = [a + b + c for a in "王李张刘" for b in "建国志文" for c in "伟强磊军洋勇杰涛明超"]
    assert sum(is_own(Finding(0, 3, "name", 1.0, "t", name), keyring) for name in real) <= 16


def test_levels_are_graded_kept_up_and_inherited(keyring: Keyring) -> None:
    stage = stage_of(keyring, actions={"resident_id": "token"}, level="public")
    rows = [
        document("无"),
        document("电话17320926211"),
        document("身份证310115198605188368"),
        document("无", level="restricted"),
    ]
    made = [sample for sample, _ in stage(rows) if sample is not None]
    assert [level_of(one) for one in made] == ["public", "confidential", "public", "restricted"]
    assert [one.tags["level_found"] for one in made] == ["public", "confidential", "restricted", "restricted"]
    assert [one.tags.get("flags") for one in made] == [None, ["privacy_found"], None, None]
    assert grade(["public", "confidential", "internal"]) == "confidential" and grade([]) == "public"


def test_every_text_of_every_kind_of_sample_is_masked(keyring: Keyring) -> None:
    call = {"type": "function", "function": {"name": "dial", "arguments": {"to": ["17320926211", 5], "why": "张伟"}}}
    chat = Conversation(
        (Message("user", "患者张伟"), Message("assistant", "好", reasoning="打17320926211", tool_calls=(call,))),
        Origin("q", 1),
    )
    pair = Preference((Message("user", "电话17320926211"),), (Message("assistant", "a@b.cn"),),
                      (Message("assistant", "身份证310115198605188368"),), Origin("p", 1))  # fmt: skip
    for sample in (chat, pair):
        ((masked, _),) = stage_of(keyring, **all_of("token"))([sample])
        kept = repr(masked)
        assert not [value for value in ("张伟", "17320926211", "a@b.cn", "310115198605188368") if value in kept]


def test_the_same_rows_have_the_same_outcome_in_any_order_and_batch(keyring: Keyring) -> None:
    stage = stage_of(keyring, **all_of("pseudonym"))
    rows: list[Sample] = [document(f"{ROW}{n}") for n in range(6)] + [document("无事")]
    together = stage.examine(rows)
    assert together == [one for row in rows for one in stage.examine([row])]
    assert together[::-1] == stage.examine(rows[::-1])


def test_records_tell_where_and_what_but_never_the_value(keyring: Keyring, tmp_path: Path) -> None:
    stage = stage_of(keyring, **all_of("pseudonym"))
    ((examined),) = stage.examine([document(ROW)])
    sample = examined.outcome[0]
    assert sample is not None
    for record in examined.records:
        assert record["sample"] == sample_id(sample) and record["file"] == "a.md" and record["line"] == 3
        assert ROW[record["start"] : record["end"]] and record["key"] == keyring.current
    phone = next(record for record in examined.records if record["type"] == "mobile")
    assert phone["mac"] in macs_of("+86 173 2092 6211", keyring) and phone["mac"] not in macs_of("17320926212", keyring)
    assert write_records(tmp_path / "r" / "1.jsonl", examined.records) == len(examined.records)
    assert list(read_records(tmp_path / "r")) == list(examined.records)


def test_a_dropped_row_leaves_no_digest_of_its_text(keyring: Keyring) -> None:
    """A bare digest of a short row with one phone number is guessed back in minutes."""
    row = document("电话17320926211")
    ((examined),) = stage_of(keyring, **all_of("drop")).examine([row])
    assert sample_id(row)[2:] not in repr(examined.records) and examined.records[0]["sample"].startswith("x_")


def test_nothing_secret_leaves_the_stage(
    keyring: Keyring, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Files, pickles, keys of caches, fates, logs, standard streams: no value, no key."""
    caplog.set_level(logging.DEBUG)
    told = []
    for action in ("mask", "token", "pseudonym", "drop"):
        stage = stage_of(keyring, **all_of(action))
        examined = stage.examine([document(ROW), document(ENGLISH)])
        write_records(tmp_path / "out" / f"{action}.jsonl", [record for one in examined for record in one.records])
        told += [orjson.dumps(stage.key()).decode(), repr([one.outcome[1] for one in examined]), repr(stage.keyring)]
        told += [pickle.dumps(stage).decode("latin-1"), repr(stage)]
    told += [path.read_text("utf-8") for path in (tmp_path / "out").iterdir()]
    told += [caplog.text, *capfd.readouterr()]
    secrets = re.findall(r'"(?:index|alias|secret)": ?"([^"]+)"', keyring.path.read_text())
    assert len(secrets) == 3
    everything = "\n".join(told)
    assert not [value for value in (*VALUES, *secrets) if value in everything]


def test_errors_speak_of_keys_without_showing_them(keyring: Keyring, tmp_path: Path) -> None:
    content = keyring.path.read_text()
    for spoilt, key in (
        (content[:-20], "privacy.key_damaged"),
        ("{}", "privacy.key_damaged"),
        ("", "privacy.key_damaged"),
    ):
        keyring.path.write_text(spoilt)
        with pytest.raises(DataError) as caught:
            Keyring.open(keyring.path)
        shown = f"{caught.value!r} {caught.value} {caught.value.to_json()} {caught.value.__cause__} {caught.value.__context__}"
        assert caught.value.key == key and content[20:60] not in shown
    with pytest.raises(DataError) as caught:
        Keyring.open(tmp_path / "none", create=False)
    assert caught.value.key == "privacy.no_key_file"


def test_a_key_file_is_its_owners_alone(keyring: Keyring) -> None:
    assert keyring.path.stat().st_mode & 0o777 == 0o600
    keyring.rotate()
    assert keyring.path.stat().st_mode & 0o777 == 0o600
    keyring.path.chmod(0o640)
    with pytest.raises(DataError) as caught:
        Keyring.open(keyring.path)
    assert caught.value.key == "privacy.key_exposed"


def test_records_move_to_a_new_key_while_the_old_one_is_there(keyring: Keyring) -> None:
    old, mac = keyring.current, keyring.mac("name", "张伟")
    fresh = keyring.rotate()
    assert keyring.mac("name", "张伟") != mac and keyring.mac("name", "张伟", old) == mac
    assert keyring.resealed(mac, old) == keyring.mac("name", "张伟"), "moved without knowing the name"
    keyring.destroy(old)
    with pytest.raises(DataError) as caught:
        keyring.resealed(mac, old)
    assert caught.value.key == "privacy.key_gone" and Keyring.open(keyring.path).ids == [fresh]


def test_two_processes_that_make_the_key_file_share_one(tmp_path: Path) -> None:
    rings = [Keyring.open(tmp_path / "k") for _ in range(2)]
    assert rings[0].mac("name", "张伟") == rings[1].mac("name", "张伟")
    assert Keyring.open(tmp_path / "other").mac("name", "张伟") != rings[0].mac("name", "张伟")


def test_rows_to_forget_are_dropped_by_hmac_and_names_without_a_cue_too(keyring: Keyring, tmp_path: Path) -> None:
    values = ("17320926211", "张伟", "John Carter")
    forgotten = Forgotten(
        keyring.current,
        frozenset(mac for value in values for mac in macs_of(value, keyring)),
        ((keyring.mac("name", "张伟"), "zh", 2), (keyring.mac("name", "John Carter"), "en", 2)),
    )
    forgotten.write(tmp_path / "list.json")
    assert not [value for value in values if value in (tmp_path / "list.json").read_text()]
    keyring.rotate()  # the list is brought to the new key
    stage = stage_of(keyring, forgotten=Forgotten.read(tmp_path / "list.json"))
    rows = [
        document(text)
        for text in (
            "昨天张伟来过",
            "电话+86 173-2092-6211",
            "then John Carter left",
            "昨天张磊来过",
            "电话17320926212",
        )
    ]
    outcomes = stage(rows)
    assert [sample is None for sample, _ in outcomes] == [True, True, True, False, False]
    assert outcomes[0][1][0].reason == "privacy_forgotten"
    for broken in ("", "[]", '{"key": 1}'):
        (tmp_path / "list.json").write_text(broken)
        with pytest.raises(DanluError):
            Forgotten.read(tmp_path / "list.json")


class Model:
    """A recognizer as another package would bring it."""

    name, version, kinds = "model", 2, ("name",)

    def read(self, texts: list[str]) -> list[list[Finding]]:
        return [
            [Finding(at, at + 3, "name", 0.9, "model", "苏东坡")] if (at := text.find("苏东坡")) >= 0 else []
            for text in texts
        ]


def test_people_known_by_list_and_models_of_others_find_names_too(
    keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "staff.txt").write_text("\ufeff# staff\n沈约\n\nAda Lovelace\n", "utf-8")
    monkeypatch.setitem(DETECTORS.places, "model", f"{__name__}:Model")
    policy = Policy.of(PrivacySection.model_validate({"pack": "off"} | all_of("token")))
    stage = PrivacyStage(policy, keyring, names=load_names(tmp_path / "staff.txt"), recognizers=["model"])
    assert (
        text_of(stage, "昨天沈约和苏东坡见了Ada Lovelace，不是Ada Lovelaces")
        == "昨天<姓名>和<姓名>见了<姓名>，不是Ada Lovelaces"
    )
    assert stage.key()["recognizers"] == {"model": 2} and "沈约" not in repr(stage.key())
    assert text_of(pickle.loads(pickle.dumps(stage)), "沈约") == "<姓名>"
    with pytest.raises(DanluError):
        PrivacyStage(policy, keyring, recognizers=["numbers"])


def test_a_flagged_row_keeps_its_other_flags(keyring: Keyring) -> None:
    ((sample, fates),) = stage_of(keyring)([document("电话17320926211", flags=["short"])])
    assert sample is not None and sample.tags["flags"] == ["short", "privacy_found"] and fates[0].action == "flag"
    assert replace(sample).tags["level"] == "confidential"


def test_a_surname_alone_is_the_person_of_the_full_name(keyring: Keyring) -> None:
    masked = text_of(
        stage_of(keyring, **all_of("token")), "Mr. John Smith called. Smith was admitted; Smithfield is a place."
    )
    assert masked == "Mr. <NAME> called. <NAME> was admitted; Smithfield is a place."


def test_words_of_the_recipe_are_those_of_the_rows() -> None:
    """They stand twice, so that a worker needs no recipe."""
    assert get_args(recipe_privacy.Action) == policy.ACTIONS
    assert get_args(recipe_privacy.Level) == level.LEVELS
    assert get_args(recipe_privacy.Level)[1:] == formats._CLOSED
