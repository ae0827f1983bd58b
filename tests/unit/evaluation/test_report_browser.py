"""The report in a real browser: five answers on one screen, on a desk and on a phone, in both languages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from danlu.evaluation.report import Report
from danlu.evaluation.report_html import render_html

SCREENS = {"desk": (1280, 800), "phone": (390, 844)}


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("language", ["zh", "en"])
def test_five_answers_fit_one_screen(
    report: Report, look: Callable[..., Any], tmp_path: Path, language: Any, screen: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_html(report, language=language), encoding="utf-8")
    width, height = SCREENS[screen]
    page = look(path, width, height)
    assert page.locator(".reply-question:visible").count() == 5
    bottom = page.evaluate("document.querySelector('.replies').getBoundingClientRect().bottom")
    assert bottom <= height, f"the answers end at {bottom:.0f} of {height}"
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is wider than the screen"
    cut = page.evaluate(
        "[...document.querySelectorAll('.reply *')].filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth).length"
    )
    assert cut == 0
