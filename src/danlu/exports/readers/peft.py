"""Reader `peft`: an adapter folder as PEFT puts it on the base that transformers loads."""

from __future__ import annotations

from danlu.exports.oracle import Transformers
from danlu.exports.readers.reader import Place, Rounding


class PeftReader:
    name = "peft"
    packages = ("transformers", "peft")
    halves_gelu = False

    def open(self, place: Place) -> Transformers:
        assert place.beside is not None, "an adapter needs its base"
        return Transformers(place.beside, dtype=place.dtype, device=place.device, adapter=place.folder)

    def arithmetic(self, files: Rounding) -> Rounding:
        return "f32"
