"""Our NF4 against bitsandbytes 0.50, whose numbers `make_nf4_bnb.py` recorded: codes, scales and values bit for bit, and
a checkpoint that transformers wrote with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from make_nf4_bnb import CASES, CHECKPOINT, FIXTURE, IDS, digest, weight

from danlu.model.build import load_model
from danlu.model.quantizers.nf4 import NF4Linear
from danlu.ops.attention import Bounds
from danlu.ops.nf4 import NF4, Nested, dequantise, quantise

RECORD: dict[str, Any] = json.loads(FIXTURE.read_text(encoding="utf-8"))


def raw(hexadecimal: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(hexadecimal), dtype=torch.uint8)


@pytest.mark.parametrize("name", CASES)
def test_the_record_is_of_these_weights(name: str) -> None:
    assert digest(weight(name)) == RECORD["cases"][name]["weight"]


@pytest.mark.parametrize("name", CASES)
def test_codes_and_scales_are_those_of_bitsandbytes(name: str) -> None:
    record, ours = RECORD["cases"][name], quantise(weight(name), is_double=CASES[name][3])
    assert torch.equal(ours.codes, raw(record["codes"]))
    if isinstance(ours.absmax, Nested):
        assert digest(ours.absmax.levels) == record["levels"]
        assert ours.absmax.scale.tolist() == record["nested_absmax"] and ours.absmax.offset.item() == record["offset"]
        check_nested(name, ours.absmax, raw(record["absmax"]))
    else:
        assert ours.absmax.tolist() == record["absmax"]


def check_nested(name: str, ours: Nested, theirs: torch.Tensor) -> None:
    """bitsandbytes' CUDA kernels and ours take the nearest level; the CPU library that made the record misses it by up
    to a tenth of a step. So: no code more than one apart, and ours never the farther one."""
    plain = quantise(weight(name), is_double=False).absmax
    assert isinstance(plain, torch.Tensor)
    scaled = (plain - ours.offset) / ours.scale.repeat_interleave(ours.block)[: len(plain)]
    distances = [(scaled - ours.levels[codes.long()]).abs() for codes in (ours.codes, theirs)]
    assert (ours.codes.int() - theirs.int()).abs().max() <= 1
    assert (ours.codes == theirs).float().mean() > 0.9 and (distances[0] <= distances[1] + 1e-7).all()


def recorded(name: str) -> NF4:
    """What bitsandbytes quantised, to be dequantised by us."""
    record, shape = RECORD["cases"][name], CASES[name][:2]
    if not CASES[name][3]:
        return NF4(raw(record["codes"]), torch.tensor(record["absmax"]), shape)
    levels = quantise(weight(name)).absmax.levels  # type: ignore[union-attr]
    scale, offset = torch.tensor(record["nested_absmax"]), torch.tensor(record["offset"])
    return NF4(raw(record["codes"]), Nested(raw(record["absmax"]), scale, levels, offset), shape)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_bitsandbytes(name: str, dtype: str) -> None:
    values = dequantise(recorded(name), dtype=getattr(torch, dtype))
    assert digest(values) == RECORD["cases"][name]["values"][dtype]


@pytest.mark.parametrize("quantize", ["nf4", "none"])
def test_a_quantised_checkpoint_answers_as_transformers_reads_it(quantize: Any) -> None:
    """Codes kept, or dequantised on the way in: the same logits, in fp32, to the order of sums."""
    model = load_model(CHECKPOINT, dtype="fp32", quantize=quantize)
    bounds = Bounds.of([len(IDS)])
    with torch.inference_mode():
        logits_TV = model.logits(model.hidden(torch.tensor(IDS), bounds.positions("cpu"), bounds))
    torch.testing.assert_close(logits_TV, torch.tensor(RECORD["logits"]), atol=2e-5, rtol=1e-4)
    kinds = {name.rpartition(".")[2]: type(layer) for name, layer in model.named_modules() if name.endswith("_proj")}
    assert kinds.pop("o_proj") is torch.nn.Linear, "left out when the checkpoint was made"
    assert set(kinds.values()) == {NF4Linear if quantize == "nf4" else torch.nn.Linear}
