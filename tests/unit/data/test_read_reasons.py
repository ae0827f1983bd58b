"""Every reason that code gives for a row's fate has its sentence in both languages, with values for its placeholders."""

from __future__ import annotations

import re
import string
from pathlib import Path

import danlu
from danlu.core.messages import load_room, lookup
from danlu.data.formats import choose
from danlu.data.ledger import Ledger
from danlu.data.rows import RowError
from danlu.data.sample import Origin

GIVEN = re.compile(
    r"""(?:RowError\(\s*|Fault\([^,]+,\s*|Kind\(None,\s*|\.(?:reject|revoke|change)\([^,]+,\s*[^,]+,\s*|_note\()"([a-z_]+)"([^\n]*)"""
)


def test_every_reason_in_the_code_has_a_sentence_in_both_languages() -> None:
    found = 0
    for path in Path(danlu.__file__).parent.rglob("*.py"):
        for reason, _ in GIVEN.findall(path.read_text(encoding="utf-8")):
            found += 1
            for language in ("en", "zh"):
                assert reason in load_room("ledger", language), f"{path.name}: ledger.{reason} ({language})"
    assert found > 60


def test_both_languages_ask_for_the_same_values() -> None:
    for name in load_room("ledger", "en"):
        fields = [
            {field for _, field, _, _ in string.Formatter().parse("".join(lookup(f"ledger.{name}", language))) if field}
            for language in ("en", "zh")
        ]
        assert fields[0] == fields[1], name


def test_an_error_of_a_row_survives_a_process_boundary() -> None:
    import pickle

    fmt = choose({"messages": []})
    assert fmt is not None
    try:
        fmt.parse({"messages": []}, Origin("a", 1), [])
    except RowError as error:
        again = pickle.loads(pickle.dumps(error))
        assert (again.reason, str(again)) == ("empty_conversation", str(error))


def test_reasons_are_ranked_with_an_example() -> None:
    ledger = Ledger()
    for line in (3, 4):
        ledger.reject("a.jsonl", line, "empty_text")
    ledger.reject("b.jsonl", 1, "empty_label")
    assert [(reason, num, entry.line) for reason, num, entry in ledger.top_reasons()] == [
        ("empty_text", 2, 3),
        ("empty_label", 1, 1),
    ]
