"""Export `gptq`: four bits a weight in AutoGPTQ's layout, rounded on the run's own training texts."""

from __future__ import annotations

from danlu.exports.calibrated.export import Calibrated
from danlu.exports.calibrated.schemes import SCHEMES


class GPTQExport(Calibrated):
    def __init__(self, python: str | None = None) -> None:
        super().__init__("gptq", SCHEMES["gptq"], python)
