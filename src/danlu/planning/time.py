"""How long a step takes, part by part: FLOPs at the card's sustained rate, bytes at its bandwidth, copies to the host
where they are not hidden, and launches where the device waits for them.

Counted per token: forward 2N, input gradients 2N, weight gradients (full fine-tuning) 2N, recomputed products as the
policies say; causal attention 2·S·d forward and 2.5 times that backward, S the document's length.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, replace

from danlu.planning import rates
from danlu.planning.answers import answering_s
from danlu.planning.cards import Card
from danlu.planning.memory import host_states_bytes, is_recorded, moved_bytes
from danlu.planning.policy import Kept, Mix, is_host, kept
from danlu.planning.work import Work


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one optimizer step."""

    products_s: float
    attention_s: float
    pointwise_s: float
    low_rank_s: float
    quantise_s: float
    """fp8 casts, NF4 and int8 dequantising."""
    head_s: float
    recompute_s: float
    host_s: float
    """Copies to and from the host that are felt."""
    reference_s: float
    """DPO, and GRPO with a beta: the reference's forward pass."""
    waiting_s: float
    """The device waits for launches."""
    optimizer_s: float
    exchange_s: float = 0.0
    """Several cards: gradients are added up, and nothing runs beside that."""
    answers_s: float = 0.0
    """GRPO: answers are written, at most; no training runs beside that."""

    @property
    def total_s(self) -> float:
        total: float = sum(asdict(self).values())
        return total

    def to_json(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in asdict(self).items()} | {"total_s": round(self.total_s, 6)}


def predict_time(work: Work, mix: Mix, card: Card) -> StepTime:
    """One optimizer step of this work with these policies on this card."""
    parts = dict(_steady(work, card))
    parts["recompute_s"] = sum(count * _recompute(work, kept(policy), card) for policy, count in mix.groups)
    busy = sum(parts.values())
    parts["host_s"] = _exposed(work, mix, card)
    parts["waiting_s"] = max(0.0, _launches(work, mix, card) - busy - parts["host_s"])
    whole = {name: work.full_pieces / work.num_ranks * value for name, value in parts.items()}
    optimizer = _optimizer(work, card)
    whole["host_s"] += _states_under_way(work, card, busy, optimizer)
    answers = answering_s(work, card)
    return StepTime(**whole, optimizer_s=optimizer, exchange_s=_exchange(work), answers_s=answers)


@functools.lru_cache
def _steady(work: Work, card: Card) -> dict[str, float]:
    """What a micro-batch takes whatever is kept."""
    layers, depth, trained = work.shapes.num_layers, work.depth, work.num_trained_layers
    forward, backward, weights = _products(work, card)
    attention, pointwise, quantise = _attention(work, card), _pointwise(work, card), _quantise(work, card)
    head, reference = _head(work, card), 0.0
    unused = 1 - depth / layers  # layers below what trains have no way back
    if work.has_reference:  # the reference's own pass, without a way back
        reference = layers * (forward + pointwise / 3 + quantise) + attention * rates.ATTENTION_FORWARD_RATIO + head / 2
    return {
        "products_s": layers * forward + depth * backward + trained * weights - _unneeded(work, card),
        "attention_s": attention * (1 - unused * (1 - rates.ATTENTION_FORWARD_RATIO)),
        "pointwise_s": (layers + 2 * depth) / 3 * pointwise,
        "low_rank_s": trained * _low_rank(work, card) + (layers + 2 * depth) / 3 * _small_kernels(work, card),
        "quantise_s": (layers + depth) * quantise,
        "head_s": head,
        "reference_s": reference,
    }


def flops_per_step(work: Work) -> float:
    """Model FLOPs, recomputation and low-rank work left out: the numerator of MFU."""
    shapes, trained = work.shapes, work.num_trained_layers if work.is_full else 0
    layers = 2 * (shapes.num_layers + work.depth + trained)
    products = layers * shapes.linear_params // shapes.num_layers * work.micro_tokens
    head = (6 if work.trains_ends else 4) * shapes.vocab * shapes.hidden * work.supervised_tokens
    attention = _attention_flops(work) * (1 + 2.5 * work.depth / shapes.num_layers) / 3.5
    return float(work.full_pieces * (products + head + attention))


# ---- products


def _rate(work: Work, card: Card) -> float:
    if work.precision == "32":
        return card.flops_32
    if work.precision == "fp8" and card.flops_8:
        return card.flops_8
    return card.flops_16


def _product_s(rows: int, columns: int, depth: int, rate: float, card: Card, width: float) -> float:
    """A product [rows, depth] · [depth, columns]."""
    if card.kind == "cpu":
        rate *= depth / (depth + rates.CPU_PRODUCT_DEPTH)
    else:
        tiles = rows * columns / rates.PRODUCT_TILE
        rate *= depth / (depth + rates.PRODUCT_DEPTH) * tiles / (tiles + card.num_units / 2)
    moved = width * (rows * depth + depth * columns + rows * columns)
    return max(2.0 * rows * columns * depth / rate, moved / card.bandwidth)


