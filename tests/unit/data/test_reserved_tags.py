"""What a source file may say of its own rows: it cannot clear itself, nor pass for something danlu has made."""

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import DataError
from danlu.core.messages import set_language
from danlu.data.flow.passing import Passing, ShardFacts, pass_samples, pass_shard
from danlu.data.flow.plan import plan_shards
from danlu.data.ledger import Ledger
from danlu.data.privacy import Keyring, Policy, PrivacyStage
from danlu.data.sample import Document, Origin, Sample
from danlu.data.sources import read
from danlu.data.synthesis.teacher import Ask, Clearance, check_cleared
from danlu.recipe.privacy import PrivacySection

PHONE = "13812345678"


class Outside:
    """A teacher that is not on this machine."""

    name, is_external, identity = "far", True, ""
    levels = frozenset({"public", "internal", "confidential"})


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def passed(path: Path, keys: Path | None) -> tuple[list[Sample], ShardFacts]:
    """What becomes of the file's rows with the pack minimal, or with none."""
    privacy = PrivacyStage(Policy.of(PrivacySection()), Keyring.open(keys)) if keys else None
    told = ShardFacts()
    (shard,) = plan_shards([path]).shards
    pieces = list(pass_shard(shard, Passing(privacy=privacy), told))
    return [row.sample for piece in pieces for _, row in piece.rows() if row.sample is not None], told


@pytest.mark.parametrize("is_on", [True, False])
def test_a_file_cannot_clear_itself_for_a_teacher_outside(tmp_path: Path, is_on: bool) -> None:
    """`masked: true, level: public` in a column was believed."""
    path = written(tmp_path, {"text": f"王先生的手机号是{PHONE}，请回电", "masked": True, "level": "public"})
    (sample,), _ = passed(path, tmp_path / "keys" if is_on else None)
    assert PHONE in sample.text and "masked" not in sample.tags  # type: ignore[union-attr]
    ask = Ask((), Clearance.of(sample))
    with pytest.raises(DataError) as caught:
        check_cleared([ask], Outside())  # type: ignore[arg-type]
    assert caught.value.key == "synthesis.not_masked"


def test_masked_is_taken_from_what_turns_out_not_to_be(tmp_path: Path) -> None:
    """A row that was made of masked text and holds a number nevertheless."""
    privacy = PrivacyStage(Policy.of(PrivacySection()), Keyring.open(tmp_path / "keys"))
    made = Document(f"电话{PHONE}", Origin("made", 1), tags={"masked": True, "level": "internal"})
    (piece,) = pass_samples([made], Passing(privacy=privacy), ShardFacts())
    ((_, row),) = piece.rows()
    assert row.sample is not None and "masked" not in row.sample.tags and row.sample.tags["level"] == "confidential"


def test_what_only_danlu_may_say_is_kept_out_and_named_once(tmp_path: Path) -> None:
    set_language("en")
    row = {
        "instruction": "怎么退款？", "output": "原路退回。", "made_by": "teacher", "parents": ["s_1"], "flags": "spam",
        "scores": [1, 2], "evidence": "p. 3", "level_found": "public", "level": "easy", "topic": "退款",
    }  # fmt: skip
    ledger = Ledger()
    samples = list(read([written(tmp_path, row, row)], ledger))
    assert [sample.tags for sample in samples] == [{"topic": "退款"}] * 2
    assert len(ledger.notes) == 7 and sum("'made_by'" in note for note in ledger.notes) == 1


def test_a_level_may_close_a_row_and_never_open_it(tmp_path: Path) -> None:
    rows = [{"text": f"第{n}条", "level": level} for n, level in enumerate(("restricted", "public", "internal"))]
    samples, _ = passed(written(tmp_path, *rows), tmp_path / "keys")
    assert [sample.tags["level"] for sample in samples] == ["restricted", "internal", "internal"]


def test_what_a_person_judged_comes_back_with_its_lineage(tmp_path: Path) -> None:
    row = {"text": "屏幕很好", "label": "好评", "made_by": "human", "parents": ["s_12"], "annotator": "li"}
    (sample,) = read([written(tmp_path, row)], ledger := Ledger())
    assert sample.tags == {"made_by": "human", "parents": ["s_12"], "annotator": "li"} and not ledger.notes


def test_rows_of_labelling_functions_are_examined_like_all_others(tmp_path: Path) -> None:
    path = written(tmp_path, {"text": "客户王先生来电", "label": "来电", "made_by": "functions"})
    ((sample,), _), ((plain,), _) = (
        passed(path, tmp_path / "keys"),
        passed(written(tmp_path, {"text": "客户王先生来电", "label": "来电"}), tmp_path / "keys"),
    )
    assert sample.tags == plain.tags | {"made_by": "functions"}
