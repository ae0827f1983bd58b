"""What is found, what is left alone, and that both engines stop at the same places."""

import csv
import gzip
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.privacy.detectors import DETECTORS, Rule
from danlu.data.privacy.finding import KINDS, canonical
from danlu.data.privacy.scan import Scanner, own_rules

SHARED = Path(__file__).parents[4] / "shared" / "data"
SCANNER = Scanner()


def found(text: str, floor: float = 0.5) -> list[tuple[str, str]]:
    return [(hit.kind, text[hit.start : hit.end]) for hit in SCANNER.scan([text])[0] if hit.score >= floor]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("身份证号310115198605188368，请核对", "resident_id", "310115198605188368"),
        ("证件 310115 19860518 8368", "resident_id", "310115 19860518 8368"),
        ("号码：51010419880204525x。", "resident_id", "51010419880204525x"),
        ("身份证号：３１０１１５１９８６０５１８８３６８", "resident_id", "３１０１１５１９８６０５１８８３６８"),
        ("老身份证 310115860518836", "resident_id_15", "310115860518836"),
        ("电话17320926211，下午打", "mobile", "17320926211"),
        ("+86 173-2092-6211", "mobile", "+86 173-2092-6211"),
        ("tel17320926211", "mobile", "17320926211"),
        ("座机(010)8888-6666", "landline", "(010)8888-6666"),
        ("0755-26715555转8001", "landline", "0755-26715555"),
        ("卡号6222 0218 7801 7598 986", "bank_card", "6222 0218 7801 7598 986"),
        ("My Visa is 4111-1111-1111-1111.", "bank_card", "4111-1111-1111-1111"),
        ("税号9133010625AH2A7B8E", "uscc", "9133010625AH2A7B8E"),
        ("川A·F8888停在门口", "plate", "川A·F8888"),
        ("粤BD12345", "plate", "粤BD12345"),
        ("护照号E12345678", "passport", "E12345678"),
        ("港澳通行证C12345678", "travel_permit", "C12345678"),
        ("HKID A123456(3) was shown", "hk_id", "A123456(3)"),
        ("抄送李四@例子.中国", "email", "李四@例子.中国"),
        ("a+b@sub.example.co.uk", "email", "a+b@sub.example.co.uk"),
        ("来自 8.8.8.8 的请求", "ip", "8.8.8.8"),
        ("at 2001:4860:4860::8888 now", "ip", "2001:4860:4860::8888"),
        ("网卡00:1A:2B:3C:4D:5E", "mac", "00:1A:2B:3C:4D:5E"),
        ("微信号：zhang_san88", "wechat", "zhang_san88"),
        ("我的QQ是284210953", "qq", "284210953"),
        ("IMEI 490154203237518", "imei", "490154203237518"),
        ("住院号：ZY20231234", "medical_record", "ZY20231234"),
        ("医保卡号 33010612345678", "insurance", "33010612345678"),
        ("SSN 123-45-6789", "us_ssn", "123-45-6789"),
        ("National Insurance number AB123456C", "uk_nino", "AB123456C"),
        ("to GB82 WEST 1234 5698 7654 32 today", "iban", "GB82 WEST 1234 5698 7654 32"),
        ("call me at (415) 555-0132", "phone", "(415) 555-0132"),
        ("call +44 20 7946 0958", "phone", "+44 20 7946 0958"),
        ("token: sk-abcdEFGH1234567890abcdEFGH1234", "api_key", "sk-abcdEFGH1234567890abcdEFGH1234"),
        ("AKIAIOSFODNN7EXAMPLE is leaked", "api_key", "AKIAIOSFODNN7EXAMPLE"),
        ("api_key = 'q8Zk2LmN0pRs7TuVwXyZ'", "api_key", "q8Zk2LmN0pRs7TuVwXyZ"),
        ("the password is: hunter2!x", "password", "hunter2!x"),
        ("密码：Passw0rd!", "password", "Passw0rd!"),
        ("postgres://admin:s3cretPW@db.corp.cn/x", "connection", "admin:s3cretPW"),
        ("https://x.cn/a?access_token=abcdef1234567890", "url_token", "abcdef1234567890"),
        ("患者周杰，男", "name", "周杰"),
        ("法定代表人：买买提·艾力", "name", "买买提·艾力"),
        ("户名欧阳娜娜，", "name", "欧阳娜娜"),
        ("张建国先生到了", "name", "张建国"),
        ("Dear Mr. Smith,", "name", "Smith"),
        ("my name is John van der Berg.", "name", "John van der Berg"),
        ("家住北京市朝阳区建国路88号3栋502室。", "address", "北京市朝阳区建国路88号3栋502室"),
        ("at 12 Baker Street, London", "address", "12 Baker Street, London"),
        ("出生日期：1985年5月18日，汉族", "birth_date", "1985年5月18日"),
        ("张伟，男，1985年5月18日出生", "birth_date", "1985年5月18日"),
        ("原告李某，女，1985年5月18日生，", "birth_date", "1985年5月18日"),
        ("患者，女，1976.2.2出生", "birth_date", "1976.2.2"),
        ("他生于1985-05-18", "birth_date", "1985-05-18"),
        ("出生年月日 19850518", "birth_date", "19850518"),
        ("DOB: 05/18/1985", "birth_date", "05/18/1985"),
        ("Date of birth: 31.12.1985", "birth_date", "31.12.1985"),
        ("born on May 18, 1985 in Leeds", "birth_date", "May 18, 1985"),
        ("Born 3rd of Sept. 1990", "birth_date", "3rd of Sept. 1990"),
    ],
)  # fmt: skip
def test_personal_data_is_found_where_it_stands(text: str, kind: str, value: str) -> None:
    assert (kind, value) in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "订单号：310115198605188368，已发货",  # a right check digit, and yet an order
        "商品编号480614400373049，规格 500ml*12，价格 138.00 元",
        "我手机尾号9760，单号676329115914624，13号之前能到吗？",
        "共计13812345678元",
        "圆周率 3.14159265358979",
        "v10.0.19041.1234 版本 1.8.8.8",
        "2023-01-05 12:30:45 至 20231105",
        "id 550e8400-e29b-41d4-a716-446655440000",
        "sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "客服热线 400-800-8888",
        "网关 192.168.1.254，本机 127.0.0.1，例子 2001:db8::1",
        "显示1799（1999-200）",
        "密码：<your_password> token=${TOKEN} password = get_password()",
        "git@github.com:user/repo",
        "患者高血压十年，客户满意，老师和经理都在，监护人应当签字",
        "姓名：<姓名> 电话：<手机号>",
        "道路千万条，安全第一条",
        "Version 4111.1111.1111 of model 12345678",
        "请@小明 看一下",
        "被告人沈某某与户名为董某账户有关",
        "家住上海的王甲继承其父遗产房屋三间",
        "事故发生于2020年3月4日，合同2020年5月3日生效，2020年5月3日生产",
        "爱因斯坦1879年3月14日出生，出生日期：1985年13月18日，出生于1985年5月",
        "the meeting is on May 18, 1985; reborn on May 1, 2001; born on Monday, born in 1985",
    ],
)
def test_what_only_looks_like_personal_data_is_left_alone(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "身份证号310115198605188367", "卡号6222021878017598987", "税号9133010625AH2A7B8F",
        "IBAN GB83 WEST 1234 5698 7654 32", "IMEI 490154203237519", "HKID A123456(4)",
    ],
)  # fmt: skip
def test_a_wrong_check_digit_is_not_personal_data(text: str) -> None:
    assert found(text) == []


