"""Presentations (.pptx, .pptm): one passage a slide, in Markdown; the page is the slide's number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from danlu.data.office.package import BrokenPartError, open_package
from danlu.data.office.slides import slides_of
from danlu.data.office.title import core_title
from danlu.data.opening import Source
from danlu.data.sources.source import Change, Context, Fault, Item, Passage


def read_pptx(source: Source, context: Context) -> Iterator[Item]:
    """Slides without a word are named in a note; a deck without one is refused."""
    wordless, num_pictures, num_slides = [], 0, 0
    try:
        with open_package(source) as package:
            title = core_title(package) or PurePath(source.name).stem
            for slide in slides_of(package):
                num_slides += 1
                num_pictures += slide.num_pictures
                changes: tuple[Change, ...] = ()
                if any(map(str.isalpha, slide.furniture)):
                    changes = (("furniture_left_out", {"text": slide.furniture[:200]}),)
                if slide.text.strip():
                    yield Passage(slide.number, slide.text, title, slide.number, changes)
                else:
                    wordless.append(str(slide.number))
    except BrokenPartError as error:
        yield Fault(num_slides + 1 if num_slides else 0, "broken_part", {"detail": str(error)[:200]})
        return
    if num_pictures:
        context.note("note_pictures", num=num_pictures)
    if wordless and len(wordless) < num_slides:
        context.note("note_blank_pages", pages=", ".join(wordless[:50]) + (", ..." if len(wordless) > 50 else ""))
    elif len(wordless) == num_slides:
        yield Fault(0, "no_text", {})
