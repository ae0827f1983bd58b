"""Does an opened artefact answer as it did when it was sealed? Its canaries are asked again."""

from __future__ import annotations

import torch

from danlu.core.errors import ExportError
from danlu.engines.native import NativeEngine
from danlu.exports.parity import Difference, answer_log_probs, margin_of, mean_margin_of
from danlu.model.build import DTYPES
from danlu.run.artifact import Canary, Manifest

COARSER = 8.0
"""bf16 where fp32 was proven: what rounding activations adds to rounding weights."""


def replay(manifest: Manifest, engine: NativeEngine) -> None:
    """Ask the canaries. ExportError when an answer leaves the recorded one at a place where the engine is not, within
    the noise measured at export, undecided; or when the recorded answers are no longer as likely as they were."""
    noise, slack = Difference(**manifest.parity["noise"]), _slack(manifest, engine)
    _check_likelihood(manifest, engine, slack * mean_margin_of(noise))
    margin = slack * margin_of(noise)
    longest = max((len(canary.answer_ids) for canary in manifest.canaries), default=1)
    answers = engine.continue_ids([canary.prompt_ids for canary in manifest.canaries], longest)
    for canary, answer in zip(manifest.canaries, answers, strict=True):
        given = tuple(answer)[: len(canary.answer_ids)]
        if given != canary.answer_ids and _lead(engine, canary, given) > margin:
            said = engine.encoder.answer_text(answer)
            raise ExportError(
                "export.canary", where=engine.name, prompt=canary.prompt, expected=canary.answer, given=said
            )


def _slack(manifest: Manifest, engine: NativeEngine) -> float:
    """More noise is to be expected in a coarser dtype than the one the model lived in when it was proven."""
    living = DTYPES[manifest.parity["living_dtype"]]
    return COARSER if torch.finfo(engine.model.dtype).eps > torch.finfo(living).eps else 1.0


def _check_likelihood(manifest: Manifest, engine: NativeEngine, limit: float) -> None:
    sum_apart, num_tokens = 0.0, 0
    for canary, recorded in zip(manifest.canaries, manifest.parity["canary_log_probs"], strict=True):
        found = answer_log_probs(canary.prompt_ids, canary.answer_ids, engine)
        sum_apart += sum(abs(a - b) for a, b in zip(found, recorded, strict=True))
        num_tokens += len(recorded)
    apart = sum_apart / max(1, num_tokens)
    if not apart <= limit:
        raise ExportError("export.canary_drift", where=engine.name, given=f"{apart:.4g}", limit=f"{limit:.4g}")


def _lead(engine: NativeEngine, canary: Canary, given: tuple[int, ...]) -> float:
    """By how much the engine prefers its own token to the recorded one where the answers first differ."""
    pairs = zip(canary.answer_ids, given, strict=False)
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(given), len(canary.answer_ids)))
    if at >= len(given):
        return float("inf")  # stopped where the recorded answer goes on
    (logits_TV,) = engine.logits([[*canary.prompt_ids, *given[:at]]])
    last_V = logits_TV[-1]
    return float(last_V[given[at]] - last_V[canary.answer_ids[at]])
