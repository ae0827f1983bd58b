"""What a teacher said, as both kinds of teacher keep it: from the cache of answers, and without its thinking."""

from __future__ import annotations

from danlu.data.synthesis.teacher import Reply
from danlu.engines.cache import AnswerCache
from danlu.engines.thinking import drop_thinking


def found_reply(cache: AnswerCache, key: str) -> Reply | None:
    """The answer that was given to this very request before."""
    entry = cache.find(key)
    if entry is None or entry.get("finish") not in ("stop", "length"):
        return None
    return Reply(entry["text"], entry["finish"])


def without_thinking(text: str) -> str:
    """An answer without its thinking, also where a template swallowed the opening mark."""
    text = drop_thinking(text)
    if "</think>" in text and "<think>" not in text:
        text = text.rpartition("</think>")[2]
    return text.strip()
