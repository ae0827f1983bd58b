"""Descriptions of NF4 codes that nobody vouches for: whatever stands there, a weight comes of it or a ModelError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import ModelError
from danlu.model.bnb import MOST_STATE_BYTES, STATE, read_packed
from danlu.model.build import load_model
from danlu.ops.nf4 import VALUES, Nested, dequantise, quantise

STATES: dict[str, Any] = {
    "quant_type": "nf4", "shape": [4, 64], "blocksize": 64, "nested_blocksize": 256, "nested_offset": 0.5
}  # fmt: skip
DTYPES = [torch.uint8, torch.int8, torch.int64, torch.float32, torch.bfloat16, torch.bool, torch.complex64]


def stored(state: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a weight [4, 64] by the ends of their names."""
    packed = quantise(torch.randn(4, 64, generator=torch.Generator().manual_seed(0)))
    nested = packed.absmax
    assert isinstance(nested, Nested)
    return {
        "": packed.codes[:, None], ".absmax": nested.codes, ".quant_map": torch.tensor(VALUES),
        ".nested_absmax": nested.scale, ".nested_quant_map": nested.levels,
        STATE: torch.tensor(list(state), dtype=torch.uint8),
    }  # fmt: skip


def read(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """Dequantised, so that what passes the check is also used."""
    return dequantise(read_packed("w", lambda name: parts.get(name.removeprefix("w")), Path("file")), dtype=torch.float)


def test_the_sound_description_is_read() -> None:
    assert read(stored(json.dumps(STATES).encode())).shape == (4, 64)


@pytest.mark.parametrize(
    "state",
    [
        b"", b"\xff", b"[]", b"5", b"{}", b"[" * 200_000, b"[" * MOST_STATE_BYTES, b" " * 10**6,
        *(
            json.dumps(STATES | told).encode()
            for told in (
                {"shape": [-1, -64]}, {"shape": [0, 64]}, {"shape": [True, 64]}, {"shape": [4.0, 64]}, {"shape": "44"},
                {"shape": [10**900, 64]}, {"blocksize": -64}, {"blocksize": 32}, {"blocksize": 8192},
                {"blocksize": 10**900}, {"nested_blocksize": 0}, {"nested_blocksize": -256}, {"nested_blocksize": 3},
                {"nested_blocksize": None}, {"nested_blocksize": 2**40}, {"nested_offset": float("nan")},
                {"nested_offset": 1e300}, {"nested_offset": 10**400}, {"nested_offset": "0"}, {"nested_offset": True},
                {"quant_type": "\ud800"}, {"quant_type": None},
            )
        ),
        json.dumps(STATES).replace("[4,", "[1e999,").encode(),
    ],
    ids=lambda state: repr(state[:90]),
)  # fmt: skip
def test_broken_descriptions_are_refused(state: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        read(stored(state))
    assert len(caught.value.text.encode()) < 1000


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-3, 9000), st.floats(), st.text(max_size=5),
    st.sampled_from([10**400, 64, 128, 4096, 8192, [4, 64], [256, 1], [-4, -64], [4, 64, 1], {}]),
    st.lists(st.one_of(st.integers(-5, 300), st.floats(), st.none()), max_size=3),
)  # fmt: skip
ANY_JSON = st.recursive(ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))


@settings(max_examples=300)
@given(
    state=st.one_of(
        st.binary(max_size=80),
        ANY_JSON.map(lambda told: json.dumps(told).encode()),
        st.dictionaries(st.sampled_from(list(STATES)), ODD, max_size=3).map(lambda t: json.dumps(STATES | t).encode()),
        st.sampled_from(list(STATES)).map(lambda key: json.dumps({k: STATES[k] for k in STATES if k != key}).encode()),
    )
)
def test_any_description_ends_in_a_weight_or_a_refusal(state: bytes) -> None:
    try:
        read(stored(state))
    except ModelError as error:
        error.text.encode()


@settings(max_examples=150)
@given(
    part=st.sampled_from(["", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATE]),
    shape=st.lists(st.integers(0, 130), max_size=2), dtype=st.sampled_from(DTYPES), is_nested=st.booleans(),
)  # fmt: skip
def test_any_tensor_ends_in_a_weight_or_a_refusal(
    part: str, shape: list[int], dtype: torch.dtype, is_nested: bool
) -> None:
    state = STATES if is_nested else {key: STATES[key] for key in ("quant_type", "shape", "blocksize")}
    parts = stored(json.dumps(state).encode())
    if not is_nested:
        parts[".absmax"] = torch.ones(4)
    parts[part] = torch.ones(shape, dtype=dtype)
    try:
        read(parts)
    except ModelError as error:
        error.text.encode()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32], ids=str)
def test_codes_may_be_dressed_as_another_dtype(dtype: torch.dtype) -> None:
    """`bnb_4bit_quant_storage`: the same bytes."""
    parts = stored(json.dumps(STATES).encode())
    wanted = read(parts)
    parts[""] = parts[""].reshape(-1).view(dtype)[:, None]
    assert torch.equal(read(parts), wanted)


@pytest.mark.parametrize("settings_", [["x"], "nf4", 4, True])
@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_settings_that_are_no_table_are_refused_by_name(tmp_path: Path, family: str, settings_: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, "quantization_config": settings_}))
    with pytest.raises(ModelError, match="quantization_config"):
        load_model(tmp_path, init="random")


def test_a_foreign_family_may_say_that_it_is_not_quantised(tmp_path: Path) -> None:
    tiny = {"model_type": "gpt2", "vocab_size": 96, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    (tmp_path / "config.json").write_text(json.dumps(tiny | {"quantization_config": None}))
    assert load_model(tmp_path, init="random", dtype="fp32").spec.num_layers == 1
