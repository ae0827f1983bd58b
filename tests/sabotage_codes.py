"""Harms to codes (fp8, int8, awq, gptq), to their scales and zero points, and to what the header says of them.

Those to weights, updates and speech are in `sabotage_harms.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from danlu.exports.compressed.schemes import SCALE
from nearest_codes import AWQ_PLACES, Tensors, words_of
from sabotage_harms import FINE, HARMS, config_edit
from sabotage_kit import Draft, Harm


def tensors_edit(change: Callable[[Tensors], object]) -> Harm:
    """Of a written folder's tensors."""

    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})

    def spoil(draft: Draft) -> None:
        draft.edit = edit

    return spoil


def header_edit(change: Callable[[dict[str, Any]], None]) -> Harm:
    """Of what config.json says of the codes."""

    def spoil(draft: Draft) -> None:
        draft.edit = config_edit(lambda config: change(config["quantization_config"]))

    return spoil


def two(tensors: Tensors, end: str) -> tuple[str, str]:
    """The same part of one layer in two blocks."""
    one = next(name for name in sorted(tensors) if name.endswith(f"down_proj.{end}") and ".layers.0." in name)
    return one, one.replace(".layers.0.", ".layers.1.")


def swapped(end: str) -> Harm:
    def change(tensors: Tensors) -> None:
        one, other = two(tensors, end)
        tensors[one], tensors[other] = tensors[other], tensors[one]

    return tensors_edit(change)


def on(end: str, edit: Callable[[Tensor], Tensor]) -> Harm:
    """One layer's part becomes what `edit` makes of it."""

    def change(tensors: Tensors) -> None:
        name = two(tensors, end)[1]
        tensors[name] = edit(tensors[name].clone())

    return tensors_edit(change)


def row_at(factor: float, row: int) -> Callable[[Tensor], Tensor]:
    def edit(scales: Tensor) -> Tensor:
        scales[row] = scales[row] * factor
        return scales

    return edit


def cell_at(factor: float) -> Callable[[Tensor], Tensor]:
    def edit(scales_GN: Tensor) -> Tensor:
        scales_GN[1, 3] = scales_GN[1, 3] * factor
        return scales_GN

    return edit


def lost(end: str) -> Harm:
    return tensors_edit(lambda tensors: tensors.pop(two(tensors, end)[1]))


def with_strange(part: str) -> Harm:
    """A part that the model never had, beside one that it has."""

    def change(tensors: Tensors) -> None:
        name = next(name for name in sorted(tensors) if name.endswith("down_proj." + part))
        tensors[name.rpartition(".")[0] + ".bias"] = torch.ones(8)

    return tensors_edit(change)


def all_scales(edit: Callable[[Tensor], Tensor], end: str) -> Harm:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(end)]:
            tensors[name] = edit(tensors[name])

    return tensors_edit(change)