def test_numbers_side_by_side_are_told_apart() -> None:
    assert found("13812345678 15912345678 6222021878017598986") == [
        ("mobile", "13812345678"), ("mobile", "15912345678"), ("bank_card", "6222021878017598986"),
    ]  # fmt: skip
    assert found("138 1234 5678 139 8765 4321") == [("mobile", "138 1234 5678"), ("mobile", "139 8765 4321")]
    assert found("13812345678/13987654321") == [("mobile", "13812345678"), ("mobile", "13987654321")]


def test_a_private_key_goes_to_its_end_line() -> None:
    text = "key:\n-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----\nbye"
    assert found(text) == [("private_key", text[5:-4])]
    assert found("x -----BEGIN PRIVATE KEY-----\nMIIE")[0][1].endswith("MIIE"), "cut off: to the end of the text"


def test_findings_stay_within_their_text() -> None:
    """A number cut at the border of two rows belongs to neither."""
    assert SCANNER.scan(["共1381234", "5678，完"]) == [[], []]
    rows = ["电话13812345678", "", "无", "邮箱a@b.cn"]
    assert [[hit.kind for hit in hits] for hits in SCANNER.scan(rows)] == [["mobile"], [], [], ["email"]]
    assert SCANNER.scan([]) == []


PIECES = st.sampled_from(
    [
        "13812345678", "6222 0218 7801 7598 986", "310115198605188368", "a@b.cn", "@", "://", "患者", "张伟", "先生",
        "姓名：", "·", "买买提·艾力", "密码：", "Passw0rd!", "sk-", "abcdEFGH1234567890xy", "eyJ", "路88号", "北京市", "朝阳区",
        "住址：", "Mr. ", "John Smith", "8.8.8.8", "00:1A:2B:3C:4D:5E", "2001:db8::1", "京A12345", "E12345678", "护照", " ",
        "\n", "，", "𠮷", "\ud800", "é", "K", "ſ", "１３８", "-", "(010)", "88886666", "x", "\x1e", "\x00", "微信号：zhang_88",
    ]
)  # fmt: skip


