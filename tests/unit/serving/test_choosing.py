"""Which engine serves what, on which machine; and which artefacts share a base."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import EngineError
from danlu.core.messages import set_language
from danlu.recipe.serving import ServingSection
from danlu.run.artifact import Manifest
from danlu.serving.choosing import (
    Choice,
    Knobs,
    Machine,
    Offered,
    choose,
    kinds_taken,
    notes_apart,
    pools_of,
    why_apart,
)
from danlu.serving.drivers import DRIVERS
from danlu.serving.drivers.about import About
from danlu.serving.drivers.native import NativeDriver
from danlu.serving.engine_figures import read_figures

CPU = Machine("cpu", frozenset({"native", "llamacpp"}))
GPU = Machine("cuda", frozenset({"native", "llamacpp", "vllm"}))
BASE = {"name": "org/base", "digest": "b" * 64, "dtype": "bfloat16", "quantize": "none"}


def offered(name: str, kind: str, folder: Path = Path("/none"), **changes: Any) -> Offered:
    manifest = Manifest(
        kind=kind, name=name, base=BASE, parents={}, canaries=(), created="2026", files={"w": name * 8},
        contract={"template_digest": "t" * 64, "stop": [{"id": 2}], "system": None, "thinking": "keep"},
        parity={"verdict": "pass", "checks": [{"name": "danlu_logits", "verdict": "pass"}]},
    )  # fmt: skip
    return Offered(name, folder, dataclasses.replace(manifest, **changes))


def one(each: Offered, machine: Machine, **knobs: Any) -> Choice:
    (choice,) = choose([each], machine, lambda folder, manifest: Path("/base"), Knobs(**knobs))
    return choice


@pytest.mark.parametrize(
    ("kind", "machine", "driver"),
    [("adapter", CPU, "native"), ("merged", CPU, "native"), ("gguf", CPU, "llamacpp"), ("ollama", CPU, "llamacpp"),
     ("lmstudio", GPU, "llamacpp"), ("gguf-lora", CPU, "llamacpp"), ("vllm-lora", GPU, "vllm"), ("vllm", GPU, "vllm"),
     ("merged", GPU, "vllm"), ("vllm-lora", CPU, "native")],
)  # fmt: skip
def test_auto_chooses(kind: str, machine: Machine, driver: str) -> None:
    choice = one(offered("law", kind), machine)
    assert choice.plan.driver == driver and choice.names == ("law",)
    assert choice.rows()[0][:2] == (driver, "chosen")


def test_every_candidate_is_told_with_its_reasons() -> None:
    choice = one(offered("law", "adapter"), CPU)
    rows = {row[0]: row for row in choice.rows()}
    assert set(rows) == {"native", "llamacpp", "vllm", "sglang"}
    assert "the artefact's proof read it with danlu" in rows["native"][2]
    assert rows["llamacpp"][1] == "cannot" and "does not read adapter" in rows["llamacpp"][3]
    assert "serving.program" in rows["vllm"][3] and "needs a GPU" in rows["sglang"][3]
    told = json.loads(json.dumps(choice.to_json()))
    assert told["driver"] == "native" and len(told["candidates"]) == 4
    set_language("zh")
    assert "选用" in choice.rows()[0][1]


def test_an_engine_that_is_named_and_cannot_is_refused_with_why() -> None:
    with pytest.raises(EngineError, match=r"llamacpp cannot serve law: does not read adapter"):
        one(offered("law", "adapter"), CPU, engine="llamacpp")
    with pytest.raises(EngineError, match=r"serving\.program"):
        one(offered("law", "adapter"), CPU, engine="vllm")
    assert one(offered("law", "merged"), GPU, engine="native").plan.driver == "native"


def test_where_nothing_can_each_says_why() -> None:
    with pytest.raises(EngineError) as told:
        one(offered("law", "gguf"), Machine("cpu", frozenset({"native"})))
    assert 'pip install "danlu[export]"' in told.value.text and "native: does not read gguf" in told.value.text


def test_adapters_on_one_base_share_it(tmp_path) -> None:
    law, med = offered("law", "adapter"), offered("med", "vllm-lora")
    (choice,) = choose([law, med], CPU, lambda folder, manifest: tmp_path / "base", Knobs(context=2048))
    spec = choice.plan.spec
    assert choice.names == ("law", "med")
    assert spec.folder == tmp_path / "base" and spec.speech == law.folder and spec.context == 2048
    assert spec.dtype == "bfloat16", "in the precision that was proven"
    assert choice.plan.takes == ("adapter", "vllm-lora") and choice.plan.base_digest == "b" * 64
    assert why_apart(law, med) == ""
    later = one(offered("tax", "adapter"), CPU)
    assert later.plan.name == choice.plan.name, "whoever comes later finds the same pool"


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"base": BASE | {"digest": "c" * 64}}, "other bases"), ({"base": BASE | {"dtype": "float32"}}, "other precisions"),
     ({"base": BASE | {"quantize": "nf4"}}, "quantised in other ways"),
     ({"kind": "gguf-lora"}, "an adapter for llama.cpp"),
     ({"contract": {"template_digest": "u" * 64, "stop": [{"id": 2}]}}, "chat templates differ"),
     ({"contract": {"template_digest": "t" * 64, "stop": [{"id": 2}, {"id": 0}]}}, "stop at other tokens"),
     ({"kind": "merged"}, "a whole model (merged)")],
)  # fmt: skip
def test_why_two_do_not_share_a_base(changes: dict[str, Any], why: str) -> None:
    law, other = offered("law", "adapter"), offered("other", "adapter")
    other = dataclasses.replace(other, manifest=dataclasses.replace(other.manifest, **changes))
    assert len(pools_of([law, other])) == 2
    assert why in why_apart(law, other)
    notes = notes_apart([law, other])
    assert [why in note for note in notes] == ([] if why in ("other bases", "a whole model (merged)") else [True])


def test_what_speaks_against_an_engine(tmp_path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8, "rank_pattern": {"q_proj": 16}}))
    choice = one(offered("law", "adapter", tmp_path), GPU)
    assert choice.plan.driver == "native" and choice.plan.max_rank == 32
    assert "vllm-lora" in next(row[3] for row in choice.rows() if row[0] == "vllm")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 1024}))
    assert one(offered("law", "adapter", tmp_path), GPU).plan.driver == "native"
    assert one(offered("law", "adapter", tmp_path), GPU).plan.max_rank == 1024
    eight_bits = offered("law", "vllm", parity={"verdict": "pass", "checks": [], "files_dtype": "fp8"})
    with pytest.raises(EngineError, match="fp8"):
        one(eight_bits, CPU)
    assert one(eight_bits, GPU).plan.driver == "vllm"


@pytest.mark.parametrize("kind", ["adapter", "vllm-lora"])
def test_adapters_of_a_quantised_base_are_put_on_one(kind: str) -> None:
    """QLoRA could not be served at all: engines would have put it on the whole base."""
    law, tax = (offered(name, kind, base=BASE | {"quantize": "nf4"}) for name in ("law", "tax"))
    (choice,) = choose([law, tax], GPU, lambda folder, manifest: Path("/base"))
    assert choice.plan.driver == "native" and choice.plan.spec.quantize == "nf4"
    rows = {row[0]: row for row in choice.rows()}
    assert "the base in nf4, as the adapter was trained on it" in rows["native"][2]
    assert rows["vllm"][1] == "cannot" and "unquantised base" in rows["vllm"][3] and "`merged`" in rows["vllm"][3]
    with pytest.raises(EngineError, match="vllm cannot serve law: would put the adapter on the unquantised base"):
        one(law, GPU, engine="vllm")
    with pytest.raises(EngineError, match="unquantised base"):
        one(offered("law", "gguf-lora", base=BASE | {"quantize": "int8"}), CPU)
    merged = one(offered("law", "merged", base=BASE | {"quantize": "nf4"}), GPU)
    assert merged.plan.driver == "vllm" and merged.plan.spec.quantize == "none", "its files are whole"
    assert one(law, CPU).plan.name != one(offered("law", kind), CPU).plan.name, "another base in memory"


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"peft_type": "PREFIX_TUNING"}, "unserved_kind"), ({"peft_type": "LORA", "use_dora": True}, "unserved_dora")],
    ids=["prefix", "dora"],
)
def test_what_no_engine_puts_beside_a_base_is_refused_before_any_starts(
    tmp_path: Path, settings: dict, key: str
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(EngineError) as caught:
        one(offered("law", "adapter", tmp_path), Machine("cpu", frozenset({"native"})))
    assert caught.value.key == f"drivers.{key}" and caught.value.where == "law"


def test_this_machine(tmp_path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "vllm").touch()
    (tmp_path / "lib" / "python3.11" / "site-packages" / "sglang").mkdir(parents=True)
    found = Machine.look(python=str(tmp_path / "bin" / "python"), device="cpu")
    assert found.here >= {"vllm", "sglang", "native"} and found.device == "cpu"
    assert not Machine.look(device="cuda").here & {"vllm", "sglang"}


class Abacus(NativeDriver):
    """What another package may bring: it reads a kind of artefact that none of ours does, and is better at adapters."""

    name = "abacus"
    about = About(takes=("beads", "adapter"), place={"cpu": 1}, figures={"queue": ("abacus_queue",)})

    def is_here(self, python: str) -> bool:
        return True

    def against(self, folder: Path, manifest: Manifest) -> list[str]:
        return ["no more than seven beads"] if manifest.name == "long" else []

    def reasons(self, device: str, *, has_adapters: bool) -> tuple[list[str], list[str]]:
        return ["needs no electricity"], ["slow"]


def test_a_driver_of_another_package_is_chosen_named_refused_and_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had to stand in five tables of ours."""
    monkeypatch.setitem(DRIVERS.places, "abacus", f"{__name__}:Abacus")
    machine = Machine.look(device="cpu")
    assert "abacus" in machine.here
    beads = one(offered("law", "beads"), machine)
    assert beads.plan.driver == "abacus" and beads.rows()[0] == ("abacus", "chosen", "needs no electricity", "slow")
    adapter = one(offered("law", "adapter"), machine)
    assert adapter.plan.driver == "abacus" and adapter.plan.takes == ("adapter",)
    assert one(offered("long", "adapter"), machine).plan.driver == "native"
    section = ServingSection(engine="abacus")
    with pytest.raises(EngineError, match="no more than seven beads"):
        one(offered("long", "adapter"), machine, engine=section.engine)
    with pytest.raises(EngineError, match=r"known are abacus, llamacpp, native"):
        one(offered("law", "adapter"), machine, engine="abakus")
    assert kinds_taken("abacus") == ("beads", "adapter")
    assert read_figures(b"abacus_queue 3\n", Abacus.about.figures) == {"queue": 3.0}


@pytest.mark.parametrize("name", DRIVERS.names())
def test_what_a_driver_says_of_itself_fits_together(name: str) -> None:
    driver = DRIVERS.load(name)()
    assert driver.name == name
    assert set(driver.about.figures) <= {"cache", "running", "queue"}
    assert set(driver.about.place) <= set(driver.about.devices)
    pros, _ = driver.reasons("cuda", has_adapters=True)
    assert bool(driver.about.takes) == bool(pros), "who can be chosen says what for"
