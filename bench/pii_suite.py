# ruff: noqa: E501
"""A seeded suite for personal data: valid values, off-by-one check digits, hard negatives, Chinese and English contexts.

Its check digits are computed here anew, not by the code under test. Every row is {text, spans: [[kind, start, end]],
group}: group says what the row asks (valid, bad_check, hard_negative). Values are random and belong to no one.
"""

from __future__ import annotations

import random
import string
from typing import Any

CHECKSUM_KINDS = ("resident_id", "bank_card", "uscc", "iban", "imei", "hk_id")
USCC = "0123456789ABCDEFGHJKLMNPQRTUWXY"
PROVINCES = [
    "11",
    "12",
    "13",
    "14",
    "15",
    "21",
    "22",
    "23",
    "31",
    "32",
    "33",
    "34",
    "35",
    "36",
    "37",
    "41",
    "42",
    "43",
    "44",
    "45",
    "46",
    "50",
    "51",
    "52",
    "53",
    "54",
    "61",
    "62",
    "63",
    "64",
    "65",
]


def digits(rng: random.Random, size: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(size))


def resident_id(rng: random.Random) -> str:
    body = f"{rng.choice(PROVINCES)}{rng.randint(1, 30):02d}{rng.randint(1, 30):02d}"
    body += f"{rng.randint(1940, 2015)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}{digits(rng, 3)}"
    total = sum(int(d) * (2 ** (17 - place) % 11) for place, d in enumerate(body))
    return body + "10X98765432"[total % 11]


