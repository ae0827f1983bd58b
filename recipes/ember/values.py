"""Random values by kind, in Chinese and English: 1,350元, 3个工作日, 18:30, room B-207 and so on.

A fact keeps one written form wherever it is stated, so that copying it exactly is the thing to learn.
"""

from __future__ import annotations

import random
from collections.abc import Callable

SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林罗高郑梁谢宋唐许韩冯邓曹彭曾萧田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤"
GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超霞平刚桂英华文建国志红玉兰海燕晨宇浩然子轩雨欣梦琪佳怡思远博文天佑嘉豪诗涵一鸣俊熙雪梅春秋月婷婷晓东立新振宁家辉永康慧珍小龙若曦景行承泽望舒书瑶锦程知秋云帆"
FIRST = "Alice Ben Carla David Emma Frank Grace Henry Irene Jack Kate Liam Mona Nina Oscar Paula Quentin Rosa Sam Tina Umar Vera Will Xenia Yusuf Zoe Anna Bruno Chloe Dylan Elsa Felix Greta Hugo Ivy Jonas Karin Leo Maya Noah Olga Peter Ruth Simon Tara Victor Wendy Adam Bella Colin".split()  # noqa: E501
LAST = "Smith Jones Brown Taylor Wilson Evans Walker Wright Hall Green Wood Clarke Hughes Turner Hill Moore Cooper Ward Carter Parker Bell Bailey Reed Cook Morgan Gray Shaw Palmer Mills Webb Stone Fox Hunt Rose Lane Page West Marsh Boyd Nash Okafor Silva Novak Haddad Kimura Larsen Moretti Rossi Weber Duval".split()  # noqa: E501
DEPTS_ZH = "行政部 人事部 人力资源部 财务部 法务部 信息部 技术部 市场部 销售部 采购部 后勤处 总务处 办公室 客服中心 运营部 质量部 安全部 仓储部 研发中心 审计部 档案室 公关部 培训中心 战略部".split()
DEPTS_EN = [
    "Finance",
    "Human Resources",
    "Legal",
    "IT",
    "Facilities",
    "Marketing",
    "Sales",
    "Purchasing",
    "Operations",
    "Quality",
    "the General Office",
    "Customer Care",
    "Audit",
    "Logistics",
]
WEEK_ZH = ["周一", "周二", "周三", "周四", "周五", "周六", "周日", "星期一", "星期二", "星期三", "星期四", "星期五"]
WEEK_EN = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
CITIES_ZH = "北京 上海 广州 深圳 成都 杭州 武汉 南京 西安 重庆 苏州 天津 青岛 长沙 郑州 大连 厦门 昆明 合肥 福州 济南 哈尔滨 沈阳 贵阳 兰州 桂林 洛阳 扬州 绍兴 烟台".split()  # noqa: E501
CITIES_EN = "London Leeds York Bristol Dublin Paris Berlin Rome Madrid Boston Chicago Denver Austin Seattle Toronto Sydney Oslo Vienna Prague Lisbon Cairo Nairobi Tokyo Seoul Lima".split()  # noqa: E501
JOBS = {
    "zh": "医生 教师 厨师 司机 工程师 画家 护士 律师 记者 农民 会计 木匠 程序员 翻译 摄影师 裁缝 飞行员 警察 演员 园丁".split(),
    "en": "doctor;teacher;chef;driver;engineer;painter;nurse;lawyer;reporter;farmer;accountant;carpenter;translator;tailor;pilot;actor;gardener;baker".split(
        ";"
    ),  # noqa: E501
}
HOBBIES = {
    "zh": "钓鱼 下棋 爬山 游泳 摄影 书法 跑步 做饭 看电影 养花 弹吉他 打篮球 骑车 集邮 画画 唱歌 织毛衣 观星".split(),
    "en": "fishing;chess;hiking;swimming;taking photos;calligraphy;running;cooking;gardening;playing the guitar;cycling;painting;singing;knitting;stargazing".split(
        ";"
    ),  # noqa: E501
}
FOODS = {
    "zh": "红烧肉 饺子 麻婆豆腐 牛肉面 火锅 糖醋鱼 番茄炒蛋 小笼包 烤鸭 酸辣粉 蛋炒饭 米线 馄饨 羊肉串 凉皮 鱼香肉丝".split(),
    "en": "pizza;noodle soup;roast chicken;apple pie;fried rice;curry;pancakes;fish and chips;dumplings;lasagne;salad;onion soup;sushi;tacos".split(
        ";"
    ),  # noqa: E501
}
CHANNELS = {
    "zh": "在办公系统提交申请|填写纸质申请表|发邮件给主管|通过手机应用申请|当面向主管说明|在钉钉上发起审批|在企业微信里填写|到前台登记|打电话预约|由部门统一上报|在内网下载表格后签字|扫描二维码登记|提前写书面说明|到服务窗口办理".split(
        "|"
    ),  # noqa: E501
    "en": "use the staff portal|fill in the paper form|e-mail your manager|use the mobile app|speak to your supervisor|submit a ticket|sign up at the front desk|call to book|write in the shared calendar|scan the QR code|ask at the service window".split(
        "|"
    ),  # noqa: E501
}
TRANSPORT = {
    "zh": "高铁二等座 高铁一等座 飞机经济舱 飞机商务舱 普通火车硬卧 动车二等座 长途客车 轮船二等舱 公司班车 地铁和公交".split(),
    "en": "economy class;business class;second-class train;first-class train;company shuttle;coach;public transport;premium economy".split(
        ";"
    ),  # noqa: E501
}
YESNO = {
    "zh": ["允许", "不允许", "可以", "不可以", "禁止", "经批准后可以", "原则上不允许", "不支持", "支持"],
    "en": ["allowed", "not allowed", "allowed with approval", "forbidden", "permitted", "not permitted"],
}
PATHS = {
    "zh": "设置 账户 隐私 通知 显示 高级 安全 通用 存储 同步 声音 语言".split(),
    "en": "Settings;Account;Privacy;Notifications;Display;Advanced;Security;General;Storage;Sync;Sound;Language".split(
        ";"
    ),
}
PETS = {
    "zh": "豆豆 花花 旺财 咪咪 雪球 来福 小黑 团子 阿福 球球 布丁 可乐 年糕 毛毛 芝麻".split(),
    "en": "Bella Rex Milo Luna Coco Daisy Rocky Ginger Pepper Snowy Biscuit Teddy".split(),
}
UNITS = {
    "g": ("克", " g"),
    "kg": ("公斤", " kg"),
    "ml": ("毫升", " ml"),
    "gb": ("GB", " GB"),
    "mb": ("MB", " MB"),
    "cm": ("厘米", " cm"),
    "km": ("公里", " km"),
    "mm": ("毫米", " mm"),
    "kmh": ("公里/小时", " km/h"),
    "decibel": ("分贝", " dB"),
    "age": ("岁", " years"),
    "score": ("分", " points"),
    "floor": ("楼", ""),
    "chars": ("位", " characters"),
}
RANGES = {
    "gb": (1, 200),
    "mb": (2, 900),
    "cm": (5, 195),
    "km": (2, 60),
    "kmh": (5, 80),
    "decibel": (45, 95),
    "age": (3, 80),
    "score": (50, 95),
    "floor": (1, 40),
    "chars": (6, 24),
}

