"""Peak bytes of one stage, part by part, from shapes and policies alone.

What always lies there (weights, adapters, gradients, optimizer state) plus the widest of these moments: the loss, with
every layer's saves; or the backward pass of some layer, with the saves of that layer and all before it and what that
layer makes in passing. It follows the blocks of `training/blocks`; what trains written out (full fine-tuning, dropout)
keeps what torch's own differentiation keeps. Fits a GPU and, with other constants, a CPU.

After the last layer's attention only supervised rows are computed: its share of the saves is theirs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from danlu.planning import rates
from danlu.planning.answers import answering_bytes
from danlu.planning.policy import Kept, Mix, Policy, is_host, is_split, kept
from danlu.planning.work import Work

Kind = Literal["cuda", "cpu"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak. `gradients`, `saved` and `passing` belong to the same moment, which `moment` names."""

    weights_bytes: int
    adapters_bytes: int
    """fp32 masters: of low-rank pairs, or beside all weights."""
    gradients_bytes: int
    """Those that live at that moment: full fine-tuning in one piece makes them as saves go."""
    optimizer_bytes: int
    saved_bytes: int
    passing_bytes: int
    overhead_bytes: int
    """The device's context, workspaces, fragments: what no tensor of ours holds."""
    host_bytes: int
    """Pinned memory on the host; no part of the total."""
    host_states_bytes: int
    """Of it what holds masters and moments, from the first step to the last."""
    moment: Literal["loss", "backward"]

    @property
    def total_bytes(self) -> int:
        total: int = sum(getattr(self, part) for part in PARTS)
        return total

    @property
    def allocated_bytes(self) -> int:
        """What `torch.cuda.max_memory_allocated` should say, workspaces aside."""
        return self.total_bytes - self.overhead_bytes

    def to_json(self) -> dict[str, int | str]:
        return asdict(self) | {"total_bytes": self.total_bytes}


PARTS = (
    "weights_bytes", "adapters_bytes", "gradients_bytes", "optimizer_bytes", "saved_bytes", "passing_bytes",
    "overhead_bytes",
)  # fmt: skip


def predict_memory(work: Work, mix: Mix, *, kind: Kind = "cuda") -> Memory:
    """The peak of this work with these policies."""
    weights, adapters, gradients, states = standing_bytes(work)
    is_short = kind == "cuda" and mix["all"] < work.depth
    moments = [*_moments(work, mix), (_saved(work, mix), _loss_passing(work, kind, is_short=is_short))]
    alive = [gradients] * len(moments)
    if work.makes_gradients_anew:
        # none at the loss, the head's when the last layer's backward begins, all when nothing is saved any more
        head = gradients * work.shapes.vocab * work.shapes.hidden // work.num_trainable if work.trains_ends else 0
        alive = [head] * len(moments)
        alive[-1] = 0
        moments, alive = [(0, 0), *moments], [gradients, *alive]
    widest = max(range(len(moments)), key=lambda at: sum(moments[at]) + alive[at])
    (saved, passing), gradients = moments[widest], alive[widest]
    saved += _shared(work)
    if kind == "cpu":  # a card writes answers in what is free before the step
        passing = max(passing, answering_bytes(work) - saved)
    if kind == "cuda" and is_recorded(work, mix):
        passing += gradients + rates.RECORDED_BYTES  # gradients are set aside while a graph is recorded
    held = weights + adapters + gradients + states + saved + passing
    if kind == "cpu":
        overhead = rates.CPU_CONTEXT_BYTES
    else:
        overhead = rates.CONTEXT_BYTES + rates.WORKSPACE_BYTES + _fragment_bytes(work, mix, held)
        overhead += rates.EXCHANGE_BYTES * (work.num_ranks > 1)
    host_states = host_states_bytes(work)
    host = host_states + work.micro_tokens * sum(count * moved_bytes(work, policy) for policy, count in mix.groups)
    moment: Literal["loss", "backward"] = "loss" if widest == len(moments) - 1 else "backward"
    return Memory(weights, adapters, gradients, states, saved, passing, overhead, host, host_states, moment)


