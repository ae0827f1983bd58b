"""An adapter as GGUF: llama.cpp puts it on the base's file, whatever that is quantised to, also per request.

The file has one alpha for all modules and takes alpha / rank as the scale, so what a module's own scale differs by is
multiplied into its B. Rows of B lie as those of the base's file do.

Shapes: R rank, D input width, N output width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from danlu.adapters.peft_format import Pair
from danlu.core.errors import ExportError
from danlu.core.progress import Progress, Silent
from danlu.exports.gguf.architecture import architecture_of, find_faults
from danlu.exports.gguf.tensors import Entry, file_name, turned
from danlu.exports.gguf.write import FILE_TYPES, About, plain_name, write_file
from danlu.model.build import family_of
from danlu.model.families.family import Fused
from danlu.model.model import Model
from danlu.model.spec import Spec
from danlu.planning.servable import Architecture


def write_lora(
    pairs: Mapping[str, Pair], model: Model, target: Path, *, about: About, progress: Progress | None = None
) -> None:
    """The pairs by module name of `model`, in fp32. ExportError when llama.cpp cannot compute the base."""
    spec, architecture = model.spec, architecture_of(model.spec)
    if faults := find_faults(spec, architecture):
        raise ExportError("gguf.cannot_compute", where=spec.family, what=", ".join(faults))
    whole = dict(stack_pairs(pairs, family_of(model.config).fused, spec))
    alpha = max((pair.scaling * len(pair.A) for pair in whole.values()), default=1.0)
    entries = [entry for name, pair in whole.items() for entry in _entries(name, pair, alpha, spec, architecture)]
    header = {
        "general.type": "adapter",
        "general.name": plain_name(about.name),
        "general.license": about.licence,
        "general.file_type": FILE_TYPES["f32"],
        "adapter.type": "lora",
        "adapter.lora.alpha": float(alpha),
    }
    if about.base:
        header |= {"general.base_model.count": 1, "general.base_model.0.name": about.base}
    write_file(target, architecture.name, header, entries, progress=progress or Silent())


def stack_pairs(pairs: Mapping[str, Pair], fused: tuple[Fused, ...], spec: Spec) -> Iterator[tuple[str, Pair]]:
    """Pairs of layers that the file holds as one become one pair. Layers that share A keep it; others get a block
    each: [A_1; A_2; …], and B along the diagonal. A part without a pair has zero rows."""
    left = dict(pairs)
    for name in pairs:
        stack = next((f for f in fused for part in f.parts if name.endswith(f".{part}")), None)
        if stack is None:
            yield name, left.pop(name)
        elif name in left:
            stem = next(name.removesuffix(part) for part in stack.parts if name.endswith(part))
            parts = [left.pop(stem + part, None) for part in stack.parts]
            yield stem + stack.name, _block(parts, stack.sizes(spec))


def _block(parts: Sequence[Pair | None], sizes: Sequence[int]) -> Pair:
    present = [part for part in parts if part is not None]
    first = present[0]
    if all(torch.equal(part.A, first.A) for part in present):
        rows = [
            torch.zeros(size, len(first.A)) if part is None else part.B * part.scaling
            for part, size in zip(parts, sizes, strict=True)
        ]
        return Pair(first.A, torch.cat(rows), 1.0)
    blocks = [
        torch.zeros(size, 0) if part is None else part.B * part.scaling for part, size in zip(parts, sizes, strict=True)
    ]
    B: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return Pair(torch.cat([part.A for part in present]), B, 1.0)


def _entries(name: str, pair: Pair, alpha: float, spec: Spec, architecture: Architecture) -> Iterator[Entry]:
    """`lora_a` [R, D] and `lora_b` [N, R]."""
    weight = f"{name}.weight"
    place = file_name(weight, spec)
    scaled = pair.B.float() * (pair.scaling * len(pair.A) / alpha)
    yield Entry(f"{place}.lora_a", tuple(pair.A.shape), "F32", pair.A.float)
    yield Entry(f"{place}.lora_b", tuple(pair.B.shape), "F32", partial(turned, weight, scaled, spec, architecture))
