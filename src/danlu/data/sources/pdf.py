"""PDF pages by their text layer, one passage a page. A page without text is a scan: it is refused, not guessed at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from danlu.core.errors import DataError
from danlu.data.opening import Source
from danlu.data.sources.source import Context, Fault, Item, Passage

NO_TITLES = ("", "untitled", "(untitled)", "(anonymous)", "anonymous")


def read_pdf(source: Source, context: Context) -> Iterator[Item]:
    """`line` is the page number too, so that `file:line` names the page."""
    try:
        import pypdfium2  # lazy: only PDFs need the package
    except ImportError as error:
        raise DataError("data.missing_package", where=source.name, package="pypdfium2", what="PDF") from error
    with source.seekable() as file:
        document = pypdfium2.PdfDocument(file)
        try:
            title = str(document.get_metadata_dict().get("Title") or "").strip()
            title = PurePath(source.name).stem if title.lower() in NO_TITLES else title
            for number in range(1, len(document) + 1):
                page = document[number - 1]
                layer = page.get_textpage()
                text = layer.get_text_bounded().replace("\r\n", "\n").replace("\ufffe", "-")
                layer.close()
                page.close()
                if text.strip():
                    yield Passage(number, text.strip(), title, number)
                else:
                    yield Fault(number, "no_text_layer", {"page": number})
        finally:
            document.close()
