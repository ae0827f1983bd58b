"""From the chapter `data` to stages: what a list of known people means."""

from pathlib import Path

import pytest

from danlu.core.errors import DataError
from danlu.core.files import sha256_json
from danlu.data.privacy import Keyring
from danlu.pipeline.passing import build_passing, build_privacy
from danlu.recipe.data import DataSection
from danlu.recipe.privacy import PrivacySection


def test_a_list_of_people_is_read_with_its_comments_aside(tmp_path: Path) -> None:
    """`# our staff` was looked for as if it were somebody's name."""
    path = tmp_path / "staff.txt"
    path.write_text("# our staff\n\n  # left in May\n沈约\n", "utf-8")
    section = PrivacySection(names=str(path), key_file=str(tmp_path / "keys"))
    stage = build_privacy(section)
    assert stage is not None
    mac = Keyring.open(tmp_path / "keys").mac("secret", "沈约")
    assert stage.key()["known"] == mac and sha256_json(stage.key())
    (found,) = stage.find(["# our staff of 沈约"])
    assert [hit.value for hit in found] == ["沈约"]


def test_a_list_of_people_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` was no folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "staff.txt").write_text("沈约\n", "utf-8")
    stage = build_privacy(PrivacySection(names="~/staff.txt", key_file=str(tmp_path / "keys")))
    assert stage is not None and [hit.value for hit in stage.find(["沈约"])[0]] == ["沈约"]


@pytest.mark.parametrize(
    ("source", "keys"), [("src", "src/deep/k"), ("src/*.csv", "src/k"), ("k", "k"), ("src/*/a.csv", "src/x/k")]
)
def test_a_key_file_among_the_data_is_refused(source: str, keys: str, tmp_path: Path) -> None:
    """Said by `explain` and never asked: whoever was given the folder was given the keys."""
    privacy = {"pack": "minimal", "key_file": str(tmp_path / keys)}
    section = DataSection.model_validate({"sources": [{"path": str(tmp_path / source)}], "privacy": privacy})
    with pytest.raises(DataError) as caught:
        build_passing(section)
    assert caught.value.key == "privacy.key_inside" and not (tmp_path / keys).exists()


def test_a_key_file_beside_the_data_is_fine(tmp_path: Path) -> None:
    privacy = {"pack": "minimal", "key_file": str(tmp_path / "safe" / "k")}
    section = DataSection.model_validate({"sources": [{"path": str(tmp_path / "src")}], "privacy": privacy})
    assert build_passing(section).privacy is not None
