"""lengths: documents and texts to judge that are too short to say anything, and rows that are too long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.data.cleaners.cleaner import Batch, Finding


class Lengths:
    name = "lengths"

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def key(self) -> dict[str, Any]:
        return {"version": 1, "least": self.least, "most": self.most}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        found: dict[int, Finding] = {}
        for row, (asked, body) in enumerate(zip(batch.asked, batch.body, strict=True)):
            size = len(asked) + len(body)
            if self.most and size > self.most:
                found[row] = Finding("too_long", {"chars": size, "limit": self.most})
            elif len(body) < self.least and not batch.is_answer(row):  # a short answer may be the right one
                found[row] = Finding("too_short", {"chars": len(body), "limit": self.least})
        return found
