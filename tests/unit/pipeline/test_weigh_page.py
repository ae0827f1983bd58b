"""The page of `danlu weigh` in a real browser: hostile and endless words break neither it nor a phone's width."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from danlu.evaluation.arms.asking import ARMS, Name
from danlu.evaluation.arms.mix import Measured, recommend
from danlu.evaluation.stats import compare
from danlu.pipeline.weigh_html import render_weighed

EVIL = "<script>document.title='stolen'</script>" + "W" * 300


def weighed() -> dict[str, Any]:
    right: dict[Name, tuple[bool, ...]] = {
        name: tuple((n * (place + 2)) % 5 > 1 for n in range(40)) for place, name in enumerate(ARMS)
    }
    arm = {"accuracy": 0.6, "interval": [0.44, 0.74], "latency_s": {"p50": 0.31, "p95": 1.2}, "prompt_tokens": 512.0,
           "answer_tokens": 11.0, "cost_per_1000": 1234.5}  # fmt: skip
    pairs = [(one, other) for place, one in enumerate(ARMS) for other in ARMS[place + 1 :]]
    rows = [
        {"id": str(n), "question": EVIL, "reference": EVIL,
         "arms": {name: {"right": right[name][n], "answers": [EVIL]} for name in ARMS}}
        for n in range(40)
    ]  # fmt: skip
    return {
        "arms": dict.fromkeys(ARMS, arm), "items": rows, "num_items": 40, "unit": "money",
        "comparisons": [{"base": one, "tuned": other, "p_adjusted": 0.2,
                         "difference": compare(right[one], right[other], range(40)).to_json()} for one, other in pairs],
        "recommended": recommend({name: Measured(right[name], 1.0) for name in ARMS}, [n / 40 for n in range(40)], range(40)),
        "retrieval": {"passages": 99, "num_shown": 3.5, "value": {"found": 0.9, "shown": None}, "seconds": {},
                      "embedder": EVIL, "reranker": None},
        "upkeep": {"index_s": 0.1, "train_s": 863.0}, "footer": {"recipe": "0" * 64, "command": EVIL},
    }  # fmt: skip


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_nothing_is_wider_than_the_screen_or_runs(
    language: Any, width: int, look: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "weigh.html"
    path.write_text(render_weighed(weighed(), EVIL, language), encoding="utf-8")
    page = look(path, width)
    assert page.title() != "stolen"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
