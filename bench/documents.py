"""Text of documents: character F1 of danlu's reading, beside markitdown's, and the time both take.

    python bench/documents.py ../shared/data/documents --peer PEER/bin/python --out bench/results/documents-2cores.json

PEER is an environment of its own: `pip install "markitdown[docx,pptx,xlsx,pdf,outlook]" weasyprint`. Three parts:

- `expected`: office files with a Markdown text by markitdown's makers. It is that program's own output of some version,
  so its own score says how much its versions differ, not how well it reads.
- `made`: Chinese laws whose text is known, as Word, HTML, EPUB and PDF (one to three columns, running header, page
  numbers), made here. The truth is the source; headers and page numbers are no part of it.
- `office`: every other office file: how far the two agree, and which of the identifiers planted in them each found.

F1 is by the longest common subsequence of characters (order counts); `bag_f1` is without order. White space and
Markdown signs do not count. Times: CPU seconds, the best of three, imports not counted, one process each.
"""

from __future__ import annotations

import argparse
import html
import io
import json
import os
import platform
import re
import subprocess
import tempfile
import time
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from rapidfuzz.distance import LCSseq

from danlu.data.ledger import Ledger
from danlu.data.sources import read
from danlu.version import VERSION

LAWS = 12
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
PEER = """
import json, sys, time
from markitdown import MarkItDown
import markitdown
told = {"version": markitdown.__version__, "files": {}}
reader = MarkItDown()
for name in json.load(sys.stdin):
    try:
        text, best = reader.convert(name).text_content, 1e9
        for _ in range(3):
            begin = time.process_time(); reader.convert(name); best = min(best, time.process_time() - begin)
        told["files"][name] = {"text": text, "time_s": best}
    except Exception as error:
        told["files"][name] = {"text": "", "time_s": 0.0, "error": repr(error)[:200]}
json.dump(told, sys.stdout)
"""
PRINTER = """
import sys, weasyprint
weasyprint.HTML(filename=sys.argv[1]).write_pdf(sys.argv[2])
"""
HEAD = '<!DOCTYPE html><html><head><meta charset="utf-8"><title>x</title>'
CSS = """@page { size: A4; margin: 22mm; @top-center { content: "内部资料 仅供参考"; font-size: 8pt }
@bottom-center { content: "第 " counter(page) " 页"; font-size: 8pt } }
body { font-family: "Noto Serif CJK SC"; font-size: 10.5pt; line-height: 1.6; text-align: justify; columns: COLUMNS }
h1 { column-span: all } table { border-collapse: collapse } td, th { border: 1px solid black; padding: 2pt 6pt }"""


def plain(text: str) -> str:
    """The characters that count."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)\s]*(?: \"[^\"]*\")?\)", r"\1", text)
    text = re.sub(r"^[ \t|:-]*\|[ \t|:-]*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*(?:#{1,6}\s|[-*+]\s)", "", text, flags=re.MULTILINE)
    text = re.sub(r"<br>|[|*_`\\]", "", unicodedata.normalize("NFC", text))
    return "".join(text.split())


def scores(found: str, truth: str) -> dict[str, float]:
    found, truth = plain(found), plain(truth)
    if not found or not truth:
        return {"f1": 0.0, "bag_f1": 0.0}
    total = len(found) + len(truth)
    common = (Counter(found) & Counter(truth)).total()
    return {
        "f1": round(2 * LCSseq.similarity(found, truth) / total, 4),
        "bag_f1": round(2 * common / total, 4),
    }


def ours(path: Path) -> dict[str, Any]:
    best, text, ledger = 1e9, "", Ledger()
    for _ in range(4):  # the first one imports
        ledger = Ledger()
        begin = time.process_time()
        text = "\n\n".join(getattr(sample, "text", "") for sample in read([path], ledger))
        best = min(best, time.process_time() - begin)
    return {"text": text, "time_s": best, "rejects": sorted({entry.reason for entry in ledger.rejects})}


def make_files(laws: list[Path], folder: Path, peer: str) -> dict[Path, str]:
    """Each law in every form, and its text."""
    import docx

    made: dict[Path, str] = {}
    for number, law in enumerate(laws):
        source = law.read_text("utf-8")
        source = re.sub(r"<!--.*?-->", "", source, flags=re.DOTALL)
        blocks = [block.strip() for block in re.split(r"\n\s*\n|\n(?=#)", source) if block.strip()]
        document, markup = docx.Document(), ""
        for block in blocks:
            heading = re.match(r"(#{1,6})\s+(.*)", block)
            if heading:
                level = min(len(heading[1]), 6)
                document.add_heading(heading[2], level)
                markup += f"<h{level}>{html.escape(heading[2])}</h{level}>"
            else:
                document.add_paragraph(block)
                markup += f"<p>{html.escape(block)}</p>"
        page = f"{HEAD}<style>CSS</style></head><body>{markup}</body></html>"
        made[folder / f"{number}.docx"] = source
        document.sections[0].header.paragraphs[0].text = "内部资料 仅供参考"
        document.save(str(folder / f"{number}.docx"))
        made[folder / f"{number}.html"] = source
        (folder / f"{number}.html").write_text(page.replace("<style>CSS</style>", ""), "utf-8")
        made[folder / f"{number}.epub"] = source
        (folder / f"{number}.epub").write_bytes(book(page.replace("<style>CSS</style>", "")))
        for columns in (1, 2, 3):
            (folder / "page.html").write_text(page.replace("CSS", CSS.replace("COLUMNS", str(columns))), "utf-8")
            target = folder / f"{number}-{columns}col.pdf"
            subprocess.run(
                [peer, "-c", PRINTER, str(folder / "page.html"), str(target)], check=True, capture_output=True
            )
            made[target] = source
    return made


BOOK = """<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="i"><metadata
 xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="i">x</dc:identifier><dc:title>x</dc:title></metadata>
<manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest>
<spine><itemref idref="a"/></spine></package>"""
CONTAINER = """<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"""


def book(page: str) -> bytes:
    page = page.replace("<!DOCTYPE html><html>", '<html xmlns="http://www.w3.org/1999/xhtml">')
    page = page.replace('<meta charset="utf-8">', "")
    parts = {"mimetype": "application/epub+zip", "META-INF/container.xml": CONTAINER, "book.opf": BOOK, "a.xhtml": page}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def ask_peer(peer: str, files: list[Path]) -> dict[str, Any]:
    names = json.dumps([str(file) for file in files])
    done = subprocess.run([peer, "-W", "ignore", "-c", PEER], input=names, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def agreement(one: str, other: str) -> dict[str, Any]:
    """How far two readings of a file without a known text agree, and what each found of what was planted in it."""
    marks = [set(UUID.findall(text)) for text in (one, other)]
    return {
        "agreement_f1": scores(one, other)["f1"],
        "characters": {"danlu": len(plain(one)), "peer": len(plain(other))},
        "planted": {"danlu": len(marks[0]), "peer": len(marks[1]), "all": len(marks[0] | marks[1])},
    }


def compare_made(made: dict[Path, str], mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, list[Path]] = {}
    for path in made:
        kinds.setdefault(f"{path.suffix} {path.stem.partition('-')[2]}".strip(), []).append(path)
    result: dict[str, Any] = {}
    for kind, files in kinds.items():
        result[kind] = {"files": len(files)}
        for name, told in (("danlu", mine), ("peer", theirs)):
            found = [scores(told[str(path)]["text"], made[path]) for path in files]
            result[kind][name] = {
                "f1": mean([score["f1"] for score in found]),
                "bag_f1": mean([score["bag_f1"] for score in found]),
                "lowest_f1": min(score["f1"] for score in found),
                "time_s": round(sum(told[str(path)]["time_s"] for path in files), 3),
            }
    return result


def mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--peer", required=True, help="python of an environment with markitdown and weasyprint")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    office = sorted(path for path in (given.documents / "office").iterdir() if path.is_file())
    found = sorted((given.documents / "laws_md").glob("*.md"))
    laws = found[:: max(1, len(found) // LAWS)][:LAWS]
    with tempfile.TemporaryDirectory() as folder:
        made = make_files(laws, Path(folder), given.peer)
        theirs = ask_peer(given.peer, [*office, *made])
        mine = {str(path): ours(path) for path in [*office, *made]}
    result: dict[str, Any] = {"expected": {}, "made": compare_made(made, mine, theirs["files"]), "office": {}}
    for path in office:
        one, other = mine[str(path)], theirs["files"][str(path)]
        row: dict[str, Any] = {"time_s": round(one["time_s"], 4), "peer_time_s": round(other["time_s"], 4)}
        row["rejects"] = one["rejects"]
        truth = given.documents / "office" / "expected" / f"{path.stem}.md"
        if truth.is_file() and path.suffix == ".pdf":
            told = truth.read_text("utf-8")
            result["expected"][path.name] = row | scores(one["text"], told) | {"peer": scores(other["text"], told)}
        else:
            result["office"][path.name] = row | agreement(one["text"], other["text"])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result["setting"] = {
        "danlu": VERSION,
        "markitdown": theirs["version"],
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "laws": len(laws),
        "command": "python bench/documents.py ../shared/data/documents --peer PEER --out "
        "bench/results/documents-2cores.json",
    }
    given.out.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", "utf-8")
    print(json.dumps(result, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
