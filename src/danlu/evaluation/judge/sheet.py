"""The sheet on which people judge what the judge judged, and how far the two agree.

CSV that spreadsheets open (UTF-8 with a mark, formulas made harmless), blind: which answer is whose lies in a key file
beside it, and A and B change places by the item's own digest. Read back in any order, in UTF-8 or a Chinese
spreadsheet's GB18030; rows left empty are left out.
"""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import EvaluationError
from danlu.core.files import dump_json, read_json, sha256_json, write_bytes
from danlu.evaluation.items import Item
from danlu.evaluation.judge.judge import PairVerdict, Rating, Side
from danlu.evaluation.stats.agreement import cohen_tally
from danlu.evaluation.stats.corpus import estimate_tally

SHEET, KEY = "judge-sheet.csv", "judge-key.json"
NUM_ROWS = 50
FEWEST_ROWS = 20
ENOUGH = 0.6
"""Agreement from which a judge may stand in for people (Landis & Koch 1977: substantial)."""
COLUMNS = ("id", "question", "reference", "A", "B", "winner (A/B/tie)", "score A (1-5)", "score B (1-5)")
_COMPUTED = tuple("=+-@\t\r\n＝＋－＠")
_SIDES: dict[str, Side | str] = {"a": "A", "b": "B", "tie": "tie", "平": "tie", "平局": "tie", "=": "tie"}


@dataclass(frozen=True, slots=True)
class Judged:
    """An item, both answers and what the judge made of them."""

    item: Item
    first: str
    second: str
    verdict: PairVerdict | None = None
    ratings: tuple[Rating | None, Rating | None] = (None, None)


def write_sheet(folder: Path, judged: Sequence[Judged], *, num_rows: int = NUM_ROWS) -> Path:
    """The sheet with up to `num_rows` items, drawn evenly over what the judge said; the key beside it."""
    chosen = _spread([one for one in judged if one.first.strip() != one.second.strip()], num_rows)
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(COLUMNS)
    key: dict[str, Any] = {}
    for one in chosen:
        is_turned = int(sha256_json([one.item.id, "order"]), 16) % 2 == 1
        shown = (one.second, one.first) if is_turned else (one.first, one.second)
        row = (one.item.id, one.item.text, one.item.reference, *shown, "", "", "")
        writer.writerow([_harmless(cell) for cell in row])
        key[one.item.id] = {
            "turned": is_turned, "winner": one.verdict.winner if one.verdict else None,
            "scores": [rating.score if rating else None for rating in one.ratings],
        }  # fmt: skip
    write_bytes(folder / SHEET, b"\xef\xbb\xbf" + lines.getvalue().encode())
    write_bytes(folder / KEY, dump_json(key))
    return folder / SHEET


def read_sheet(sheet: Path, key_file: Path | None = None) -> dict[str, Any]:
    """Agreement of people and judge: kappa of winners, quadratically weighted kappa of scores, with intervals.

    Raises EvaluationError naming the row whose cell is none of what is asked for, or a sheet without its key.
    """
    key_path = key_file or sheet.with_name(KEY)
    try:
        key: Mapping[str, Any] = read_json(key_path)
        content = sheet.read_bytes()
    except (OSError, ValueError) as fault:
        raise EvaluationError(
            "judge.no_sheet", where=str(sheet), key_file=str(key_path), said=str(fault)[:200]
        ) from fault
    winners: list[tuple[str, str]] = []
    scores: list[tuple[int, int]] = []
    for number, row in _rows(content, sheet):
        name = row.get("id") or ""
        known = key.get(name) or key.get(name.removeprefix("'"))
        where = f"{sheet}:{number}"
        if known is None:
            raise EvaluationError("judge.unknown_row", where=where, given=row.get("id") or "-")
        if (said := _winner(row, where)) is not None and known["winner"] is not None:
            people = said if said == "tie" else "second" if (said == "A") == known["turned"] else "first"
            winners.append((people, known["winner"]))
        shown = known["scores"][::-1] if known["turned"] else known["scores"]
        for column, judged in zip(COLUMNS[6:], shown, strict=True):
            given = _score(row, column, where)
            if given is not None and judged is not None:
                scores.append((given, judged))
    return {
        "winner": _agreement(winners, "none"), "score": _agreement(scores, "quadratic"), "enough": ENOUGH,
        "num_rows": len(key), "verdict": _verdict(winners, scores),
    }  # fmt: skip


