"""Traffic lights: every threshold can go green, yellow and red, has words in both languages and a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from danlu.core.messages import LANGUAGES, load_room
from danlu.data.quality import (
    ConflictFacts,
    ConveyorFacts,
    CoverageFacts,
    DataFacts,
    DiversityFacts,
    LengthFacts,
    PrivacyCount,
    ReplayFacts,
    StageFacts,
    SynthesisFacts,
    TwinFacts,
    lengths_of,
)
from danlu.data.quality.lengths import SCORE_EDGES, histogram_of
from danlu.data.quality.lights import THRESHOLDS, lights_of

CERTIFICATE = {
    "twins_across": 0,
    "near_twins_across": 0,
    "max_similarity": {"value": 0.5},
    "answers_in_train": {"asked": 300, "over_half": 3},
}


def facts(**changes: object) -> DataFacts:
    """Nothing amiss."""
    told = ConveyorFacts(
        stages=(StageFacts("read", 2000, 1990, {"bad_json": 10}),),
        lengths=lengths_of([100] * 2000, 512),
        twins=TwinFacts(2000, 10, 5),
        conflicts=ConflictFacts(1, 2),
        privacy=(PrivacyCount("mobile", "confidential", "mask", 4), PrivacyCount("bank_card", "restricted", "drop", 1)),
        synthesis=SynthesisFacts(num_made=100, num_kept=80, num_checked=80, num_grounded=80),
        certificate=CERTIFICATE,
        replay=ReplayFacts(0.1, 1000, 0.1),
    )
    whole = DataFacts(
        told=told, num_rows=2000, parts={"train": 2000, "test": 250}, balance={"labels": {"好": 1100, "坏": 900}},
        scores={"rules": histogram_of([1.0] * 100, SCORE_EDGES)}, num_scored=100, coverage=CoverageFacts(100, 0),
        diversity=DiversityFacts(1000, {"1": 0.1}, 0.3),
    )  # fmt: skip
    inside = {
        name: value for name, value in changes.items() if name in ConveyorFacts.__dataclass_fields__ and name != "parts"
    }
    outside = {name: value for name, value in changes.items() if name not in inside}
    return replace(whole, told=replace(told, **inside), **outside)


def tone(name: str, told: DataFacts) -> str | None:
    return next((light.tone for light in lights_of(told) if light.name == name), None)


CASES = {
    "leaks": (None, {"certificate": {**CERTIFICATE, "questions_across": 1}}),
    "restricted": (None, {"privacy": (PrivacyCount("bank_card", "restricted", "keep", 1),)}),
    "privacy": ({"privacy": (PrivacyCount("mobile", "confidential", "keep", 1),)}, None),
    "rows": ({"num_rows": 199}, {"num_rows": 49}),
    "faulty": (
        {"stages": (StageFacts("read", 100, 95, {"bad_json": 5}),)},
        {
            "stages": (
                StageFacts("read", 100, 90, {"bad_json": 10}),
                StageFacts("encode", 90, 80, {"encode_template": 10}),
            )
        },
    ),
    "twins": ({"twins": TwinFacts(100, 5, 5)}, {"twins": TwinFacts(50_000, 500, 15_000)}),
    "conflicts": ({"conflicts": ConflictFacts(5, 10)}, {"conflicts": ConflictFacts(30, 60)}),
    "over": ({"lengths": lengths_of([600] * 2 + [5] * 98, 512)}, {"lengths": lengths_of([600] * 10 + [5] * 90, 512)}),
    "quality": (
        {"scores": {"rules": histogram_of([0.5] * 5 + [1.0] * 95, SCORE_EDGES)}},
        {"scores": {"rules": histogram_of([0.5] * 20 + [1.0] * 80, SCORE_EDGES)}},
    ),
    "grounding": (
        {"synthesis": SynthesisFacts(num_made=100, num_kept=90, num_checked=100, num_grounded=97)},
        {"synthesis": SynthesisFacts(num_made=100, num_kept=90, num_checked=100, num_grounded=89)},
    ),
    "yield": (
        {"synthesis": SynthesisFacts(num_made=100, num_kept=49)},
        {"synthesis": SynthesisFacts(num_made=100, num_kept=19)},
    ),
    "coverage": ({"coverage": CoverageFacts(100, 5)}, {"coverage": CoverageFacts(100, 25)}),
    "diversity": (
        {"diversity": DiversityFacts(1000, {}, 0.6)},
        {"diversity": DiversityFacts(1000, {}, 0.8)},
    ),
    "largest_label": ({"balance": {"labels": {"a": 80, "b": 20}}}, {"balance": {"labels": {"a": 95, "b": 5}}}),
    "thin_label": ({"balance": {"labels": {"a": 30, "b": 19}}}, {"balance": {"labels": {"a": 30, "b": 4}}}),
    "answers": (
        {"certificate": {**CERTIFICATE, "answers_in_train": {"asked": 300, "over_half": 30}}},
        {"certificate": {**CERTIFICATE, "answers_in_train": {"asked": 300, "over_half": 102}}},
    ),
    "nearest": (
        {"certificate": {**CERTIFICATE, "max_similarity": {"value": 0.7}}},
        {"certificate": {**CERTIFICATE, "max_similarity": {"value": 0.8}}},
    ),
    "test": ({"parts": {"train": 2000, "test": 199}}, {"parts": {"train": 2000, "test": 29}}),
    "replay": ({"replay": ReplayFacts(0.1, 10, 0.04)}, None),
}


def test_every_threshold_has_a_case_here() -> None:
    assert set(CASES) == {threshold.name for threshold in THRESHOLDS}


@pytest.mark.parametrize("name", CASES)
def test_each_light_has_its_colours(name: str) -> None:
    warn, bad = CASES[name]
    assert tone(name, facts()) == "good"
    if warn is not None:
        assert tone(name, facts(**warn)) == "warn"
    if bad is not None:
        assert tone(name, facts(**bad)) == "bad"


def test_nothing_measured_gives_few_lights_and_no_error() -> None:
    told = {light.name: light.tone for light in lights_of(DataFacts(told=ConveyorFacts(), num_rows=0))}
    assert told == {"rows": "bad", "test": "bad", "privacy": "warn", "replay": "warn"}


def test_what_the_recipe_chose_is_no_fault() -> None:
    stages = (StageFacts("read", 100, 100), StageFacts("encode", 100, 40, {"no_stage_wants_it": 60}))
    assert tone("faulty", facts(stages=stages)) == "good"
    assert tone("faulty", facts(stages=(StageFacts("twins", 100, 10, {"duplicate": 90}),))) == "good"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_light_has_words_a_fix_and_a_reason(language: str) -> None:
    room = load_room("report_data", language)
    for threshold in THRESHOLDS:
        assert {f"measure_{threshold.name}", f"good_{threshold.name}", f"reason_{threshold.name}"} <= room.keys()
        entry = room[f"light_{threshold.name}"]
        assert isinstance(entry, dict) and entry["fix"], threshold.name


def test_a_context_of_nothing_measured_is_no_light() -> None:
    assert tone("over", facts(lengths=LengthFacts())) is None


def test_a_project_with_questions_of_its_own_needs_no_held_out_rows() -> None:
    assert tone("test", facts(parts={"train": 2000, "test": 0})) == "bad"
    assert tone("test", facts(parts={"train": 2000, "test": 0}, has_questions=True)) is None
    assert tone("test", facts(parts={"train": 2000, "test": 20}, has_questions=True)) == "bad"


def test_rows_left_out_because_they_are_questions_are_no_fault() -> None:
    stages = (
        StageFacts("read", 100, 100),
        StageFacts("clean", 100, 60, {"contaminated": 20, "repetition": 20}),
        StageFacts("privacy", 60, 20, {"privacy_dropped": 40}),
    )
    assert tone("faulty", facts(stages=stages)) == "good"


def test_nothing_restricted_found_is_no_light() -> None:
    assert tone("restricted", facts(privacy=())) is None and tone("privacy", facts(privacy=())) == "good"
