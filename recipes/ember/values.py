"""Random values by kind, in Chinese and English: 1,350元, 3个工作日, 18:30, room B-207 and so on.

A fact keeps one written form wherever it is stated, so that copying it exactly is the thing to learn.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from recipes.ember.lexicon import words

MAILBOXES = (
    "hr",
    "help",
    "service",
    "info",
    "office",
    "jobs",
    "support",
    "contact",
    "care",
    "audit",
    "feedback",
    "desk",
)
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
    name = words("en_month")[month - 1]
    return rng.choice((f"{name} {day}", f"{day} {name}", f"day {day} of each month"))


def person(rng: random.Random, lang: str) -> str:
    if lang == "zh":
        return rng.choice(words("zh_surname")) + "".join(rng.sample(words("zh_given"), rng.choice((1, 2, 2))))
    return f"{rng.choice(words('en_first'))} {rng.choice(words('en_last'))}"


def place(rng: random.Random, lang: str) -> str:
    floor, room = rng.randint(1, 20), rng.randint(1, 30)
    letter, number = rng.choice("ABCDEF"), rng.randint(1, 12)
    if lang == "zh":
        side = rng.choice(("东侧", "西侧", "南门旁", "电梯口", "大厅", "走廊尽头", "楼梯旁", "前台旁"))
        house = rng.choice(("行政", "综合", "教学", "办公", "服务"))
        flat = f"{floor}{room:02d}"
        sides = (f"{floor}楼{side}", f"{house}楼{floor}层{side}", f"{letter}座{floor}楼", f"{number}号楼{floor}层")
        return rng.choice((*sides, f"{flat}室", f"{letter}栋{flat}"))
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
    name = rng.choice(MAILBOXES)
    host = "".join(rng.choice(("ba", "lin", "ko", "ra", "mei", "to", "su", "ne", "hua", "yi")) for _ in range(3))
    return f"{name}@{host}.{rng.choice(('com', 'cn', 'org', 'net'))}"


def word(rng: random.Random, lang: str) -> str:
    part = "".join(rng.choice("abcdefghjkmnpqrstuvwxyz") for _ in range(rng.randint(3, 6)))
    part = part.upper() if rng.random() < 0.4 else part
    return f"{part}{rng.randint(1, 9999)}"


def code(rng: random.Random, lang: str) -> str:
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(2))
    return f"{letters}{rng.choice(('', '-'))}{rng.randint(100, 9999)}"


def _pick(section: str) -> Draw:
    return lambda rng, lang: rng.choice(words(f"{lang}_{section}"))


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
    "weekday": lambda rng, lang: f"{'每' if lang == 'zh' else ''}{rng.choice(words(f'{lang}_week'))}",
    "year": lambda rng, lang: f"{rng.randint(1880, 2024)}{'年' if lang == 'zh' else ''}",
    "person": person,
    "dept": _pick("dept"),
    "place": place,
    "room": lambda rng, lang: f"{rng.choice('ABCDEFGH')}{rng.randint(1, 60)}",
    "path": lambda rng, lang: " > ".join(rng.sample(words(f"{lang}_menu"), 2)),
    "phone": phone,
    "email": email,
    "yesno": _pick("yesno"),
    "channel": _pick("channel"),
    "transport": _pick("transport"),
    "word": word,
    "word2": _pick("pet"),
    "code": code,
    "version": lambda rng, lang: f"{rng.choice(('Android', 'iOS', 'Windows', 'Linux'))} {rng.randint(5, 18)}",
    "city": _pick("city"),
    "job": _pick("job"),
    "hobby": _pick("hobby"),
    "food": _pick("food"),
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
