"""MinerU reads the pages through its own command line, which must be installed on this machine with its models.

All queued pages go as one PDF, so its models are loaded once; its content list says which page a block stands on. A
command may be given where the defaults do not fit: `mineru -b pipeline -l ch`.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import DataError
from danlu.data.markup import convert_page
from danlu.data.ocr.recogniser import RecognitionError
from danlu.data.pictures import is_pdf, take_pages

PAGE_TIMEOUT_S = 300
START_TIMEOUT_S = 900
"""Its models take minutes to load the first time."""


class MinerU:
    """Markdown page by page."""

    name = "mineru"

    def __init__(self, command: str = "") -> None:
        self.command = command or "mineru -m ocr"

    def key(self) -> dict[str, Any]:
        return {"name": self.name, "command": self.command}

    def recognise(self, file: Path, pages: Sequence[int]) -> dict[int, str]:
        words = shlex.split(self.command)
        if not words or shutil.which(words[0]) is None:
            raise DataError("documents.no_program", where="data.documents.ocr", given=self.command)
        with tempfile.TemporaryDirectory(prefix="danlu-ocr-") as folder:
            queue = file
            if is_pdf(file):
                queue = Path(folder, "queue.pdf")
                take_pages(file, pages, queue)
            try:
                done = subprocess.run(  # noqa: S603  the user's own command, never a row's content
                    [*words, "-p", str(queue), "-o", str(Path(folder, "out"))],
                    capture_output=True,
                    check=False,
                    timeout=START_TIMEOUT_S + PAGE_TIMEOUT_S * len(pages),
                    stdin=subprocess.DEVNULL,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise RecognitionError(f"{type(error).__name__}: {words[0]}") from error
            lists = sorted(Path(folder, "out").rglob("*_content_list.json"))
            if done.returncode or not lists:
                said = done.stderr.decode("utf-8", "replace").strip().splitlines()
                raise RecognitionError(f"{words[0]} ended with {done.returncode}: {said[-1][:200] if said else '-'}")
            blocks = json.loads(lists[0].read_bytes())
        texts: dict[int, list[str]] = {}
        for block in blocks:
            if text := _markdown(block):
                texts.setdefault(pages[min(int(block.get("page_idx", 0)), len(pages) - 1)], []).append(text)
        return {page: "\n\n".join(parts) for page, parts in texts.items()}


def _markdown(block: dict[str, Any]) -> str:
    """A block of the content list: headings have a `text_level`, tables an HTML body; pictures are left out."""
    if block.get("table_body"):
        captions = [*block.get("table_caption", []), convert_page(str(block["table_body"])).text]
        return "\n\n".join(part for part in captions if part)
    text = str(block.get("text") or "").strip()
    level = block.get("text_level")
    return f"{'#' * min(int(level), 6)} {text}" if text and level else text