def _products(work: Work, card: Card) -> tuple[float, float, float]:
    """(forward, inputs' gradients, weights' gradients) of one block's four products; the low-rank columns of augmented
    matrices are in."""
    tokens, rate = work.micro_tokens, _rate(work, card)
    width = 1.0 if work.precision == "fp8" else float(work.width)
    forward = backward = weights = 0.0
    for product in work.products.values():
        pad = 0 if work.precision == "fp8" else product.pad
        forward += _product_s(tokens, product.rows, product.columns + pad, rate, card, width)
        backward += _product_s(tokens, product.columns, product.rows + pad, rate, card, width)
        if work.is_full:
            weights += _product_s(product.rows, product.columns, tokens, _full_rate(work, card), card, width)
    return forward, backward, weights


def _full_rate(work: Work, card: Card) -> float:
    return card.flops_32 if work.precision == "32" else card.flops_16


def _unneeded(work: Work, card: Card) -> float:
    """Frozen embeddings want no gradient: the q|k|v product of the lowest block that trains need not go back."""
    if work.trains_ends:
        return 0.0
    first = work.products["qkv"]
    return _product_s(work.micro_tokens, first.columns, first.rows, _rate(work, card), card, float(work.width))


def _head(work: Work, card: Card) -> float:
    """Logits and their gradient at supervised rows, and the loss between them."""
    rows, shapes = work.supervised_tokens, work.shapes
    if not rows:  # a head of classes is next to nothing
        return 0.0
    rate = _full_rate(work, card)
    one = _product_s(rows, shapes.vocab, shapes.hidden, rate, card, float(work.width))
    passes = rates.LOGIT_PASSES * rows * shapes.vocab * work.width / card.bandwidth
    return (3 if work.trains_ends else 2) * one + passes


# ---- the rest of a block


def _attention_flops(work: Work) -> float:
    """Of one micro-batch and all layers, forward and backward; half of the square is masked."""
    return 3.5 * 4 * _keys(work) * work.shapes.query_size * work.micro_tokens


def _keys(work: Work) -> float:
    """Keys that a query sees on average, of all layers."""
    shapes, length = work.shapes, work.document
    window = min(shapes.window or length, length)
    near = window - window * window / (2 * length)
    if shapes.is_encoder:  # nothing of the square is masked
        return shapes.num_layers * length
    return (shapes.num_layers - shapes.num_sliding) * length / 2 + shapes.num_sliding * near


def _attention(work: Work, card: Card) -> float:
    shapes, is_cpu = work.shapes, card.kind == "cpu"
    rate = card.attention_flops * (_full_rate(work, card) / card.flops_16)
    size, traffic = shapes.head_dim, rates.ATTENTION_TRAFFIC
    if not is_cpu:
        rate *= size / (size + rates.HEAD_DEPTH) * (128 + rates.HEAD_DEPTH) / 128
    if work.is_ragged and card.capability[0] == 9:
        rate, traffic = rate * rates.RAGGED_RATIO, rates.RAGGED_TRAFFIC
    keys = _keys(work) + (0 if is_cpu else shapes.num_layers * rates.ATTENTION_TILE / 2)
    flops = 3.5 * 4 * keys * shapes.query_size * work.micro_tokens
    moved = traffic * work.micro_tokens * shapes.query_size * work.width
    return flops / rate + shapes.num_layers * moved / card.bandwidth


def _pointwise(work: Work, card: Card) -> float:
    """Norms with the residual sum, rotation, gate: forward and backward of one block."""
    shapes = work.shapes
    turned = (shapes.num_heads + shapes.num_kv_heads) * shapes.head_dim
    values = 8 * shapes.norms * shapes.hidden + 9 * shapes.ffn + 4 * turned * (2 if shapes.has_qk_norm else 1)
    return work.micro_tokens * work.width * values / (card.bandwidth * rates.POINTWISE_RATIO)


def _low_rank(work: Work, card: Card) -> float:
    """x Aᵀ, {dB, dy B}, dA: input read twice, output's gradient once. Beside fp8 products also the additions."""
    if work.is_full:
        return 0.0
    seconds = 0.0
    for product in work.products.values():
        if not product.pad:
            continue
        values = (2 * product.columns + product.rows) / rates.LOW_RANK_RATIO
        if work.precision == "fp8":  # added to what has been written: read and written once more
            values += 2 * (product.columns + product.rows) / rates.SEPARATE_RANK_RATIO
        moved = work.micro_tokens * work.width * values / card.bandwidth
        flops = 6.0 * work.micro_tokens * product.pad * (product.rows + product.columns) / _full_rate(work, card)
        seconds += max(moved, flops)
    return seconds


def _small_kernels(work: Work, card: Card) -> float:
    """What a block's many small kernels take however little they do: sums of parts, copies of a few columns."""
    if work.is_full or card.kind == "cpu":
        return 0.0
    return rates.SMALL_KERNELS_PER_LAYER * rates.KERNEL_FLOOR_S


