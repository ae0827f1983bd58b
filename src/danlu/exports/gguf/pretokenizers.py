"""How llama.cpp calls the ways in which byte-level BPE cuts a text before merging. Data, no code of theirs.

A checkpoint's way is read from its tokenizer.json and looked up by what it does, not by whose model it is: a vocabulary
trained on the spot has the name that its rules have. What is not listed is refused: a wrong name loads, and answers
nonsense only where the rules differ.
"""

from __future__ import annotations

from typing import Any

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CASED = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = ("ByteLevel", False)
_GPT2 = ("ByteLevel", True)

NAMES: dict[tuple[Any, ...], str] = {
    (_GPT2,): "gpt-2",
    (("Digits", True), _GPT2): "smollm",
    (("Split", _CONTRACTIONS + _WORD + r"|\p{N}{1,3}" + _TAIL), _BYTES): "llama-bpe",
    (("Split", _CASED + _WORD + r"|\p{N}{1,3}" + _TAIL), _BYTES): "llama-bpe",
    (("Split", _CONTRACTIONS + _WORD + r"|\p{N}" + _TAIL), _BYTES): "qwen2",
    (("Split", _CASED + _WORD + r"|\p{N}" + _TAIL), _BYTES): "qwen2",
    (("Split", _O200K), _BYTES): "gpt-4o",
    (("Split", _TEKKEN), _BYTES): "tekken",
    (
        ("Split", r"[\r\n]"), ("Split", r"\s?\p{L}+"), ("Split", r"\s?\p{P}+"),
        ("Split", "[一-龥ࠀ-一가-퟿]+"), ("Digits", True), _BYTES,
    ): "deepseek-llm",
}  # fmt: skip
"""Steps of a pre-tokenizer to llama.cpp's name. A `Split` isolates what its rule matches."""

WITHOUT_MERGES = {"llama-bpe": "dbrx"}
"""Names under which a word that is a token as a whole is not looked up before merging (`ignore_merges: false`)."""


def steps_of(pre_tokenizer: dict[str, Any] | None) -> tuple[Any, ...]:
    """A pre-tokenizer of tokenizer.json as a key of NAMES; what is not known there stands in it under its type."""
    if pre_tokenizer is None:
        return ()
    kind = pre_tokenizer["type"]
    if kind == "Sequence":
        return tuple(step for part in pre_tokenizer["pretokenizers"] for step in steps_of(part))
    if kind == "ByteLevel" and not pre_tokenizer.get("add_prefix_space"):
        return (("ByteLevel", bool(pre_tokenizer.get("use_regex", True))),)
    if kind == "Digits":
        return (("Digits", bool(pre_tokenizer.get("individual_digits"))),)
    if kind == "Split" and pre_tokenizer.get("behavior") == "Isolated" and not pre_tokenizer.get("invert"):
        pattern = pre_tokenizer["pattern"]
        return (("Split", pattern.get("Regex", pattern.get("String"))),)
    return ((kind, str(sorted(pre_tokenizer.items()))),)
