"""A folder of office files becomes training data; a scan is refused by name until the recipe says who reads it."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest
from command_line import danlu

from danlu.data.extracted import text_of_document
from danlu.run.run import Run, list_runs

sys.path.append(str(Path(__file__).parents[1] / "unit" / "data"))
from pdf_files import Page, lines_of, pdf
from test_sources_office import deck, p, shape, word

RULE = "Travellers are paid eighty yuan a day; hotels cost at most five hundred yuan a night, and trains come first. "
RECIPE = """name: office
model: {base: ember}
method: {kind: pretrain}
data:
  sources: [{path: office}]
  over_length: split
  max_rejected: 0.9
  split: {test: 0, validation: 0}
  cleaning: {repetition: keep}
"""


def test_an_office_folder_with_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "office"
    folder.mkdir()
    (folder / "rules.pdf").write_bytes(pdf([Page(lines_of(RULE * 2)), Page(picture=True)]))
    (folder / "deck.pptx").write_bytes(deck(shape("Procurement rules", "title") + shape("Three offers are compared.")))
    with zipfile.ZipFile(folder / "old.zip", "w") as archive:
        archive.writestr("2024/lease.docx", word(p("The lease ends in December, unless both parties sign a new one.")))
    Path("recipe.yaml").write_text(RECIPE, "utf-8")
    said = danlu("prepare", "recipe.yaml", "--json")
    assert said.code == 0, said.err
    run = Run.open(list_runs(Path("runs"))[0])
    refused = [json.loads(line) for line in run.path("rejects.jsonl").read_text("utf-8").splitlines()]
    assert [(one["code"], Path(one["file"]).name, one["line"]) for one in refused] == [("needs_ocr", "rules.pdf", 2)]
    assert said.json["rows"] == {"read": 4, "used": 3, "changed": 0, "rejected": 1}

    Path("ocr.py").write_text(
        "import sys\nprint('Scanned page', sys.argv[1], 'says: receipts are due in May.')\n", "utf-8"
    )
    command = f"{sys.executable} {tmp_path}/ocr.py {{page}} {{image}}"
    said = danlu(
        "prepare", "recipe.yaml", "data.documents.ocr=command", f"data.documents.ocr_command={command}", "--json"
    )
    assert said.code == 0, said.err
    assert said.json["rows"] == {"read": 4, "used": 4, "changed": 1, "rejected": 0}

    again = text_of_document("office/old.zip#2024/lease.docx")
    assert again.text == "The lease ends in December, unless both parties sign a new one."
    said = danlu("prepare", "recipe.yaml", "data.documents.ocr=tesserakt", "--json")
    assert (said.code, said.json["error"]) == (2, "core.unknown_name")
