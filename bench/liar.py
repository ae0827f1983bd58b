"""A second liar for grounding.py: one small word turned, wrong parties, wrong yes and no; and truths.

Each case is (question, evidence, truth, lies...). Chinese lies are made of a text's own sentences, one word exchanged.
"""

# ruff: noqa: E501, SIM905 - tables of cases

from __future__ import annotations

import re
from collections.abc import Iterator

MEALS = "Employees of Acme Ltd may claim a meal allowance of 80 euros for each day of travel."
RECEIPTS = "Receipts must be handed in within 30 days after the end of the trip."
MANAGERS = "Managers may not approve their own claims."
CONSENT = "A claim above 2,000 euros needs the consent of the finance director, Mary Miller."
FLIGHTS = "Flights longer than six hours may be booked in premium economy."
CHILDREN = "Employees who travel with children must not book business class."
LUGGAGE = "The company pays for at most two pieces of luggage."
HOTELS = "Hotel rooms may cost up to 150 euros in Berlin and 120 euros in Hamburg."
FAIRS = "The limit does not apply to trade fairs."

ENGLISH: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = [
    ("May managers approve their own claims?", MANAGERS,
     ("No.", "No, managers may not approve their own claims.", "No, they may not."),
     ("Yes, managers may approve their own claims.", "Yes.", "Yes, they may.")),
    ("Who may not approve claims?", MANAGERS, ("Managers may not approve their own claims.",),
     ("Managers may approve claims of nobody.", "Employees may not approve their own claims.")),
    ("How much may a hotel room in Hamburg cost?", HOTELS,
     ("120 euros.", "Up to 120 euros.", "A hotel room in Hamburg may cost up to 120 euros."),
     ("A hotel room may cost up to 150 euros.", "150 euros.", "Hotel rooms must cost 120 euros in Hamburg.")),
    ("When must receipts be handed in?", RECEIPTS,
     ("Within 30 days after the end of the trip.", "Receipts must be handed in within 30 days after the trip ends."),
     ("Receipts must be handed in within 30 days before the end of the trip.",
      "Receipts must be handed in 30 days after the trip.", "Receipts may be handed in within 30 days after the trip.")),
    ("What must employees hand in?", RECEIPTS, ("Receipts.", "They must hand in receipts within 30 days."),
     ("Claims must be handed in within 30 days after the end of the trip.",)),
    ("Who may claim the meal allowance?", MEALS, ("Employees of Acme Ltd.", "Employees of Acme Ltd may claim it."),
     ("Employees must claim a meal allowance of 80 euros for each day of travel.",
      "Managers of Acme Ltd may claim a meal allowance of 80 euros for each day of travel.")),
    ("How much is the meal allowance?", MEALS, ("80 euros a day.", "It is 80 euros for each day of travel."),
     ("80 euros for each trip.", "80 euros a week.", "Employees may claim 80 euros for every journey.")),
    ("Which claims need the consent of the finance director?", CONSENT,
     ("Claims above 2,000 euros.", "A claim of more than 2,000 euros needs the consent of the finance director."),
     ("A claim below 2,000 euros needs the consent of the finance director.",
      "All claims need the consent of the finance director, Mary Miller.", "Claims of at most 2,000 euros.")),
    ("Who has to consent to a claim above 2,000 euros?", CONSENT, ("The finance director, Mary Miller.",),
     ("A claim above 2,000 euros needs the consent of the sales director, Mary Miller.",)),
    ("Which flights may be booked in premium economy?", FLIGHTS,
     ("Flights longer than six hours.", "Flights of more than six hours may be booked in premium economy."),
     ("Flights shorter than six hours may be booked in premium economy.",
      "Flights longer than six hours may not be booked in premium economy.",
      "Flights longer than six hours must be booked in premium economy.")),
    ("Which flights may be booked in business class?", FLIGHTS, (),
     ("Flights longer than six hours may be booked in business class.",)),
    ("Can employees with children book business class?", CHILDREN,
     ("No, employees who travel with children must not book business class.", "No."),
     ("Employees who travel without children must not book business class.", "Yes.",
      "Employees who travel with children must book business class.",
      "Employees who travel with children need not book business class.")),
    ("How much luggage is paid?", LUGGAGE,
     ("The company pays for at most two pieces of luggage.", "At most two pieces.", "Up to two pieces of luggage."),
     ("The company pays for at least two pieces of luggage.", "The employee pays for at most two pieces of luggage.",
      "The company pays for two pieces of luggage a day.", "The company pays for more than two pieces of luggage.")),
    ("Does the hotel limit apply to trade fairs?", FAIRS, ("No, it does not apply to trade fairs.", "No."),
     ("The limit applies to trade fairs.", "Yes, it does.", "The limit does apply only to trade fairs, not to hotels.")),
    ("What is Mary Miller's limit?", CONSENT, (), ("Mary Miller may claim 80 euros.",)),
]  # fmt: skip

