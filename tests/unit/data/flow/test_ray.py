"""Ray Data: the same rows, twins and parts as in this process, on a cluster of this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from danlu.core.errors import RecipeError
from danlu.data.finding import SourceSpec
from danlu.data.flow.conveyor import Conveyed, convey
from danlu.data.flow.passing import Passing
from danlu.data.flow.piece import Places, joined, num_rows, streamed
from danlu.data.flow.plan import plan_shards
from danlu.data.flow.store import Store
from danlu.data.split import split_columns
from danlu.data.twins import EXACT, NEAR, decide

ray = pytest.importorskip("ray", reason="ray is not installed: pip install danlu[scale]")
pytest.importorskip("pyarrow")

FILLER = "the quick brown fox jumps over the lazy dog while seven wizards brew a potion of silver moss and old rain"


def write_rows(path: Path, first: int) -> Path:
    """300 rows; of each ten one is an exact twin and one a near twin of another."""
    words = FILLER.split()
    lines = []
    for row in range(first, first + 300):
        told = row - row % 10 if row % 10 in (4, 7) else row
        text = " ".join(words[(told * 7 + n * (1 + told % 5)) % len(words)] + str(told * n % 97) for n in range(30))
        if row % 10 == 7:
            text = text.replace("a", "e", 1)
        lines.append(f'{{"question": "How about {told}?", "answer": "{text}"}}')
    path.write_text("\n".join(lines) + "\n")
    return path


def decided(found: Conveyed) -> tuple[list[str], list[int], list[int], str]:
    columns = [piece.columns for piece in found.pieces]
    decision = decide(columns, kept=joined(found.pieces, "alive"))
    part, certificate = split_columns(
        columns, decision, test=0.2, validation=0.1, seed=3, name_of=Places.of(found.pieces).name
    )
    rows = [row.id for _, row in streamed(found.pieces, np.ones(num_rows(found.pieces), bool))]
    return rows, decision.verdict.tolist(), part.tolist(), certificate["digest"]


def test_ray_gives_the_same_rows_twins_and_parts(tmp_path: Path) -> None:
    paths = [write_rows(tmp_path / f"{name}.jsonl", first) for name, first in (("a", 0), ("b", 200))]
    plan = plan_shards(paths, shard_bytes=16_000)
    assert len(plan.shards) > 4
    here = convey(plan, Passing(), Store(tmp_path / "none"), engine="inline")
    there = convey(plan, Passing(), Store(tmp_path / "store"), engine="ray", num_workers=2)
    assert there.num_redone == len(plan.shards) and not ray.is_initialized(), "what was started is stopped"
    one, other = decided(here), decided(there)
    assert one == other and there.shards == here.shards
    assert one[1].count(EXACT) > 50 and one[1].count(NEAR) > 20
    local = convey(plan, Passing(), Store(tmp_path / "store"), engine="local")
    assert local.num_redone == 0, "shards are the same whoever made them"


def test_a_fault_on_a_node_is_told_as_it_is(tmp_path: Path) -> None:
    """Ray wraps errors into its own, and the sentence for people was lost in a traceback."""
    plan = plan_shards([SourceSpec(write_rows(tmp_path / "a.jsonl", 0), format="alpakka")], shard_bytes=16_000)
    with pytest.raises(RecipeError) as caught:
        convey(plan, Passing(), Store(tmp_path / "store"), engine="ray", num_workers=1)
    assert caught.value.values["nearest"] == "alpaca"
    assert not ray.is_initialized()
