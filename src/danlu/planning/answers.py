"""What it takes that a model writes the answers which it is then trained on (GRPO), each as long as it may be: bounds,
for nobody knows how long answers will be.

A token of every answer at once costs one reading of the weights, or their products where answers are many. Follows
`engines/native.py`: so many rows at once, prompts of a group read once, weights packed anew on a CPU.
"""

from __future__ import annotations

import math

from danlu.planning import rates
from danlu.planning.cards import Card
from danlu.planning.work import Work


def num_answers(work: Work) -> int:
    """Of one step and one card, as the step's tokens have room for."""
    return max(work.group, work.tokens_per_step // work.num_ranks // work.document) if work.group else 0


def answering_s(work: Work, card: Card) -> float:
    """Seconds of a step that go into writing, at most."""
    if not work.group:
        return 0.0
    shapes, rows = work.shapes, num_answers(work)
    turns = math.ceil(rows / _seats(card.kind == "cpu"))
    rate = card.flops_32 if work.precision == "32" else card.flops_16
    params = shapes.linear_params + shapes.vocab * shapes.hidden
    launch = rates.CPU_LAUNCH_S if card.kind == "cpu" else rates.GRAPH_LAUNCH_S
    reading = _weight_bytes(work) / card.bandwidth + shapes.num_layers * rates.KERNELS_PER_LAYER / 3 * launch
    written = turns * work.answer_tokens * max(reading, 2.0 * params * rows / turns / rate)
    prompts = max(0, work.document - work.answer_tokens) * rows / work.group
    return written + 2.0 * shapes.linear_params * prompts / rate


def answering_bytes(work: Work) -> int:
    """Memory beside what stands, on a CPU: packed weights, and keys and values of the answers under way."""
    if not work.group:
        return 0
    shapes, rows = work.shapes, min(num_answers(work), _seats(is_cpu=True))
    packed = _weight_bytes(work)
    packed = packed if packed <= rates.PACKED_MOST_BYTES else 0
    place = 2 * shapes.num_layers * shapes.num_kv_heads * shapes.head_dim * 4
    return packed + rows * work.document * place


def _seats(is_cpu: bool) -> int:
    return rates.SEATS_CPU if is_cpu else rates.SEATS


def _weight_bytes(work: Work) -> int:
    shapes, width = work.shapes, {"nf4": rates.NF4_BYTES, "int8": 1.0, "fp8": 1.0}.get(work.precision, work.width)
    return int(shapes.linear_params * width + shapes.vocab * shapes.hidden * work.width)