Draw = Callable[[random.Random, str], str]


def _number(rng: random.Random) -> int:
    """Round sums mostly, odd ones often enough that digits must be copied, not guessed."""
    style = rng.random()
    if style < 0.35:
        return rng.randint(1, 60) * 10
    if style < 0.55:
        return rng.randint(1, 60) * 100
    if style < 0.65:
        return rng.randint(1, 30) * 1000
    if style < 0.85:
        return rng.randint(5, 999)
    return rng.randint(1000, 99999)


def money(rng: random.Random, lang: str) -> str:
    number = _number(rng)
    grouped = f"{number:,}" if rng.random() < 0.2 else str(number)
    if lang == "zh":
        return rng.choice((f"{grouped}元", f"{grouped}元", f"{grouped} 元", f"人民币{grouped}元", f"{grouped}元整"))
    return rng.choice((f"{grouped} yuan", f"${grouped}", f"{grouped} dollars", f"€{grouped}", f"{grouped} RMB"))


def _per(period_zh: str, period_en: str) -> Draw:
    def draw(rng: random.Random, lang: str) -> str:
        number = rng.choice((rng.randint(1, 60) * 5, rng.randint(1, 50) * 10, rng.randint(5, 999)))
        if lang == "zh":
            return rng.choice((f"每{period_zh}{number}元", f"{number}元/{period_zh}", f"每{period_zh} {number} 元"))
        return rng.choice((f"{number} yuan a {period_en}", f"${number} per {period_en}", f"{number} yuan/{period_en}"))

    return draw


