"""The recipe's model with its weights, to train or to ask. It takes torch: whoever may do without asks `base` first."""

from __future__ import annotations

from pathlib import Path

from danlu.core.errors import EngineError
from danlu.core.progress import Progress
from danlu.data.contract import Contract
from danlu.data.encode import Encoder
from danlu.engines.native import NativeEngine
from danlu.model.build import load_model
from danlu.model.classifier import Classifier
from danlu.model.model import Model
from danlu.pipeline.base import open_base
from danlu.pipeline.device import choose_device, choose_dtype
from danlu.recipe.model import ModelSection


def load_base(
    section: ModelSection, *, seed: int, device: str, progress: Progress | None = None, classes: Contract | None = None
) -> Model:
    """The model itself, ready to train or to answer; an encoder is told which classes its contract knows."""
    model = load_model(
        section.base,
        dtype=choose_dtype(section.dtype, device),
        device=device,
        init=section.init,
        seed=seed,
        quantize=section.quantize,
        revision=section.revision,
        hub=section.hub,
        mirror=section.mirror,
        progress=progress,
    )
    if classes is not None:
        assert isinstance(model, Classifier), "a contract of classes is an encoder's"
        model.tell(classes.value["classes"])
    return model


def load_engine(section: ModelSection, *, seed: int, progress: Progress) -> NativeEngine:
    """A model on this machine that answers conversations. EngineError where it has no template for them."""
    base = open_base(section, progress=progress)
    if base.template is None:
        raise EngineError("synthesis.no_chat", where="model.template", given=section.base)
    model = load_base(section, seed=seed, device=choose_device("auto"), progress=progress)
    return NativeEngine(model, Encoder(base.tokenizer, base.template), name=Path(section.base).name)
