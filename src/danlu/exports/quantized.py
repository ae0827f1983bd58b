"""What was trained on a quantised base, against the same adapter on the unquantised one, which is what merging ships.

The two differ by what quantising did to the base, and nobody can know beforehand how much that is: it is measured, on
the same texts, between the two bases with the adapter off. The adapter must not make it much larger: then the merged
model is as near to the trained one as the base is to its quantised self. Both numbers stand in the manifest
(`bases_…`: the two bases).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from danlu.engines.native import NativeEngine
from danlu.exports.export import Subject
from danlu.exports.parity import MAX_POSITIONS, Check, Difference, Record, compare, lead_at_parting
from danlu.exports.reload import living

FACTOR = 2.0
"""Trained and merged may be this many times as far apart as the two bases are; KL grows with the square."""


def check_quantized(subject: Subject, trained: NativeEngine) -> list[Check]:
    """`subject` is the unquantised engine with the adapter, `trained` the quantised one that was trained."""
    records = list(subject.records)
    quantising = compare(base_records(records, subject.engine), trained.base())
    # Where the codes are all there is (a checkpoint that came quantised), only arithmetic lies between the two.
    floor = quantising.worst(living(subject).floor)
    found = compare(records, trained)
    limits = {
        "max_abs": FACTOR * floor.max_abs, "mean_abs": FACTOR * floor.mean_abs, "mean_kl": FACTOR**2 * floor.mean_kl,
    }  # fmt: skip
    measured = asdict(found)
    is_near = all(measured[key] <= limit for key, limit in limits.items())
    bases = {f"bases_{key}": getattr(quantising, key) for key in (*limits, "num_flips")}
    return [
        Check("quantized_logits", "pass" if is_near else "fail", measured | bases, limits),
        check_agreement(records, trained, floor, subject.max_new_tokens),
    ]


def base_records(records: Sequence[Record], engine: NativeEngine) -> list[Record]:
    """What the bare base says to the same texts."""
    base = engine.base()
    found = []
    for record in records:
        (logits_TV,) = base.logits([list(record.text_ids)])
        found.append(replace(record, logits=logits_TV[-MAX_POSITIONS:].float().cpu().clone()))
    return found


def check_agreement(records: Sequence[Record], trained: NativeEngine, floor: Difference, max_new_tokens: int) -> Check:
    """Greedy answers may part where the unquantised model was as undecided as quantising can turn around."""
    answers = trained.continue_ids([record.prompt_ids for record in records], max_new_tokens)
    margin = 2 * FACTOR * floor.max_abs
    pairs = list(zip(records, answers, strict=True))
    leads = [lead_at_parting(record, answer) for record, answer in pairs if tuple(answer) != record.answer_ids]
    numbers = {
        "num_answers": len(records), "num_equal": len(records) - len(leads),
        "largest_lead_at_parting": max(leads, default=0.0),
    }  # fmt: skip
    is_near = numbers["largest_lead_at_parting"] <= margin
    limits = {"largest_lead_at_parting": margin}
    return Check("quantized_answers", "pass" if is_near else "fail", numbers, limits)
