"""The shelf of harnesses: other people's evaluation suites, run as programs of their own over HTTP.

Each lives in a virtual environment of its own, for they pin what danlu does not; what they report per item enters
danlu's paired tests. To add one: a class as in `harness.py` and one line here, or an entry point `danlu.harnesses`.
"""

from __future__ import annotations

from danlu.core.shelf import Shelf
from danlu.evaluation.harnesses.harness import Harness

HARNESSES: Shelf[type[Harness]] = Shelf(
    "harnesses",
    {
        "lm-eval": "danlu.evaluation.harnesses.lm_eval:LMEval",
        "evalscope": "danlu.evaluation.harnesses.evalscope:EvalScope",
        "opencompass": "danlu.evaluation.harnesses.opencompass:OpenCompass",
    },
)
