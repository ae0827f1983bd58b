"""An adapter is looked at before any engine sees it. Each fault below has killed an engine, or made it lie."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lens_kit import MODULES, RANK, SIZE, lens_of, make_adapter, make_base, make_merged, mark_of, plan_for
from safetensors.numpy import save_file

from danlu.core.errors import DanluError
from danlu.run.artifact import Manifest
from danlu.serving.drivers.driver import EngineSpec
from danlu.serving.lenses import OpenedLens, look_through, open_lens, open_url
from danlu.serving.pool_plan import PoolPlan

A = f"base_model.model.{MODULES[0]}.lora_A.weight"
B = f"base_model.model.{MODULES[0]}.lora_B.weight"
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def opened(folder: Path, base: Path) -> OpenedLens:
    return open_lens(folder, plan_for(base, ""), label="law:3")


def refusal(folder: Path, base: Path) -> str:
    with pytest.raises(DanluError) as found:
        opened(folder, base)
    assert str(found.value)
    return found.value.key


def test_a_good_adapter_is_named_by_its_content(tmp_path: Path, base: Path) -> None:
    first, again = make_adapter(tmp_path / "a", base), make_adapter(tmp_path / "b", base)
    other = make_adapter(tmp_path / "c", base, seed=1)
    found = opened(first, base)
    assert found.lens.name == lens_of(first) == f"law@{mark_of(first)}" + Manifest.read(first).digest[8:12]
    assert (found.lens.pool, found.lens.label, found.lens.is_base) == ("tiny", "law:3", False)
    assert opened(again, base).lens.name == found.lens.name != opened(other, base).lens.name


def test_a_whole_model_is_the_base_of_a_pool_of_its_own(tmp_path: Path, base: Path) -> None:
    found = opened(make_merged(tmp_path / "m", base), base)
    assert found.lens.is_base and found.pool.name.startswith("whole-")
    url = open_url("qwen", PoolPlan("u", "upstream", EngineSpec(None, url="http://127.0.0.1:1", name="qwen2")))
    assert url.lens.name.startswith("qwen@") and url.manifest is None


def _poison(value: float, kind: type) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        spoilt = tensors[B].astype(kind)
        spoilt[-1, -1] = value
        return tensors | {B: spoilt}

    return change


def _bfloat(bits: int) -> Callable[[Path], None]:
    """numpy has no bfloat16: the file is written by hand."""

    def write(path: Path) -> None:
        raw = np.zeros(RANK * SIZE + 2 * SIZE * RANK, "<u2")
        raw[-1] = bits
        header = {
            A: {"dtype": "BF16", "shape": [RANK, SIZE], "data_offsets": [0, 2 * RANK * SIZE]},
            B: {"dtype": "BF16", "shape": [2 * SIZE, RANK], "data_offsets": [2 * RANK * SIZE, 6 * RANK * SIZE]},
        }
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + raw.tobytes())

    return write


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_incident_15_a_number_that_is_none(tmp_path: Path, base: Path, value: float, kind: type) -> None:
    assert refusal(make_adapter(tmp_path / "a", base, change=_poison(value, kind)), base) == "rollout.not_finite"


@pytest.mark.parametrize(("bits", "is_bad"), [(0x7F80, True), (0xFFC0, True), (0x7F7F, False), (0x3F80, False)])
def test_incident_15_bfloat16_is_read_as_bits(tmp_path: Path, base: Path, bits: int, is_bad: bool) -> None:
    folder = make_adapter(tmp_path / "a", base)
    _bfloat(bits)(folder / "adapter_model.safetensors")
    manifest, plan = Manifest.read(folder), plan_for(base, "")
    if is_bad:
        with pytest.raises(DanluError) as found:
            look_through(folder, manifest, plan(folder, manifest))
        assert found.value.key == "rollout.not_finite"
    else:
        look_through(folder, manifest, plan(folder, manifest))


def _renamed(tensors: Tensors) -> Tensors:
    return {name.replace("q_proj", "z_proj"): tensor for name, tensor in tensors.items()}


def _narrow(tensors: Tensors) -> Tensors:
    return tensors | {A: tensors[A][:, :-1].copy()}


def _half(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != A}


def _odd_ranks(tensors: Tensors) -> Tensors:
    return tensors | {A: tensors[A][:-1].copy()}


def _whole_head(tensors: Tensors) -> Tensors:
    return tensors | {"base_model.model.lm_head.weight": np.zeros((4, 4), np.float32)}


def _integers(tensors: Tensors) -> Tensors:
    return tensors | {A: tensors[A].astype(np.int8)}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (_renamed, "rollout.module"), (_narrow, "rollout.shape"), (_half, "rollout.tensor"), (_odd_ranks, "rollout.shape"),
        (_whole_head, "rollout.tensor"), (_integers, "rollout.tensor"), (lambda tensors: {}, "rollout.tensor"),
    ],
)  # fmt: skip
def test_incident_15_what_does_not_fit_the_base(
    tmp_path: Path, base: Path, change: Callable[[Tensors], Tensors], key: str
) -> None:
    assert refusal(make_adapter(tmp_path / "a", base, change=change), base) == key


def test_incident_15_more_rank_than_there_is_room_for(tmp_path: Path, base: Path) -> None:
    assert refusal(make_adapter(tmp_path / "a", base, rank=16), base) == "rollout.rank"
    assert refusal(make_adapter(tmp_path / "b", base, rank_pattern={"q_proj": 64}), base) == "rollout.rank"


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"peft_type": "IA3"}, {"r": "8"}],
)
def test_settings_that_change_the_mathematics(tmp_path: Path, base: Path, settings: dict[str, object]) -> None:
    assert refusal(make_adapter(tmp_path / "a", base, **settings), base) == "rollout.settings"


def test_incident_8_pickle_by_content(tmp_path: Path, base: Path) -> None:
    folder = make_adapter(tmp_path / "a", base)
    (folder / "adapter_model.safetensors").write_bytes(b"PK\x03\x04" + bytes(64))
    manifest = Manifest.read(folder)
    with pytest.raises(DanluError) as found:
        look_through(folder, manifest, plan_for(base, "")(folder, manifest))
    assert found.value.key == "model.pickle"


def test_another_base_another_kind_another_template(tmp_path: Path, base: Path) -> None:
    folder = make_adapter(tmp_path / "a", base)
    manifest = Manifest.read(folder)
    plan = plan_for(base, "")(folder, manifest)
    changes = (
        ({"base_digest": "0" * 64}, "base"), ({"takes": ("gguf-lora",)}, "kind"), ({"template_digest": "x"}, "template"),
    )  # fmt: skip
    for change, key in changes:
        with pytest.raises(DanluError) as found:
            look_through(folder, manifest, replace(plan, **change))
        assert found.value.key == f"rollout.{key}"


def test_files_that_changed_since_they_were_sealed(tmp_path: Path, base: Path) -> None:
    folder = make_adapter(tmp_path / "a", base)
    save_file({A: np.zeros((RANK, SIZE), np.float32)}, folder / "adapter_model.safetensors")
    assert refusal(folder, base) == "run.tampered"
    (tmp_path / "b").mkdir()
    assert refusal(tmp_path / "b", base) == "run.not_an_artifact"


def test_a_quantised_base_compares_no_shapes(tmp_path: Path, base: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "config.json").write_text("{}")
    save_file({f"{MODULES[0]}.weight": np.zeros((9, 1), np.uint8)}, packed / "model.safetensors")
    folder = make_adapter(tmp_path / "a", base)
    manifest = Manifest.read(folder)
    plan = plan_for(base, "")(folder, manifest)
    look_through(folder, manifest, replace(plan, spec=replace(plan.spec, folder=packed)))