WEEK = "劳动者每日工作时间不超过八小时，平均每周工作时间不超过四十四小时。"
NOTICE = "劳动者解除劳动合同，应当提前三十日以书面形式通知用人单位。"
MINORS = "用人单位不得招用未满十六周岁的未成年人。"
CHECKS = "单位负责人应当保证会计机构、会计人员依法履行职责，不得授意会计人员违法办理会计事项。"
REST = "用人单位应当保证劳动者每周至少休息一日。"
CHINESE: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = [
    ("用人单位可以招用未满十六周岁的未成年人吗？", MINORS, ("不可以。", "不可以，用人单位不得招用未满十六周岁的未成年人。"),
     ("可以。", "可以招用。", "是的，可以招用。")),
    ("用人单位是否不得招用未满十六周岁的未成年人？", MINORS, ("是的。", "是，不得招用。"), ("不是。", "否，可以招用。")),
    ("劳动者解除劳动合同是否应当提前通知用人单位？", NOTICE, ("是的。", "应当，要提前三十日书面通知。"), ("不需要。", "否。")),
    ("劳动者解除劳动合同怎么办？", NOTICE,
     ("应当提前三十日以书面形式通知用人单位。", "提前三十日书面通知用人单位。"),
     ("可以提前三十日以书面形式通知用人单位。", "应当提前三十日以口头形式通知用人单位。",
      "用人单位解除劳动合同，应当提前三十日以书面形式通知劳动者。", "不必提前三十日以书面形式通知用人单位。")),
    ("每周工作多久？", WEEK, ("平均每周不超过四十四小时。", "平均每周最多四十四小时。", "每周工作时间不得超过四十四小时。"),
     ("平均每周工作时间超过四十四小时。", "平均每月工作时间不超过四十四小时。", "平均每周工作时间不少于四十四小时。")),
    ("谁保证会计人员依法履行职责？", CHECKS, ("单位负责人。", "单位负责人应当保证会计人员依法履行职责。"),
     ("会计人员应当保证会计机构、单位负责人依法履行职责。", "单位负责人可以保证会计机构、会计人员依法履行职责。")),
    ("劳动者每周休息多久？", REST, ("每周至少休息一日。", "至少一日。"), ("每周至多休息一日。", "每月至少休息一日。")),
]  # fmt: skip

TURNED = [tuple(pair.split(">")) for pair in (
    "应当>可以 应当>不必 可以>应当 不得>可以 必须>不必 以上>以下 至少>至多 或者>并且 用人单位>劳动者 劳动者>用人单位 国务院>省级人民政府 "
    "每周>每月 每日>每周 全部>部分 之前>之后 以内>以外 依法>自愿 有权>无权 禁止>鼓励 延长>缩短 提前>推迟 不超过>超过 本人>亲属 书面>口头 "
    "财政部门>税务部门 单位负责人>会计人员 会计人员>单位负责人 女职工>男职工 未成年>成年 县级以上>乡级以上 解除>签订 违反>遵守 真实>虚假 "
    "及时>随时 增加>减少 高于>低于 低于>高于 优先>最后 情节严重>情节轻微 依照>不依照 同意>反对"
).split()]  # fmt: skip


def turned(text: str) -> Iterator[tuple[str, str, str, bool, str]]:
    """(question, answer, evidence, is it true, what was done) for every fitting sentence of a Chinese text."""
    for given in re.split(r"(?<=。)\s*", text):
        sentence = re.sub(r"^(?:#.*\n+)*第[一二三四五六七八九十百]+条[\s\u3000]*", "", given.strip())
        if not 18 < len(sentence) < 90 or "\n" in sentence:
            continue
        asked = f"关于“{sentence[:9]}”有什么规定？"
        yield asked, sentence, sentence, True, "as it stands"
        for one, other in TURNED:
            if one in sentence:
                yield asked, sentence.replace(one, other, 1), sentence, False, f"{one}>{other}"
        if found := re.match(r"^(.{4,20}?)(应当|不得|可以|必须)(.*)$", sentence):
            duty = "可以" if found[2] in ("不得", "可以") else found[2]
            polar = f"{found[1]}{duty}{found[3][:20].rstrip('，。；')}吗？"
            is_so = found[2] != "不得"
            yield polar, "是的。", sentence, is_so, "yes"
            yield polar, "不可以。" if duty == "可以" else "不是。", sentence, not is_so, "no"
        if (dropped := re.sub(r"除[^，]{2,30}外，?", "", sentence)) != sentence:
            yield asked, dropped, sentence, False, "exception"


def told() -> Iterator[tuple[str, str, str, bool, str]]:
    """The written cases of both languages."""
    for cases, name in ((ENGLISH, "en"), (CHINESE, "zh")):
        for question, evidence, truths, lies in cases:
            for truth in truths:
                yield question, truth, evidence, True, name
            for lie in lies:
                yield question, lie, evidence, False, name
