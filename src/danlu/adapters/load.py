"""Put what a training run left behind on a model: a PEFT adapter, or a whole set of weights."""

from __future__ import annotations

from pathlib import Path

from danlu.adapters.full import AttachedFull, Full
from danlu.adapters.lora import AttachedLoRA, LoRA
from danlu.adapters.peft_format import CONFIG
from danlu.adapters.prefix import KIND, AttachedPrefix, PrefixTuning
from danlu.core.files import read_json
from danlu.model.build import load_state
from danlu.model.model import Model

WEIGHTS_FOLDER = "weights"
"""Where a training checkpoint keeps what can be shipped, beside what is only needed to go on."""


def load_trained(
    folder: Path, model: Model, *, to_train: bool = True, full: Full | None = None
) -> AttachedLoRA | AttachedPrefix | AttachedFull:
    """From a training checkpoint, a PEFT folder or a Hugging Face checkpoint of the same architecture. An adapter
    comes back attached and ready to answer, to merge or to train on; full weights replace the model's own,
    to train as `full` says unless `to_train` is False: then they keep the model's dtype."""
    if (folder / WEIGHTS_FOLDER).is_dir():
        folder = folder / WEIGHTS_FOLDER
    if (folder / CONFIG).is_file():
        return load_beside(folder, model)
    attached = (full or Full()).attach(model) if to_train else AttachedFull(model, None)
    load_state(model, folder)
    return attached


def load_beside(folder: Path, model: Model) -> AttachedLoRA | AttachedPrefix:
    """A PEFT folder, of whichever kind it says it is."""
    if read_json(folder / CONFIG).get("peft_type") == KIND:
        return PrefixTuning.load(folder, model)
    return LoRA.load(folder, model)
