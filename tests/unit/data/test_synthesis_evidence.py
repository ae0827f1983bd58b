"""A quote is found where it stands, however it was typed, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.synthesis.evidence import Quotable, Span

TEXT = "第三条　员工年假为 15 天，\n满 10 年者为 2.5 周。See the “Red Book” (v2.1): 1,000 yuan, –5 °C; C++ is fine."


@pytest.mark.parametrize(
    "quote, found",
    [
        ("员工年假为 15 天", "员工年假为 15 天"),
        ("员工年假为15天,满10年者为2.5周", "员工年假为 15 天，\n满 10 年者为 2.5 周"),
        ("see the 'red book' v2.1", "See the “Red Book” (v2.1"),
        ("1000 yuan", "1,000 yuan"),
        ("１，０００ YUAN", "1,000 yuan"),
        ("-5°c", "–5 °C"),
        ("c++ IS fine", "C++ is fine"),
    ],
)
def test_width_case_spaces_and_marks_do_not_matter(quote: str, found: str) -> None:
    place = Quotable(TEXT).find(quote)
    assert place is not None and TEXT[place.start : place.end] == found


@pytest.mark.parametrize(
    "quote",
    [
        "5 天",
        "5 周",
        "员工年假为 16 天",
        "25周",
        "the Red Boo",
        "0 年",
        "000 yuan",
        "",
        "  ",
        "。",
        "满 10 年者为 2,5 周",
    ],
)
def test_what_is_not_there_is_not_found(quote: str) -> None:
    """ "5 天" stands inside "15 天": half a number is no evidence."""
    assert Quotable(TEXT).find(quote) is None


def test_a_quote_with_omissions_needs_all_its_parts() -> None:
    quotable = Quotable(TEXT)
    start, other = TEXT.index("满 10"), TEXT.index("1,000")
    assert quotable.find_all("满 10 年者…1,000 yuan") == [Span(start, start + 7), Span(other, other + 10)]
    assert quotable.find_all("满 10 年者…2,000 yuan") is None
    assert quotable.find_all("……") is None


@given(st.text(alphabet="年假十15.,，。 \nab(%-–“”　Ａ１", min_size=1, max_size=40), st.data())
def test_a_span_holds_what_was_quoted(text: str, data: st.DataObject) -> None:
    """Any slice of any text is found, unless it cuts a number or a word, and what is found folds alike."""
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    quotable = Quotable(text)
    place = quotable.find(text[start:end])
    if place is not None:
        assert 0 <= place.start < place.end <= len(text)
        again = Quotable(text[place.start : place.end])
        assert again.find(text[start:end]) is not None


@given(st.text(max_size=60), st.text(max_size=20))
def test_no_text_breaks_it(text: str, quote: str) -> None:
    place = Quotable(text).find(quote)
    assert place is None or 0 <= place.start < place.end <= len(text)
