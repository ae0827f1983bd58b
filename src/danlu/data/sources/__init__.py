"""The shelf of file readers, and `read`: any mixture of files in, a stream of Samples out, every row in the ledger.

Adding a file format: a reader (see `source.py`), a line in `READERS`, and how to recognise it in `danlu/data/kinds.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.core.shelf import Shelf
from danlu.data.finding import SourceSpec, find_files
from danlu.data.ledger import Ledger
from danlu.data.ocr.recogniser import Recogniser
from danlu.data.sample import Sample
from danlu.data.sources.reading import FileReport, read_file
from danlu.data.sources.source import Reader

READERS: Shelf[Reader] = Shelf(
    "sources",
    {
        "json": "danlu.data.sources.json:read_json",
        "csv": "danlu.data.sources.csv:read_csv",
        "xlsx": "danlu.data.sources.xlsx:read_xlsx",
        "parquet": "danlu.data.sources.parquet:read_parquet",
        "text": "danlu.data.sources.text:read_text",
        "html": "danlu.data.sources.html:read_html",
        "docx": "danlu.data.sources.docx:read_docx",
        "pptx": "danlu.data.sources.pptx:read_pptx",
        "rtf": "danlu.data.sources.rtf:read_rtf",
        "epub": "danlu.data.sources.epub:read_epub",
        "mail": "danlu.data.sources.mail:read_mail",
        "mbox": "danlu.data.sources.mbox:read_mbox",
        "archive": "danlu.data.sources.archive:read_archive",
        "picture": "danlu.data.sources.picture:read_picture",
        "pdf": "danlu.data.sources.pdf:read_pdf",
    },
)

__all__ = ["READERS", "FileReport", "SourceSpec", "read"]


def read(
    paths: Sequence[SourceSpec | Path | str],
    ledger: Ledger,
    *,
    progress: Progress | None = None,
    reports: list[FileReport] | None = None,
    recogniser: Recogniser | None = None,
) -> Iterator[Sample]:
    """Samples of all files, in order, one at a time. Each row read is counted in `ledger` as used or rejected.

    `recogniser` reads pages without a usable text layer; without one each such page is refused by name.
    `reports` is filled with one record a file: format, encoding, columns, counts. Raises DataError for a path that does
    not exist, an unknown format, or a missing package; damage inside files never raises.
    """
    progress = progress or Silent()
    files = find_files(paths, ledger.remarks)
    progress.start(say("flow.reading"), len(files))
    for found in files:
        report = FileReport(found.name)
        if reports is not None:
            report.dropped = Counter()
            reports.append(report)
        yield from read_file(found, READERS, ledger, report, recogniser)
        progress.advance(1, file=found.name)
    progress.finish()
