"""Any program that reads a page: the command the user names is run once per page, its standard output is the text.

    tesseract {image} stdout -l chi_sim+eng
    my-ocr --page {page} {file}

`{image}` is the page as a grey PNG at 300 dpi, `{file}` the PDF (or image) itself, `{page}` the number from 1. No
shell is involved: the words are split as one would, and names of files are never taken apart again.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import DataError
from danlu.data.ocr.recogniser import RecognitionError
from danlu.data.pictures import draw_page, is_pdf

PAGE_TIMEOUT_S = 300
MAX_TEXT_BYTES = 4 << 20


class Command:
    """A command line with places for the page."""

    name = "command"

    def __init__(self, command: str = "") -> None:
        where = "data.documents.ocr_command"
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise DataError("documents.bad_command", where=where, given=command, detail=str(error)) from error
        if not any(place in word for word in self.words[1:] for place in ("{image}", "{file}")):
            raise DataError("documents.bad_command", where=where, given=command, detail="{image} / {file}")
        if shutil.which(self.words[0]) is None:
            raise DataError("documents.no_program", where=where, given=self.words[0])
        self.command = command

    def key(self) -> dict[str, Any]:
        return {"name": self.name, "command": self.command, "dots_per_inch": 300}

    def recognise(self, file: Path, pages: Sequence[int]) -> dict[int, str]:
        return {page: self._page(file, page) for page in pages}

    def _page(self, file: Path, page: int) -> str:
        with tempfile.TemporaryDirectory(prefix="danlu-ocr-") as folder:
            picture = Path(folder, "page.png")
            if not is_pdf(file):
                picture = file  # an image file is its own picture
            elif any("{image}" in word for word in self.words):
                draw_page(file, page, picture)
            places = {"{image}": str(picture), "{file}": str(file), "{page}": str(page)}
            words = [self.words[0], *(_filled(word, places) for word in self.words[1:])]
            try:
                done = subprocess.run(  # noqa: S603  the user's own command, never a row's content
                    words,
                    capture_output=True,
                    check=False,
                    timeout=PAGE_TIMEOUT_S,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise RecognitionError(f"{type(error).__name__}: {self.words[0]}") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise RecognitionError(f"{self.words[0]} ended with {done.returncode}: {said[-1][:200] if said else '-'}")
        return done.stdout[:MAX_TEXT_BYTES].decode("utf-8", "replace").replace("\x0c", "").strip()


def _filled(word: str, places: dict[str, str]) -> str:
    for place, value in places.items():
        if word == place or place in word:
            return word.replace(place, value)
    return word
