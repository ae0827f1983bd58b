"""Four bits, rounded on texts: codes decoded as their formats have them, files proven by auto-round, spoilt ones caught."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from danlu.core.errors import ExportError
from danlu.core.files import read_json
from danlu.data.sample import Message
from danlu.engines.engine import Question
from danlu.exports import EXPORTS
from danlu.exports.calibrated.needs import PACKAGES
from danlu.exports.calibrated.prove import check_codes, prove_calibrated, stored
from danlu.exports.calibrated.schemes import SCHEMES, group_of
from danlu.exports.calibrated.write import check_shapes, effort_of, samples_of
from danlu.exports.export import Facts, Subject, export
from danlu.exports.merging import merged_model
from danlu.exports.parity import record
from danlu.exports.reload import load_base_again
from danlu.model.build import load_model
from tiny_chat import QUESTIONS, tuned_engine, write_base

needs_auto_round = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in PACKAGES),
    reason='rounding on texts needs the extra: pip install "danlu[quantize]"',
)


def pack(codes_DN: Tensor, zeros_GN: Tensor, scales_GN: Tensor, name: str) -> dict[str, Tensor]:
    """Written down once more from the formats' own words, code by code."""
    num_in, num_out = codes_DN.shape
    group = num_in // len(zeros_GN)
    place = {0: 0, 2: 1, 4: 2, 6: 3, 1: 4, 3: 5, 5: 6, 7: 7}

    def word(eight: list[int]) -> int:
        value = sum(int(code) << (4 * at) for at, code in enumerate(eight))
        return value - 2**32 if value >= 2**31 else value

    def along_outputs(rows: Tensor, in_order: bool) -> Tensor:
        words = []
        for row in rows.tolist():
            line = []
            for start in range(0, len(row), 8):
                eight = row[start : start + 8]
                if not in_order:
                    moved = [0] * 8
                    for at, code in enumerate(eight):
                        moved[place[at]] = code
                    eight = moved
                line.append(word(eight))
            words.append(line)
        return torch.tensor(words, dtype=torch.int32)

    if name == "awq":
        return {
            "qweight": along_outputs(codes_DN, False),
            "qzeros": along_outputs(zeros_GN, False),
            "scales": scales_GN,
        }
    columns = [[word(codes_DN[start : start + 8, n].tolist()) for n in range(num_out)] for start in range(0, num_in, 8)]
    return {
        "qweight": torch.tensor(columns, dtype=torch.int32), "qzeros": along_outputs(zeros_GN - 1, True),
        "scales": scales_GN, "g_idx": torch.arange(num_in, dtype=torch.int32) // group,
    }  # fmt: skip


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), name=st.sampled_from(["awq", "gptq"]), groups=st.integers(1, 3))
def test_codes_stand_for_what_the_formats_say(seed: int, name: str, groups: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (32 * groups, 16), generator=generator)
    zeros = torch.randint(1, 16, (groups, 16), generator=generator)
    scales = (torch.rand(groups, 16, generator=generator) + 0.01).half()
    weight_DN = (codes - zeros.repeat_interleave(32, 0)) * scales.float().repeat_interleave(32, 0)
    found = SCHEMES[name].values(pack(codes, zeros, scales, name))
    assert torch.equal(found, weight_DN.T)


def test_groups_divide_every_width() -> None:
    assert group_of({384, 1024}) == 128 and group_of({64, 128}) == 64 and group_of({96, 64}) == 32
    assert group_of({100, 64}) is None


def test_samples_are_cut_end_to_end_and_there_must_be_some() -> None:
    assert samples_of([[1, 2, 3], [4, 5], [6]], 2, 10, "x") == [[1, 2], [3, 4], [5, 6]]
    assert samples_of([[1, 2, 3]], 256, 2, "x") == [[1, 2]]
    with pytest.raises(ExportError) as caught:
        samples_of([], 256, 512, "exports: awq")
    assert caught.value.key == "calibrated.no_texts"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory):
    return tuned_engine(write_base(tmp_path_factory.mktemp("base")), size=0.05)


def facts(engine: Any) -> Facts:
    return Facts("tiny", base={"name": "org/tiny", "revision": None, "digest": engine.model.digest})


def texts_of(engine: Any) -> list[list[int]]:
    return [engine.prompt_ids(Question((Message("user", text),))) * 4 for text in QUESTIONS]


def subject_of(tuned) -> Subject:
    engine, contract = tuned
    probes = tuple(Question((Message("user", text),)) for text in QUESTIONS)
    records = tuple(record(engine, [engine.prompt_ids(probe) for probe in probes], max_new_tokens=8))
    return Subject(engine, contract, facts(engine), probes, records, 8, texts=lambda: texts_of(engine))


