"""Reader `transformers`: a Hugging Face folder as everybody else loads it."""

from __future__ import annotations

from danlu.exports.oracle import Transformers
from danlu.exports.readers.reader import Place, Rounding


class TransformersReader:
    name = "transformers"
    packages = ("transformers",)
    halves_gelu = False

    def open(self, place: Place) -> Transformers:
        return Transformers(place.folder, dtype=place.dtype, device=place.device)

    def arithmetic(self, files: Rounding) -> Rounding:
        return "f32"
