"""prune: a base with fewer layers, as a folder to train on. Which layers, why, and what it costs stand in pruning.json.

Layers are chosen on some of the texts and what their absence costs is measured on others. The folder is read back, by
danlu and by transformers, and must say what the whole model says with those layers skipped, or it is not left there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danlu.core.errors import DataError, ModelError
from danlu.core.files import read_json, replacing_folder, write_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.encode import Encoder
from danlu.data.finding import SourceSpec
from danlu.data.ledger import Ledger
from danlu.data.sources import read
from danlu.exports.oracle import Transformers, has
from danlu.exports.parity import Check, Record, distance, hear, judge_logits, measure_floor
from danlu.exports.reload import COMPUTE_FACTOR, MAX_WIDE_PARAMS, stored_dtype
from danlu.model.build import load_model, save_model
from danlu.model.decoder import Decoder
from danlu.model.pruning import block_influence, hidden_of, least_influential, skipping, without_layers
from danlu.model.quantized import num_params
from danlu.model.stored import is_quantized
from danlu.ops.attention import Bounds
from danlu.pipeline.base import Base, open_base
from danlu.pipeline.device import choose_device
from danlu.recipe.model import ModelSection
from danlu.version import VERSION

NAME = "pruning.json"
MOST_READ = 20_000
"""Rows of the data that are looked at; texts are drawn from them."""
NUM_CALIBRATION, NUM_HELD_OUT, LEAST_TEXTS = 128, 64, 8
CONTEXT = 512
"""Tokens of a text."""
NUM_READ_BACK = 4
ROWS_AT_ONCE = 128
"""Positions whose logits exist at a time."""


def prune(
    base: str,
    num_layers: int,
    data: Sequence[str],
    out: Path,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `base` without the `num_layers` layers of least influence on `data` to the folder `out`; what pruning.json
    says of it. ModelError for bases that are not danlu's own decoder, lie in codes, or have too few layers."""
    progress = progress or Silent()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError("prune.folder_there", where=str(out))
    opened = open_base(ModelSection(base=base), progress=progress)
    if opened.reach is not None:
        raise ModelError("prune.encoder", where=base)
    calibration, held_out = texts_of(opened, data)
    model = _loaded(opened.folder, choose_device(device))
    if not 0 < num_layers < model.spec.num_layers:
        raise ModelError("prune.num_layers", where="--layers", given=num_layers, most=model.spec.num_layers - 1)
    progress.start(say("prune.looking"), len(calibration) + len(held_out))
    influence = block_influence(model, calibration, watch=progress.advance)
    left_out = least_influential(influence, num_layers)
    cost = _cost(model, left_out, held_out, progress)
    progress.finish()
    record = {
        "format": 1, "danlu": VERSION, "base": {"name": base, "digest": model.digest}, "left_out": list(left_out),
        "layers": [model.spec.num_layers, model.spec.num_layers - num_layers], "influence": influence,
        "texts": {"data": list(data), "num_calibration": len(calibration), "num_held_out": len(held_out)},
        "held_out": cost,
    }  # fmt: skip
    pruned = without_layers(model, left_out)
    with replacing_folder(out) as fresh:
        save_model(pruned, fresh, stored_dtype(model))
        progress.note(say("prune.reading_back"))
        record["params"] = [num_params(model), num_params(pruned)]
        record["checks"] = [asdict(check) for check in _read_back(model, left_out, fresh, held_out[:NUM_READ_BACK])]
        write_json(fresh / NAME, record)
    return record


def pruning_of(folder: Path) -> dict[str, Any] | None:
    """What a base's pruning.json says; None of a base that is whole."""
    return dict(read_json(folder / NAME)) if (folder / NAME).is_file() else None


def _loaded(folder: Path, device: str) -> Decoder:
    if is_quantized(folder):
        raise ModelError("prune.codes", where=str(folder))
    model = load_model(folder, device=device)
    if not isinstance(model, Decoder):
        raise ModelError("prune.foreign", where=str(folder), given=model.config["model_type"])
    return model.float() if num_params(model) <= MAX_WIDE_PARAMS else model


