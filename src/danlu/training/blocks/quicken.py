"""Putting a model into its quick form, and saying where that cannot be."""

from __future__ import annotations

from danlu.adapters.adapter import Attached
from danlu.core.messages import say
from danlu.core.progress import Progress
from danlu.model.decoder import Decoder
from danlu.model.model import Model
from danlu.training.blocks.trunk import QuickTrunk, why_not


def quicken(model: Model, attached: Attached, progress: Progress, *, is_asked: bool) -> QuickTrunk | None:
    """The model's quick form, put in its place; None, and a sentence on a GPU, where it computes as written out. On a
    CPU that is a tenth faster (fewer and wider products are no gain there), so the quick form must be asked for: by
    policies that keep less."""
    model.quick, model.logits_bytes = None, None
    if reason := why_not(model, attached):
        if model.device.type == "cuda":
            progress.note(say(f"training.written_out_{reason}"))
        return None
    assert isinstance(model, Decoder), "others have a reason"
    if model.device.type == "cpu" and not is_asked:
        return None
    quick = model.quick = QuickTrunk(model)
    return quick
