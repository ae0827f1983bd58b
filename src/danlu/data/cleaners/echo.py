"""echo: answers that only say the question again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from danlu.data.cleaners.cleaner import Batch, Finding

_LEAST = 4
"""Folded characters of a question; "谢谢" may well be answered by "谢谢"."""


class Echo:
    name = "echo"

    def key(self) -> dict[str, Any]:
        return {"version": 1}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        asked, body = batch.folded_asked, batch.folded_body
        is_like = (asked.length == body.length) & (asked.length >= _LEAST)
        return {
            row: Finding("echo")
            for row in np.flatnonzero(is_like).tolist()
            if asked[row] == body[row] and len(body[row]) >= _LEAST
        }
