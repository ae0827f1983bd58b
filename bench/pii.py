"""How much personal data is found, how much else is taken for it, what a row costs; beside Presidio and data-juicer.

    python bench/pii.py --out bench/results/pii-2cores.json
    python bench/pii.py --presidio PRESIDIO/bin/python --juicer JUICER/bin/python  # peers in environments of their own

Rows: the seeded suite (pii_suite.py) and ../shared/data/pii where it is there. A finding counts when kind and span are
exact; `overlap_recall` counts any touch of the right kind. Peers run on the same rows, with the kinds that they know,
and without a model: Presidio finds names with a spaCy model that has to be downloaded; its names are not measured.
Its context words count, its phones are asked for CN, US, UK, DE, FR, CA. data-juicer cleans e-mail and IP only.
Speed: rows of about 750 bytes of real text (../shared/data), CPU time, best of many, three values (name, mobile, mail)
in a share of rows. `walk_us` is RE2 alone on the same rows: what the machine was like at that hour.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import platform
import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pii_suite import CHECKSUM_KINDS, MAKERS, suite

from danlu.data.privacy import Keyring, Policy, PrivacyStage
from danlu.data.privacy.scan import Scanner
from danlu.data.sample import Document, Origin
from danlu.recipe.privacy import PrivacySection

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "data"
FLOOR = 0.5
OURS = {"NAME": "name", "CN_MOBILE": "mobile", "EMAIL": "email", "BANK_CARD": "bank_card", "CN_ID": "resident_id",
        "USCC": "uscc", "ADDRESS": "address"}  # fmt: skip
PRESIDIO = {"PERSON": "name", "STREET_ADDRESS": "address", "ADDRESS": "address", "CREDIT_CARD": "bank_card",
            "PHONE_NUMBER": "phone", "EMAIL_ADDRESS": "email", "US_SSN": "us_ssn", "IBAN_CODE": "iban",
            "IP_ADDRESS": "ip"}  # fmt: skip
PEER_KINDS = {
    "presidio": {"bank_card", "email", "ip", "iban", "phone", "us_ssn", "uk_nino", "mac", "mobile", "landline"},
    "data-juicer": {"email", "ip"},
}
ANY_PHONE = {"mobile": "phone", "landline": "phone", "phone": "phone"}

Spans = set[tuple[str, int, int]]


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path)
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--presidio", type=Path)
    options.add_argument("--juicer", type=Path)
    chosen = options.parse_args()
    sets = {"suite": suite(chosen.seed)} | shared_sets()
    found = {name: ours(rows) for name, rows in sets.items()}
    report: dict[str, Any] = {
        "command": "python bench/pii.py --presidio PRESIDIO/bin/python --juicer JUICER/bin/python",
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": os.getloadavg()[0],
            "commit": commit(),
        },
        "rows": {name: len(rows) for name, rows in sets.items()},
        "danlu": {name: score(sets[name], found[name]) for name in sets},
        "vectors": vectors(),
        "speed": speed(),
    }
    checksum = [report["danlu"]["suite"][kind] for kind in CHECKSUM_KINDS]
    report["checksum_kinds"] = {
        "recall": sum(one["hit"] for one in checksum) / sum(one["hit"] + one["missed"] for one in checksum),
        "precision": sum(one["hit"] for one in checksum) / max(1, sum(one["hit"] + one["wrong"] for one in checksum)),
    }
    for name, python, script in (("presidio", chosen.presidio, "pii_presidio.py"),
                                 ("data-juicer", chosen.juicer, "pii_juicer.py")):  # fmt: skip
        if python is not None:
            report[name] = beside(name, python, HERE / script, sets, found)
    print(json.dumps(report, indent=1, ensure_ascii=False))
    if chosen.out:
        chosen.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def shared_sets() -> dict[str, list[dict[str, Any]]]:
    """Rows of others, with gold spans in our kinds; kinds that we have no word for are left out of the gold."""
    folder = SHARED / "pii"
    if not folder.is_dir():
        return {}
    chinese = [json.loads(line) for line in (folder / "cn_pii_sentences.jsonl").read_text("utf-8").splitlines()]
    sets = {"cn_sentences": [_gold(row["text"], row["spans"], "type", "start", "end", OURS) for row in chinese]}
    for name in ("presidio_generated_small", "presidio_synth_v2"):
        rows = json.loads(gzip.decompress((folder / f"{name}.json.gz").read_bytes()))
        keys = ("entity_type", "start_position", "end_position")
        sets[name] = [_gold(row["full_text"], row["spans"], *keys, PRESIDIO) for row in rows]
    return sets


def _gold(text: str, spans: Any, kind: str, start: str, end: str, names: dict[str, str]) -> dict[str, Any]:
    listed = [[names[one[kind]], one[start], one[end]] for one in spans if one[kind] in names]
    return {"text": text, "spans": listed, "group": "shared"}


def ours(rows: list[dict[str, Any]]) -> list[Spans]:
    found = Scanner().scan([row["text"] for row in rows])
    return [{(hit.kind, hit.start, hit.end) for hit in hits if hit.score >= FLOOR} for hits in found]


def score(rows: list[dict[str, Any]], found: list[Spans], kinds: set[str] | None = None) -> dict[str, Any]:
    """Per kind: exact hits, missed, wrong; recall, precision, F2; recall by overlap. Kinds of phones are one kind
    where the gold does not tell them apart."""
    is_theirs = any(span[0] == "phone" for row in rows for span in row["spans"]) and not any(
        span[0] == "mobile" for row in rows for span in row["spans"]
    )
    merge: Callable[[str], str] = (
        (lambda kind: ANY_PHONE.get(kind, kind)) if is_theirs or kinds else (lambda kind: kind)
    )
    hit, missed, wrong, touched = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for row, hits in zip(rows, found, strict=True):
        gold = {(merge(kind), start, end) for kind, start, end in row["spans"]}
        mine = {(merge(kind), start, end) for kind, start, end in hits}
        hit.update(kind for kind, *_ in gold & mine)
        missed.update(kind for kind, *_ in gold - mine)
        wrong.update(kind for kind, *_ in mine - gold)
        touched.update(g[0] for g in gold if any(g[0] == m[0] and g[1] < m[2] and m[1] < g[2] for m in mine))
    names = sorted({*hit, *missed, *(wrong if kinds is None else ())} & ({merge(kind) for kind in kinds} if kinds else
                   {*hit, *missed, *wrong}))  # fmt: skip
    return {kind: _rates(hit[kind], missed[kind], wrong[kind], touched[kind]) for kind in names}


def _rates(hit: int, missed: int, wrong: int, touched: int) -> dict[str, Any]:
    recall, precision = hit / max(1, hit + missed), hit / max(1, hit + wrong)
    f2 = 5 * precision * recall / max(1e-9, 4 * precision + recall)
    return {"hit": hit, "missed": missed, "wrong": wrong, "recall": round(recall, 4), "precision": round(precision, 4),
            "f2": round(f2, 4), "overlap_recall": round(touched / max(1, hit + missed), 4)}  # fmt: skip


def vectors() -> dict[str, Any]:
    """Bare values, right and wrong ones. Private and documentation addresses are no personal data to us."""
    path = SHARED / "pii" / "cn_pii_vectors.csv"
    if not path.is_file():
        return {}
    names = {"cn_id18": "resident_id", "cn_mobile": "mobile", "cn_uscc": "uscc", "cn_plate": "plate"}
    scanner, right, others = Scanner(), Counter[str](), []
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    for row in rows:
        kind = names.get(row["kind"], row["kind"])
        is_found = any(hit.kind == kind and hit.value == row["value"] for hit in scanner.scan([row["value"]])[0])
        right[row["kind"]] += is_found == (row["valid"] == "1")
        if is_found != (row["valid"] == "1"):
            others.append(row["value"])
    totals = Counter(row["kind"] for row in rows)
    return {"right": {kind: f"{right[kind]}/{totals[kind]}" for kind in totals}, "otherwise": others}


def speed() -> dict[str, Any]:
    """Microseconds of CPU per row of about 750 bytes."""
    rng = random.Random(1)
    sentences = real_sentences()
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        keyring = Keyring.open(Path(folder) / "keys")
        stage = PrivacyStage(Policy.of(PrivacySection(pack="finance")), keyring)
        for share in (0.0, 0.1, 0.3, 1.0):
            rows = [real_row(sentences, rng, with_data=rng.random() < share) for _ in range(4000)]
            facts = timed(stage, rows)
            told[f"{share:.0%} of rows with personal data"] = {name: round(value, 2) for name, value in facts.items()}
        slow = Scanner(engine="re")
        told["without re2, us"] = round(best(lambda: slow.scan(rows[:500]), 500, times=1), 1)
    return told


def timed(stage: PrivacyStage, rows: list[str]) -> dict[str, float]:
    samples = [Document(row, Origin("bench", number)) for number, row in enumerate(rows, start=1)]
    return {
        "bytes": sum(len(row.encode()) for row in rows) / len(rows),
        "findings": sum(map(len, stage.scanner.scan(rows))) / len(rows),
        "walk_us": best(lambda: sum(1 for _ in stage.scanner.stops("\n".join(rows))), len(rows)),
        "scan_us": best(lambda: stage.scanner.scan(rows), len(rows)),
        "stage_us": best(lambda: stage.examine(samples), len(rows)),
    }


def real_sentences() -> list[str]:
    texts: list[str] = []
    for path in (
        SHARED / "instruct" / "alpaca_zh_demo.json.gz",
        SHARED / "finance_qa" / "disc_fin_consulting_part.json.gz",
    ):
        if path.is_file():
            rows = json.loads(gzip.decompress(path.read_bytes()))
            texts += [" ".join(str(value) for value in row.values()) for row in rows]
    joined = "。".join(texts) or "请在营业厅办理套餐。第二天生效。" * 50
    return [one for one in re.split(r"(?<=[。！？])", joined) if 5 < len(one) < 120]


def real_row(sentences: list[str], rng: random.Random, *, with_data: bool) -> str:
    planted = ""
    if with_data:
        who, phone, mail = MAKERS["name_zh"](rng), MAKERS["mobile"](rng), MAKERS["email"](rng)
        planted = f"联系人：{who}，电话{phone}，邮箱{mail}。"
    text = ""
    while len(text.encode()) + len(planted.encode()) < 700:
        text += rng.choice(sentences)
    return text + planted


def best(run: Callable[[], Any], num_rows: int, times: int = 15) -> float:
    run()
    taken = []
    for _ in range(times):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return min(taken) / num_rows * 1e6


def beside(
    name: str, python: Path, script: Path, sets: dict[str, list[dict[str, Any]]], found: dict[str, list[Spans]]
) -> dict[str, Any]:
    """A peer in its own environment: rows in, spans out, with the CPU time that its rows took."""
    told: dict[str, Any] = {}
    for label, rows in sets.items():
        with tempfile.TemporaryDirectory() as folder:
            given, answered = Path(folder) / "rows.jsonl", Path(folder) / "spans.json"
            given.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows), encoding="utf-8")
            done = subprocess.run([python, script, given, answered], capture_output=True, text=True, check=False)
            if done.returncode:
                told[label] = {"error": done.stderr.strip().splitlines()[-1:]}
                continue
            answer = json.loads(answered.read_text(encoding="utf-8"))
        theirs = [spans_of(spans) for spans in answer["spans"]]
        kinds = PEER_KINDS[name]
        told[label] = {
            "version": answer["version"], "us_per_row": round(answer["cpu_s"] / len(rows) * 1e6, 1),
            "theirs": score(rows, theirs, kinds), "danlu": score(rows, found[label], kinds),
        }  # fmt: skip
    return told


def spans_of(spans: Iterable[Any]) -> Spans:
    return {(kind, start, end) for kind, start, end in spans}


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
