"""The shelf of text recognition: who reads scanned and garbled pages. Nothing is bundled, and none is on by default.

Adding one: a class with the contract of `recogniser.py` and a line in `RECOGNISERS`, or in another package an entry
point of the group `danlu.ocr`. `choose("docling")` takes one off the shelf; any other program on the machine is
`choose("command", "tesseract {image} stdout -l chi_sim+eng")`.
"""

from __future__ import annotations

from danlu.core.shelf import Shelf
from danlu.data.ocr.recogniser import MakesRecogniser, Recogniser

RECOGNISERS: Shelf[MakesRecogniser] = Shelf(
    "ocr",
    {
        "command": "danlu.data.ocr.command:Command",
        "docling": "danlu.data.ocr.docling:Docling",
        "mineru": "danlu.data.ocr.mineru:MinerU",
    },
)

__all__ = ["RECOGNISERS", "Recogniser", "choose"]


def choose(name: str | None, command: str = "", *, where: str = "data.documents.ocr") -> Recogniser | None:
    """The recogniser of this name, or None for none. Raises RecipeError for a name that is not on the shelf, DataError
    for a command that cannot be run; packages are looked for when the first page is read."""
    return RECOGNISERS.load(name, where=where)(command) if name else None
