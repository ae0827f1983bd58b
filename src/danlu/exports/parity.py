"""Parity: is what was written what was trained? The same probes through both, against a measured noise floor.

Two witnesses answer the same token ids; their logits are compared where the first one's greedy answer leads. How much
difference is no difference is measured, not assumed: the first witness against itself in another batch, and against
itself with each weight moved by up to half a unit in the last place of a dtype, which is what rounding does to it.
Pure functions over witnesses and numbers; who is compared with whom stands in `adapter.py` and `hf.py`.

Shapes: T tokens of a probe and its answer, P positions compared, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from danlu.core.errors import EngineError
from danlu.run.artifact import verdict_of

MAX_POSITIONS = 32
"""Of one probe, counted from the end: the prompt's tail and the answer."""
ROUND_OFF = 64.0
"""A floor below this many units of fp32 round-off at the logits' own size is taken to be that: tiny models give exact
zeros on one machine and the last bits on the next."""


class Witness(Protocol):
    """Whoever can continue token ids greedily and tell the logits of a text."""

    name: str

    def continue_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]: ...

    def logits(self, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]: ...


@dataclass(frozen=True, slots=True)
class Record:
    """What a witness said to one probe: greedy answer, and logits_PV at the last P tokens of prompt + answer."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    logits: Tensor

    @property
    def text_ids(self) -> tuple[int, ...]:
        """Prompt and answer without its last token, which predicts nothing more."""
        return self.prompt_ids + self.answer_ids[:-1]


@dataclass(frozen=True, slots=True)
class Difference:
    """Logits are natural-log units; KL is of the reference against the other, in nats per token. `flip_margin` is the
    reference's lead of first over second at the worst place where the other prefers another token."""

    num_positions: int = 0
    max_abs: float = 0.0
    mean_abs: float = 0.0
    mean_kl: float = 0.0
    max_kl: float = 0.0
    num_flips: int = 0
    flip_margin: float = 0.0
    scale: float = 0.0
    """Largest logit, in size."""

    def worst(self, other: Difference) -> Difference:
        pairs = zip(asdict(self).items(), asdict(other).values(), strict=True)
        return Difference(**{name: max(ours, theirs) for (name, ours), theirs in pairs})


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `numbers` were measured, `limits` allowed."""

    name: str
    verdict: Literal["pass", "fail", "not run"]
    numbers: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def record(witness: Witness, prompts: Sequence[Sequence[int]], *, max_new_tokens: int = 24) -> list[Record]:
    """The reference: greedy answers, and the logits along them."""
    answers = witness.continue_ids(prompts, max_new_tokens)
    records = []
    for prompt, answer in zip(prompts, answers, strict=True):
        (logits_TV,) = witness.logits([[*prompt, *answer[:-1]]])
        records.append(Record(tuple(prompt), tuple(answer), logits_TV[-MAX_POSITIONS:].float().cpu().clone()))
    return records


def hear(records: Sequence[Record], witness: Witness, *, is_together: bool = False) -> list[Tensor]:
    """What a witness says to the records' texts: logits_PV of each. `is_together` asks for all in one batch."""
    texts = [list(record.text_ids) for record in records]
    groups = [texts] if is_together else [[text] for text in texts]
    return [logits_TV[-MAX_POSITIONS:].float().cpu() for group in groups for logits_TV in witness.logits(group)]


def compare(records: Sequence[Record], witness: Witness, *, is_together: bool = False) -> Difference:
    """How far the witness is from the records on the same texts."""
    return distance(records, hear(records, witness, is_together=is_together))


def distance(records: Sequence[Record], heard: Sequence[Tensor], *, is_partial: bool = False) -> Difference:
    """Over all texts: the worst of what is a worst, the mean of what is a mean. `is_partial`: log-probabilities of the
    likeliest tokens only."""
    whole = Difference()
    sum_abs = sum_kl = 0.0
    for record_, logits_PV in zip(records, heard, strict=True):
        part = difference(record_.logits, logits_PV, is_partial=is_partial)
        sum_abs += part.mean_abs * part.num_positions
        sum_kl += part.mean_kl * part.num_positions
        num_positions, num_flips = whole.num_positions + part.num_positions, whole.num_flips + part.num_flips
        whole = whole.worst(part)
        whole = Difference(**asdict(whole) | {"num_positions": num_positions, "num_flips": num_flips})
    num = max(1, whole.num_positions)
    return Difference(**asdict(whole) | {"mean_abs": sum_abs / num, "mean_kl": sum_kl / num})