def _agreement(pairs: Sequence[tuple[Any, Any]], weights: Any) -> dict[str, Any] | None:
    if len(pairs) < 2:
        return None
    tally = cohen_tally([one for one, _ in pairs], [other for _, other in pairs], weights=weights)
    estimate = estimate_tally(tally)
    value = None if math.isnan(estimate.value) else estimate.value
    interval = None if math.isnan(estimate.low + estimate.high) else [estimate.low, estimate.high]
    equal = sum(one == other for one, other in pairs) / len(pairs)
    return {"kappa": value, "interval": interval, "equal": equal, "num": len(pairs)}


def _verdict(winners: Sequence[tuple[str, str]], scores: Sequence[tuple[int, int]]) -> str:
    """trusted, doubtful, unmeasured while people judged too few, or uniform where all said one and the same."""
    told = [_agreement(winners, "none"), _agreement(scores, "quadratic")]
    enough = [one for one in told if one and one["num"] >= FEWEST_ROWS]
    kappas = [one["kappa"] for one in enough if one["kappa"] is not None]
    if not kappas:
        return "uniform" if enough else "unmeasured"
    return "trusted" if min(kappas) >= ENOUGH else "doubtful"


def _spread(judged: Sequence[Judged], num_rows: int) -> list[Judged]:
    """Evenly over the verdicts, by the item's digest within each: ties and losses are judged by people, too."""
    groups: dict[str, list[Judged]] = {}
    for one in sorted(judged, key=lambda one: sha256_json([one.item.id, "sheet"])):
        groups.setdefault(str(one.verdict.winner if one.verdict else ""), []).append(one)
    chosen: list[Judged] = []
    while len(chosen) < num_rows and any(groups.values()):
        for group in groups.values():
            if group and len(chosen) < num_rows:
                chosen.append(group.pop(0))
    return chosen


def _harmless(cell: str) -> str:
    """A cell that a spreadsheet would compute is quoted (CWE-1236); Chinese ones compute full-width signs, too."""
    return f"'{cell}" if cell.lstrip(" \u3000")[:1] in _COMPUTED else cell


def _rows(content: bytes, sheet: Path) -> list[tuple[int, dict[str, str]]]:
    """Numbers and rows in which anything stands: spreadsheets leave empty rows, and some part cells by ; or tabs."""
    text = _decoded(content)
    head = text.partition("\n")[0].strip().strip('"')
    comma = next((mark for mark in ";\t" if head.removeprefix("id").lstrip('"').startswith(mark)), ",")
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=comma))
    except csv.Error as fault:
        raise EvaluationError("judge.no_sheet", where=str(sheet), key_file=KEY, said=str(fault)) from fault
    return [
        (number, row)
        for number, row in enumerate(rows, start=2)
        if any((cell or "").strip() for name, cell in row.items() if name is not None)
    ]


def _decoded(content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):  # "Unicode text"
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("gb18030", "replace")


def _winner(row: Mapping[str, str | None], where: str) -> str | None:
    given = unicodedata.normalize("NFKC", row.get(COLUMNS[5]) or "").strip()
    if not given:
        return None
    said = _SIDES.get(given.lower())
    if said is None:
        raise EvaluationError("judge.bad_winner", where=where, given=given)
    return str(said)


def _score(row: Mapping[str, str | None], column: str, where: str) -> int | None:
    given = unicodedata.normalize("NFKC", row.get(column) or "").strip().removesuffix(".0")
    if not given:
        return None
    if given not in ("1", "2", "3", "4", "5"):
        raise EvaluationError("judge.bad_score", where=where, given=given)
    return int(given)