def luhn(body: str) -> str:
    doubled = [int(d) * 2 if place % 2 == 0 else int(d) for place, d in enumerate(reversed(body))]
    return str((10 - sum(d // 10 + d % 10 for d in doubled) % 10) % 10)


def bank_card(rng: random.Random) -> str:
    lead, size = rng.choice([("622202", 19), ("621700", 19), ("622588", 16), ("625888", 16), ("4", 16), ("51", 16),
                             ("55", 16), ("37", 15)])  # fmt: skip
    body = lead + digits(rng, size - 1 - len(lead))
    return body + luhn(body)


def imei(rng: random.Random) -> str:
    body = rng.choice(["35", "86", "01"]) + digits(rng, 12)
    return body + luhn(body)


def uscc(rng: random.Random) -> str:
    body = f"91{rng.choice(PROVINCES)}{rng.randint(1, 30):02d}{rng.randint(1, 30):02d}"
    body += "".join(rng.choice(USCC) for _ in range(9))
    total = sum(USCC.index(c) * pow(3, place, 31) for place, c in enumerate(body))
    return body + USCC[(31 - total % 31) % 31]


def iban(rng: random.Random) -> str:
    country, size = rng.choice([("DE", 18), ("GB", 0), ("FR", 23), ("NL", 0), ("CH", 17)])
    account = {"GB": "NWBK" + digits(rng, 14), "NL": "ABNA" + digits(rng, 10)}.get(country) or digits(rng, size)
    number = int("".join(str(int(c, 36)) for c in account + country + "00"))
    return f"{country}{98 - number % 97:02d}{account}"


def hk_id(rng: random.Random) -> str:
    letter, body = rng.choice("ABCDEGHKMNPRSVWYZ"), digits(rng, 6)
    values = [36, ord(letter) - 55, *map(int, body)]
    check = -sum(weight * value for weight, value in zip(range(9, 1, -1), values, strict=True)) % 11
    return f"{letter}{body}({'0123456789A'[check]})"


def mobile(rng: random.Random) -> str:
    return "1" + rng.choice("3456789") + digits(rng, 9)


def off_by_one(value: str, rng: random.Random) -> str:
    """The last letter or digit, one further: what a slip of the finger makes."""
    at = len(value) - 2 if value.endswith(")") else len(value) - 1
    if value[:2].isalpha():  # an IBAN's check digits stand at its front
        at = 3
    letters = USCC if len(value) == 18 and value[0] == "9" and not value.isdigit() else string.digits
    old = value[at]
    new = letters[(letters.index(old) + 1) % len(letters)] if old in letters else "1"
    return value[:at] + new + value[at + 1 :]


def grouped(value: str, rng: random.Random) -> str:
    gap = rng.choice([" ", "-"])
    return gap.join(value[at : at + 4] for at in range(0, len(value), 4))


SURNAMES = (
    "李王张刘陈杨赵周吴徐孙朱郭何罗梁宋郑谢唐冯董萧曹袁邓许傅沈彭吕苏卢蒋蔡魏薛叶阎余"
    "潘杜戴夏钟汪田姜范石姚谭廖邹熊陆郝孔崔康毛邱秦顾侯邵孟龙段雷钱汤尹黎武贺赖龚"
)
GIVEN = (
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰红梅芬燕玲建国志文斌海波辉宁"
    "鹏飞浩宇轩然子涵梓萱欣怡雨晨思佳琪悦诗颖慧琳倩雪婷莹"
)
TOWNS = [
    "北京市海淀区",
    "上海市浦东新区",
    "广东省深圳市南山区",
    "浙江省杭州市西湖区",
    "四川省成都市武侯区",
    "江苏省南京市鼓楼区",
    "湖北省武汉市洪山区",
    "陕西省西安市雁塔区",
]
ROADS = [
    "中关村大街",
    "世纪大道",
    "深南大道",
    "文三路",
    "人民南路",
    "中山北路",
    "珞喻路",
    "长安南路",
    "解放路",
    "建设一路",
]
FIRST = [
    "James",
    "Mary",
    "Robert",
    "Linda",
    "Michael",
    "Susan",
    "David",
    "Karen",
    "Olga",
    "Priya",
    "Tomasz",
    "Aiko",
    "Kwame",
    "Ingrid",
    "Mateo",
    "Leila",
]
LAST = [
    "Smith",
    "Johnson",
    "Brown",
    "Kowalski",
    "Okafor",
    "Novak",
    "Lindqvist",
    "Tanaka",
    "Moreau",
    "Haddad",
    "Petrov",
    "Silva",
    "Walker",
    "Hughes",
]


def name_zh(rng: random.Random) -> str:
    return rng.choice(SURNAMES) + "".join(rng.choice(GIVEN) for _ in range(rng.choice((1, 2, 2))))


def address_zh(rng: random.Random) -> str:
    tail = rng.choice(
        [
            "",
            f"{rng.randint(1, 20)}号楼{rng.randint(101, 2500)}室",
            f"{rng.randint(1, 9)}栋{rng.randint(1, 4)}单元{rng.randint(101, 999)}",
        ]
    )
    return f"{rng.choice(TOWNS)}{rng.choice(ROADS)}{rng.randint(1, 999)}号{tail}"


def name_en(rng: random.Random) -> str:
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def address_en(rng: random.Random) -> str:
    road = rng.choice(["Baker Street", "Oak Avenue", "Mill Lane", "Station Road", "Park Drive"])
    return f"{rng.randint(1, 999)} {road}"


def birth_date(rng: random.Random) -> str:
    year, month, day = rng.randint(1935, 2015), rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice([f"{year}年{month}月{day}日", f"{year}-{month:02d}-{day:02d}", f"{year}.{month}.{day}"])


def birth_date_en(rng: random.Random) -> str:
    year, month, day = rng.randint(1935, 2015), rng.randint(1, 12), rng.randint(1, 28)
    named = rng.choice(["January", "May", "August", "Nov.", "Sep"])
    return rng.choice([f"{named} {day}, {year}", f"{day} {named} {year}", f"{month:02d}/{day:02d}/{year}"])


MAKERS: dict[str, Any] = {
    "resident_id": resident_id, "bank_card": bank_card, "uscc": uscc, "iban": iban, "imei": imei, "hk_id": hk_id,
    "mobile": mobile,
    "landline": lambda rng: f"{rng.choice(['010', '021', '0755', '0571'])}-{rng.randint(2, 8)}{digits(rng, 7)}",
    "email": lambda rng: f"{rng.choice('abcdefgh')}{digits(rng, 3)}.{rng.choice(LAST).lower()}@{rng.choice(['163.com', 'corp.cn', 'mail.example.co.uk'])}",
    "ip": lambda rng: f"{rng.choice([8, 47, 101, 114, 203])}.{rng.randint(1, 99)}.{rng.randint(1, 254)}.{rng.randint(1, 254)}",
    "mac": lambda rng: ":".join(f"{rng.randint(0, 255) & (254 if place == 0 else 255):02X}" for place in range(5)) + ":A1",
    "plate": lambda rng: f"{rng.choice('京沪粤川苏浙')}{rng.choice('ABCDEFG')}{digits(rng, 2)}{rng.choice('KLMN')}{digits(rng, 2)}",
    "us_ssn": lambda rng: f"{rng.randint(100, 665)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}",
    "uk_nino": lambda rng: f"AB{digits(rng, 6)}{rng.choice('ABCD')}",
    "phone": lambda rng: f"({rng.randint(201, 989)}) {rng.randint(201, 989)}-{digits(rng, 4)}",
    "passport": lambda rng: rng.choice("EG") + digits(rng, 8),
    "medical_record": lambda rng: f"ZY{rng.randint(2015, 2025)}{digits(rng, 5)}",
    "wechat": lambda rng: f"{rng.choice(['zhang', 'liu', 'moon'])}_{digits(rng, 4)}",
    "qq": lambda rng: rng.choice("123456789") + digits(rng, 8),
    "api_key": lambda rng: "sk-" + "".join(rng.choice(string.ascii_letters + string.digits) for _ in range(40)),
    "password": lambda rng: rng.choice(["Spring", "Kx!", "hunter"]) + digits(rng, 4) + rng.choice("!@#") + "z",
    "name_zh": name_zh, "address_zh": address_zh, "name_en": name_en, "address_en": address_en,
    "birth_date_zh": birth_date, "birth_date_en": birth_date_en,
}  # fmt: skip
WORDS: dict[str, list[str]] = {
    "resident_id": ["身份证号：{}，请核对。", "证件号码{}已登记", "申请人证件为 {} ，材料齐全", "His resident identity number is {}."],
    "bank_card": ["请转到卡号{}，谢谢", "我的银行卡 {} 丢了", "账户{}已冻结", "Please charge card {} for the stay.", "My Visa is {}."],
    "uscc": ["统一社会信用代码：{}", "税号{}，开票用", "该企业（{}）已注销", "The company's credit code is {}."],
    "iban": ["Transfer it to {} today.", "IBAN: {}", "收款账号 {} 为境外账户"],
    "imei": ["手机 IMEI {} 已锁定", "串号：{}", "The IMEI is {}."],
    "hk_id": ["香港身份证 {} 持有人", "HKID {} was shown."],
    "mobile": ["电话{}，下午有空", "联系我：{}", "收件人手机 {} 已通知", "{} 这个号码打不通", "Call my Chinese number {}."],
    "landline": ["办公电话 {}", "请拨打{}咨询", "座机：{}"],
    "email": ["邮箱{}，请查收", "Write to {} please.", "抄送 {} 一份", "E-mail: {}"],
    "ip": ["登录地址为 {}", "The request came from {}.", "来源IP：{}"],
    "mac": ["网卡 {} 已绑定", "device {} joined"],
    "plate": ["车牌{}违章停车", "{} 的车主请挪车"],
    "us_ssn": ["SSN {}", "My social security number is {}."],
    "uk_nino": ["National Insurance number {}", "NINO: {}"],
    "phone": ["Call me at {} tonight.", "Phone: {}", "Reach the office on {}."],
    "passport": ["护照号 {}", "passport {} expires soon"],
    "medical_record": ["住院号：{}", "病历号{}，请调阅"],
    "wechat": ["微信号：{}", "加我微信 {} 详谈"],
    "qq": ["QQ号：{}", "QQ: {} 常在线"],
    "api_key": ["export OPENAI_API_KEY={}", "密钥是 {} 别外传", "client = Client('{}')"],
    "password": ["密码：{}", "password={}", "the password is: {}"],
    "name_zh": ["联系人：{}，下午有空", "患者{}，女，45岁", "{}先生已到店", "姓名：{}", "法定代表人为{}。", "昨天{}把材料交了"],
    "address_zh": ["家住{}。", "收货地址：{}，请尽快", "我们在{}见面", "地址是{}"],
    "name_en": ["My name is {}.", "Dear Mr. {},", "Please ask {} about it.", "Patient {} was seen today."],
    "birth_date_zh": ["出生日期：{}", "生于{}，汉族", "患者，女，{}出生", "生日是{}。"],
    "birth_date_en": ["DOB: {}", "Date of birth: {}.", "He was born on {} in Leeds."],
    "address_en": ["I live at {}.", "Ship it to {}, please.", "Our office: {}"],
}  # fmt: skip
FILLERS = [
    "请在三个工作日内处理。",
    "谢谢配合！",
    "如有疑问再说。",
    "Thanks in advance.",
    "The rest is as agreed.",
    "他说这件事不急。",
    "",
]


def _hard_negative(rng: random.Random) -> str:
    d = digits
    return rng.choice([
        lambda: f"订单号：{d(rng, rng.choice((15, 16, 17, 18, 19)))}，已发货",
        lambda: f"订单编号 {resident_id(rng)}，规格 500ml*12",
        lambda: f"快递单号{mobile(rng)}，请查收",
        lambda: f"流水号：{bank_card(rng)}，金额 {rng.randint(1, 9999)}.00 元",
        lambda: f"共计{mobile(rng)}元",
        lambda: f"商品编号{d(rng, 15)}，价格 138.00 元",
        lambda: f"升级到 v{rng.randint(1, 20)}.{rng.randint(0, 99)}.{rng.randint(0, 9999)}.{rng.randint(0, 99)} 版本",
        lambda: f"version 10.0.{rng.randint(10000, 26000)}.{rng.randint(1, 999)}",
        lambda: (
            f"会议时间 2025-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d} {rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}"
        ),
        lambda: f"时间戳 {rng.randint(1_600_000_000, 1_799_999_999)}{d(rng, 3)}",
        lambda: f"圆周率约为 3.{d(rng, 16)}",
        lambda: f"sha1 {''.join(rng.choice('0123456789abcdef') for _ in range(40))}",
        lambda: f"id {d(rng, 8)}-{d(rng, 4)}-{d(rng, 4)}-{d(rng, 4)}-{d(rng, 12)}",
        lambda: f"ISBN 978-7-{d(rng, 3)}-{d(rng, 5)}-{d(rng, 1)}",
        lambda: f"doi:10.{d(rng, 4)}/{d(rng, 9)}",
        lambda: f"客服热线 400-{d(rng, 3)}-{d(rng, 4)}",
        lambda: f"网关 192.168.{rng.randint(0, 255)}.{rng.randint(1, 254)}，掩码 255.255.255.0",
        lambda: f"Order {d(rng, 16)} shipped; tracking number {d(rng, 18)}.",
        lambda: f"invoice {d(rng, 9)} dated 05/11/2024",
        lambda: f"合同自{rng.randint(1990, 2025)}年5月3日生效，事故发生于2021年3月{rng.randint(1, 28)}日",
        lambda: f"The meeting on May {rng.randint(1, 28)}, 2021 was moved.",
        lambda: f"我手机尾号{d(rng, 4)}，单号{d(rng, 15)}，13号之前能到吗？",
        lambda: "密码：<your_password>，token=${TOKEN}",
        lambda: "患者高血压十年，客户满意，老师和经理都在",
        lambda: f"工号{d(rng, 6)}，邮编{d(rng, 6)}，年份 {rng.randint(1990, 2025)}",
    ])()  # fmt: skip


def suite(seed: int = 7, num_each: int = 200) -> list[dict[str, Any]]:
    """`num_each` rows per kind, as many off-by-one rows per checksum kind, and 10 times as many hard negatives."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for maker, make in MAKERS.items():
        for _ in range(num_each):
            value = make(rng)
            if maker in ("bank_card", "iban") and rng.random() < 0.3:
                value = (
                    grouped(value, rng)
                    if maker == "bank_card"
                    else " ".join(grouped(value, rng).replace("-", " ").split())
                )
            rows.append(
                _row(maker.removesuffix("_zh").removesuffix("_en"), value, rng.choice(WORDS[maker]), rng, "valid")
            )
            if maker in CHECKSUM_KINDS:
                wrong = off_by_one(make(rng), rng)
                rows.append(_row(None, wrong, rng.choice(WORDS[maker]), rng, "bad_check"))
    for _ in range(num_each * 10):
        rows.append({"text": f"{_hard_negative(rng)} {rng.choice(FILLERS)}", "spans": [], "group": "hard_negative"})
    rng.shuffle(rows)
    return rows


def _row(kind: str | None, value: str, words: str, rng: random.Random, group: str) -> dict[str, Any]:
    before, behind = words.split("{}", 1)
    lead = rng.choice(FILLERS) + " "
    start = len(lead) + len(before)
    text = f"{lead}{before}{value}{behind} {rng.choice(FILLERS)}"
    spans = [[kind, start, start + len(value)]] if kind is not None else []
    return {"text": text, "spans": spans, "group": group}
