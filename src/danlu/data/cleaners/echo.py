"""echo: answers that only say the question again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.data.cleaners.cleaner import Batch, Finding

_LEAST = 4
"""Folded characters of a question; "谢谢" may well be answered by "谢谢"."""


class Echo:
    name = "echo"

    def key(self) -> dict[str, Any]:
        return {"version": 1}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        asked, body = batch.folded_asked, batch.folded_body
        return {
            row: Finding("echo")
            for row in range(len(batch))
            if asked.length(row) == body.length(row) >= _LEAST and asked[row] == body[row]
        }
