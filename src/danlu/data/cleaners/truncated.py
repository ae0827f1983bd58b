"""truncated: answers and documents that break off. Only what shows it: a text that ends without a full stop may be a
title, a name or a table, and most short answers are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from danlu.data.cleaners.cleaner import Batch, Finding
from danlu.data.joined import Laid, Places
from danlu.data.sample import Label

_LEAST = 120
"""Characters from which a text is expected to end like prose, if it is prose."""
_DANGLING = re.compile(
    r"(?:(?<![.。])[-—–](?<!--)(?<!——)|(?<![A-Za-z'])(?:and|or|but|because|the|a|an|of|to|with|that|which|is|are)"
    r"|(?:[，。；、])(?:和|与|及|或|以及|但是|因为|所以|如果|并且|而且|例如|其中|包括))$",
    re.I,
)
_OPEN = frozenset(",，、;；(（[【“‘《「『")
_CLOSED = re.compile(r"[.。!！?？…~～:：\"'”’」』》)）\]】}>|`*_=]\s*$|[\U0001f300-\U0001faff☀-➿]\s*$")
_ENDS = frozenset(".。!！?？\"'”’」』》)）]】}>")
_STOP = re.compile(r"[.。!！?？；;](?:\s|$|[一-鿿”’」』）)])")
_LIST = re.compile(r"^\s*(?:[-*+•·|#>$]|\d{1,3}[.)、．]|[（(]?[一二三四五六七八九十\d]{1,3}[)）、]|https?://|www\.|\\)")


class Truncated:
    name = "truncated"

    def key(self) -> dict[str, Any]:
        return {"version": 1}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        found: dict[int, Finding] = {}
        fenced = {text >> 1 for text in batch.texts_at(_fence_at(batch.laid)) if text & 1}
        for row, text in enumerate(batch.body):
            if text[-1:] in _ENDS and row not in fenced:
                continue  # nearly all
            if (
                len(text) >= _LEAST
                and not isinstance(batch.samples[row], Label)
                and (how := _broken(text, row in fenced))
            ):
                found[row] = Finding(how)
        return found


def _fence_at(laid: Laid) -> Places:
    ticks = laid.at_any("`")
    found: Places = ticks[:-2][ticks[2:] == ticks[:-2] + 2]
    return found


def _broken(text: str, is_fenced: bool) -> str | None:
    """The reason, or None for a text that ends as texts do."""
    if is_fenced and text.count("```") % 2:
        return "truncated_code"
    tail = text[-16:].rstrip()
    if tail[-1:] in _OPEN or _DANGLING.search(tail[-9:]):  # `because`, and what it must not stand behind
        return "truncated"
    if _CLOSED.search(tail[-1:]):
        return None
    last_line = text[text.rfind("\n", 0, len(text.rstrip())) + 1 :].rstrip()
    if _LIST.match(last_line):
        return None
    # prose: its last paragraph has sentences that end, and then one that does not
    stops = _STOP.finditer(last_line)
    return "truncated" if len(last_line) >= _LEAST // 2 and next(stops, None) and next(stops, None) else None