def bytes_as(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Codes written in another layout of eight bits."""

    def edit(codes: Tensor) -> Tensor:
        return codes.float().to(dtype).view(torch.uint8).view(codes.dtype)

    return edit


def codes_shifted(codes: Tensor) -> Tensor:
    if codes.dtype == torch.int8:
        return (codes.int() + 1).clamp(-128, 127).to(torch.int8)
    return (codes.view(torch.uint8) ^ 1).view(codes.dtype)  # the last bit of each


def transposed(codes: Tensor) -> Tensor:
    return codes.T.contiguous().reshape(codes.shape)


def inputs_as(**fields: Any) -> Harm:
    """The header says something else of what enters products."""
    return header_edit(lambda header: header["config_groups"]["group_0"]["input_activations"].update(fields))


def weights_as(**fields: Any) -> Harm:
    return header_edit(lambda header: header["config_groups"]["group_0"]["weights"].update(fields))


def inputs_whole(header: dict[str, Any]) -> None:
    header["config_groups"]["group_0"]["input_activations"] = None


def with_second_file(draft: Draft) -> None:
    """Programs that take every file of weights that lies there read one that others do not."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        norm = next(name for name in sorted(tensors) if name.endswith("layernorm.weight"))
        save_file({norm: tensors[norm] * 0.5}, folder / "other.safetensors", metadata={"format": "pt"})

    draft.edit = edit


def one_left_out(header: dict[str, Any]) -> None:
    header["ignore"] = [*header["ignore"], "model.layers.1.mlp.down_proj"]


SCALES_8, SCALES_4 = "weight" + SCALE, "scales"
CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
SHARED_8: dict[str, Harm] = {
    "one row's scale at 0.9": on(SCALES_8, row_at(0.9, 5)),
    "a layer's scales at 0.9": on(SCALES_8, lambda scales: scales * 0.9),
    "all scales at 0.9": all_scales(lambda scales: scales * 0.9, SCALES_8),
    "scales turned over": all_scales(lambda scales: 1 / scales, SCALES_8),
    "a layer's scales one row on": on(SCALES_8, lambda scales: scales.roll(1, 0)),
    "scales of two layers swapped": swapped(SCALES_8),
    "a layer's scales lost": lost(SCALES_8),
    "codes of two layers swapped": swapped("weight"),
    "a layer's codes transposed": on("weight", transposed),
    "a layer's codes one off": on("weight", codes_shifted),
    "scales in another type": all_scales(lambda scales: scales.double(), SCALES_8),
    "scales lying across": on(SCALES_8, lambda scales: scales.T),
    "a second file of weights": with_second_file,
    "groups of 32 in the header": weights_as(strategy="group", group_size=32),
    "zero points in the header": weights_as(symmetric=False),
    "a layer left out of the header": header_edit(one_left_out),
    "inputs scaled all together": inputs_as(strategy="tensor"),
    "inputs scaled once for all": inputs_as(dynamic=False),
    "inputs of four bits in the header": inputs_as(num_bits=4),
    "inputs as they are in the header": header_edit(inputs_whole),
    "a cache of eight bits in the header": header_edit(lambda header: header.update(kv_cache_scheme=CACHE)),
    "the head not left out of the header": header_edit(lambda header: header.update(ignore=[])),
    "a field that the format has not": header_edit(lambda header: header.update(rotation="hadamard")),
    "a bias that the model never had": with_strange("weight"),
}
FP8: dict[str, Harm] = {
    "codes written as E5M2": on("weight", bytes_as(torch.float8_e5m2)),
    "codes written as E4M3FNUZ": on("weight", bytes_as(torch.float8_e4m3fnuz)),
}
INT8: dict[str, Harm] = {"signs lost": on("weight", lambda codes: codes.int().abs().clamp_max(127).to(torch.int8))}
SHARED_4: dict[str, Harm] = {
    "one group's scale at 0.5": on(SCALES_4, cell_at(0.5)),
    "a layer's scales at 0.9": on(SCALES_4, lambda scales: scales * 0.9),
    "all scales at 0.9": all_scales(lambda scales: scales * 0.9, SCALES_4),
    "scales of two groups swapped": on(SCALES_4, lambda scales: scales.roll(1, 0)),
    "a layer's scales one output on": on(SCALES_4, lambda scales: scales.roll(1, 1)),
    "scales of two layers swapped": swapped(SCALES_4),
    "a layer's scales lost": lost(SCALES_4),
    "zero points of two groups swapped": on("qzeros", lambda zeros: zeros.roll(1, 0)),
    "zero points of two layers swapped": swapped("qzeros"),
    "a layer's zero points one off": on("qzeros", lambda zeros: zeros ^ 0x11111111),
    "codes of two layers swapped": swapped("qweight"),
    "a row of words lost": on("qweight", row_at(0, 2)),
    "a layer's words turned around": on("qweight", lambda words: words.flip(0)),
    "scales in another type": all_scales(lambda scales: scales.double(), SCALES_4),
    "scales lying across": on(SCALES_4, lambda scales: scales.T),
    "a second file of weights": with_second_file,
    "a type of codes that the format has not": header_edit(lambda header: header.update(data_type="mx_fp")),
    "a field that the format has not": header_edit(lambda header: header.update(rotation="hadamard")),
    "zero points the other way round in the header": header_edit(lambda header: header.update(sym=not header["sym"])),
    "groups twice as large in the header": header_edit(lambda header: header.update(group_size=64)),
    "groups half as large in the header": header_edit(lambda header: header.update(group_size=16)),
    "a bias that the model never had": with_strange("qweight"),
    "eight bits in the header": header_edit(lambda header: header.update(bits=8)),
    "the other format in the header": header_edit(
        lambda header: header.update(quant_method="gptq" if header["quant_method"] == "awq" else "awq")
    ),
}


def in_plain_order(words: Tensor) -> Tensor:
    """AWQ's words with their codes in the order of their outputs."""
    codes = ((words[:, :, None] >> torch.arange(0, 32, 4)) & 15)[:, :, torch.tensor(AWQ_PLACES).argsort()]
    return words_of(codes.reshape(len(words), -1), range(8))


def with_layer_left_out(header: dict[str, Any]) -> None:
    header["modules_to_not_convert"] = [*header["modules_to_not_convert"], "model.layers.1.mlp.down_proj"]


AWQ: dict[str, Harm] = {
    "a layer's words in plain order": on("qweight", in_plain_order),
    "a layer left out of the header": header_edit(with_layer_left_out),
    "the head not left out of the header": header_edit(lambda header: header.update(modules_to_not_convert=None)),
    "words of another product in the header": header_edit(lambda header: header.update(version="gemv")),
}
GPTQ: dict[str, Harm] = {
    "inputs in other groups": on("g_idx", lambda groups: groups.flip(0)),
    "one input in another group": on("g_idx", lambda groups: torch.cat([groups[:1] + 1, groups[1:]])),
    "a layer left out of the header": header_edit(
        lambda header: header.update(dynamic={"-:model.layers.1.mlp.down_proj": {}})
    ),
    "the head not left out of the header": header_edit(lambda header: header.update(lm_head=True)),
    "inputs out of order in the header": header_edit(lambda header: header.update(desc_act=True)),
    "zero points as version 2 has them": header_edit(lambda header: header.update(checkpoint_format="gptq_v2")),
}
CODES: dict[str, dict[str, Harm]] = {
    "fp8": SHARED_8 | FP8, "int8": SHARED_8 | INT8, "awq": SHARED_4 | AWQ, "gptq": SHARED_4 | GPTQ,
}  # fmt: skip


def harms_of(kind: str) -> dict[str, Harm]:
    """All that is tried; `FINE` is below what eight bits round."""
    return {name: harm for name, harm in HARMS.items() if name not in FINE} | CODES[kind]
