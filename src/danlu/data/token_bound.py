"""How many tokens a text has at least, for the price of counting its bytes: no token holds more bytes than the longest.

Sure, or not said at all. Said of byte-complete BPE vocabularies whose normalizer and pre-tokenizer leave nothing out
(Llama 3, Qwen, Mistral, Gemma and their like); spaces are not counted, for a control token may swallow any number of
them. Bytes are counted in classes too: Qwen's longest word has dozens of letters, but no token has two digits.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_BYTES = bytes(range(256))
_SPACES = bytes((*range(0x09, 0x0E), *range(0x1C, 0x21)))
_LETTERS = bytes((*range(0x41, 0x5B), *range(0x61, 0x7B)))
_DIGITS = bytes(range(0x30, 0x3A))
_HIGH = bytes(range(0x80, 0x100))
_DROPPED = tuple(bytes(sorted(set(_BYTES) - set(kept))) for kept in (_LETTERS, _DIGITS, _HIGH))
_ONE_BYTE = re.compile("<0x([0-9A-F]{2})>")
_KEEPING = frozenset(("ByteLevel", "Digits", "Metaspace", "Whitespace", "WhitespaceSplit"))
"""Pre-tokenizers that leave out nothing but spaces."""


class TokenBound:
    """`TokenBound.of(tokenizer_json, added)`, then `least(text)`."""

    def __init__(self, most: tuple[int, ...]) -> None:
        self._most = most
        """Bytes of each class that one token has at most."""

    @classmethod
    def of(cls, content: Mapping[str, Any], added: Iterable[str]) -> TokenBound | None:
        """None where nothing is sure. `content` is a tokenizer.json's, `added` the tokens outside its merges."""
        letters = _letters_of(content)
        if letters is None:
            return None
        words = [_bytes_of(token, letters) for token in content["model"]["vocab"]]
        counted = map(_counted, (*words, *(token.encode() for token in added)))
        return cls(tuple(map(max, zip(*counted, strict=True))))

    def least(self, text: str) -> int:
        found = _solid(text)
        if not unicodedata.is_normalized("NFC", text):  # a normalizer may do that: it takes bytes away, or adds some
            found = tuple(map(min, found, _solid(unicodedata.normalize("NFC", text))))
        return max(-(-num // most) for num, most in zip(found, self._most, strict=True) if most)


def _bytes_of(token: str, letters: Mapping[str, int]) -> bytes:
    if (byte := _ONE_BYTE.fullmatch(token)) is not None and not letters:
        return bytes.fromhex(byte[1])
    return bytes(map(letters.__getitem__, token)) if letters.keys() >= set(token) else token.encode()


def _solid(text: str) -> tuple[int, ...]:
    return _counted("".join(text.split()).encode("utf-8", "surrogatepass"))


def _counted(data: bytes) -> tuple[int, ...]:
    solid = data.translate(None, _SPACES)
    return (len(solid), *(len(solid.translate(None, dropped)) for dropped in _DROPPED))


def _letters_of(content: Mapping[str, Any]) -> dict[str, int] | None:
    """Which byte each letter of the vocabulary stands for, if it is a byte-level one. None where a text's bytes need
    not all be in its tokens."""
    model = content["model"]
    before = [*_flat(content.get("normalizer"), "normalizers")]
    cuts = [*_flat(content.get("pre_tokenizer"), "pretokenizers")]
    if model.get("type", "BPE") != "BPE" or not all(map(_composes, before)) or not all(map(_keeps, cuts)):
        return None
    vocabulary = model["vocab"]
    if any(cut["type"] == "ByteLevel" for cut in cuts):
        letters = _byte_letters()
        return letters if vocabulary.keys() >= letters.keys() else None
    is_complete = model.get("byte_fallback") and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    return {} if is_complete else None


def _flat(part: Mapping[str, Any] | None, members: str) -> Iterator[Mapping[str, Any]]:
    if part is not None:
        if part["type"] == "Sequence":
            for inner in part[members]:
                yield from _flat(inner, members)
        else:
            yield part


def _composes(normalizer: Mapping[str, Any]) -> bool:
    """Whether what it leaves out is spaces, or what NFC does."""
    is_space = normalizer.get("pattern") == {"String": " "}
    return normalizer["type"] in ("NFC", "Prepend") or (normalizer["type"] == "Replace" and is_space)


def _keeps(cut: Mapping[str, Any]) -> bool:
    return cut["type"] in _KEEPING or (cut["type"] in ("Split", "Punctuation") and cut.get("behavior") != "Removed")


def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are themselves, the others letters from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + at): byte for at, byte in enumerate(hidden)}
