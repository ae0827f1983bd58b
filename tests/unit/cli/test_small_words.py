"""Small words that readers meet: in their language, and true of a run that has not come far."""

from datetime import datetime
from pathlib import Path

import pytest

from danlu.cli.doctor import Finding, _disk, _label, _memory
from danlu.cli.rolling import _when
from danlu.cli.show import show
from danlu.cli.targets import open_target
from danlu.cli.voice import Voice
from danlu.core.errors import RunError
from danlu.core.messages import set_language
from danlu.run.run import Run

RECIPE = "name: small\nmodel: ember\ndata: rows.jsonl\n"


def test_doctor_names_its_checks_in_the_readers_language_and_scripts_see_one_name() -> None:
    checks: list[Finding] = [_memory(), _disk()]
    assert [check.name for check in checks] == ["RAM", "disk"]
    set_language("zh")
    assert [_label(check.name) for check in checks] == ["内存", "磁盘"]
    assert _label("python") == "python"


def test_a_run_that_was_not_judged_shows_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The row `the gate says` held the name of the last act: prepare."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    run: Run = open_target(str(recipe), (), tmp_path)
    run.finish("prepare", "0" * 64, {})
    show(str(run.folder), tmp_path, Voice())
    lines = capsys.readouterr().out.splitlines()
    (verdict,) = [line for line in lines if "the gate says" in line]
    assert "prepare" not in verdict and "–" in verdict


def test_data_where_a_recipe_is_wanted_is_told_what_to_do_with_it(tmp_path: Path) -> None:
    """`danlu run data/` was answered as if nothing lay there."""
    with pytest.raises(RunError) as caught:
        open_target(str(tmp_path), (), tmp_path / "runs")
    assert caught.value.key == "cli.data_as_target" and f"danlu advise {tmp_path} --write" in caught.value.fix
    with pytest.raises(RunError) as caught:
        open_target(str(tmp_path / "nothing"), (), tmp_path / "runs")
    assert caught.value.key == "cli.no_target"


def test_when_a_version_was_last_asked_never_folds() -> None:
    """The time with seconds was cut in two at eighty columns; of other days it told the hour alone."""
    today = datetime.now().astimezone()
    assert _when(None) == "-" and len(_when(today.timestamp())) == 5
    assert _when(datetime(2026, 3, 14, 15, 9).astimezone().timestamp()) == "03-14"
