"""How well the checks of synthesis tell truth from lies: the demo company's own answers, and lies made of them.

    python bench/grounding.py [FOLDER of documents ...]

Printed as JSON lines: answers accepted, lies that passed by kind, figures swapped with a neighbour's that were seen;
then the second liar (liar.py), who turns small words round. For each folder: sentences quoted word for word
(accepted?), lies told of them (any accepted?), the checks' speed, and the second liar again.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from liar import told, turned

from danlu.core.progress import Silent
from danlu.data.language import language_of
from danlu.data.ledger import Ledger
from danlu.data.sample import Document
from danlu.data.sources import read
from danlu.data.synthesis.belonging import fault_of_belonging
from danlu.data.synthesis.clauses import fault_of_clauses
from danlu.data.synthesis.facts import Fault, fault_of_answer, fault_of_core, figures
from danlu.data.synthesis.words import content_of
from danlu.pipeline.synthesize import READING

COMPANY = Path(str(resources.files("danlu.assets") / "company"))
SUPPORT = 0.65
SENTENCE = re.compile(r"[\n。]|(?<=[a-z])\. ")
ADDED = {
    "zh": {
        "name": "由王伟负责，{}",
        "duty": "{}同时需要提供上级主管单位盖章的书面证明。",
        "code": "{}在 OA-7 系统提交。",
    },
    "en": {
        "name": "Alice Johnson decides: {}",
        "duty": "{} You also need a stamped letter from the regional tax office.",
        "code": "{} Submit it in the OA-7 system.",
    },
}


def fault_of(question: str, answer: str, evidence: str) -> Fault | None:
    """All checks that an answer about a document goes through."""
    return (
        fault_of_answer(answer, evidence, question, READING, support=SUPPORT)
        or fault_of_core(question, answer, evidence, READING)
        or fault_of_belonging(question, answer, evidence, READING)
        or fault_of_clauses(question, answer, evidence)
    )


def second(name: str, cases: Iterable[tuple[str, str, str, bool, str]]) -> dict[str, object]:
    """Truths refused and lies passed of the second liar, and by which turn of words they passed."""
    count: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for question, answer, evidence, is_true, kind in cases:
        is_sound = fault_of(question, answer, evidence) is None
        count["truths" if is_true else "lies"] += 1
        count["truths_refused"] += is_true and not is_sound
        count["lies_passed"] += is_sound and not is_true
        passed[kind] += is_sound and not is_true
    shown = {kind: num for kind, num in passed.most_common(12) if num}
    return {"what": f"second liar, {name}", **dict(sorted(count.items())), "passed_by": shown}


def lies(answer: str, draw: random.Random) -> dict[str, str]:
    """An answer made wrong in up to four ways."""
    made = {kind: text.format(answer) for kind, text in ADDED["zh" if language_of(answer) == "zh" else "en"].items()}
    if number := re.search(r"\d+", answer):
        other = str(int(number[0]) + draw.choice([1, 5, 10]))
        made["figure"] = answer[: number.start()] + other + answer[number.end() :]
    return made


def texts_of(folder: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for sample in read([folder], Ledger(), progress=Silent()):
        if isinstance(sample, Document):
            name = Path(sample.origin.file).name.partition("#")[0]
            texts[name] = texts.get(name, "") + sample.text + "\n"
    return texts


def company() -> dict[str, object]:
    """Every answer of the company against the sentence of its document that is most like it."""
    texts = texts_of(COMPANY / "documents")
    rows = [
        json.loads(line)
        for name in ("test", "qa")
        for line in (COMPANY / f"{name}.jsonl").read_text("utf-8").splitlines()
    ]
    draw, known = random.Random(1), set[str]()
    count: Counter[str] = Counter()
    for row in rows:
        if not row.get("document"):
            continue
        question, answer = asked_of(row)
        sentences = [one for one in SENTENCE.split(texts[Path(row["document"]).name]) if one.strip()]
        words = set(content_of(answer))
        best = max(
            range(len(sentences)), key=lambda i: (len(words & set(content_of(sentences[i]))), -len(sentences[i]))
        )
        count.update(swaps(question, answer, "\n".join(sentences[max(0, best - 2) : best + 3])))
        if answer in known:
            continue
        known.add(answer)
        count["answers"] += 1
        count["answers_accepted"] += fault_of(question, answer, sentences[best]) is None
        for kind, lie in lies(answer, draw).items():
            count["lies"] += 1
            passed = fault_of(question, lie, sentences[best]) is None
            count[f"lies_passed_{kind}"] += passed
    return {"what": "company", **dict(sorted(count.items()))}


def asked_of(row: dict[str, object]) -> tuple[str, str]:
    """Question and answer without its source in brackets."""
    if isinstance(turns := row.get("messages"), list):
        question, answer = turns[0]["content"], turns[1]["content"]
    else:
        question, answer = str(row["question"]), str(row["answer"])
    return question, re.sub(r"（《.*?》）|\s*\([^()]*\)$", "", answer)


def swaps(question: str, answer: str, evidence: str) -> Counter[str]:
    """The answer's figure as it is, and exchanged for another of its unit from the five sentences around."""
    count = Counter(pairs=1, pairs_refused=int(_belongs_not(question, answer, evidence)))
    told = [one for one in figures(READING.fold(answer)) if one[1]]
    near = [one for one in figures(READING.fold(evidence)) if told and one[1] == told[0][1] and one[0] != told[0][0]]
    if near:
        swapped = re.sub(rf"(?<!\d){re.escape(told[0][0])}(?!\d)", near[0][0], answer)
        if swapped != answer:
            count["swapped"] = 1
            count["swapped_seen"] = int(_belongs_not(question, swapped, evidence))
    return count


def _belongs_not(question: str, answer: str, evidence: str) -> bool:
    fault = fault_of_belonging(question, answer, evidence, READING) or fault_of_clauses(question, answer, evidence)
    return fault is not None


def folder(path: Path) -> dict[str, object]:
    """Each sentence as its own evidence: word for word, and as lies."""
    draw = random.Random(1)
    count: Counter[str] = Counter()
    began = time.perf_counter()
    for text in texts_of(path).values():
        for sentence in SENTENCE.split(text):
            if len(sentence.strip()) < 12:
                continue
            count["sentences"] += 1
            count["sentences_accepted"] += fault_of("", sentence, sentence) is None
            for kind, lie in lies(sentence, draw).items():
                count["lies"] += 1
                if fault_of("", lie, sentence) is None:
                    count[f"lies_passed_{kind}"] += 1
    checks = count["sentences"] + count["lies"]
    rate = checks / (time.perf_counter() - began)
    return {"what": path.name, **dict(sorted(count.items())), "checks_per_s": round(rate)}


if __name__ == "__main__":
    print(json.dumps(company()))
    print(json.dumps(second("written cases", told()), ensure_ascii=False))
    for name in sys.argv[1:]:
        print(json.dumps(folder(Path(name)), ensure_ascii=False))
        cases = [case for text in texts_of(Path(name)).values() for case in turned(text)]
        print(json.dumps(second(name, cases), ensure_ascii=False))
