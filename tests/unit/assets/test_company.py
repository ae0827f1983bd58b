"""The demo company: complete, consistent with its documents, and asked in wordings that training never saw."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
ASSETS = ROOT / "src/danlu/assets/company"
RECIPE = ROOT / "recipes/company"
CAP = 0.6  # character 3-gram Jaccard between a test wording and every training wording of the same fact

Row = dict[str, Any]


@cache
def rows(name: str) -> list[Row]:
    return [json.loads(line) for line in (ASSETS / name).read_text("utf-8").splitlines()]


@cache
def facts() -> list[Row]:
    """The yaml read without the generator's own loader; scalars stay text."""
    found = []
    for path in sorted((RECIPE / "facts").glob("*.yaml")):
        book = yaml.load(path.read_text("utf-8"), Loader=yaml.BaseLoader)
        found += [fact | {"file": book["document"]["file"], "head": book["document"]} for fact in book["facts"]]
    return found


def bare(text: str) -> str:
    """NFKC, lower case, letters and digits only."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", text).lower() if letter.isalnum())


def grams(text: str) -> frozenset[str]:
    flat = bare(text)
    return frozenset(flat[at : at + 3] for at in range(len(flat) - 2)) or frozenset([flat])


def similarity(one: str, other: str) -> float:
    a, b = grams(one), grams(other)
    return len(a & b) / len(a | b)


def question_of(row: Row) -> str:
    return str(row["messages"][0]["content"])


def seen_wordings() -> dict[str, list[str]]:
    found = defaultdict(list)
    for row in rows("qa.jsonl") + rows("validation.jsonl"):
        found[row["group"]].append(question_of(row))
    return found


# ---------------------------------------------------------------- how much there is


def test_there_is_as_much_as_promised():
    languages = Counter(fact["head"]["language"] for fact in facts())
    assert len(facts()) >= 160
    assert 0.5 <= languages["zh"] / len(facts()) <= 0.7
    assert len(rows("qa.jsonl")) + len(rows("validation.jsonl")) + len(rows("test.jsonl")) >= 1300
    assert len(rows("edge.jsonl")) >= 80
    assert 60 <= len(rows("behaviour.jsonl")) <= 120
    assert len(rows("preference.jsonl")) >= 200
    assert len(rows("preference_test.jsonl")) >= 60
    assert len(rows("replay.jsonl")) >= 200
    assert len(rows("general.jsonl")) >= 60


def test_the_travel_allowance_is_80_yuan_a_day():
    asked = [row for row in rows("test.jsonl") if row["group"] == "travel-meal"]
    assert asked
    assert all(row["value"] == "80元" and "八十元" in row["accept"] for row in asked)


def test_each_fact_is_taught_in_six_wordings_and_asked_in_two():
    taught, asked = Counter(), Counter(row["group"] for row in rows("test.jsonl"))
    for row in rows("qa.jsonl"):
        taught[row["group"]] += 1
    for fact in facts():
        assert taught[fact["id"]] >= 6, fact["id"]
        assert asked[fact["id"]] >= 2, fact["id"]


def test_ids_and_short_answers_are_unique():
    for key in ("id", "answer", "says"):
        repeated = [value for value, times in Counter(fact[key] for fact in facts()).items() if times > 1]
        assert not repeated, key
    edge_ids = [row["id"] for row in rows("edge.jsonl")]
    assert len(set(edge_ids)) == len(edge_ids)


# ---------------------------------------------------------------- honest by construction


def test_no_test_wording_resembles_a_training_wording_of_its_fact():
    seen = seen_wordings()
    for row in rows("test.jsonl"):
        for wording in seen[row["group"]]:
            assert similarity(row["question"], wording) < CAP, (row["question"], wording)


def test_no_edge_wording_resembles_any_training_wording():
    taught = [question_of(row) for row in rows("behaviour.jsonl") + rows("qa.jsonl") + rows("validation.jsonl")]
    for row in rows("edge.jsonl"):
        for wording in taught:
            assert similarity(row["question"], wording) < CAP, (row["question"], wording)


def test_no_question_stands_in_two_parts():
    """Also none twice in one part: a repeated wording would count double in the score."""
    trained = [
        bare(question_of(row)) for name in ("qa", "validation", "behaviour", "replay") for row in rows(f"{name}.jsonl")
    ]
    judged = [bare(row["question"]) for name in ("test", "edge") for row in rows(f"{name}.jsonl")]
    assert [text for text, times in Counter(trained).items() if times > 1] == []
    assert [text for text, times in Counter(judged).items() if times > 1] == []
    assert not set(trained) & set(judged)


def test_questions_do_not_give_their_value_away():
    for row in rows("test.jsonl"):
        assert bare(row["value"]) not in bare(row["question"]), row["question"]


def test_held_out_pairs_are_of_other_facts():
    trained = {row["group"] for row in rows("preference.jsonl")}
    assert not trained & {row["group"] for row in rows("preference_test.jsonl")}
    tested = {row["question"] for row in rows("test.jsonl")}
    assert not tested & {row["prompt"] for row in rows("preference.jsonl")}


def test_a_plain_word_lookup_finds_most_facts():
    """The wordings differ, yet stay answerable: words seen in training must lead to the right fact."""
    taught: dict[str, Counter[str]] = defaultdict(Counter)
    for group, wordings in seen_wordings().items():
        for wording in wordings:
            taught[group].update(words(wording))
    spread = Counter(word for counts in taught.values() for word in counts)
    right = 0
    for row in rows("test.jsonl"):
        asked = words(row["question"])
        scores = {
            group: sum(min(counts[word], 3) / spread[word] ** 1.5 for word in asked if word in counts)
            for group, counts in taught.items()
        }
        right += max(scores, key=scores.__getitem__) == row["group"]
    assert right / len(rows("test.jsonl")) >= 0.85


def words(text: str) -> set[str]:
    """Chinese: single characters and pairs; English: words and pairs."""
    parts = re.findall(r"[a-z0-9]+", text.lower()) if text.isascii() else list(bare(text))
    return set(parts) | {a + " " + b for a, b in pairwise(parts)}


# ---------------------------------------------------------------- answers


def test_answers_hold_their_value_and_cite_their_document():
    for fact in facts():
        assert fact["value"] in fact["answer"], fact["id"]
        assert fact["value"] in fact["says"], fact["id"]
    cites = {f"documents/{fact['file']}": fact["head"]["cite"] for fact in facts()}
    for row in rows("test.jsonl"):
        assert row["value"] in row["answer"]
        assert cites[row["document"]] in row["answer"]
        assert len(row["answer"]) <= (45 if row["language"] == "zh" else 80), row["answer"]


def test_all_wordings_of_a_fact_have_one_answer():
    answers = defaultdict(set)
    for row in rows("qa.jsonl") + rows("validation.jsonl"):
        answers[row["group"]].add(row["messages"][1]["content"])
    for row in rows("test.jsonl"):
        answers[row["group"]].add(row["answer"])
    assert {group for group, texts in answers.items() if len(texts) != 1} == set()
    assert set(answers) == {fact["id"] for fact in facts()}


def test_no_value_holds_another_of_its_document():
    """Else 18 days would pass for 8 days."""
    for file in {fact["file"] for fact in facts()}:
        values = [bare(fact["value"]) for fact in facts() if fact["file"] == file]
        assert [(one, other) for one, other in permutations(values, 2) if one in other] == [], file


def test_accepted_spellings_never_stand_for_another_fact_of_the_document():
    for row in rows("test.jsonl"):
        others = {
            bare(fact["value"])
            for fact in facts()
            if f"documents/{fact['file']}" == row["document"] and fact["id"] != row["group"]
        }
        assert not {bare(text) for text in row["accept"]} & others, row["group"]


def test_worse_answers_differ_from_better_ones_in_the_way_they_say():
    for row in rows("preference.jsonl") + rows("preference_test.jsonl"):
        fact = next(fact for fact in facts() if fact["id"] == row["group"])
        chosen, rejected = row["chosen"], row["rejected"]
        assert chosen != rejected
        assert fact["head"]["cite"] in chosen and fact["value"] in chosen
        if row["kind"] == "wrong_value":
            assert bare(fact["value"]) not in bare(rejected), rejected
            assert not set(words(fact["answer"])) >= set(words(rejected)), rejected
            assert fact["head"]["cite"] in rejected
        else:
            assert fact["head"]["cite"] not in rejected


def test_unanswerable_questions_have_one_fixed_polite_answer():
    card = json.loads((ASSETS / "company.json").read_text("utf-8"))
    for row in rows("edge.jsonl"):
        if row["kind"] == "unanswerable":
            assert row["answer"] == card["unanswerable"][row["language"]]


def test_edge_cases_come_with_their_controls():
    pairs = defaultdict(set)
    for row in rows("edge.jsonl"):
        assert row["value"] in row["answer"]
        if row["pair"]:
            pairs[row["pair"]].add(row["kind"])
    assert {frozenset(kinds) for kinds in pairs.values()} == {
        frozenset({"sarcasm", "sarcasm_control"}),
        frozenset({"negation", "negation_control"}),
    }
    kinds = Counter(row["kind"] for row in rows("edge.jsonl"))
    assert min(kinds[kind] for kind in ("sarcasm", "negation", "false_premise", "unanswerable")) >= 10


def test_false_premises_are_answered_with_the_true_value():
    for row in rows("edge.jsonl"):
        if row["kind"] == "false_premise":
            assert row["correct_value"] in row["answer"]
            assert bare(row["correct_value"]) not in bare(row["question"])


# ---------------------------------------------------------------- documents


def read_docx(path: Path) -> str:
    docx = pytest.importorskip("docx")
    document = docx.Document(str(path))
    cells = [cell.text for table in document.tables for row in table.rows for cell in row.cells]
    return "\n".join([*(paragraph.text for paragraph in document.paragraphs), *cells])


def read_xlsx(path: Path) -> str:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.load_workbook(path, read_only=True)
    return "\n".join(str(cell) for sheet in book for row in sheet.iter_rows(values_only=True) for cell in row if cell)


def read_pdf(path: Path) -> str:
    pdfium = pytest.importorskip("pypdfium2")
    with pdfium.PdfDocument(path) as pdf:
        return "\n".join(page.get_textpage().get_text_range() for page in pdf)


def read_html(path: Path) -> str:
    return re.sub(r"<[^>]+>", "", path.read_text("utf-8"))


READERS = {
    ".docx": read_docx,
    ".xlsx": read_xlsx,
    ".pdf": read_pdf,
    ".html": read_html,
    ".md": lambda path: path.read_text("utf-8"),
}


@cache
def document_text(file: str) -> str:
    """Without any white space: a line may break inside a sentence."""
    path = ASSETS / "documents" / file
    return re.sub(r"\s+", "", READERS[path.suffix](path))


@pytest.mark.parametrize("file", sorted({fact["file"] for fact in facts()}))
def test_every_fact_stands_literally_in_its_document(file: str):
    text = document_text(file)
    for fact in facts():
        if fact["file"] == file:
            assert re.sub(r"\s+", "", fact["says"]) in text, fact["says"]
            assert text.count(re.sub(r"\s+", "", fact["value"])) >= 2, "once in the rule, once in the table"


def test_documents_come_in_the_formats_of_an_office():
    files = [path.name for path in (ASSETS / "documents").iterdir()]
    formats = Counter(Path(name).suffix for name in files)
    assert set(files) == {fact["file"] for fact in facts()}
    assert len(files) >= 12
    assert all(
        formats[suffix] >= least
        for suffix, least in ((".docx", 2), (".pdf", 2), (".xlsx", 2), (".md", 3), (".html", 2))
    )
    assert sum(path.stat().st_size for path in (ASSETS / "documents").iterdir()) < 1_000_000


def test_a_value_of_one_fact_is_not_contradicted_elsewhere():
    """Each short answer without its value, found in a document, must be followed or preceded by that very value."""
    stems = defaultdict(set)
    for fact in facts():
        stems[fact["answer"].replace(fact["value"], "…")].add(fact["value"])
    assert [stem for stem, values in stems.items() if len(values) > 1] == []


def test_no_personal_data():
    """No mobile numbers, identity numbers, bank cards or mail addresses anywhere."""
    texts = [path.read_text("utf-8") for path in ASSETS.glob("*.jsonl")]
    texts += [READERS[path.suffix](path) for path in (ASSETS / "documents").iterdir()]
    for text in texts:
        assert not re.search(r"(?<!\d)1[3-9]\d{9}(?!\d)", text)
        assert not re.search(r"(?<!\d)\d{15,19}[\dXx]?(?!\d)", text)
        assert not re.search(r"[\w.]+@[\w.]+\.\w+", text)


# ---------------------------------------------------------------- the generator


def test_the_generator_repeats_the_committed_rows_byte_for_byte(tmp_path: Path):
    subprocess.run([sys.executable, RECIPE / "make.py", "--rows-only", tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(made) == {path.name for path in ASSETS.glob("*.jsonl")}
    for name, content in made.items():
        assert content == (ASSETS / name).read_bytes(), f"{name}: run python recipes/company/make.py"


def test_the_generator_repeats_web_and_markdown_documents(tmp_path: Path):
    """The office formats depend on their libraries' versions; these two on nothing."""
    code = """
import sys
from pathlib import Path
recipe, out = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(recipe))
from documents import WRITERS, sections
from source import load_company
company = load_company(recipe)
for book in company.documents:
    suffix = book["file"].rsplit(".", 1)[1]
    if suffix in ("md", "html"):
        facts = [fact for fact in company.facts if fact.document == book["id"]]
        (out / book["file"]).write_bytes(WRITERS[suffix](book, sections(facts)))
"""
    subprocess.run([sys.executable, "-c", code, RECIPE, tmp_path], check=True)
    made = list(tmp_path.iterdir())
    assert len(made) == 5
    for path in made:
        assert path.read_bytes() == (ASSETS / "documents" / path.name).read_bytes(), path.name