def is_recorded(work: Work, mix: Mix) -> bool:
    """Micro-batches of small models are replayed as CUDA graphs, where nothing is sent to the host."""
    is_here = not any(is_host(policy) for policy, _ in mix.groups)
    is_small = work.shapes.num_params * work.micro_tokens < rates.GRAPH_WORTH
    return is_small and is_here and not work.is_written_out and work.method in ("sft", "pretrain")


def _fragment_bytes(work: Work, mix: Mix, held: int) -> int:
    """What the allocator holds beyond tensors: rests of its pages, and room for what comes back from the host and does
    not land where it left."""
    back = work.micro_tokens * max(moved_bytes(work, policy) for policy, _ in mix.groups)
    return min(rates.FRAGMENT_MOST_BYTES, int(rates.FRAGMENT_RATIO * held)) + back


# ---- what always lies there


@functools.lru_cache
def standing_bytes(work: Work) -> tuple[int, int, int, int]:
    """(weights, adapter or master, gradient, optimizer state) bytes."""
    trained, states = work.num_trainable, int(work.num_trainable * _moment_bytes(work))
    if not work.is_full:
        return weight_bytes(work), 4 * trained, 4 * trained, states
    if work.offload == "all":
        states = 0
    if away := _away_bytes(work):
        states += int(rates.FERRY_BERTHS * rates.FERRY_CHUNK * away)
    masters = 4 * trained if work.has_masters and work.width == 2 and not work.has_masters_apart else 0
    gradient = 4 if work.has_masters and not work.has_masters_apart else work.width
    living = trained
    if work.updates_in_backward:  # the head's is the largest that lives alone
        living = max(trained // work.num_trained_layers, work.trains_ends * work.shapes.vocab * work.shapes.hidden)
    return weight_bytes(work), masters, gradient * living, states


def host_states_bytes(work: Work) -> int:
    """Masters and moments in the machine's memory."""
    return int(work.num_trainable * _away_bytes(work))


def _away_bytes(work: Work) -> float:
    """Of one weight."""
    if not work.is_full:
        return 0.0
    return 4 * work.has_masters_apart + (_moment_bytes(work) if work.offload == "all" else 0.0)


def _moment_bytes(work: Work) -> float:
    """Both moments of one weight."""
    return 2 * (rates.MOMENT_8BIT_BYTES if work.has_8bit_states else 4)


def weight_bytes(work: Work) -> int:
    """Frozen (or trained 16-bit) weights as they lie while training, low-rank corners and buffers included."""
    shapes, products = work.shapes, work.products.values()
    layers, width = shapes.num_layers, work.width
    around = (shapes.embedding_params + shapes.vector_params) * width
    trained = work.num_trained_layers
    kinds = [(trained, products), (layers - trained, work.frozen_products.values())]
    if work.precision in ("16", "32"):
        return around + width * sum(count * sum(p.padded_size for p in ps) for count, ps in kinds)
    size = layers * sum(p.size for p in products)
    rows = layers * sum(p.rows for p in products)
    if work.precision == "fp8":  # low-rank pairs in 16 bit
        pairs = 2 * sum(count * sum(p.pad * (p.rows + p.columns) for p in ps) for count, ps in kinds)
        return around + 2 * size + 4 * rows + pairs  # codes by rows and by columns
    codes = int(size * rates.NF4_BYTES) if work.precision == "nf4" else size + 4 * rows
    # one product of each kind at a time
    return around + codes + 2 * sum(sum(p.padded_size for p in ps) for count, ps in kinds if count)


# ---- what is kept for the backward pass, per token and layer


@functools.lru_cache
def _parts(work: Work, policy: Kept) -> tuple[int, int, int, int]:
    """Bytes a token of one layer: (large, small) at every row, (large, small) at rows that are read after attention.
    Large tensors may go to the host; low-rank products and statistics stay."""
    shapes, width = work.shapes, work.width
    pad = {name: product.pad for name, product in work.products.items()}
    if work.is_written_out:
        has_16bit_stream = work.has_masters_apart or not work.has_masters or not work.trains_ends
        is_narrow = work.is_full and width == 2 and has_16bit_stream
        hidden = rates.WRITTEN_OUT_16BIT_HIDDEN if is_narrow else rates.WRITTEN_OUT_HIDDEN
        keys = shapes.qkv_size - shapes.query_size if is_narrow else 0
        if work.has_magnitudes:  # what the weight made, and the pair: the magnitudes' gradient asks for both
            keys += 2 * sum(product.rows for product in work.products.values())
        wide = rates.WRITTEN_OUT_FFN * shapes.ffn // (2 if shapes.is_encoder else 1)  # no gate beside it
        return int(width * (hidden * shapes.hidden + keys + wide)), 0, 0, 0
    made = width * shapes.hidden * (shapes.norms == 4)  # by o, and by down, where a norm follows
    if policy == "input":
        return width * shapes.hidden, 0, made, width * pad["down"]
    raw = shapes.qkv_size if shapes.has_qk_norm else 0  # before and after the heads' norms
    statistics = 4 * (1 + shapes.num_heads) + 4 * (shapes.num_heads + shapes.num_kv_heads) * shapes.has_qk_norm
    large = width * (shapes.hidden + shapes.qkv_size + raw + shapes.query_size)
    small = width * pad["qkv"] + statistics
    large_after, small_after = width * shapes.hidden + 2 * made, width * (pad["o"] + pad["down"])
    if policy == "all":
        large_after += width * (2 * shapes.ffn + pad["gate_up"])
        small_after += width * pad["gate_up"]
    return large, small, large_after, small_after


def kept_bytes(work: Work, policy: Kept) -> int:
    """All that a layer keeps of a token, wherever it lies."""
    return sum(_parts(work, policy))


def moved_bytes(work: Work, policy: Policy) -> int:
    """What of it goes to the host."""
    return sum(_moved(work, policy))


def _moved(work: Work, policy: Policy) -> tuple[int, int]:
    """The same (at every row, at rows that are read after attention)."""
    if not is_host(policy):
        return 0, 0
    large, _, large_after, _ = _parts(work, "light" if is_split(policy) else kept(policy))
    return large, large_after


def _layer(work: Work, policy: Policy, *, is_last: bool = False) -> int:
    """Bytes on the device that one layer keeps of a micro-batch."""
    large, small, large_after, small_after = _parts(work, kept(policy))
    moved, moved_after = _moved(work, policy)
    after = work.supervised_tokens if is_last else work.micro_tokens
    return (large + small - moved) * work.micro_tokens + (large_after + small_after - moved_after) * after


def _saved(work: Work, mix: Mix) -> int:
    """Everything kept on the device once the last layer has run forward; what that one lends is not away yet."""
    return _up_to(work, mix, work.depth, num_under_way=1)


def _up_to(work: Work, mix: Mix, num_layers: int, *, num_under_way: int = rates.HOST_BUFFERS) -> int:
    """What the first so many layers that keep anything keep on the device, copies under way included."""
    total, under_way, left = 0, 0, num_layers
    for policy, count in mix.groups:
        here = min(count, left)
        if not here:
            break
        left -= here
        total += here * _layer(work, policy)
        under_way = max(under_way, moved_bytes(work, policy))
        if not left and num_layers == work.depth:
            total += _layer(work, policy, is_last=True) - _layer(work, policy)
    return total + num_under_way * under_way * work.micro_tokens


def _shared(work: Work) -> int:
    """What all layers read of a token: angles, ids, positions, targets."""
    return work.micro_tokens * (2 * work.width * work.shapes.head_dim + 48)


# ---- what is made in passing


def _moments(work: Work, mix: Mix) -> Iterator[tuple[int, int]]:
    """(saved, passing) of forward and backward at the last layer, and at the last of each group before it."""
    layers, end = work.depth, 0
    for policy, count in mix.groups:
        end += count
        if is_host(policy):  # what the layer before lends is under way while this one computes
            rows = work.micro_tokens if end < layers else work.supervised_tokens
            yield _up_to(work, mix, end), _forward_passing(work, kept(policy), rows)
        if end < layers:
            yield _up_to(work, mix, end), _layer_passing(work, kept(policy), work.micro_tokens)
            continue
        if count > 1:
            yield _up_to(work, mix, layers - 1), _layer_passing(work, kept(policy), work.micro_tokens)
        yield _up_to(work, mix, layers), _layer_passing(work, kept(policy), work.supervised_tokens)


@functools.lru_cache
def _forward_passing(work: Work, policy: Kept, rows: int) -> int:
    """Of a layer's forward at its widest, the down projection: gate|up, their product, what comes of it, the stream;
    and what the layer will lend, which is not away yet."""
    shapes, pad = work.shapes, {name: product.pad for name, product in work.products.items()}
    values = shapes.ffn + pad["down"] + 2 * shapes.hidden
    if policy != "all":
        values += 2 * shapes.ffn + pad["gate_up"]
    return work.width * values * rows


@functools.lru_cache
def _layer_passing(work: Work, policy: Kept, rows: int) -> int:
    """The wider of the two halves of a block's backward; `rows` are computed after attention. Pointwise results are
    made anew, the gradient of gate|up takes the place of gate|up, the product's that of the product."""
    shapes, width, tokens = work.shapes, work.width, work.micro_tokens
    pad = {name: product.pad for name, product in work.products.items()}
    hidden, wide = shapes.hidden, 2 * shapes.ffn + pad["gate_up"]
    # dy; either its padded copy and the product's gradient, or the normed input, its gradient and the way on
    ffn = hidden + max(hidden + pad["down"] + shapes.ffn, 3 * hidden + pad["o"])
    # dy, its padded form; attention's gradient, those of q|k|v with a wide sum for q, all of them fused
    attention = 2 * hidden + pad["o"] + shapes.query_size + 2 * shapes.qkv_size + pad["qkv"] + shapes.query_size
    passing_ffn, passing_attention = width * ffn * rows, width * attention * tokens
    if policy == "all":
        passing_attention -= width * wide * rows  # gone by then
    else:
        passing_ffn += width * (wide + pad["gate_up"]) * rows
    if policy == "input":
        _, _, after_large, after_small = _parts(work, "light")
        large, small, _, _ = _parts(work, "light")
        again = (large + small - width * hidden) * tokens + (after_large + after_small - width * pad["down"]) * rows
        passing_ffn, passing_attention = passing_ffn + again, passing_attention + again
    passing = max(passing_ffn, passing_attention)
    if work.precision == "fp8":  # codes of the widest gradient
        passing += rows * wide
    if work.is_full or work.has_magnitudes:  # one product's weight gradient before it is added up; DoRA's s B A
        passing += 4 * max(product.size for product in work.products.values())
    return passing


@functools.lru_cache
def _loss_passing(work: Work, kind: Kind, *, is_short: bool) -> int:
    """The last stream, normed, its gradient, at supervised rows; a chunk of logits. A trained head's gradient is made
    in fp32."""
    rows, shapes = work.supervised_tokens, work.shapes
    logits = chunk_rows(work, kind, is_short=is_short) * shapes.vocab
    logit = work.width if kind == "cuda" else rates.CPU_LOGIT_BYTES
    head = 4 * shapes.vocab * shapes.hidden if work.trains_ends else 0
    return int(3 * rows * shapes.hidden * work.width + logits * logit + head)


def chunk_rows(work: Work, kind: Kind, *, is_short: bool = False) -> int:
    """Rows whose logits exist at once, as ops/cross_entropy.py counts them; fewer where some layer is lean."""
    rows, vocab = work.supervised_tokens, work.shapes.vocab
    if kind == "cpu":
        return min(rows, max(64, min(4096, rates.CPU_LOGITS_BYTES // (4 * vocab))))
    step = rates.LOGITS_ROW_STEP
    budget = rates.FRUGAL_LOGITS_BYTES if is_short else rates.LOGITS_CHUNK_BYTES
    most = min(rates.LOGITS_MOST_ROWS, budget // (work.width * vocab))
    num_chunks = max(1, -(-rows // max(step, most // step * step)))
    return min(rows, -(-rows // (num_chunks * step)) * step or step)