def _quantise(work: Work, card: Card) -> float:
    """One way through one block: fp8 casts inputs (or gradients), NF4 and int8 write their weights out in 16 bit."""
    moved: float
    if work.precision == "fp8":
        values = sum(product.columns + product.rows for product in work.products.values()) / 2
        moved = work.micro_tokens * work.width * values * rates.QUANTISE_PASSES
    elif work.precision in ("nf4", "int8"):
        per_weight = rates.DEQUANT_BYTES if work.precision == "nf4" else 3.0
        return sum(p.size for p in work.products.values()) * per_weight / (card.bandwidth * rates.DEQUANT_RATIO)
    else:
        return 0.0
    return moved / (card.bandwidth * rates.POINTWISE_RATIO)


@functools.lru_cache
def _recompute(work: Work, policy: Kept, card: Card) -> float:
    if policy == "all":
        return 0.0
    rate, tokens = _rate(work, card), work.micro_tokens
    width = 1.0 if work.precision == "fp8" else float(work.width)
    names = ("gate_up",) if policy == "light" else ("gate_up", "qkv", "o")
    products = [work.products[name] for name in names]
    seconds = sum(_product_s(tokens, p.rows, p.columns + p.pad, rate, card, width) for p in products)
    if work.precision in ("nf4", "int8"):
        share = sum(p.size for p in products) / sum(p.size for p in work.products.values())
        seconds += share * _quantise(work, card)
    if policy == "input":
        attention = _attention(work, card) / work.shapes.num_layers
        seconds += attention * rates.ATTENTION_FORWARD_RATIO + _pointwise(work, card) * 0.2
    return seconds


# ---- what is not the block's own arithmetic


def _exposed(work: Work, mix: Mix, card: Card) -> float:
    """What is felt of copies to the host. One leaves while the next layer runs forward, one comes back while a layer
    runs backward, and the engine waits for the rest: a window of one layer, not of the pass. The last layer that lends
    is wanted again before it has left."""
    if not any(is_host(policy) for policy, _ in mix.groups):
        return 0.0
    layers, steady = work.shapes.num_layers, _steady(replace(work, layers=None), card)
    forward = _forward_block(work, card)
    both = sum(seconds for name, seconds in steady.items() if name not in ("head_s", "reference_s")) / layers
    exposed, widest, whole = 0.0, 0.0, 0.0
    for policy, count in mix.groups:
        copy = work.micro_tokens * moved_bytes(work, policy) / card.host_bandwidth
        backward = both - forward + _recompute(work, kept(policy), card)
        felt = max(0.0, copy - forward) + max(0.0, copy - backward)
        exposed, widest, whole = exposed + count * felt, max(widest, felt), whole + 2 * count * copy
    exposed -= widest
    return exposed + rates.HOST_LEAK_RATIO * (whole - exposed)


def _states_under_way(work: Work, card: Card, busy: float, optimizer: float) -> float:
    """What is felt of masters and moments that visit the card: both ways at once, beside the update itself, and beside
    the backward where gradients are applied in it."""
    if card.kind == "cpu":
        return 0.0
    copies = host_states_bytes(work) / (card.host_bandwidth * rates.HOST_DUPLEX_RATIO)
    beside = optimizer + (busy * 2 / 3 if work.updates_in_backward else 0.0)
    return max(0.0, copies - beside)


def _forward_block(work: Work, card: Card) -> float:
    """The forward pass of one block."""
    products, *_ = _products(work, card)
    attention = _attention(work, card) / work.shapes.num_layers * rates.ATTENTION_FORWARD_RATIO
    return products + attention + _pointwise(work, card) / 3 + _quantise(work, card) + _low_rank(work, card) / 4


def _launches(work: Work, mix: Mix, card: Card) -> float:
    """Time to launch one micro-batch's kernels, or to run them empty."""
    again = sum(count * rates.KERNELS_RECOMPUTED[kept(policy)] for policy, count in mix.groups)
    layers = (work.shapes.num_layers + 2 * work.depth) / 3
    kernels = layers * rates.KERNELS_PER_LAYER * (1.3 if work.has_reference else 1.0) + again
    if card.kind == "cpu":
        return kernels * rates.CPU_LAUNCH_S
    launch = rates.GRAPH_LAUNCH_S if is_recorded(work, mix) else rates.LAUNCH_S
    return kernels * max(launch, rates.KERNEL_FLOOR_S)


def _optimizer(work: Work, card: Card) -> float:
    """Gradient, master and two moments read and all but the gradient written, 16-bit copies refreshed."""
    moments = 2 * (rates.MOMENT_8BIT_BYTES if work.has_8bit_states else 4)
    moved = work.num_trainable * (8 + 4 + 2 * moments + 4)
    return moved / card.bandwidth + rates.STEP_OVERHEAD_S


def _exchange(work: Work) -> float:
    """All gradients once around the ring of cards, and the few words that are said every step."""
    if work.num_ranks == 1:
        return 0.0
    width = 4 if not work.is_full or (work.has_masters and not work.has_masters_apart) else work.width
    around = 2 * (work.num_ranks - 1) / work.num_ranks
    return around * width * work.num_trainable / rates.EXCHANGE_BANDWIDTH + rates.EXCHANGE_S