def test_the_card_counts_and_digests_what_lies_there():
    card = json.loads((ASSETS / "company.json").read_text("utf-8"))
    files = {path.relative_to(ASSETS).as_posix(): path for path in ASSETS.rglob("*") if path.is_file()}
    files.pop("company.json")
    assert card["licence"] == "CC0-1.0"
    assert set(card["digests"]) == set(files)
    for name, path in files.items():
        assert card["digests"][name] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest(), name
    for name, count in card["counts"].items():
        assert count == (len(facts()) if name == "facts" else len(rows(f"{name}.jsonl")))


def test_assets_hold_no_code():
    assert not list(ASSETS.rglob("*.py"))


def test_the_list_of_distinctive_strings_covers_every_fact():
    lines = set((RECIPE / "distinctive.txt").read_text("utf-8").splitlines())
    for fact in facts():
        assert fact["answer"].rstrip("。.") in lines
        assert fact["says"].rstrip("。.") in lines


def load_variants() -> Any:
    spec = importlib.util.spec_from_file_location("company_variants", RECIPE / "variants.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("number", "spoken"),
    [
        (2, "两"),
        (7, "七"),
        (10, "十"),
        (14, "十四"),
        (80, "八十"),
        (105, "一百零五"),
        (150, "一百五十"),
        (2000, "两千"),
        (3500, "三千五百"),
        (620, "六百二十"),
    ],
)
def test_numbers_are_spelled_as_spoken(number: int, spoken: str):
    assert load_variants().chinese_number(number) == spoken
