"""What a checkpoint in codes must look like, known before it is written: each tensor's name, type and shape, and every
field of config.json. Writers write by it, and a proof holds the folder to it to the letter.

A header can change how codes are multiplied without moving an answer beyond the format's own rounding, or say
what one program ignores and the next obeys: no reading of the model shows that. So nothing in it is left open: a field
that is missing, unknown or different fails, and so does a tensor. Whether the plan itself is right, the programs that
read the files say.

Shapes: N output rows, D input columns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.lora import HEADS
from danlu.adapters.peft_format import linears_of
from danlu.core.files import read_json
from danlu.exports.parity import Check
from danlu.model.build import family_of
from danlu.model.model import Model
from danlu.model.shards import INDEX, Entry, find_shards, read_header
from danlu.model.weights import DTYPE_NAMES, fuse

UNCODED = HEADS[:1]
"""Linear layers, by the readers' names, that every header leaves as they are."""
Layout = dict[str, Entry]
"""A folder's tensors by their names in the files."""
TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.int8: "I8", torch.int32: "I32",
}  # fmt: skip
"""safetensors' names."""
SHOWN = 5
"""Of many differences so many are told."""


def coded_layers(model: Model) -> set[str]:
    """The layers whose weights become codes, by our names."""
    return {name for name in linears_of(model) if name.rpartition(".")[2] not in HEADS}


def coded_weights(model: Model) -> set[str]:
    """The same by the files' names of their weights, fused layers whole."""
    coded = {f"{name}.weight" for name in coded_layers(model)}
    weights = {name: weight.detach().to("meta") for name, weight in model.named_parameters() if name in coded}
    return set(fuse(weights, family_of(model.config)))


def layout_of(model: Model, kept: torch.dtype, parts: Callable[[str, tuple[int, ...]], Layout]) -> Layout:
    """`parts` says what becomes of a coded weight, by its name and shape; everything else lies in `kept`."""
    coded = coded_weights(model)
    whole = {name: weight.detach().to("meta") for name, weight in model.named_parameters()}
    layout: Layout = {}
    for name, weight in fuse(whole, family_of(model.config)).items():
        shape = tuple(weight.shape)
        layout |= parts(name, shape) if name in coded else {name: Entry(TYPES[kept], shape)}
    return layout


def config_of(model: Model, kept: torch.dtype, header: dict[str, Any]) -> dict[str, Any]:
    """config.json: what the model said of itself, and what the format says of its codes."""
    config = {key: item for key, item in model.config.items() if key not in ("torch_dtype", "dtype")}
    return config | {"torch_dtype": DTYPE_NAMES[kept], "quantization_config": header}


def check_header(name: str, folder: Path, config: dict[str, Any]) -> Check:
    """config.json field by field."""
    wrong = list(differences(read_json(folder / "config.json"), json.loads(json.dumps(config))))
    return _check(name, {"num_wrong_fields": len(wrong)}, wrong)


def check_layout(name: str, folder: Path, layout: Layout) -> Check:
    """Each tensor there is, none missing; in several files, each where the index says; and no file of weights beside
    them, which a program may load as well."""
    found, malformed = _headers(folder), malformed_in(folder, layout)
    missing, foreign = sorted(layout.keys() - found.keys()), sorted(found.keys() - layout.keys())
    shards = {path.name for path in find_shards(folder)}
    stray = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in shards)
    misplaced = sorted(_misplaced(folder))
    numbers = {
        "num_tensors": len(found), "num_missing": len(missing), "num_foreign": len(foreign),
        "num_malformed": len(malformed), "num_misplaced": len(misplaced), "num_stray_files": len(stray),
    }  # fmt: skip
    wrong = [f"{each}: is missing" for each in missing] + [f"{each}: is foreign" for each in (*foreign, *stray)]
    wrong += [f"{each}: {_told(found[each])}, not {_told(layout[each])}" for each in sorted(malformed)]
    wrong += [f"{each}: not where {INDEX} says" for each in misplaced]
    return _check(name, numbers, wrong)


def malformed_in(folder: Path, layout: Layout) -> set[str]:
    """Tensors of another type or shape than their place asks for: they stand for nothing, and nobody decodes them."""
    found = _headers(folder)
    return {name for name in found.keys() & layout.keys() if found[name] != layout[name]}


def differences(found: Any, expected: Any, where: str = "") -> Iterator[str]:
    """Fields of JSON that are missing, unknown, or have another value or type, each by its path."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            path = f"{where}.{key}" if where else key
            if key not in found:
                yield f"{path}: is missing, not {json.dumps(expected[key])}"
            elif key not in expected:
                yield f"{path}: is unknown, {json.dumps(found[key])}"
            else:
                yield from differences(found[key], expected[key], path)
    elif json.dumps(found, sort_keys=True) != json.dumps(expected, sort_keys=True):  # true is not 1 there
        yield f"{where}: {json.dumps(found)}, not {json.dumps(expected)}"


def _headers(folder: Path) -> Layout:
    return {name: entry for path in find_shards(folder) for name, entry in read_header(path).items()}


def _misplaced(folder: Path) -> set[str]:
    """Tensors of which the index says another file than the one they lie in, or nothing; or that lie in two."""
    if not (folder / INDEX).is_file():
        return set()
    told = dict(read_json(folder / INDEX)["weight_map"])
    lying = [(name, path.name) for path in find_shards(folder) for name in read_header(path)]
    return {name for name, file in lying if told.get(name) != file} | told.keys() - dict(lying).keys()


def _told(entry: Entry) -> str:
    return f"{entry.dtype} {list(entry.shape)}"


def _check(name: str, numbers: dict[str, Any], wrong: list[str]) -> Check:
    limits = {key: 0 for key in numbers if key != "num_tensors"}
    more = [f"… {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    return Check(name, "fail" if wrong else "pass", numbers, limits, "; ".join([*wrong[:SHOWN], *more])[:600])