def _span_of(zh: tuple[str, ...], en: tuple[str, ...], top: int) -> Draw:
    def draw(rng: random.Random, lang: str) -> str:
        number = rng.randint(1, top) if rng.random() < 0.7 else rng.choice((7, 10, 15, 20, 24, 30, 45, 48, 60, 90))
        units = zh if lang == "zh" else en
        unit = rng.choice(units)
        if lang == "zh":
            return f"{number}{unit}" if rng.random() < 0.8 else f"{number} {unit}"
        return f"{number} {unit if number != 1 else unit[:-1]}"

    return draw


def clock(rng: random.Random, lang: str) -> str:
    hour, minute = rng.randint(6, 23), rng.choice((0, 0, 30, 30, 15, 45, 10, 20, 40, 50, 5))
    half = hour % 12 or 12
    if lang == "zh":
        part = "上午" if hour < 12 else "下午" if hour < 18 else "晚上"
        spoken = f"{part}{half}点" + (f"{minute}分" if minute else "")
        return rng.choice((f"{hour}:{minute:02d}", f"{hour:02d}:{minute:02d}", spoken))
    return rng.choice((f"{hour}:{minute:02d}", f"{half}:{minute:02d} {'a.m.' if hour < 12 else 'p.m.'}"))


def span(rng: random.Random, lang: str) -> str:
    start, length = rng.randint(6, 14), rng.randint(1, 9)
    first, last = rng.choice(("00", "30", "15")), rng.choice(("00", "30", "45"))
    joint = rng.choice(("至", "-", "—", "到")) if lang == "zh" else rng.choice(("-", " to "))
    return f"{start}:{first}{joint}{start + length}:{last}"


def date(rng: random.Random, lang: str) -> str:
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    if lang == "zh":
        return rng.choice((f"每月{day}日", f"每月{day}号", f"{month}月{day}日", f"{month}月{day}日前"))
    return rng.choice((f"{MONTHS[month - 1]} {day}", f"{day} {MONTHS[month - 1]}", f"day {day} of each month"))


def person(rng: random.Random, lang: str) -> str:
    if lang == "zh":
        return rng.choice(SURNAMES) + "".join(rng.sample(GIVEN, rng.choice((1, 2, 2))))
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def place(rng: random.Random, lang: str) -> str:
    floor, room = rng.randint(1, 20), rng.randint(1, 30)
    letter, number = rng.choice("ABCDEF"), rng.randint(1, 12)
    if lang == "zh":
        side = rng.choice(("东侧", "西侧", "南门旁", "电梯口", "大厅", "走廊尽头", "楼梯旁", "前台旁"))
        return rng.choice(
            (f"{number}号楼{floor}层", f"{letter}座{floor}楼", f"{floor}楼{side}", f"{floor}{room:02d}室")
            + (
                f"{letter}栋{floor}{room:02d}",
                f"{rng.choice(('行政', '综合', '教学', '办公', '服务'))}楼{floor}层{side}",
            )
        )
    return rng.choice(
        (f"room {floor}{room:02d}", f"building {letter}, floor {floor}", f"floor {floor}, next to the lift")
    )


def phone(rng: random.Random, lang: str) -> str:
    digits = "".join(rng.choice("0123456789") for _ in range(8))
    short = str(rng.randint(1000, 9999))
    if lang == "zh":
        return rng.choice(
            (short, f"分机{short}", f"400-{digits[:3]}-{digits[3:7]}", f"0{rng.randint(10, 99)}-{digits}")
        )
    return rng.choice((short, f"extension {short}", f"ext. {short}", f"555-{short}"))


def email(rng: random.Random, lang: str) -> str:
    name = rng.choice("hr help service info office jobs support contact care audit feedback books news desk".split())
    host = "".join(rng.choice(("ba", "lin", "ko", "ra", "mei", "to", "su", "ne", "hua", "yi")) for _ in range(3))
    return f"{name}@{host}.{rng.choice(('com', 'cn', 'org', 'net'))}"


