"""What is stored for comparing rows holds nothing that privacy took out of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from danlu.data.flow.conveyor import convey
from danlu.data.flow.passing import Passing
from danlu.data.flow.piece import joined
from danlu.data.flow.plan import plan_shards
from danlu.data.flow.store import Store
from danlu.data.privacy import Keyring, Policy, PrivacyStage
from danlu.data.twins import EXACT, decide
from danlu.recipe.privacy import PrivacySection

PHONES = ("13912345678", "13700001111")


def rows(path: Path) -> Path:
    told = [
        {"question": "怎么联系张工？", "answer": f"请拨打 {PHONES[0]}，工作日九点到五点有人接听。"},
        {"question": "怎么联系张工？", "answer": f"请拨打 {PHONES[1]}，工作日九点到五点有人接听。"},
        {"question": "怎么联系张工？", "answer": f"请拨打 {PHONES[0]}，工作日九点到五点有人接听。"},
        {"question": "How to bake bread?", "answer": "Flour, water, salt, yeast, patience and an oven."},
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in told]
    lines.append('{"question": "broken ' + PHONES[0])
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("action", ["token", "mask", "drop", "pseudonym"])
def test_no_letter_of_the_original_lies_in_the_store(tmp_path: Path, action: str) -> None:
    """Rows were masked, and beside them lay the folded text they were compared by, numbers and all."""
    pytest.importorskip("pyarrow")
    section = PrivacySection.model_validate({"actions": {"mobile": action}})
    passing = Passing(privacy=PrivacyStage(Policy.of(section), Keyring.open(tmp_path / "keys.json")))
    found = convey(plan_shards([rows(tmp_path / "a.jsonl")]), passing, Store(tmp_path / "store"), engine="local")
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for phone in PHONES:
                assert phone.encode() not in content and phone.encode("utf-16-le") not in content, path.name
    columns = [piece.columns for piece in found.pieces]
    alive = joined(found.pieces, "alive")
    decision = decide(columns, kept=alive)
    start = joined(found.pieces, "start")
    assert len(start) == 5 and start[-1] == len(joined(found.pieces, "units"))
    if action == "drop":
        assert alive.tolist() == [False, False, False, True] and not np.diff(start)[:3].any()
    else:
        assert decision.verdict[2] == EXACT and decision.verdict[1] != EXACT, "two people's numbers are two rows"
