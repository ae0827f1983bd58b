"""Write the demo company's files from one source of truth: the yaml beside this file.

    python recipes/company/make.py                    # everything, into src/danlu/assets/company
    python recipes/company/make.py --rows-only OUT    # the jsonl files alone, into OUT

`facts/*.yaml` hold the rules with their wordings, `edge.yaml` behaviour, `replay.tsv` and `general.txt` general
language. The documents need python-docx, openpyxl and, for the PDF files alone, reportlab (`pip install reportlab`;
nothing else in the project uses it). Not random: the same yaml gives the same jsonl, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from source import Company, Fact, load_company
from variants import variants

HERE = Path(__file__).parent
ASSETS = HERE.parents[1] / "src/danlu/assets/company"

Row = dict[str, Any]


def chat(question: str, answer: str, **extra: Any) -> Row:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **extra}


def qa_rows(company: Company) -> tuple[list[Row], list[Row]]:
    """Training rows, and the validation rows taken from them: one written wording of every fourth fact."""
    train: list[Row] = []
    validation: list[Row] = []
    for number, fact in enumerate(company.facts):
        for place, question in enumerate(company.train_wordings(number)):
            kept = validation if number % 4 == 0 and place == len(fact.train) - 1 else train
            kept.append(chat(question, fact.cited, group=fact.id, document=fact.file, language=fact.language))
    return train, validation


def test_rows(company: Company) -> list[Row]:
    return [
        {
            "question": question,
            "answer": fact.cited,
            "value": fact.value,
            "accept": variants(fact.value, fact.language, fact.accept),
            "group": fact.id,
            "language": fact.language,
            "document": fact.file,
        }
        for fact in company.facts
        for question in fact.test
    ]


# ---------------------------------------------------------------- behaviour


def edge_rows(company: Company, part: str) -> list[Row]:
    """The items of `edge.yaml`, for `part` = train or test; `match` says how a scorer should look for the value:
    `prefix` at the start of the answer, `contains` anywhere in it."""
    rows = [
        *sarcasm_rows(company, part),
        *yes_no_rows(company, part),
        *premise_rows(company, part),
        *unanswerable_rows(company, part),
    ]
    return [{"id": f"edge-{part}-{number:03d}", **row} for number, row in enumerate(rows, start=1)]


def sarcasm_rows(company: Company, part: str) -> list[Row]:
    section = company.edge["sarcasm"]
    rows = []
    for language, pairs in section[part].items():
        frames = section["ask"][part][language]
        for number, pair in enumerate(pairs):
            frame = frames[number % len(frames)]
            for kind, text, answer in zip(
                ("sarcasm", "sarcasm_control"), pair, section["answer"][language], strict=True
            ):
                rows.append(
                    {
                        "question": frame.format(text),
                        "answer": answer,
                        "value": answer.rstrip("。."),
                        "accept": [],
                        "match": "prefix",
                        "kind": kind,
                        "pair": f"sarcasm-{part}-{language}-{number + 1}",
                        "language": language,
                        "document": None,
                    }
                )
    return rows


def yes_no_rows(company: Company, part: str) -> list[Row]:
    rows = []
    for fact_id, straight, denied in company.edge["negation"][part]:
        fact = company.fact(fact_id)
        for kind, question, word in zip(
            ("negation_control", "negation"), (straight, denied), company.yes_no[fact.language], strict=True
        ):
            rows.append(yes_no_row(fact, kind, question, word) | {"pair": f"negation-{part}-{fact_id}"})
    return rows


def premise_rows(company: Company, part: str) -> list[Row]:
    rows = []
    for fact_id, question in company.edge["premise"][part]:
        fact = company.fact(fact_id)
        row = yes_no_row(fact, "false_premise", question, company.yes_no[fact.language][1])
        rows.append(row | {"pair": None, "correct_value": fact.value})
    return rows


def yes_no_row(fact: Fact, kind: str, question: str, word: str) -> Row:
    return {
        "question": question,
        "answer": word + fact.cited,
        "value": word.strip(" 。."),
        "accept": [],
        "match": "prefix",
        "kind": kind,
        "language": fact.language,
        "document": fact.file,
        "group": fact.id,
    }


def unanswerable_rows(company: Company, part: str) -> list[Row]:
    values = {"zh": ("没有写", ["没写", "请问人事部"]), "en": ("does not say", ["ask HR"])}
    return [
        {
            "question": question,
            "answer": company.unanswerable[language],
            "value": values[language][0],
            "accept": values[language][1],
            "match": "contains",
            "kind": "unanswerable",
            "pair": None,
            "language": language,
            "document": None,
        }
        for language, questions in company.edge["unanswerable"][part].items()
        for question in questions
    ]


def behaviour_rows(company: Company) -> list[Row]:
    return [
        chat(row["question"], row["answer"], group=row["pair"] or row["id"], kind=row["kind"], language=row["language"])
        for row in edge_rows(company, "train")
    ]


# ---------------------------------------------------------------- preference

KINDS = ("rambling", "wrong_value", "rude", "no_cite", "vague")


def preference_rows(company: Company) -> tuple[list[Row], list[Row]]:
    """Training pairs ask in training wordings; held-out pairs are of other facts (each fourth), in test wordings."""
    train: list[Row] = []
    held_out: list[Row] = []
    for number, fact in enumerate(company.facts):
        is_held_out = number % 4 == 2
        questions = fact.test[:2] if is_held_out else (fact.train[0], fact.train[3])
        rows = held_out if is_held_out else train
        for place, question in enumerate(questions):
            turn = len(rows)
            kind = KINDS[turn % len(KINDS)]
            rejected = worse_answer(company, fact, kind, turn + place)
            rows.append(
                {
                    "prompt": question,
                    "chosen": fact.cited,
                    "rejected": rejected,
                    "kind": kind,
                    "group": fact.id,
                    "document": fact.file,
                    "language": fact.language,
                }
            )
    return train, held_out


def worse_answer(company: Company, fact: Fact, kind: str, turn: int) -> str:
    if kind == "no_cite":
        return fact.answer
    if kind == "wrong_value":
        return fact.cited.replace(fact.value, other_value(company, fact, turn), 1)
    phrases = company.worse[fact.language][kind]
    return phrases[turn // len(KINDS) % len(phrases)].format(answer=fact.answer, cite=fact.cite)


def other_value(company: Company, fact: Fact, turn: int) -> str:
    """A plausible wrong value: a written one, else another of the same unit, nearest first, else twice the number."""
    if fact.id in company.wrong:
        return company.wrong[fact.id][turn % 2]
    unit = unit_of(fact.value)
    same_unit = [other for other in company.facts if unit_of(other.value) == unit and other.language == fact.language]
    near = [other for other in same_unit if other.document == fact.document]
    for candidates in (near, same_unit):
        values = sorted({other.value for other in candidates if bare_differs(fact.value, other.value)})
        if values:
            return values[turn % len(values)]
    return re.sub(r"[\d.]*\d", lambda number: f"{2 * float(number[0]):g}", fact.value, count=1)


def bare_differs(value: str, other: str) -> bool:
    """Neither holds the other: 180天 must not pass for 80天."""
    return value not in other and other not in value


def unit_of(value: str) -> str:
    """What stands after the number: 80元 -> 元, 6 weeks -> weeks, 9:40 -> ':', 6120 -> '#', a name -> ''."""
    if not any(letter.isdigit() for letter in value):
        return ""
    return value.strip("0123456789. ").replace("th", "") or "#"


# ---------------------------------------------------------------- general language


def replay_rows() -> list[Row]:
    """`replay.tsv` and small sums, days and months that are easier to count than to write."""
    lines = (HERE / "replay.tsv").read_text("utf-8").splitlines()
    pairs = [tuple(line.split("\t")) for line in lines if line and not line.startswith("#")]
    pairs += sums()
    return [
        chat(question, answer, group=f"replay-{number:03d}", language=language_of(question))
        for number, (question, answer) in enumerate(pairs, start=1)
    ]


def sums() -> list[tuple[str, str]]:
    pairs = []
    for number in range(20):
        a, b = 3 + 7 * number % 19, 2 + 5 * number % 17
        pairs.append((f"{a}加{b}等于几？", f"{a}加{b}等于{a + b}。"))
        pairs.append((f"What is {a + b} minus {b}?", f"{a + b} minus {b} is {a}."))
    for a, b in ((2, 6), (3, 7), (4, 8), (5, 9), (6, 6), (7, 8), (9, 3), (8, 8)):
        pairs.append((f"{a}乘以{b}是多少？", f"{a}乘以{b}是{a * b}。"))
        pairs.append((f"What is {b} times {a}?", f"{b} times {a} is {a * b}."))
    return pairs


def general_rows() -> list[Row]:
    passages = (HERE / "general.txt").read_text("utf-8").strip().split("\n\n")
    return [{"text": " ".join(passage.split("\n")), "language": language_of(passage)} for passage in passages]


def language_of(text: str) -> str:
    return "zh" if any("\u4e00" <= letter <= "\u9fff" for letter in text) else "en"


# ---------------------------------------------------------------- files


def all_rows(company: Company) -> dict[str, list[Row]]:
    train, validation = qa_rows(company)
    preference, preference_test = preference_rows(company)
    return {
        "qa.jsonl": train,
        "validation.jsonl": validation,
        "test.jsonl": test_rows(company),
        "behaviour.jsonl": behaviour_rows(company),
        "edge.jsonl": edge_rows(company, "test"),
        "preference.jsonl": preference,
        "preference_test.jsonl": preference_test,
        "replay.jsonl": replay_rows(),
        "general.jsonl": general_rows(),
    }


def write_rows(company: Company, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in all_rows(company).items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / name).write_text("".join(lines), "utf-8", newline="\n")


def write_card(company: Company, folder: Path) -> None:
    """`company.json`: what lies here, how much of it, and the digest of each file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "company.json")
    card = {
        "format": 1,
        "name": company.name,
        "about": company.about,
        "licence": company.licence,
        "languages": {language: sum(f.language == language for f in company.facts) for language in ("zh", "en")},
        "counts": {"facts": len(company.facts), **{n.split(".")[0]: len(r) for n, r in all_rows(company).items()}},
        "documents": [
            {
                "file": f"documents/{doc['file']}",
                "title": doc["title"],
                "language": doc["language"],
                "cite": doc["cite"],
            }
            for doc in company.documents
        ],
        "unanswerable": company.unanswerable,
        "digests": {
            path.relative_to(folder).as_posix(): "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
    }
    text = json.dumps(card, ensure_ascii=False, indent=2) + "\n"
    (folder / "company.json").write_text(text, "utf-8", newline="\n")


def distinctive_lines(company: Company) -> list[str]:
    """What no pretraining text may hold: names, rules, short answers; item and value (a tab between) together."""
    rules = [text.rstrip("。.") for fact in company.facts for text in (fact.answer, fact.says)]
    items = [fact.names[0].removeprefix("the ") + "\t" + fact.value for fact in company.facts]
    return list(dict.fromkeys([*company.distinctive, *rules, *items]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows-only", type=Path, metavar="OUT", help="write only the jsonl files, into OUT")
    arguments = parser.parse_args()
    company = load_company(HERE)
    if arguments.rows_only:
        write_rows(company, arguments.rows_only)
        return
    from documents import write_documents  # needs the office libraries, which rows do not

    write_rows(company, ASSETS)
    write_documents(company, ASSETS / "documents")
    write_card(company, ASSETS)
    lines = distinctive_lines(company)
    (HERE / "distinctive.txt").write_text("\n".join(lines) + "\n", "utf-8", newline="\n")


if __name__ == "__main__":
    main()
