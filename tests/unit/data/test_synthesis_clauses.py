"""An answer's clause against the evidence's: duties, bounds, yes and no, parties; and truths said otherwise."""

from __future__ import annotations

import pytest

from danlu.data.synthesis.belonging import fault_of_belonging
from danlu.data.synthesis.clauses import fault_of_clauses
from danlu.data.synthesis.facts import Fault, fault_of_answer, fault_of_core
from teacher_kit import READING

MANAGERS = "Managers may not approve their own claims."
MEALS = "Employees of Acme Ltd may claim a meal allowance of 80 euros for each day of travel."
CONSENT = "A claim above 2,000 euros needs the consent of the finance director, Mary Miller."
FLIGHTS = "Flights longer than six hours may be booked in premium economy."
LUGGAGE = "The company pays for at most two pieces of luggage."
HOTELS = "Hotel rooms may cost up to 150 euros in Berlin and 120 euros in Hamburg."
FAIRS = "The limit does not apply to trade fairs."
RECEIPTS = "Receipts must be handed in within 30 days after the end of the trip."
MINORS = "用人单位不得招用未满十六周岁的未成年人。"
NOTICE = "劳动者解除劳动合同，应当提前三十日以书面形式通知用人单位。"
CHECKS = "单位负责人应当保证会计机构、会计人员依法履行职责，不得授意会计人员违法办理会计事项。"
LOCAL = "县级以上地方人民政府管理本行政区域内的会计工作。"
WEEK = "平均每周工作时间不超过四十四小时。"
LEAVE = "除本法另有规定外，劳动者每年享受带薪年休假。"
CARRIED = "没有休完的年假可以结转到次年3月31日，逾期清零。"


def fault_of(question: str, answer: str, evidence: str) -> Fault | None:
    return (
        fault_of_answer(answer, evidence, question, READING, support=0.65)
        or fault_of_core(question, answer, evidence, READING)
        or fault_of_belonging(question, answer, evidence, READING)
        or fault_of_clauses(question, answer, evidence)
    )


@pytest.mark.parametrize(
    "question, answer, evidence",
    [
        ("May managers approve their own claims?", "Yes.", MANAGERS),
        ("Does the hotel limit apply to trade fairs?", "Yes, it does.", FAIRS),
        ("Does the hotel limit apply to trade fairs?", "The limit applies to trade fairs.", FAIRS),
        ("用人单位可以招用未满十六周岁的未成年人吗？", "可以。", MINORS),
        ("用人单位是否不得招用未满十六周岁的未成年人？", "不是。", MINORS),
        ("劳动者解除劳动合同是否应当提前通知用人单位？", "不需要。", NOTICE),
        ("Which claims need consent?", "A claim below 2,000 euros needs the consent of the finance director.", CONSENT),
        ("Which claims need consent?", "All claims need the consent of the finance director, Mary Miller.", CONSENT),
        ("Which flights?", "Flights shorter than six hours may be booked in premium economy.", FLIGHTS),
        ("Which flights?", "Flights longer than six hours must be booked in premium economy.", FLIGHTS),
        ("Which flights may be booked in business class?", "Flights longer than six hours may be booked in business class.",
         FLIGHTS),
        ("每周工作多久？", "平均每周工作时间超过四十四小时。", WEEK),
        ("怎么办？", "可以提前三十日以书面形式通知用人单位。", NOTICE),
        ("怎么办？", "用人单位解除劳动合同，应当提前三十日以书面形式通知劳动者。", NOTICE),
        ("When?", "Receipts may be handed in within 30 days after the end of the trip.", RECEIPTS),
        ("When?", "Receipts must be handed in 30 days after the end of the trip.", RECEIPTS),
        ("What must employees hand in?", "Claims must be handed in within 30 days after the end of the trip.", RECEIPTS),
        ("How often is the meal allowance paid?", "80 euros for each trip.", MEALS),
        ("How much luggage is paid?", "The company pays for two pieces of luggage a day.", LUGGAGE),
        ("How much luggage is paid?", "The employee pays for at most two pieces of luggage.", LUGGAGE),
        ("How much may a hotel room in Hamburg cost?", "150 euros.", HOTELS),
        ("谁保证？", "会计人员应当保证会计机构、单位负责人依法履行职责。", CHECKS),
        ("如何追究？", "经营者提供商品或者服务，侵害消费者合法权益，构成犯罪的，自愿追究刑事责任。",
         "经营者提供商品或者服务，侵害消费者合法权益，构成犯罪的，依法追究刑事责任。"),
        ("怎么罚？", "由税务机关处以二千元以下一万元以下的罚款。", "由税务机关处以二千元以上一万元以下的罚款。"),
        ("领取营业执照前，合伙人可以从事合伙业务吗？", "可以。", "领取营业执照前，合伙人不得从事合伙业务。"),
        ("谁管理？", "乡级以上地方人民政府管理本行政区域内的会计工作。", LOCAL),
        ("谁享受带薪年休假？", "劳动者每年享受带薪年休假。", LEAVE),
    ],
)  # fmt: skip
def test_a_lie_by_one_small_word_is_refused(question: str, answer: str, evidence: str) -> None:
    assert fault_of(question, answer, evidence) is not None


@pytest.mark.parametrize(
    "question, answer, evidence",
    [
        ("May managers approve their own claims?", "No.", MANAGERS),
        ("Does the hotel limit apply to trade fairs?", "No, it does not apply to trade fairs.", FAIRS),
        ("用人单位可以招用未满十六周岁的未成年人吗？", "不可以。", MINORS),
        ("用人单位是否不得招用未满十六周岁的未成年人？", "是的。", MINORS),
        ("劳动者解除劳动合同是否应当提前通知用人单位？", "应当，要提前三十日书面通知。", NOTICE),
        ("Which claims need consent?", "Claims of more than 2,000 euros.", CONSENT),
        ("Which flights?", "Flights of more than six hours may be booked in premium economy.", FLIGHTS),
        ("每周工作多久？", "平均每周最多四十四小时。", WEEK),
        ("每周最多工作多久？", "每周工作时间不得超过四十四小时。", WEEK),
        ("How much may a hotel room in Hamburg cost?", "A hotel room in Hamburg may cost up to 120 euros.", HOTELS),
        ("How much is the meal allowance?", "It is 80 euros for each day of travel.", MEALS),
        ("When?", "Receipts must be submitted within 30 days after the trip.", RECEIPTS),
        ("谁管理？", "县级以上地方人民政府。", LOCAL),
        ("谁享受带薪年休假？", "除另有规定外，劳动者每年享受带薪年休假。", LEAVE),
        ("年假结转到什么时候？", "年假结转到次年3月31日。", CARRIED),
    ],
)
def test_a_truth_in_other_small_words_stands(question: str, answer: str, evidence: str) -> None:
    assert fault_of(question, answer, evidence) is None
