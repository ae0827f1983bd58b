"""Exports in codes (fp8, int8, awq, gptq), honest and spoilt, before all that proves them.

Harms to weights, updates and speech are those of every export (`sabotage_kit.py`); harms to codes, scales, zero points
and to what the header says of them are here. Honest four-bit files are auto-round's own, and so are those whose codes
are spoilt afterwards; where a harm comes before rounding, codes are rounded to nearest by a packer written once more
from the formats' own words: auto-round would take hours for hundreds of files.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from danlu.core.files import read_json, write_json
from danlu.exports.calibrated import schemes as calibrated
from danlu.exports.calibrated.prove import prove_calibrated
from danlu.exports.calibrated.write import check_shapes, write_calibrated
from danlu.exports.compressed import schemes as compressed
from danlu.exports.compressed.prove import prove_compressed
from danlu.exports.compressed.write import SCALE, coded_layers, write_compressed, write_shards
from danlu.exports.merging import context_of, merged_model, prove_speech
from danlu.exports.parity import Check
from danlu.exports.reload import stored_dtype
from danlu.exports.serving import write_serving
from danlu.exports.speech import write_speech
from danlu.model.build import family_of
from danlu.model.model import Model
from danlu.model.weights import fuse
from sabotage_kit import FINE, HARMS, Draft, Harm, config_edit, draft_of
from sabotage_kit import merged_model as merged_draft
from sabotage_trial import Trial

EIGHT, FOUR = ("fp8", "int8"), ("awq", "gptq")
KINDS = EIGHT + FOUR
STEPS = (4, 8)
"""Of auto-round's search: seconds, not minutes."""
AWQ_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which code stands where in a word."""
Tensors = dict[str, Tensor]


class CodedTrial(Trial):
    """A pupil whose exports in codes are on trial. `python`: of vLLM's environment, to ask vLLM as well."""

    def __init__(self, family: str, folder: Path, *, seed: int = 0, python: str | None = None) -> None:
        super().__init__(family, folder, seed=seed)
        self.python = python
        self.pupil.subject = replace(self.pupil.subject, texts=self._texts)

    def _texts(self) -> list[list[int]]:
        return [list(told.prompt_ids + told.answer_ids) * 4 for told in self.pupil.subject.records]

    def honest(self, kind: str) -> list[Check]:
        return self.judge(kind, self.export(kind))

    def nearest(self, kind: str) -> list[Check]:
        """The honest twin of what harms before rounding are compared with."""
        folder = self.folder / "nearest"
        try:
            return self.judge(kind, self.write(draft_of(self.pupil), kind, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def spoilt(self, kind: str, harm: Harm, *, until_failed: bool = False) -> list[Check] | None:
        draft, folder = draft_of(self.pupil), self.folder / "spoilt"
        if harm(draft) is False:
            return None
        try:
            if harm in CODES[kind].values():
                shutil.copytree(self.export(kind), folder)
                before = contents(folder)
                draft.edit(folder)
                if contents(folder) == before:
                    return None
            else:
                self.write(draft, kind, folder)
            return self.judge(kind, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def export(self, kind: str) -> Path:
        """By the writers of the exports themselves, once."""
        folder, subject = self.folder / "exported" / kind, self.pupil.subject
        if folder.is_dir():
            return folder
        folder.mkdir(parents=True)
        if kind in EIGHT:
            merged = merged_model(subject, where="test")
            write_compressed(merged, folder, compressed.SCHEMES[kind], stored_dtype(merged))
            write_speech(subject.contract, subject.engine.model.folder, folder)
        else:
            write_calibrated(subject, folder, calibrated.SCHEMES[kind])
        write_serving(folder, name="pupil", contract=subject.contract, context=context_of(subject))
        return folder

    def write(self, draft: Draft, kind: str, folder: Path) -> Path:
        """Codes nearest to the weights of a draft."""
        folder.mkdir(parents=True)
        model = merged_draft(draft)
        if kind in EIGHT:
            write_compressed(model, folder, compressed.SCHEMES[kind], stored_dtype(model))
        else:
            header = read_json(self.export(kind) / "config.json")["quantization_config"]
            write_nearest(model, folder, calibrated.SCHEMES[kind], header)
        write_speech(draft.contract, draft.source, folder)
        write_serving(folder, name="pupil", contract=draft.contract, context=context_of(draft.pupil.subject))
        draft.edit(folder)
        return folder

    def judge(self, kind: str, folder: Path) -> list[Check]:
        """All that an export of the kind has to pass."""
        subject = self.pupil.subject
        merged = merged_model(subject, where="test")
        checks = prove_speech(subject, folder)
        with contextlib.redirect_stdout(io.StringIO()):
            if kind in EIGHT:
                scheme = compressed.SCHEMES[kind]
                found, _ = prove_compressed(subject, folder, merged, scheme, python=self.python)
            else:
                group = check_shapes(merged, "test")
                found, _ = prove_calibrated(
                    subject, folder, merged, calibrated.SCHEMES[kind], group, python=self.python
                )
        return checks + found


def contents(folder: Path) -> dict[str, bytes]:
    """Of a folder, tensors by their names."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".safetensors"}
    tensors = load_file(folder / "model.safetensors")
    return found | {name: tensor.contiguous().view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}


# ---- four bits, rounded to nearest


def write_nearest(model: Model, folder: Path, scheme: calibrated.Scheme, header: dict[str, Any]) -> None:
    """config.json and weights; `header` is what auto-round says of its codes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(_tensors(model, scheme, header["group_size"]), folder)
    config = {key: item for key, item in model.config.items() if key not in ("torch_dtype", "dtype")}
    write_json(folder / "config.json", config | {"torch_dtype": "float16", "quantization_config": header})


def _tensors(model: Model, scheme: calibrated.Scheme, group: int) -> Iterator[tuple[str, Tensor]]:
    family, layers = family_of(model.config), coded_layers(model)
    ends = tuple(f".{fused.name}.weight" for fused in family.fused)
    for name, weight in fuse({name: weight.detach() for name, weight in model.named_parameters()}, family).items():
        stem = name.removesuffix(".weight")
        if stem in layers or (ends and name.endswith(ends)):
            for part, tensor in coded(weight, scheme, group).items():
                yield f"{stem}.{part}", tensor
        else:
            yield name, weight.half().contiguous()


def coded(weight_ND: Tensor, scheme: calibrated.Scheme, group: int) -> Tensors:
    """A layer's parts."""
    num_out, num_in = weight_ND.shape
    groups = weight_ND.float().reshape(num_out, -1, group)
    if scheme.is_symmetric:
        scale = groups.abs().amax(-1, keepdim=True) / 7.5
        zero = torch.full_like(scale, 8.0)
    else:
        low, high = groups.amin(-1, keepdim=True).clamp_max(0.0), groups.amax(-1, keepdim=True).clamp_min(0.0)
        scale = (high - low) / 15
        zero = (-low / scale.clamp_min(1e-8)).round().clamp(0, 15)
    scale = scale.clamp_min(1e-7).half()
    codes = (groups / scale.float() + zero).round().clamp(0, 15).reshape(num_out, num_in).T.long()
    return pack(codes, zero[..., 0].T.long(), scale[..., 0].T.contiguous(), scheme.name)


def pack(codes_DN: Tensor, zeros_GN: Tensor, scales_GN: Tensor, name: str) -> Tensors:
    if name == "awq":
        words = {"qweight": _words(codes_DN, AWQ_PLACES), "qzeros": _words(zeros_GN, AWQ_PLACES)}
        return words | {"scales": scales_GN}
    group = len(codes_DN) // len(zeros_GN)
    return {
        "qweight": _words(codes_DN.T, range(8)).T.contiguous(), "qzeros": _words(zeros_GN - 1, range(8)),
        "scales": scales_GN, "g_idx": torch.arange(len(codes_DN), dtype=torch.int32) // group,
    }  # fmt: skip


def _words(codes: Tensor, places: Any) -> Tensor:
    """[A, 8 B] codes to [A, B] words; `places` says which code stands where, the lowest four bits first."""
    eights = codes.reshape(len(codes), -1, 8)[:, :, list(places)] & 15
    words = (eights << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


# ---- harms to codes


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


def inputs_together(header: dict[str, Any]) -> None:
    header["config_groups"]["group_0"]["input_activations"]["strategy"] = "tensor"


def in_groups(header: dict[str, Any]) -> None:
    header["config_groups"]["group_0"]["weights"] |= {"strategy": "group", "group_size": 32}


def one_left_out(header: dict[str, Any]) -> None:
    header["ignore"] = [*header["ignore"], "model.layers.1.mlp.down_proj"]


SCALES_8, SCALES_4 = "weight" + SCALE, "scales"
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
    "groups of 32 in the header": header_edit(in_groups),
    "a layer left out of the header": header_edit(one_left_out),
    "inputs scaled all together": header_edit(inputs_together),
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
    return _words(codes.reshape(len(words), -1), range(8))


AWQ: dict[str, Harm] = {"a layer's words in plain order": on("qweight", in_plain_order)}
GPTQ: dict[str, Harm] = {
    "inputs in other groups": on("g_idx", lambda groups: groups.flip(0)),
    "one input in another group": on("g_idx", lambda groups: torch.cat([groups[:1] + 1, groups[1:]])),
    "zero points as version 2 has them": header_edit(lambda header: header.update(checkpoint_format="gptq_v2")),
}
CODES: dict[str, dict[str, Harm]] = {
    "fp8": SHARED_8 | FP8, "int8": SHARED_8 | INT8, "awq": SHARED_4 | AWQ, "gptq": SHARED_4 | GPTQ,
}  # fmt: skip


def harms_of(kind: str) -> dict[str, Harm]:
    """All that is tried; `FINE` is below what eight bits round."""
    return {name: harm for name, harm in HARMS.items() if name not in FINE} | CODES[kind]
