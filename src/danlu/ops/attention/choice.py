"""Which attention computes: chosen on CUDA by measuring, once per kind of work, and remembered for the process.

At the first batch of a kind (dtype, heads, head size, window, equal or mixed lengths, how long) each kernel that fits
runs forward and backward on that very batch: once against fp32, twice against the clock; about 50 ms in all beside the
plans that kernels build for themselves. A kernel that is wrong or fails is out, and `describe` says so. Nothing is
measured where torch is asked for deterministic algorithms, during a CUDA graph's capture, in inference mode, or on
small batches: there what was remembered for such work holds, else a rule of thumb.

Shapes: T tokens of all documents, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from danlu.core.messages import say
from danlu.ops.attention.bounds import round_up_length
from danlu.ops.attention.cudnn import CudnnDense
from danlu.ops.attention.efficient import Efficient
from danlu.ops.attention.flash import Flash
from danlu.ops.attention.flex import Flex
from danlu.ops.attention.kernel import AnyKernel, Ask, Heads
from danlu.ops.attention.leading import Leading
from danlu.ops.attention.measure import Inputs, error_of, time_of, truth_of

KERNELS: tuple[AnyKernel, ...] = (
    CudnnDense(), Leading(), Flash("FA4"), Flash("FA3"), Flash(), Flex(), Efficient(),
)  # fmt: skip
FEWEST_TOKENS = 1024  # below, launches decide, and a measurement says nothing
LARGEST_ERROR = 0.03  # of a kernel's output and gradients against fp32, relative; 16-bit rounding alone makes 0.01


@dataclass(frozen=True, slots=True)
class Kind:
    """Work that one measurement speaks for."""

    heads: Heads
    is_even: bool
    leads: bool
    """The longest documents are equally long and lead the row."""
    length: int
    """Mean over tokens of their documents' lengths, rounded up to a power of two."""
    window: int | None
    softcap: float | None

    @classmethod
    def of(cls, heads: Heads, ask: Ask) -> Kind:
        bounds = ask.bounds
        mean = sum(n * n for n in bounds.lengths) // max(1, bounds.num_tokens)
        window = round_up_length(ask.window) if ask.needs_window and ask.window else None
        return cls(
            heads,
            bounds.is_even,
            any(k.fits(heads, ask) for k in KERNELS if isinstance(k, Leading)),
            round_up_length(mean),
            window,
            ask.softcap,
        )

    def __str__(self) -> str:
        heads = self.heads
        shape = f"{str(heads.dtype).removeprefix('torch.')} {heads.num_heads}/{heads.num_kv_heads}x{heads.head_size}"
        window = f" window {self.window}" if self.window else ""
        return f"{shape} {'equal' if self.is_even else 'mixed'} ~{self.length}{window}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was found for a kind. `kernel` None is `padded_attention`, where nothing else fits or works; times are of
    one forward and backward, in milliseconds; `excluded` says why a kernel that fits is out."""

    kind: Kind
    kernel: AnyKernel | None
    times_ms: dict[str, float] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.kernel.name if self.kernel else "padded"


_choices: dict[Kind, Choice] = {}
_told: set[Kind] = set()


def describe() -> list[Choice]:
    """What this process has measured and chosen so far, in that order."""
    return list(_choices.values())


def news() -> list[str]:
    """What was chosen since this was last asked, as a person is told."""
    fresh = [choice for kind, choice in _choices.items() if kind not in _told]
    _told.update(choice.kind for choice in fresh)
    lines = []
    for choice in fresh:
        times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(choice.times_ms.items(), key=lambda it: it[1]))
        lines.append(say("device.attention", kind=choice.kind, chosen=choice.name, times=times))
        lines += [
            say("device.attention_excluded", kind=choice.kind, name=name, reason=reason)
            for name, reason in choice.excluded.items()
        ]
    return lines


def forget() -> None:
    """Measure anew: another torch setting, another test."""
    _choices.clear()
    _told.clear()


def may_compile(is_allowed: bool) -> None:
    """Let kernels compete that compile for tens of seconds first: for trainings that are long enough to earn it."""
    for kernel in KERNELS:
        if isinstance(kernel, Flex):
            kernel.is_allowed = is_allowed


# ---- choosing


def choose(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> AnyKernel | None:
    """The kernel for this batch; None is `padded_attention`."""
    if not q_THD.is_cuda or not q_THD.dtype == k_TKD.dtype == v_TKD.dtype:
        return None
    heads = Heads.of(q_THD, k_TKD)
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    place = ("choice", heads, ask.window, ask.softcap, is_deterministic)
    found: list[AnyKernel | None] = ask.bounds.derived(place, q_THD.device, list)  # for the layers that follow
    if not found:
        fitting = fitting_kernels(heads, ask)
        kind = Kind.of(heads, ask)
        if is_deterministic:
            found.append(next((kernel for kernel in fitting if kernel.is_deterministic), None))
        elif kind not in _choices and not _may_measure(ask):
            return by_rule(fitting, heads)
        else:
            if kind not in _choices:
                _choices[kind] = measure(kind, fitting, (q_THD.detach(), k_TKD.detach(), v_TKD.detach()), ask)
            known = _choices[kind].kernel
            found.append(known if known is None or known in fitting else by_rule(fitting, heads))
    return found[0]


def fitting_kernels(heads: Heads, ask: Ask) -> list[AnyKernel]:
    return [kernel for kernel in KERNELS if kernel.fits(heads, ask)]


def by_rule(fitting: list[AnyKernel], heads: Heads) -> AnyKernel | None:
    """Without a measurement: cuDNN on data-centre cards from Hopper on, for equal lengths; else the flash kernel."""
    likes_cudnn = (9, 0) <= heads.capability < (12, 0)
    order: list[type] = [CudnnDense, Flash, Efficient] if likes_cudnn else [Flash, Efficient]
    own = [kernel for kernel in fitting if not isinstance(kernel, Flash) or kernel.implementation is None]
    return next((kernel for wanted in order for kernel in own if isinstance(kernel, wanted)), None)


def _may_measure(ask: Ask) -> bool:
    """Answering runs in inference mode; a forward without gradients of a training does not."""
    is_still = torch.is_inference_mode_enabled() or torch.cuda.is_current_stream_capturing()
    return ask.bounds.num_tokens >= FEWEST_TOKENS and not is_still


def measure(
    kind: Kind, fitting: list[AnyKernel], inputs: Inputs, ask: Ask, clock: Callable[..., float] = time_of
) -> Choice:
    """The fastest of the right ones, on this very batch. Only kernels that the bench has seen to stay in their memory
    are tried: a fault on the device cannot be taken back."""
    times: dict[str, float] = {}
    excluded: dict[str, str] = {}
    truth = truth_of(inputs, ask)
    for kernel in fitting:
        try:
            error = error_of(kernel, inputs, ask, truth)
            if error <= LARGEST_ERROR:
                times[kernel.name] = clock(kernel, inputs, ask)
            else:
                excluded[kernel.name] = f"error {error:.3g}"
        except torch.OutOfMemoryError:
            raise  # no fault of the kernel's: whoever asked makes room and asks again
        except torch.AcceleratorError:
            raise  # the device itself has failed: nothing computes on it any more
        except Exception as failure:  # whatever it is: this kernel is out, another one computes
            excluded[kernel.name] = f"{type(failure).__name__}: {str(failure).partition(chr(10))[0][:200]}"
    right = [kernel for kernel in fitting if kernel.name in times]
    return Choice(kind, min(right, key=lambda kernel: times[kernel.name], default=None), times, excluded)
