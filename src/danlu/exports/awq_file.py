"""Export `awq`: four bits a weight in AutoAWQ's layout, rounded on the run's own training texts."""

from __future__ import annotations

from danlu.exports.calibrated.export import Calibrated
from danlu.exports.calibrated.schemes import SCHEMES


class AWQExport(Calibrated):
    def __init__(self, python: str | None = None) -> None:
        super().__init__("awq", SCHEMES["awq"], python)
