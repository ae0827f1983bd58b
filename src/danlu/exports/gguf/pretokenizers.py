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
_CASED_LETTERS = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-"
    "\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-"
    "\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-"
    "\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-"
    "\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2"
    "\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-"
    "\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb"
    "\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_MARKS = r"\s?[!-/:-~" + "\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
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
        ("Split", "[\r\n]"), ("Split", r"\s?[" + _CASED_LETTERS + "]+"), ("Split", _DEEPSEEK_MARKS), ("Split", r"\s+$"),
        ("Split", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"), ("Digits", True), _BYTES,
    ): "deepseek-llm",
}  # fmt: skip
"""Steps of a pre-tokenizer to llama.cpp's name. A `Split` isolates what its rule matches. For `gpt-4o` and `tekken` it
cuts scripts whose letters carry combining marks (Khmer, Thai) otherwise; Chinese and English are the same."""

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
