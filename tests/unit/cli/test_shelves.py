"""`danlu list SHELF` says what each thing is, not where its code lies."""

import importlib

import pytest

from danlu.cli.shelves import SHELVES, _about, show_shelf
from danlu.cli.voice import Voice
from danlu.core.messages import load_room, set_language
from danlu.core.shelf import Shelf


def _names(shelf: str) -> list[str]:
    module, _, attribute = SHELVES[shelf].partition(":")
    found: Shelf[object] = getattr(importlib.import_module(module), attribute)
    return [name for name in found.names() if found.places[name].startswith("danlu.")]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("shelf", SHELVES)
def test_each_of_our_own_things_is_told_in_a_line(shelf: str, language: str) -> None:
    """`danlu list exports` named ten kinds and ten classes, and nobody learnt which to take."""
    set_language(language)  # type: ignore[arg-type]
    assert all(0 < len(_about(shelf, name)) <= 90 for name in _names(shelf))
    assert _about(shelf, "of-another-package") == ""


def test_nothing_is_told_of_what_is_not_there() -> None:
    told = {f"{shelf}_{name}" for shelf in SHELVES if shelf != "metrics" for name in _names(shelf)}
    assert set(load_room("shelves", "en")) == set(load_room("shelves", "zh")) == told


def test_scripts_learn_the_place_too(capsys: pytest.CaptureFixture[str]) -> None:
    show_shelf("exports", Voice())
    shown = capsys.readouterr().out
    assert "Ollama" in shown and "danlu.exports" not in shown
    show_shelf("exports", Voice(as_json=True))
    assert '"place":"danlu.exports.gguf_file:GGUFExport"' in capsys.readouterr().out
