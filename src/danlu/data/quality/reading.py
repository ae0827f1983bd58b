"""A sample as the report reads it: what is asked, what is answered, in which language."""

from __future__ import annotations

import re

from danlu.data.sample import Document, Label, Message, Preference, Sample
from danlu.data.texts import answer_at

_HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0002ffff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_HANGUL = re.compile(r"[\uac00-\ud7af]")
_EASTERN = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_LETTER = re.compile(r"[A-Za-zÀ-ɏ]")
_SEEN = 160
"""Characters from which a language is told: enough for a share of scripts, cheap enough for millions of rows."""


def asked_and_answered(sample: Sample) -> tuple[str, str]:
    """What stands before the last answer, and that answer; a document has no prompt, of a pair the chosen counts."""
    match sample:
        case Document():
            return sample.title, sample.text
        case Label():
            return sample.text, sample.label
        case Preference():
            return _said(sample.prompt), _said(sample.chosen)
    turns = sample.messages
    last = answer_at(turns)
    return _said(turns[:last]), _said(turns[last : last + 1])


def language_of(text: str) -> str:
    """zh, en, ja, ko, mixed (Chinese and Latin, neither below a fifth), or other; by script alone, so `en` means Latin.

    A Chinese character weighs about as much as three letters of a word."""
    seen = text[:_SEEN]
    if seen.isascii():
        return "en" if _LETTER.search(seen) else "other"
    han, latin = 3 * len(_HAN.findall(seen)), len(_LETTER.findall(seen))
    if _EASTERN.search(seen):
        kana, hangul = 3 * len(_KANA.findall(seen)), 3 * len(_HANGUL.findall(seen))
        if kana > 0.1 * (han + latin):
            return "ja"
        if hangul > max(han, latin):
            return "ko"
    if not han + latin:
        return "other"
    share = han / (han + latin)
    return "zh" if share > 0.8 else "mixed" if share >= 0.2 else "en"


def _said(turns: tuple[Message, ...]) -> str:
    if len(turns) == 1:
        return turns[0].content or _calls(turns[0])
    return "\n".join(f"[{turn.role}] {turn.content or _calls(turn)}" for turn in turns)


def _calls(turn: Message) -> str:
    return " ".join(str(call) for call in turn.tool_calls)