def test_what_is_missing_is_named_with_the_extra_that_brings_it(tuned, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("danlu.exports.calibrated.write.PACKAGES", ("no_such_package_here",))
    with pytest.raises(ExportError) as caught:
        EXPORTS.load("awq")().write(subject_of(tuned), tmp_path)
    assert caught.value.key == "calibrated.needs_package" and "danlu[quantize]" in str(caught.value.to_json())


def test_odd_shapes_are_refused_before_anything_is_rounded(tmp_path: Path) -> None:
    model = load_model(write_base(tmp_path / "odd", size=80), dtype="fp32")
    with pytest.raises(ExportError) as caught:
        check_shapes(model, "exports: gptq")
    assert caught.value.key == "calibrated.odd"


def test_effort_stays_within_its_budget(tuned) -> None:
    model = tuned[0].model
    small = effort_of(model, [[1] * 256] * 8, "cpu", 64)
    assert small.iterations == 200 and small.batch == 4 and small.num_samples == 8


@pytest.fixture(scope="module", params=["awq", "gptq"])
def rounded(request, tuned, tmp_path_factory: pytest.TempPathFactory):
    """An artefact of each format, made once."""
    engine, contract = tuned
    folder = tmp_path_factory.mktemp(request.param) / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("danlu.exports.calibrated.write.STEPS", (20, 20))  # the least that is ever taken
        manifest = export(
            EXPORTS.load(request.param)(), engine, folder, contract=contract, facts=facts(engine), max_new_tokens=8,
            probes=[[Message("user", text)] for text in QUESTIONS], texts=lambda: texts_of(engine),
        )  # fmt: skip
    return SCHEMES[request.param], folder, manifest


@needs_auto_round
def test_the_file_is_proven_by_auto_rounds_own_products(rounded) -> None:
    scheme, folder, manifest = rounded
    checks = {check["name"]: check for check in manifest.parity["checks"]}
    assert manifest.parity["verdict"] == "pass", [c for c in checks.values() if c["verdict"] != "pass"]
    assert {"file", "rounding_logits", "autoround_prompts", "autoround_logits", "autoround_stops"} <= set(checks)
    assert checks["autoround_logits"]["numbers"]["mean_kl"] < 1e-6 < checks["rounding_logits"]["numbers"]["mean_kl"]
    config = read_json(folder / "config.json")["quantization_config"]
    assert config["quant_method"] == scheme.name and config["bits"] == 4 and config["group_size"] == 64
    assert manifest.parity["calibration"]["num_samples"] > 0
    assert not any(path.name.startswith(".") for path in folder.iterdir()), "nothing is left of the work"
    assert "danlu chat" not in (folder / "README.md").read_text()


@needs_auto_round
@pytest.mark.parametrize("spoil", ["scale", "zero", "word", "norm", "head"])
def test_spoilt_codes_are_caught(spoil: str, rounded, tuned, tmp_path: Path) -> None:
    scheme, folder, _ = rounded
    subject, model_file = subject_of(tuned), tmp_path / "model.safetensors"
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model_file)
    name = "model.layers.1.mlp.down_proj"
    match spoil:
        case "scale":
            tensors[f"{name}.scales"] *= 0.9
        case "zero":
            tensors[f"{name}.qzeros"] ^= 0x11111111
        case "word":
            tensors[f"{name}.qweight"] = tensors[f"{name}.qweight"].flip(0).contiguous()
        case "norm":
            tensors["model.layers.0.input_layernorm.weight"] *= 0.9
        case "head":
            tensors["model.embed_tokens.weight"] *= 1.02
    save_file(tensors, model_file, metadata={"format": "pt"})
    merged = merged_model(subject, where="test")
    model = load_base_again(subject, torch.float32, "cpu")
    checks = check_codes(model, merged, tmp_path, scheme, 64)
    assert "fail" in {check.verdict for check in checks}, checks


@needs_auto_round
def test_a_reader_that_reads_other_codes_than_were_proven_is_caught(rounded, tuned, tmp_path: Path) -> None:
    """The files are right, an epsilon that readers are told is not."""
    scheme, folder, _ = rounded
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    subject = subject_of(tuned)
    config = read_json(tmp_path / "config.json")
    config["rms_norm_eps"] = 0.1
    (tmp_path / "config.json").write_text(json.dumps(config))
    checks, _ = prove_calibrated(subject, tmp_path, merged_model(subject, where="test"), scheme, 64)
    failed = {check.name for check in checks if check.verdict == "fail"}
    assert "autoround_logits" in failed, checks


@needs_auto_round
def test_stored_values_are_finite_and_complete(rounded) -> None:
    scheme, folder, _ = rounded
    found = dict(stored(folder, scheme, set()))
    assert all(bool(value.isfinite().all()) for value in found.values())
    assert sum(name.endswith("_proj.weight") for name in found) == 14
