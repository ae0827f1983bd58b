"""Pieces of a growing text: characters whole, stop strings unseen, the sum equal to the whole."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from danlu.data.encode import Encoder
from danlu.data.tokenizer import Tokenizer
from danlu.engines.detokenizer import REPLACEMENT, Detokenizer
from danlu.model.hub import find_base

LLAMA = Path(__file__).parents[4] / "shared/data/tiny_weights/llama2_tokenizer.model"


def decode(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


def stream_all(content: bytes, stop: tuple[str, ...] = ()) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(decode, stop)
    pieces = []
    for end in range(1, len(content) + 1):
        stopped = detokenizer.feed(content[:end])
        pieces.append(detokenizer.new_text())
        if stopped:
            break
    return [*pieces, detokenizer.new_text(is_last=True)], detokenizer


def test_a_character_of_several_bytes_is_said_once_and_whole() -> None:
    pieces, _ = stream_all("补贴😀80".encode())
    assert [piece for piece in pieces if piece] == ["补", "贴", "😀", "8", "0"]


def test_a_stop_string_is_never_shown_even_in_part() -> None:
    pieces, detokenizer = stream_all("答案。\n\nQ: next".encode(), ("\n\nQ:", "zzz"))
    assert "".join(pieces) == "答案。" == detokenizer.text and detokenizer.is_stopped


def test_the_beginning_of_a_stop_string_that_goes_on_otherwise_is_shown_late() -> None:
    pieces, detokenizer = stream_all(b"ab##c", ("###",))
    assert "".join(pieces) == "ab##c" and not detokenizer.is_stopped and "".join(pieces[:4]) == "ab"


@given(st.text(max_size=30), st.lists(st.sampled_from(["a", "。", "\n\n", "ab", "😀!"]), max_size=3, unique=True))
def test_pieces_join_to_the_text(text: str, stop: list[str]) -> None:
    pieces, detokenizer = stream_all(text.encode("utf-8", errors="replace"), tuple(stop))
    assert "".join(pieces) == detokenizer.text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text or "?" in text
    assert not any(string in detokenizer.text for string in stop)


@given(st.binary(max_size=20))
def test_bytes_that_are_no_text_are_said_in_the_end(content: bytes) -> None:
    pieces, detokenizer = stream_all(content)
    assert "".join(pieces) == detokenizer.text == decode(list(content)).strip()


@functools.cache
def bytewise() -> Encoder:
    return Encoder(Tokenizer.load(find_base("ember")), None)


@functools.cache
def worded() -> tokenizers.Tokenizer:
    """Words with a space before each, characters of bytes where no word is: Llama 2's way, as tokenizer.json says it."""
    words = ["<unk>", *(f"<0x{n:02X}>" for n in range(256)), "▁", "▁a", "b", "▁你", "好", "▁▁", "."]
    found = tokenizers.Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, [], byte_fallback=True))
    found.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return found


def feed_all(detokenizer: Detokenizer, ids: Sequence[int]) -> list[str]:
    texts = []
    for end in range(1, len(ids) + 1):
        detokenizer.feed(ids[:end], is_last=end == len(ids))
        texts.append(detokenizer.text)
    return texts


@given(st.data(), st.text(max_size=40))
def test_of_bytes_each_growth_is_the_whole_answers(data: st.DataObject, text: str) -> None:
    """Any ids, control tokens and halves of characters among them, and those of any text, end with the stop token."""
    encoder = bytewise()
    odd = data.draw(st.lists(st.integers(0, encoder.tokenizer.vocab_size - 1), max_size=12))
    ids = [*(n for n in odd if n not in encoder.stop_ids), *encoder.tokenizer.encode_text(text), max(encoder.stop_ids)]
    detokenizer = Detokenizer(encoder.tokenizer.decode, (), encoder.stop_ids)
    assert feed_all(detokenizer, ids) == [encoder.answer_text(ids[:end]) for end in range(1, len(ids) + 1)]


@given(st.lists(st.one_of(st.integers(257, 263), st.sampled_from([*map(ord, "a\n"), 0xE4, 0xBD, 0xA0]))))
def test_of_words_with_spaces_each_growth_is_the_whole_answers_or_better(ids: list[int]) -> None:
    """The decoder makes nothing of a run of bytes as long as its last character is not whole; what was whole before
    stays told here. In the end both are the same."""
    ids = [n if n > 256 else n + 1 for n in ids]
    detokenizer = Detokenizer(worded().decode)
    for text, end in zip(feed_all(detokenizer, ids), range(1, len(ids) + 1), strict=True):
        wanted = worded().decode(ids[:end]).strip()
        assert text == wanted or (end < len(ids) and REPLACEMENT in wanted)


@pytest.mark.skipif(not LLAMA.is_file(), reason="no tokenizer of Llama's at hand")
@given(st.text(max_size=40), st.lists(st.integers(3, 31_999), max_size=12))
def test_of_sentencepiece_the_text_is_the_whole_answers(text: str, odd: list[int]) -> None:
    tokenizer = llama()
    ids = [*odd, *tokenizer.encode_text(text)]
    detokenizer = Detokenizer(tokenizer.decode)
    texts = feed_all(detokenizer, ids)
    assert not ids or texts[-1] == tokenizer.decode(ids).strip()
    for end in range(1, len(ids)):
        wanted = tokenizer.decode(ids[:end]).strip()
        assert texts[end - 1] == wanted or REPLACEMENT in wanted


@functools.cache
def llama() -> Tokenizer:
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp())
    shutil.copy(LLAMA, folder / "tokenizer.model")
    return Tokenizer.load(folder)


def test_a_long_answer_is_not_decoded_again_for_each_token() -> None:
    encoder, decoded = bytewise(), []

    def counting(ids: Sequence[int]) -> str:
        decoded.append(len(ids))
        return encoder.tokenizer.decode(ids)

    ids = encoder.tokenizer.encode_text("报销要附上发票。 Please keep the receipt! 😀 " * 40)
    feed_all(Detokenizer(counting), ids)
    assert len(ids) > 400 and sum(decoded) < 12 * len(ids)