def difference(ours_PV: Tensor, theirs_PV: Tensor, *, is_partial: bool = False) -> Difference:
    """Of two logits of the same text. Anything that is not a number is infinitely far away; where `theirs` are partial,
    rows before those told and NaN within a told row are left out, and what was not told counts as one token more."""
    if is_partial and 0 < len(theirs_PV) < len(ours_PV):
        ours_PV = ours_PV[-len(theirs_PV) :]
    told_PV = ~theirs_PV.isnan() if is_partial else theirs_PV.isfinite()
    if ours_PV.shape != theirs_PV.shape or not bool(_are_told(told_PV, is_partial)):
        far = float("inf")
        return Difference(len(ours_PV), far, far, far, far, num_flips=len(ours_PV), flip_margin=far)
    # A constant added to all logits changes nothing; probabilities are compared, in float64 to see small distances.
    ours = ours_PV.double().log_softmax(-1)
    theirs = theirs_PV.double()
    if not is_partial or bool(told_PV.all()):
        theirs = theirs.log_softmax(-1)
    apart = (ours - theirs).where(told_PV, 0.0).abs()
    kl_P = _divergence(ours, theirs, told_PV).clamp_min(0.0)
    best = ours_PV.topk(2, dim=-1).values
    lead_P = best[:, 0] - best[:, 1]
    flips_P = ours_PV.argmax(-1) != theirs.where(told_PV, -torch.inf).argmax(-1)
    return Difference(
        num_positions=len(ours_PV),
        max_abs=float(apart.max()),
        mean_abs=float(apart.sum() / told_PV.sum()),
        mean_kl=float(kl_P.mean()),
        max_kl=float(kl_P.max()),
        num_flips=int(flips_P.sum()),
        flip_margin=float(lead_P[flips_P].max()) if bool(flips_P.any()) else 0.0,
        scale=float(ours_PV.abs().max()),
    )


def _are_told(told_PV: Tensor, is_partial: bool) -> Tensor:
    """Every number, or at least one of each row."""
    return told_PV.any(-1).all() if is_partial else told_PV.all()


def _divergence(ours_PV: Tensor, theirs_PV: Tensor, told_PV: Tensor) -> Tensor:
    """kl_P; what was not told counts as one token more. Both are normalised among the tokens told first: the last
    digits of what a program prints would else weigh more than the difference, which is quadratic."""
    masks = (log_probs.masked_fill(~told_PV, -torch.inf) for log_probs in (ours_PV, theirs_PV))
    (ours, ours_told), (theirs, theirs_told) = ((m.log_softmax(-1), m.logsumexp(-1).exp()) for m in masks)
    among_P = (ours.exp() * (ours - theirs)).where(told_PV, 0.0).sum(-1)
    if bool(told_PV.all()):
        return among_P
    p, q = (told.clamp(1e-9, 1 - 1e-9) for told in (ours_told, theirs_told))
    return p * among_P + p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


# ---- the noise floor


Spacing = Callable[[Tensor], Tensor]
"""Values in fp32 to the distance between neighbouring numbers there."""


@contextlib.contextmanager
def dithered(weights: Iterable[Tensor], spacing: torch.dtype | Spacing, seed: int) -> Iterator[None]:
    """Inside the block each weight is moved by up to half a unit in the last place of a dtype, uniformly, as rounding
    to it would (or by up to half of what `spacing` says); afterwards all are what they were, to the bit."""
    kept = [(weight, weight.detach().clone()) for weight in weights]
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for weight, before in kept:
                noise = torch.rand(before.shape, generator=generator).to(before.device) - 0.5
                values = before.float()
                steps = ulp(values, spacing) if isinstance(spacing, torch.dtype) else spacing(values)
                weight.copy_((values + noise * steps).to(before.dtype))
        yield
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)


def ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The spacing of `dtype`'s numbers around each value."""
    limits = torch.finfo(dtype)
    exponent = torch.frexp(values.abs().clamp_min(limits.smallest_normal)).exponent - 1
    return torch.ldexp(torch.full_like(values, limits.eps), exponent)


def measure_floor(
    records: Sequence[Record],
    witness: Witness,
    weights: Sequence[Tensor],
    spacing: torch.dtype | Spacing,
    *,
    num_draws: int = 1,
) -> Difference:
    """The worst of: another batch composition, and `num_draws` roundings of the weights (see `dithered`)."""
    floor = compare(records, witness, is_together=True)
    for seed in range(num_draws):
        with dithered(weights, spacing, seed):
            floor = floor.worst(compare(records, witness))
    return floor


