"""A few lines of PDF by hand: text at places, lines, boxes, a picture; no library needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Page:
    """`texts` are (x, y from the top, size, text); `lines` are (x1, y1, x2, y2) from the top."""

    texts: Sequence[tuple[float, float, float, str]] = ()
    lines: Sequence[tuple[float, float, float, float]] = ()
    picture: bool = False
    rotate: int = 0
    width: float = 595
    height: float = 842
    extra: str = field(default="")

    def stream(self) -> bytes:
        out = []
        for x, y, size, text in self.texts:
            safe = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
            out.append(f"BT /F1 {size} Tf 1 0 0 1 {x} {self.height - y} Tm ({safe}) Tj ET")
        for x1, y1, x2, y2 in self.lines:
            out.append(f"1 w {x1} {self.height - y1} m {x2} {self.height - y2} l S")
        if self.picture:
            out.append("q 400 0 0 300 50 200 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x80 EI Q")
        return "\n".join([*out, self.extra]).encode("latin-1")


def pdf(pages: Sequence[Page], *, title: str = "", encoding: str = "") -> bytes:
    """The file; `encoding` replaces the font's dictionary entry, to break its character map."""
    objects: list[bytes] = []

    def add(body: bytes) -> int:
        objects.append(body)
        return len(objects)

    add(b"<< /Type /Catalog /Pages 2 0 R >>")
    add(b"")  # the pages' tree, once the pages are known
    font = add(
        f"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica {encoding or '/Encoding /WinAnsiEncoding'} >>".encode()
    )
    kids = []
    for page in pages:
        content = page.stream()
        stream = add(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        kids.append(
            add(
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {page.width} {page.height}] /Rotate {page.rotate} "
                f"/Resources << /Font << /F1 {font} 0 R >> >> /Contents {stream} 0 R >>".encode()
            )
        )
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(f'{kid} 0 R' for kid in kids)}] >>".encode()
    info = add(f"<< /Title ({title}) >>".encode())
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        info,
        start,
    )


def lines_of(
    text: str, *, x: float = 60, y: float = 80, size: float = 11, width: int = 80
) -> list[tuple[float, float, float, str]]:
    """A text wrapped at `width` characters, one line below the other."""
    import textwrap

    return [(x, y + 1.3 * size * number, size, line) for number, line in enumerate(textwrap.wrap(text, width))]