@given(st.lists(st.lists(PIECES, max_size=12).map("".join), max_size=6))
@settings(max_examples=150)
def test_without_re2_the_findings_are_the_same(texts: list[str]) -> None:
    pytest.importorskip("re2")
    assert Scanner(engine="re").scan(texts) == Scanner(engine="re2").scan(texts)


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_any_text_is_read_and_spans_hold(text: str) -> None:
    ends = 0
    for hit in SCANNER.scan([text])[0]:
        assert ends <= hit.start < hit.end <= len(text) and hit.kind in KINDS and 0 < hit.score <= 1
        ends = hit.end


def test_real_text_is_read_the_same_by_both_engines() -> None:
    pytest.importorskip("re2")
    path = SHARED / "instruct" / "alpaca_zh_demo.json.gz"
    if not path.is_file():
        pytest.skip("no shared data")
    rows = ["\n".join(map(str, row.values())) for row in json.loads(gzip.decompress(path.read_bytes()))[:150]]
    assert Scanner(engine="re").scan(rows) == SCANNER.scan(rows)


@pytest.mark.parametrize("rule", own_rules(), ids=lambda rule: rule.name)
def test_rules_keep_to_what_both_engines_understand(rule: Rule) -> None:
    assert not any(mark in rule.pattern for mark in ("\\d", "\\w", "\\s", "\\b", "(?=", "(?!", "(?<", "[^", "(?i"))
    assert rule.opens and DETECTORS.load(rule.name).name == rule.name  # type: ignore[attr-defined]


def test_every_stop_is_asked_of_a_rule() -> None:
    """A pattern whose first letter no rule claims would stop the pass for nothing, and find nothing."""
    texts = [row["text"] for row in chinese_rows()] + ["Bearer abc Key: x 企鹅号12345 加V：abc PO Box 12 •艾力 ・力"]
    joined = "\n".join(texts)
    stops = Scanner(engine="re")._compiled.finditer(joined)
    assert all(SCANNER._asked.get(joined[stop.start()]) for stop in stops)


def chinese_rows() -> list[dict[str, object]]:
    path = SHARED / "pii" / "cn_pii_sentences.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def test_the_chinese_sentences_are_found_span_by_span() -> None:
    names = {"NAME": "name", "CN_MOBILE": "mobile", "EMAIL": "email", "BANK_CARD": "bank_card", "CN_ID": "resident_id",
             "USCC": "uscc", "ADDRESS": "address"}  # fmt: skip
    rows = chinese_rows()
    if not rows:
        pytest.skip("no shared data")
    for row, hits in zip(rows, SCANNER.scan([str(row["text"]) for row in rows]), strict=True):
        gold = {(names[span["type"]], span["start"], span["end"]) for span in row["spans"]}  # type: ignore[attr-defined]
        assert {(hit.kind, hit.start, hit.end) for hit in hits} == gold, row["text"]


def test_bare_values_are_judged_by_their_check_digits() -> None:
    path = SHARED / "pii" / "cn_pii_vectors.csv"
    if not path.is_file():
        pytest.skip("no shared data")
    names = {"cn_id18": "resident_id", "cn_mobile": "mobile", "cn_uscc": "uscc", "cn_plate": "plate"}
    for row in csv.DictReader(path.open(encoding="utf-8")):
        if row["kind"] == "ip":  # a private address is nobody's; those are in another test
            continue
        is_found = (names.get(row["kind"], row["kind"]), row["value"]) in found(row["value"])
        assert is_found == (row["valid"] == "1"), row


