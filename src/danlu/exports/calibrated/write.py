"""A merged model as four-bit codes: rounded by auto-round (SignRound: Cheng et al. 2023, arXiv:2309.05516) on texts
that the run was trained on. What is not coded lies as the merged model has it.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from danlu.core.errors import ExportError
from danlu.core.files import write_json
from danlu.core.messages import listed
from danlu.exports.calibrated.needs import MULTIPLE, PACKAGES
from danlu.exports.calibrated.schemes import PARTS, Scheme, group_of
from danlu.exports.compressed.write import write_shards
from danlu.exports.export import Subject
from danlu.exports.merging import merged_model
from danlu.exports.reload import stored_dtype
from danlu.exports.speech import write_speech
from danlu.exports.structure import coded_layers, config_of
from danlu.model.build import save_model
from danlu.model.decoder import Decoder
from danlu.model.model import Model
from danlu.model.shards import find_shards

MAX_SAMPLES = 128
SAMPLE_TOKENS = {"cpu": 256, "cuda": 2048}
BATCH = {"cpu": 4, "cuda": 8}
MAX_FLOPS = {"cpu": 5e12, "cuda": 5e17}
"""What rounding may cost; fewer steps are taken where the usual 200 would cost more."""
STEPS = (20, 200)


@dataclass(frozen=True, slots=True)
class Effort:
    """How codes are searched for; told in the artefact."""

    num_samples: int
    sample_tokens: int
    iterations: int
    batch: int
    group: int


def check_packages(where: str) -> None:
    if missing := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
        raise ExportError("calibrated.needs_package", where=where, given=listed(missing))


def write_calibrated(subject: Subject, folder: Path, scheme: Scheme) -> Effort:
    """config.json, weights and speech."""
    where = f"exports: {scheme.name}"
    check_packages(where)
    merged = merged_model(subject, where=where)
    group = check_shapes(merged, where)
    living, kept = subject.engine.model, kept_dtype(merged)
    with tempfile.TemporaryDirectory(prefix=".rounding-", dir=folder) as name:
        work = Path(name)
        save_model(merged, work / "whole", kept)
        write_speech(subject.contract, living.folder, work / "whole")
        samples = samples_of(subject.texts(), SAMPLE_TOKENS[_device(living)], living.spec.context, where)
        effort = effort_of(merged, samples, _device(living), group)
        _round(work, samples, scheme, effort, _device(living))
        found = next((path.parent for path in (work / "out").rglob("config.json")), None)
        assert found is not None, "auto-round ended well, so there is a folder"
        write_shards(_joined(work / "whole", found), folder)
        write_json(folder / "config.json", config_of(merged, kept, scheme.header(group)))
    write_speech(subject.contract, living.folder, folder)
    return effort


def kept_dtype(model: Model) -> torch.dtype:
    """What is not coded lies in this; no reader multiplies codes with more than 16 bits."""
    stored = stored_dtype(model)
    return torch.float16 if stored == torch.float32 else stored


def check_shapes(model: Model, where: str) -> int:
    """The size of groups. ExportError where a layer's shape is not one that readers of the formats take."""
    if not isinstance(model, Decoder):
        raise ExportError("calibrated.foreign", where=where, given=model.config.get("model_type"))
    shapes = {name: tuple(model.get_parameter(f"{name}.weight").shape) for name in sorted(coded_layers(model))}
    group = group_of({shape[1] for shape in shapes.values()})
    for name, shape in shapes.items():
        if group is None or any(size % MULTIPLE for size in shape):
            raise ExportError("calibrated.odd", where=where, given=f"{name} {shape}", multiple=MULTIPLE)
    assert group is not None, "there are layers"
    return group


def samples_of(texts: Sequence[Sequence[int]], length: int, context: int, where: str) -> list[list[int]]:
    """Pieces of one length, cut from the texts end to end."""
    ids = [token for text in texts for token in text]
    length = min(length, context, len(ids))
    if length < 1:
        raise ExportError("calibrated.no_texts", where=where)
    return [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)][:MAX_SAMPLES]


def effort_of(model: Model, samples: Sequence[Sequence[int]], device: str, group: int) -> Effort:
    batch = min(BATCH[device], len(samples))
    num_coded = sum(model.get_parameter(f"{name}.weight").numel() for name in coded_layers(model))
    flops = 6.0 * num_coded * batch * len(samples[0])  # of one step in each block: forward and backward
    iterations = min(STEPS[1], max(STEPS[0], int(MAX_FLOPS[device] / flops)))
    return Effort(len(samples), len(samples[0]), iterations, batch, group)


def _round(work: Path, samples: list[list[int]], scheme: Scheme, effort: Effort, device: str) -> None:
    (work / "texts.json").write_text(json.dumps(samples))
    job: dict[str, Any] = {
        "model": str(work / "whole"), "out": str(work / "out"), "texts": str(work / "texts.json"),
        "format": scheme.format, "is_symmetric": scheme.is_symmetric, "group": effort.group,
        "iterations": effort.iterations, "batch": effort.batch, "device": device, "threads": torch.get_num_threads(),
    }  # fmt: skip
    (work / "job.json").write_text(json.dumps(job))
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "danlu.exports.calibrated.child", str(work / "job.json")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True,
        errors="replace",
    )  # fmt: skip
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        said = " / ".join(lines[-3:])[-400:]
        raise ExportError("calibrated.failed", where=f"exports: {scheme.name}", said=said)


def _joined(whole: Path, coded: Path) -> Iterator[tuple[str, Tensor]]:
    """Codes from one folder, everything else from the other."""
    layers = set()
    for path in find_shards(coded):
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in sorted(file.keys()):
                stem, _, part = name.rpartition(".")
                if part in PARTS:
                    layers.add(stem)
                    yield name, file.get_tensor(name)
    for path in find_shards(whole):
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in sorted(file.keys()):
                if name.removesuffix(".weight") not in layers:
                    yield name, file.get_tensor(name)


def _device(model: Model) -> str:
    return "cuda" if model.device.type == "cuda" else "cpu"
