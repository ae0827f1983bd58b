"""Two trainings are one when every knob that moves a number is equal."""

from __future__ import annotations

from danlu.training.identity import differing_keys


def test_a_knob_that_came_later_had_its_default_before() -> None:
    """Checkpoints from before training.optimizer resume, unless the recipe now asks for another one."""
    old = {"data": "d", "training.batch_tokens": 512}
    assert differing_keys(old, old | {"training.optimizer": "adamw"}) == []
    assert differing_keys(old, old | {"training.optimizer": "adamw_8bit"}) == ["training.optimizer"]
    assert differing_keys(old, {"data": "d"}) == ["training.batch_tokens"]
    assert differing_keys(old, old | {"weights": "w"}) == ["weights"], "what is no knob has no default"
