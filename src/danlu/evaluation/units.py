"""Units of measure as people write them, in Chinese and English: which of them are one thing, and by what factor.

A table, no code: dimension, then unit by factor to the dimension's first unit. What is not here is a counter of its own
(12人, 3 copies) and equals only itself. Months and years are no days; a working day is no day; currencies are not
exchanged. 斤 is half a kilogram, 亩 is 2000/3 m².
"""

from __future__ import annotations

from fractions import Fraction

_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "1": "米 公尺 m metre metres meter meters", "1/1000": "毫米 mm millimetre millimetres millimeter millimeters",
        "1/100": "厘米 公分 cm centimetre centimetres centimeter centimeters", "1/10": "分米 dm",
        "1000": "千米 公里 km kms kilometre kilometres kilometer kilometers", "500": "里地 华里",
        "1/1000000": "微米 μm um", "1/1000000000": "纳米 nm", "1852": "海里 nmi",
        "0.0254": "英寸 吋 inch inches", "0.3048": "英尺 foot feet ft", "0.9144": "码 yard yards",
        "1609.344": "英里 mile miles",
    },
    "area": {
        "1": "平方米 平米 平方公尺 m² m^2 m2 ㎡ sqm square-metre square-metres square-meter square-meters",
        "1000000": "平方公里 平方千米 km² km^2 km2", "2000/3": "亩", "10000": "公顷 hectare hectares ha",
        "1/10000": "平方厘米 cm² cm^2 cm2", "0.09290304": "平方英尺 sqft square-foot square-feet",
        "4046.8564224": "英亩 acre acres",
    },
    "volume": {
        "1": "升 公升 l litre litres liter liters",
        "1/1000": "毫升 ml millilitre millilitres milliliter milliliters cc",
        "1000": "立方米 方 m³ m^3 m3", "1/1000000": "微升 μl ul", "3.785411784": "加仑 gallon gallons",
    },
    "mass": {
        "1": "克 g gram grams", "1000": "千克 公斤 kg kgs kilogram kilograms kilo kilos", "500": "斤 市斤", "50": "两",
        "1/1000": "毫克 mg milligram milligrams", "1/1000000": "微克 μg ug mcg",
        "1000000": "吨 公吨 t tonne tonnes ton tons", "453.59237": "磅 pound pounds lb lbs",
        "28.349523125": "盎司 ounce ounces oz",
    },
    "time": {
        "1": "秒 秒钟 s sec secs second seconds", "60": "分 分钟 min mins minute minutes",
        "3600": "小时 个小时 钟头 个钟头 h hr hrs hour hours",
        "86400": "天 日 d day days calendar-day calendar-days 自然日 个自然日",
        "604800": "周 星期 个星期 礼拜 个礼拜 week weeks", "1/1000": "毫秒 ms", "1/1000000": "微秒 μs us",
    },
    "working days": {"1": "个工作日 工作日 working-day working-days business-day business-days"},
    "months": {
        "1": "个月 month months", "12": "年 周年 year years yr yrs", "3": "个季度 季度 quarter quarters"
    },
    "age": {"1": "岁 周岁 year-old years-old"},
    "percent": {
        "1": "% percent per-cent 个百分点 百分点 percentage-point percentage-points", "1/10": "‰ permille", "10": "成",
    },
    "CNY": {"1": "元 块 块钱 元钱 圆 人民币 rmb cny yuan ¥", "1/10": "角 毛", "1/100": "分钱"},
    "USD": {"1": "$ 美元 美金 usd dollar dollars us-dollar us-dollars", "1/100": "美分 cent cents"},
    "EUR": {"1": "欧元 € eur euro euros"},
    "GBP": {"1": "英镑 £ gbp"},
    "JPY": {"1": "日元 日圆 jpy yen"},
    "HKD": {"1": "港元 港币 hkd hk$"},
    "temperature": {"1": "℃ °c 摄氏度 celsius degrees-celsius degree-celsius"},
    "temperature F": {"1": "℉ °f 华氏度 fahrenheit degrees-fahrenheit"},
    "angle": {"1": "° degrees 角度"},
    "speed": {
        "1": "米/秒 m/s 米每秒", "5/18": "公里/小时 千米/小时 km/h kmh kph 公里每小时 千米每小时", "0.44704": "mph",
    },
    "frequency": {"1": "赫兹 赫 hz", "1000": "千赫 khz", "1000000": "兆赫 mhz", "1000000000": "吉赫 ghz"},
    "energy": {
        "1": "焦耳 焦 j joule joules", "1000": "千焦 kj", "3600000": "千瓦时 kwh", "4.184": "卡 卡路里 cal",
        "4184": "千卡 大卡 kcal",
    },
    "power": {"1": "瓦 瓦特 w watt watts", "1000": "千瓦 kw", "1000000": "兆瓦 mw"},
    "voltage": {"1": "伏 伏特 v volt volts", "1000": "千伏 kv", "1/1000": "毫伏 mv"},
    "current": {"1": "安 安培 a ampere amperes amp amps", "1/1000": "毫安 ma"},
    "pressure": {"1": "帕 pa 帕斯卡", "1000": "千帕 kpa", "1000000": "兆帕 mpa", "100000": "巴 bar"},
    "data": {
        "1": "字节 byte bytes b", "1000": "kb", "1000000": "mb 兆", "1000000000": "gb", "1000000000000": "tb",
        "1024": "kib", "1048576": "mib", "1073741824": "gib", "1099511627776": "tib",
    },
    "times": {"1": "倍 times-as fold"},
}  # fmt: skip

UNITS: dict[str, tuple[str, Fraction]] = {
    name.replace("-", " "): (dimension, Fraction(factor))
    for dimension, factors in _TABLE.items()
    for factor, names in factors.items()
    for name in names.split()
}
"""Unit, lower case → (dimension, how many of the dimension's own unit it is)."""

SCALES: dict[str, int] = {
    "十": 10, "百": 100, "千": 1000, "万": 10**4, "十万": 10**5, "百万": 10**6, "千万": 10**7, "亿": 10**8,
    "十亿": 10**9, "百亿": 10**10, "千亿": 10**11, "万亿": 10**12, "k": 1000,
    "thousand": 1000, "hundred": 100,
    "million": 10**6, "mn": 10**6, "billion": 10**9, "bn": 10**9, "trillion": 10**12,
}  # fmt: skip
"""Words that multiply the number before them."""

COUNTERS = frozenset(
    "人名位个次回份张台套件间层楼条项款章节篇页本册部辆家所户门种类级档"
    "步行字题道只头棵瓶盒包袋箱桶颗粒片期届批轮笔遍场班组票桌间度点号月"
)
"""Chinese measure words: 12人 and 12次 are two things, 12个 is whatever was asked for."""
