"""Reader `autoround`: a folder of four-bit codes in transformers, whose layers are then auto-round's own."""

from __future__ import annotations

from danlu.exports.oracle import Transformers
from danlu.exports.readers.reader import Place, Rounding


class AutoRoundReader:
    name = "autoround"
    packages = ("transformers", "auto_round", "auto_round_kernel", "accelerate")
    halves_gelu = False

    def open(self, place: Place) -> Transformers:
        return Transformers(place.folder, dtype=place.dtype, device=place.device, has_codes=True)

    def arithmetic(self, files: Rounding) -> Rounding:
        return "f32"
