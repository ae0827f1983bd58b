"""What is broken is told from what is right by the program that reads it alone: a quick part of `bench/sabotage.py`.

Pains: a merged model that is the base, or answers otherwise; GGUF that garbles or never ends; templates and tokenizers
that change on the way. The whole matrix over families and seeds, with its figures, is the bench's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from danlu.exports.parity import Check
from danlu.exports.proof import Bench, prove_reader, set_up
from danlu.exports.readers import READERS
from sabotage_kit import (
    HARMS,
    KINDS,
    Harm,
    Pupil,
    applies,
    base_gguf,
    draft_of,
    make_pupil,
    one_module,
    promise_of,
    write,
    write_honestly,
)

pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
pytest.importorskip("peft", reason="adapters are read by PEFT")

QUICK = {
    "adapter": ("one module at 0.9", "the update is lost", "another base", "the end of turns lost"),
    "merged": ("one module at 0.9", "a square weight transposed", "another template", "the end of turns lost"),
    "gguf f32": ("pairs rounded to bf16", "q and k swapped", "a stale tokenizer: two tokens swapped"),
    "gguf f16": ("one module at 0.9",),
    "gguf bf16": ("one module at 0.9",),
    "gguf q8_0": ("one module at 0.9", "a layer's update lost", "the end of turns lost", "another template"),
    "lora gguf": ("one module at 0.9", "alpha doubled", "another base"),
}


class School:
    """One trained model and, for each kind, what its readers are held to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pupil: Pupil = make_pupil("llama2", folder / "pupil")
        self._benches: dict[str, Bench] = {}

    def bench(self, kind: str) -> Bench:
        if kind not in self._benches:
            self._benches[kind] = set_up(self.pupil.subject, promise_of(self.pupil, kind, self.folder))
        return self._benches[kind]

    def prove(self, folder: Path, bench: Bench) -> dict[str, Check]:
        reader = READERS.load(bench.promise.readers[0])()
        checks = prove_reader(reader, self.pupil.subject, folder, bench)
        return {check.name.partition("_")[2]: check for check in checks}

    def spoil(self, harm: Harm, kind: str, folder: Path, name: str = "") -> dict[str, Check]:
        draft, bench = draft_of(self.pupil), self.bench(kind)
        assert harm(draft) is not False, "there is something to spoil"
        if name == "another base" and not bench.promise.is_merged:
            stranger = self.pupil.stranger
            if kind == "lora gguf":
                stranger = base_gguf(self.pupil, stranger, self.folder / "stranger.gguf")
            bench = replace(bench, promise=replace(bench.promise, beside=stranger))
        return self.prove(write(draft, kind, folder / "spoilt"), bench)


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> School:
    return School(tmp_path_factory.mktemp("school"))


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.verdict == "fail"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_passes_with_its_noise_measured(kind: str, school: School, tmp_path: Path) -> None:
    checks = school.prove(write_honestly(school.pupil, kind, tmp_path / "honest"), school.bench(kind))
    assert not failed(checks), [check for check in checks.values() if check.verdict == "fail"]
    assert set(checks) == {"prompts", "logits", "answers", "stops", "modules", "questions"}
    logits, modules = checks["logits"].numbers, checks["modules"].numbers
    assert logits["floor_mean_kl"] < 5e-3, "the noise is bounded"
    assert modules["num_unshown"] == 0 and modules["num_modules"] == 21, "each module at 0.9 would show"
    assert checks["stops"].numbers["num_stops"] > 0 and checks["questions"].numbers["num_right"] == 4


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in QUICK.items() for name in names])
def test_what_is_broken_is_caught_by_its_reader_alone(kind: str, name: str, school: School, tmp_path: Path) -> None:
    assert applies(name, kind)
    checks = school.spoil(HARMS[name], kind, tmp_path, name)
    assert failed(checks), f"{name} in {kind} passed: {[check.numbers for check in checks.values()]}"


def test_the_module_at_fault_is_named_with_what_arrived(school: School, tmp_path: Path) -> None:
    module = list(school.pupil.adapter.layers)[3]
    checks = school.spoil(one_module(0.9, 3), "gguf q8_0", tmp_path)
    assert checks["modules"].verdict == "fail" and checks["answers"].verdict == "pass", "greedy answers do not see it"
    assert checks["modules"].note.startswith(f"{module}: x0.9") or checks["modules"].note.startswith(f"{module}: x0.8")


def test_a_file_that_llamacpp_cannot_bear_is_a_failed_check_and_no_crash(school: School, tmp_path: Path) -> None:
    folder = write(draft_of(school.pupil), "gguf f32", tmp_path / "torn")
    path = folder / "model.gguf"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    checks = school.prove(folder, school.bench("gguf f32"))
    assert failed(checks) and "llamacpp" in checks["logits"].note
