"""Normalisation decides who was right: every pair here once let a wrong answer pass, or failed a right one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.evaluation.fold import agree, final_answer, find, fold, overlap_f1
from danlu.evaluation.numerals import parse_chinese

SAME = [
    ("80元", "８０ 元"),
    ("80元", "¥80"),
    ("80元", "RMB 80"),
    ("80元", "八十元"),
    ("80元", "80块钱"),
    ("80 yuan", "Eighty yuan."),
    ("1,200元", "1200元"),
    ("1200元", "一千二百元"),
    ("35000元", "3.5万元"),
    ("35000元", "三万五千元"),
    ("3万5千元", "三万五千元"),
    ("350", "三百五"),
    ("305", "三百零五"),
    ("120元", "壹佰贰拾元"),
    ("5%", "百分之五"),
    ("0.5%", "百分之零点五"),
    ("0.50%", "0.5 percent"),
    ("80.00元", "80元"),
    ("09:00", "9:00"),
    ("9:00", "九点"),
    ("6:30", "六点半"),
    ("2024-03-05", "2024年3月5日"),
    ("二〇二四年三月五日", "2024/3/5"),
    ("两天", "2天"),
    ("第三条", "第3条"),
    ("3-5天", "3至5天"),
    ("3-5万元", "3万-5万元"),
    ("三到五天", "3到5天"),
    ("3.5 million yuan", "350万元"),
    ("5 thousand", "5,000"),
    ("twenty-five days", "25 days"),
    ("two hundred and fifty", "250"),
    ("1 day", "one day"),
    ("the Finance Department", "finance department"),
    ("don’t", "don't"),
    ("“是的。”", "是的"),
]

DIFFERENT = [
    ("80元", "180元"),
    ("80元", "800元"),
    ("80元", "80天"),
    ("80", "80%"),
    ("5", "-5"),
    ("8.0", "80"),
    ("3.10节", "3.1节"),
    ("三四天", "34天"),
    ("十分满意", "10分满意"),
    ("万一", "10001"),
    ("10²", "102"),
    ("1½", "11/2"),
    ("100，200", "100200"),
    ("notable", "no table"),
    ("007", "7"),
    ("A4", "4"),
    ("2千克", "2000克"),
    ("可以", "不可以"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_value_in_two_notations_folds_alike(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_values_stay_different(one: str, other: str) -> None:
    assert fold(one) != fold(other)


@pytest.mark.parametrize(
    ("needle", "text", "is_there"),
    [
        ("80元", "出差每天补贴80元。", True),
        ("80元", "出差每天补贴180元。", False),
        ("80元", "出差每天补贴800元。", False),
        ("8", "18", False),
        ("8", "8.5", False),
        ("8", "8，谢谢", True),
        ("80元", "50-80元", False),
        ("50", "50-80元", False),
        ("80元", "80元到100元", False),
        ("100元", "80 yuan to 100 yuan", False),
        ("80元", "补贴80元至2026年底", True),
        ("80元", "不是80元，是100元", False),
        ("80元", "不超过80元", True),
        ("80 yuan", "It is not 80 yuan.", False),
        ("80 yuan", "The allowance is ¥80.00 a day", True),
        ("cat", "category", False),
        ("7天", "第一年7天年假", True),
        ("7天", "17天", False),
        ("3个月", "试用期为三个月", True),
        ("-5", "零下 -5 度", True),
        ("5", "-5 度", False),
    ],
)
def test_a_value_is_found_only_as_itself(needle: str, text: str, is_there: bool) -> None:
    assert (find(fold(needle), fold(text)) >= 0) is is_there


@given(st.integers(min_value=11, max_value=99_999_999))
def test_every_whole_number_survives_chinese_spelling(number: int) -> None:
    assert parse_chinese(_spell(number)) == number


def _spell(number: int) -> str:
    """Standard Chinese spelling, written independently of the parser."""
    digits, names = "零一二三四五六七八九", ("", "十", "百", "千")

    def below_myriad(part: int) -> str:
        text, pending = "", False
        for place in (3, 2, 1, 0):
            digit = part // 10**place % 10
            if digit:
                text += ("零" if pending and text else "") + digits[digit] + names[place]
                pending = False
            else:
                pending = True
        return text

    high, low = divmod(number, 10_000)
    text = f"{below_myriad(high)}万" if high else ""
    if low:
        text += ("零" if high and low < 1000 else "") + below_myriad(low)
    return text


@given(st.text(max_size=60))
def test_folding_never_fails_and_ignores_space_around(text: str) -> None:
    assert fold(f"  {text}\n") == fold(text)


def test_overlap_counts_characters_and_words() -> None:
    assert overlap_f1(fold("年假七天"), fold("年假七天")) == 1.0
    assert overlap_f1(fold("a b c d"), fold("c d e f")) == pytest.approx(0.5)  # 2 common of 4 and 4
    assert overlap_f1((), fold("x")) == 0.0


def test_same_words_with_other_numbers_do_not_agree() -> None:
    assert agree(["补贴是80元", "补贴是80元。", "补贴是 80 元"])
    assert not agree(["补贴是80元", "补贴是80元", "补贴是180元"])


def test_thinking_is_not_part_of_the_answer() -> None:
    assert final_answer("<think>maybe 180 yuan</think>\n80 yuan") == "80 yuan"
    assert final_answer("maybe 180</think>80 yuan") == "80 yuan"
