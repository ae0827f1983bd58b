"""The quick look before mending: it may suspect too much, and must miss nothing."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from danlu.data.mend import SUSPECT
from danlu.data.suspects import SIGNS, suspect_lines

WILD = st.text(
    st.one_of(
        st.characters(exclude_characters="\n"),
        st.sampled_from("\x00\x0c\x7f\x80\xe9\xff\u200b\u2060\ufeff\uffff\ud800鐨锟斤拷·°中a\U0001f600"),
    ),
    max_size=12,
)


@given(st.lists(WILD, min_size=1, max_size=8))
def test_no_line_that_mend_would_touch_is_missed(lines: list[str]) -> None:
    found = suspect_lines("\n".join(lines), len(lines))
    for line, is_suspect in zip(lines, found, strict=True):
        assert is_suspect or not SUSPECT.search(line)


def test_every_sign_of_the_expression_is_known_here() -> None:
    """Somebody adds a sign to `mend` and the quick look lets it pass."""
    for code in [*range(0x3000), *range(0xD800, 0x10000), *map(ord, re.findall("[一-鿿]", SUSPECT.pattern))]:
        if SUSPECT.search(chr(code)):
            assert suspect_lines(chr(code), 1) == [True], hex(code)
    assert all(suspect_lines(sign, 1) == [True] for sign in SIGNS)


def test_plain_text_in_two_languages_is_not_suspect() -> None:
    assert suspect_lines("普通的中文，café 20°C\nplain English\r\n\t\U0001f600", 3) == [False, False, False]


def test_what_stands_behind_a_backslash_is_suspect() -> None:
    assert suspect_lines('{"a": "\\u200b"}\n{"a": "b\\n"}', 2) == [True, False]