def word(rng: random.Random, lang: str) -> str:
    part = "".join(rng.choice("abcdefghjkmnpqrstuvwxyz") for _ in range(rng.randint(3, 6)))
    part = part.upper() if rng.random() < 0.4 else part
    return f"{part}{rng.randint(1, 9999)}"


def code(rng: random.Random, lang: str) -> str:
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(2))
    return f"{letters}{rng.choice(('', '-'))}{rng.randint(100, 9999)}"


def _pick(options: dict[str, list[str]]) -> Draw:
    return lambda rng, lang: rng.choice(options[lang])


def _percent(rng: random.Random, lang: str) -> str:
    return f"{rng.choice((rng.randint(1, 99), rng.randint(1, 20) * 5))}%"


DRAWS: dict[str, Draw] = {
    "money": money,
    "moneyday": _per("天", "day"),
    "moneymonth": _per("月", "month"),
    "moneypage": _per("页", "page"),
    "percent": _percent,
    "percent2": lambda rng, lang: f"{rng.randint(1, 7)}.{rng.randint(1, 99):02d}%",
    "times": lambda rng, lang: f"{rng.choice(('1.5', '2', '2.5', '3', '1.2'))}{'倍' if lang == 'zh' else ' times'}",
    "days": _span_of(("天", "天", "日", "个工作日", "个自然日"), ("days", "days", "working days"), 30),
    "hours": _span_of(("小时", "个小时"), ("hours",), 72),
    "minutes": _span_of(("分钟",), ("minutes",), 90),
    "months": _span_of(("个月",), ("months",), 24),
    "years": _span_of(("年",), ("years",), 30),
    "time": clock,
    "span": span,
    "date": date,
    "weekday": lambda rng, lang: f"每{rng.choice(WEEK_ZH)}" if lang == "zh" else rng.choice(WEEK_EN),
    "year": lambda rng, lang: f"{rng.randint(1880, 2024)}{'年' if lang == 'zh' else ''}",
    "person": person,
    "dept": _pick({"zh": DEPTS_ZH, "en": DEPTS_EN}),
    "place": place,
    "room": lambda rng, lang: f"{rng.choice('ABCDEFGH')}{rng.randint(1, 60)}",
    "path": lambda rng, lang: " > ".join(rng.sample(PATHS[lang], 2)),
    "phone": phone,
    "email": email,
    "yesno": _pick(YESNO),
    "channel": _pick(CHANNELS),
    "transport": _pick(TRANSPORT),
    "word": word,
    "word2": _pick(PETS),
    "code": code,
    "version": lambda rng, lang: f"{rng.choice(('Android', 'iOS', 'Windows', 'Linux'))} {rng.randint(5, 18)}",
    "city": _pick({"zh": CITIES_ZH, "en": CITIES_EN}),
    "job": _pick(JOBS),
    "hobby": _pick(HOBBIES),
    "food": _pick(FOODS),
    "temp": lambda rng, lang: (
        f"{rng.choice((rng.randint(16, 32), rng.randint(14, 24) * 10))}{'℃' if lang == 'zh' else ' °C'}"
    ),
    "times_day": lambda rng, lang: f"每天{rng.randint(1, 5)}次" if lang == "zh" else f"{rng.randint(2, 5)} times a day",
}


def draw(kind: str, rng: random.Random, lang: str) -> str:
    """A random value of a kind; `count:UNIT` and `choice:a,b,c` carry their own argument."""
    base, _, argument = kind.partition(":")
    if base == "choice":
        return rng.choice(argument.split(","))
    if base == "count":
        number = rng.randint(1, 12) if rng.random() < 0.7 else rng.randint(10, 500)
        return f"{number}{argument}" if lang == "zh" else f"{number} {argument}"
    if base in UNITS:
        low, high = RANGES.get(base, (1, 500))
        number = rng.randint(low, high)
        number = number if base not in ("g", "ml") else number * 5
        return f"{number}{UNITS[base][0]}" if lang == "zh" else f"{number}{UNITS[base][1]}".strip()
    return DRAWS[base](rng, lang)