def test_two_spellings_of_a_value_are_one() -> None:
    assert canonical("number", "+86 138-1234-5678") == canonical("number", "１３８１２３４５６７８") == "13812345678"
    assert canonical("name", "John  SMITH") == "john smith" and canonical("name", "张 伟") == "张伟"
    assert canonical("email", "A@B.cn") == "a@b.cn" and canonical("words", "北京市 朝阳区") == "北京市朝阳区"


@pytest.mark.parametrize(
    "unit",
    [
        "北京市朝阳区路1号",
        "12 ",
        "（1",
        "://",
        "a@a.",
        "a1:b2:",
        "联系人：张伟、",
        "Mr. A",
        "-----BEGIN A PRIVATE KEY",
        "?token=",
    ],
)
def test_hostile_repetition_costs_no_more_than_its_length(unit: str) -> None:
    """A row made to keep the pass busy: ten times the text may take about ten times as long, not a hundred."""

    def taken(size: int) -> float:
        """The least of three: another process may have taken the caches."""
        text, seconds = (unit * size)[:size], []
        for _ in range(3):
            began = time.process_time()
            SCANNER.scan([text])
            seconds.append(time.process_time() - began)
        return min(seconds)

    taken(2_000)
    assert taken(40_000) < 30 * taken(4_000) + 0.3


@pytest.mark.parametrize(
    "text",
    ["手机137.7000.1241", "手机1 3 7 7 0 0 0 1 2 4 1", "电话:(137)70001242", "手机号码13770001244元", "tel:13770001245x",
     "手机**137**70001250", "电话：137，7000，1251", "name,13770001252,x", '[13770001253,13770001254]'],
)  # fmt: skip
def test_mobiles_written_in_odd_ways_behind_a_cue_are_found(text: str) -> None:
    found = Scanner().scan([text])[0]
    assert found and all(hit.kind == "mobile" for hit in found)
    left = "".join(letter for at, letter in enumerate(text) if not any(hit.start <= at < hit.end for hit in found))
    assert not any(map(str.isdigit, left)), left


@pytest.mark.parametrize(
    "text",
    ["价格1,377,000,124元", "共13770001244元", "第1 3 7 7 0 0 0 1 2 4 1项", "1，2，3，4，5，6，7", "版本137.7000.1241"],
)
def test_odd_numbers_without_a_cue_are_left(text: str) -> None:
    assert Scanner().scan([text])[0] == []


@pytest.mark.parametrize(
    "value",
    ["Tr0ub4dor&3xyz", "Zhang_Wei(1988)", "a;b:c,d.e/f?g99", "x\"quote9'Z", "咖啡Coffee99", "Tr0ub4dor3"],
)
@pytest.mark.parametrize(
    "form", ["密码: {}", "密码：{}，请勿外传", "账号admin 密码{}", "账号admin 密码 {} 请改", "password={}"]
)
def test_a_password_is_hidden_whole(form: str, value: str) -> None:
    """Half of it stood there, as `<口令>&3xyz`, or all of it."""
    text = form.format(value)
    if value[0] > "一" and "密码{" in form:
        return  # nothing says where the word ends and the password begins
    (hit,) = Scanner().scan([text])[0]
    assert hit.kind == "password" and text[hit.start : hit.end] == value


@pytest.mark.parametrize(
    ("text", "value"),
    [('{"password": "abc,12345"}', "abc,12345"), ("pwd=abc12345&user=bob", "abc12345"), ("(password: abc12345)", "abc12345"),
     ("<b>密码: abc12345</b>", "abc12345"), ("密码: abc12345, user: bob", "abc12345"), ("password='abc12345', x", "abc12345")],
)  # fmt: skip
def test_what_follows_a_password_stays(text: str, value: str) -> None:
    (hit,) = Scanner().scan([text])[0]
    assert text[hit.start : hit.end] == value


@pytest.mark.parametrize(
    "text",
    [
        "密码SHA256算法",
        "password = get_password(user1)",
        "密码学和AES256",
        "password: hashlib.md5(x1)",
        "忘记密码怎么办",
    ],
)
def test_words_about_passwords_are_none(text: str) -> None:
    assert Scanner().scan([text])[0] == []
