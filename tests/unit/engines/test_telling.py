"""Pieces of a growing text: characters whole, stop strings unseen, the sum equal to the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from danlu.engines.telling import Teller


def decode(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


def tell_all(content: bytes, stop: tuple[str, ...] = ()) -> tuple[list[str], Teller]:
    teller = Teller(decode, stop)
    pieces = []
    for end in range(1, len(content) + 1):
        stopped = teller.hear(content[:end])
        pieces.append(teller.tell())
        if stopped:
            break
    return [*pieces, teller.tell(is_last=True)], teller


def test_a_character_of_several_bytes_is_said_once_and_whole() -> None:
    pieces, _ = tell_all("补贴😀80".encode())
    assert [piece for piece in pieces if piece] == ["补", "贴", "😀", "8", "0"]


def test_a_stop_string_is_never_shown_even_in_part() -> None:
    pieces, teller = tell_all("答案。\n\nQ: next".encode(), ("\n\nQ:", "zzz"))
    assert "".join(pieces) == "答案。" == teller.text and teller.is_stopped


def test_the_beginning_of_a_stop_string_that_goes_on_otherwise_is_shown_late() -> None:
    pieces, teller = tell_all(b"ab##c", ("###",))
    assert "".join(pieces) == "ab##c" and not teller.is_stopped and "".join(pieces[:4]) == "ab"


@given(st.text(max_size=30), st.lists(st.sampled_from(["a", "。", "\n\n", "ab", "😀!"]), max_size=3, unique=True))
def test_pieces_join_to_the_text(text: str, stop: list[str]) -> None:
    pieces, teller = tell_all(text.encode("utf-8", errors="replace"), tuple(stop))
    assert "".join(pieces) == teller.text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text or "?" in text
    assert not any(string in teller.text for string in stop)


@given(st.binary(max_size=20))
def test_bytes_that_are_no_text_are_said_in_the_end(content: bytes) -> None:
    pieces, teller = tell_all(content)
    assert "".join(pieces) == teller.text == decode(list(content))
