"""The evaluation of `evaluation_story`, made once."""

from __future__ import annotations

import pytest
from evaluation_story import whole_report

from danlu.evaluation.report import Report


@pytest.fixture(scope="session")
def report() -> Report:
    return whole_report()
