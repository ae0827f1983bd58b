"""The race's arithmetic and its token file: what every comparison stands on."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def load(name: str) -> Any:
    return importlib.import_module(f"race.{name}")


def test_7b_has_as_many_matmul_weights_as_is_known_and_mfu_is_one_at_the_peak() -> None:
    shapes = load("shapes")
    shape = shapes.SHAPES["qwen2.5-7b"]
    assert round((shape.body_weights + shape.head_weights) / 1e9, 2) == 7.07
    llama = shapes.SHAPES["llama-3.1-8b"]
    assert round((llama.body_weights + llama.head_weights) / 1e9, 3) == 7.505
    flops = shape.step_flops([2048] * 8, 8 * 2047)
    assert shape.mfu([2048] * 8, 8 * 2047, flops / shapes.PEAK_FLOPS) == pytest.approx(1.0)
    assert shape.mfu([2048] * 8, 8 * 2047, 1.0) < shape.mfu([16_384], 16_383, 1.0), "long documents attend more"


def test_head_is_counted_at_supervised_tokens_only() -> None:
    shape = load("shapes").SHAPES["tiny"]
    assert shape.step_flops([64], 63) - shape.step_flops([64], 0) == 4 * 63 * 64 * 512


def test_parameters_by_name_add_up_to_the_weights_of_the_products() -> None:
    shape = load("shapes").SHAPES["tiny"]
    sizes = {name: int(np.prod(size)) for name, size in shape.parameters() if len(size) == 2}
    assert sum(sizes.values()) == shape.body_weights + 2 * shape.head_weights


def test_token_file_is_read_back_as_written_and_steps_hold_each_document_once(tmp_path: Path) -> None:
    tokens = load("tokens")
    mix = tokens.read_mix(Path(tokens.__file__).with_name("medical_qa_lengths.json"))
    lengths, supervised = tokens.mix_of(20 * 512, mix)
    for name in ("a", "b"):
        tokens.write(tmp_path / f"{name}.npz", lengths, supervised, vocab_size=512, step_tokens=512, num_steps=6)
    found, again = tokens.read(tmp_path / "a.npz"), tokens.read(tmp_path / "b.npz")
    assert found.sha256 == again.sha256
    seen = np.concatenate(found.steps)
    assert len(set(seen.tolist())) == len(seen)
    for step, documents in enumerate(found.steps):
        assert sum(found.step_lengths(step)) <= 512
        pieces = tokens.chunks(documents, found.lengths, 200)
        assert np.concatenate(pieces).tolist() == documents.tolist()
        padded = tokens.padded_chunks(documents, found.lengths, 400)
        assert sorted(np.concatenate(padded).tolist()) == sorted(documents.tolist())
        assert all(len(piece) * found.lengths[piece].max() <= 400 or len(piece) == 1 for piece in padded)


def test_first_token_of_a_document_is_never_learnt(tmp_path: Path) -> None:
    tokens = load("tokens")
    lengths, supervised = tokens.rows_of(8, 32, 1.0)
    tokens.write(tmp_path / "t.npz", lengths, supervised, vocab_size=100, step_tokens=64, num_steps=3)
    found = tokens.read(tmp_path / "t.npz")
    assert found.num_supervised(range(8)) == 8 * 31
    assert all(found.document(index)[1][0] == tokens.IGNORED for index in range(8))


def _run(system: str, losses: list[float], file: Any, **more: Any) -> dict[str, Any]:
    sums = [sum(file.step_lengths(step)) for step in range(3)]
    learnt = [file.num_supervised(file.steps[step]) for step in range(3)]
    return {
        "system": system, "setting": "s", "base": "bf16", "round": 1, "num_warm": 1, "token_file": file.sha256,
        "step_ms": [10.0, 20.0], "losses": losses, "tokens": sums, "supervised": learnt, "import_s": 1.0,
        "load_s": 1.0, "first_step_s": 1.0, **more,
    }  # fmt: skip


def test_a_system_that_trains_on_fewer_tokens_or_to_another_loss_is_found_out(tmp_path: Path) -> None:
    tokens, report, shapes = load("tokens"), load("report"), load("shapes")
    lengths, supervised = tokens.rows_of(8, 32, 0.5)
    tokens.write(tmp_path / "t.npz", lengths, supervised, vocab_size=100, step_tokens=64, num_steps=3)
    found = tokens.read(tmp_path / "t.npz")
    runs = [
        _run("danlu", [5.0, 4.9, 4.8], found),
        _run("other", [5.0, 4.9, 4.8], found),
        _run("third", [5.001, 4.9, 4.9], found),
        _run("fewer", [5.0, 4.9, 4.8], found, tokens=[64, 64, 32]),
    ]
    runs = [report.with_rates(run, found, shapes.SHAPES["tiny"]) for run in runs]
    assert runs[0]["tokens_per_s"] == round(1000 * (64 / 10 + 64 / 20) / 2)
    assert [run["same_tokens"] for run in runs] == [True, True, True, False]
    agreement = report.agreement({"runs": runs, "tolerance": {"first": 0.01, "last": 0.03}})
    assert [gap["agrees"] for gap in agreement["runs"].values()] == [True, True, False, True]
    case = {
        "runs": [*runs, {"system": "broken", "setting": "s", "base": "bf16", "round": 1, "error": "out of memory"}],
        "tolerance": {}, "agreement": agreement, "shape": {"name": "tiny"}, "step_tokens": 64, "token_file": "0" * 64,
    }  # fmt: skip
    table = report.table(
        {"about": {"gpu": "", "cpu": "x", "commit": "c", "date": "d", "command": "c"}, "cases": {"n": case}}
    )
    assert "NOT all within" in table and "out of memory" in table and "1.00×" in table


def test_a_name_draws_the_same_numbers_whatever_wraps_the_parameter() -> None:
    torch = pytest.importorskip("torch")
    weights = load("weights")
    wrapped = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"
    assert weights.plain_name(wrapped) == "model.layers.0.self_attn.q_proj.weight"
    assert weights.plain_name("base_model.model.a.q_proj.lora_A.default.weight") == "a.q_proj.lora_A"
    first, second = torch.empty(8, 8), torch.empty(8, 8)
    weights.draw([(wrapped, first)], 2)
    weights.draw([("model.layers.0.self_attn.q_proj.weight", second)], 2)
    assert torch.equal(first, second) and float(first.std()) > 0


def test_every_plan_names_cases_and_systems_that_exist() -> None:
    cases, systems = load("cases"), load("systems")
    for plan in cases.PLANS.values():
        for name in plan.cases:
            assert set(plan.systems) <= set(cases.CASES[name].settings) or not plan.systems
            assert set(cases.CASES[name].settings) <= set(systems.SYSTEMS)