def texts_of(base: Base, data: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
    """ids_T to choose layers by, and others to measure on; which are which is drawn once and for all."""
    encoder = Encoder(base.tokenizer, base.template, CONTEXT, "split")
    ledger = Ledger()
    found = []
    for sample in islice(read([SourceSpec(path) for path in data], ledger), MOST_READ):
        encoded = encoder.encode(sample, ledger)
        if encoded and len(ids := encoded[0].ids) > 1:
            found.append(torch.from_numpy(ids.astype(np.int64)))
    if len(found) < LEAST_TEXTS:
        raise DataError("prune.few_texts", where="--data", given=len(found), expected=LEAST_TEXTS)
    order = np.random.default_rng(0).permutation(len(found))
    texts = [found[int(place)] for place in order[: NUM_CALIBRATION + NUM_HELD_OUT]]
    num_held_out = len(texts) // 3
    return texts[num_held_out:], texts[:num_held_out]


@torch.no_grad()
def _cost(model: Decoder, left_out: Sequence[int], texts: Sequence[Tensor], progress: Progress) -> dict[str, Any]:
    """Nats a token of next words, whole and pruned; KL of the whole against the pruned; how often both prefer the same
    word."""
    num = 0
    sums = torch.zeros(4, dtype=torch.float64)
    for ids_T in texts:
        whole_TD = hidden_of(model, ids_T)
        with skipping(model, left_out):
            pruned_TD = hidden_of(model, ids_T)
        targets_T = ids_T[1:].to(model.device)
        for start in range(0, len(targets_T), ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, len(targets_T)))
            ours, theirs = (model.logits(each[rows]).double().log_softmax(-1) for each in (whole_TD, pruned_TD))
            wanted = targets_T[rows, None]
            sums += torch.stack([
                -ours.gather(1, wanted).sum(), -theirs.gather(1, wanted).sum(),
                (ours.exp() * (ours - theirs)).sum(), (ours.argmax(-1) == theirs.argmax(-1)).double().sum(),
            ]).cpu()  # fmt: skip
        num += len(targets_T)
        progress.advance()
    loss, pruned_loss, kl, same = (sums / num).tolist()
    return {"num_tokens": num, "loss": loss, "pruned_loss": pruned_loss, "kl": kl, "same_choice": same}


class _Witness:
    """A decoder as parity asks it."""

    name = "danlu"

    def __init__(self, model: Decoder) -> None:
        self.model = model

    def continue_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        raise AssertionError("only its logits are asked for")

    @torch.no_grad()
    def logits(self, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        bounds = Bounds.of([len(ids) for ids in sequences])
        ids_T = torch.tensor([token for ids in sequences for token in ids], device=self.model.device)
        hidden_TD = self.model.hidden(ids_T, bounds.positions(self.model.device), bounds)
        for start, end in zip(bounds.cu_seqlens, bounds.cu_seqlens[1:], strict=False):
            yield self.model.logits(hidden_TD[start:end])


def _read_back(model: Decoder, left_out: Sequence[int], folder: Path, texts: Sequence[Tensor]) -> list[Check]:
    """The folder as danlu and transformers read it, against the whole model with those layers skipped. ModelError where
    they differ by more than the order of sums."""
    with skipping(model, left_out):
        witness = _Witness(model)
        asked = [tuple(ids_T.tolist()) for ids_T in texts]
        records = [Record(ids, (), logits) for ids, logits in zip(asked, _heard(witness, asked), strict=True)]
        floor = measure_floor(records, witness, list(model.parameters()), model.dtype)
    again = load_model(folder, dtype=model.dtype, device=model.device)
    assert isinstance(again, Decoder), "as it was"
    checks = [judge_logits("danlu_logits", distance(records, hear(records, _Witness(again))), floor, COMPUTE_FACTOR)]
    if has("transformers"):
        theirs = Transformers(folder, dtype=model.dtype, device=model.device)
        found = distance(records, hear(records, theirs))
        checks.append(judge_logits("transformers_logits", found, floor, COMPUTE_FACTOR))
    else:
        checks.append(Check("transformers_logits", "not run", note="transformers"))
    for check in checks:
        if check.verdict == "fail":
            raise ModelError("prune.not_equal", where=str(folder), check=check.name, given=check.numbers["max_abs"])
    return checks


def _heard(witness: _Witness, asked: Sequence[tuple[int, ...]]) -> list[Tensor]:
    records = [Record(ids, (), torch.empty(0)) for ids in asked]
    return hear(records, witness)
