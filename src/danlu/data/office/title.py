"""The title in a document's properties."""

from __future__ import annotations

from danlu.data.office.package import Package, local

NO_TITLES = (
    "",
    "powerpoint presentation",
    "powerpoint 演示文稿",
    "presentation",
    "document",
    "untitled",
    "word document",
)


def core_title(package: Package) -> str:
    """ "" where none was given, or where the program gave its own."""
    part = package.related("", "core-properties")
    if part is None:
        return ""
    title = next(((one.text or "").strip() for one in package.xml(part) if local(one) == "title"), "")
    return "" if title.lower() in NO_TITLES else title