def limits_of(floor: Difference, factor: float) -> dict[str, float]:
    """What is still noise: `factor` times the floor in logits, its square in KL (which is quadratic in them)."""
    least = ROUND_OFF * torch.finfo(torch.float32).eps * max(1.0, floor.scale)
    return {
        "max_abs": factor * max(floor.max_abs, least),
        "mean_abs": factor * max(floor.mean_abs, least / 8),
        "mean_kl": factor**2 * max(floor.mean_kl, least**2),
    }


def margin_of(floor: Difference) -> float:
    """How undecided a witness must have been for noise to change its choice: two logits, each moved the wrong way by
    twice the most that was measured."""
    return 2 * limits_of(floor, 2.0)["max_abs"]


def mean_margin_of(floor: Difference) -> float:
    """How far a mean log-probability may move for no reason."""
    return limits_of(floor, 4.0)["mean_abs"]


def answer_log_probs(prompt_ids: Sequence[int], answer_ids: Sequence[int], witness: Witness) -> list[float]:
    """log p of each token of an answer, natural."""
    (logits_TV,) = witness.logits([[*prompt_ids, *answer_ids[:-1]]])
    log_probs_PV = logits_TV[-len(answer_ids) :].float().log_softmax(-1)
    picked = log_probs_PV.gather(1, torch.tensor(list(answer_ids), device=log_probs_PV.device)[:, None])
    return [float(value) for value in picked[:, 0]]


# ---- the checks


def check_logits(name: str, records: Sequence[Record], witness: Witness, floor: Difference, factor: float) -> Check:
    """Pass when every measured distance is within its limit."""
    return judge_logits(name, compare(records, witness), floor, factor)


def judge_logits(name: str, found: Difference, floor: Difference, factor: float) -> Check:
    limits, measured = limits_of(floor, factor), asdict(found)
    is_noise = all(measured[key] <= limit for key, limit in limits.items())
    noise = {"floor_max_abs": floor.max_abs, "floor_mean_abs": floor.mean_abs, "floor_mean_kl": floor.mean_kl}
    return Check(name, "pass" if is_noise else "fail", measured | noise, limits)


def check_answers(name: str, records: Sequence[Record], witness: Witness, margin: float, max_new_tokens: int) -> Check:
    """Greedy answers agree token by token; where one leaves the other, the reference must have been undecided there:
    its lead no larger than `margin`, which is what noise on two logits can turn around."""
    try:
        answers = witness.continue_ids([record.prompt_ids for record in records], max_new_tokens)
    except EngineError as error:  # a model that cannot answer is a finding, not a crash
        return Check(name, "fail", note=error.text)
    num_equal, worst = 0, 0.0
    for record_, answer in zip(records, answers, strict=True):
        if tuple(answer) == record_.answer_ids:
            num_equal += 1
        else:
            worst = max(worst, lead_at_parting(record_, answer))
    numbers = {"num_answers": len(answers), "num_equal": num_equal, "largest_lead_at_parting": worst}
    return Check(name, "pass" if worst <= margin else "fail", numbers, {"largest_lead_at_parting": margin})


def lead_at_parting(record_: Record, answer: Sequence[int]) -> float:
    """By how much the reference preferred its own token to the other's, where the two answers first differ."""
    ours = record_.answer_ids
    at = next((n for n, (a, b) in enumerate(zip(ours, answer, strict=False)) if a != b), min(len(ours), len(answer)))
    place = len(record_.logits) - len(ours) + at
    if at >= len(ours) or at >= len(answer) or place < 0:
        return float("inf")  # one stopped where the other went on: another stop set, not noise
    logits_V = record_.logits[place]
    return float(logits_V[ours[at]] - logits_V[answer[at]])


def check_ids(name: str, expected: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> Check:
    """Rendered prompts are the same token ids."""
    num_equal = sum(list(a) == list(b) for a, b in zip(expected, found, strict=True))
    first = next((n for n, (a, b) in enumerate(zip(expected, found, strict=True)) if list(a) != list(b)), None)
    note = "" if first is None else f"probe {first}: {list(expected[first])} != {list(found[first])}"
    numbers = {"num_prompts": len(expected), "num_equal": num_equal}
    return Check(name, "pass" if first is None else "fail", numbers, note=note[:600])


def sum_up(checks: Sequence[Check], **facts: Any) -> dict[str, Any]:
    """The manifest's `parity`."""
    verdict = verdict_of({check.verdict for check in checks})
    return {"verdict": verdict, "checks": [asdict(check) for check in checks], **facts}
