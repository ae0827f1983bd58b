"""Where to compute, and in which number format."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import torch

from danlu.core.errors import TrainingError
from danlu.core.messages import listed, say
from danlu.ops.capability import Capability, capability_of, is_in_build


def choose_device(device: str = "auto") -> str:
    """`auto` is the GPU where there is one, else the CPU."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if torch.device(chosen).type == "cuda":
        _let_segments_grow()
    return chosen


def _let_segments_grow() -> None:
    """Batches differ in size; an allocator that can enlarge what it holds leaves no gaps between them (0.3 GiB instead
    of 2 at 7B). Linux alone knows it, and whoever has set torch's own variable has chosen."""
    has_chosen = any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"))
    if sys.platform != "linux" or has_chosen or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    # torch 2.13's name, and the one it had before
    setter = getattr(torch._C, "_accelerator_setAllocatorSettings", None) or torch.cuda.memory._set_allocator_settings
    setter("expandable_segments:True")


def choose_dtype(dtype: str, device: str) -> str:
    """`auto` is what the card computes fast: bf16 from Ampere on, fp16 before. torch itself calls bf16 supported where
    it is emulated. On a CPU it stays `auto`: what the processor knows is asked when weights are loaded."""
    capability = capability_here(device)
    return capability.dtype if dtype == "auto" and capability else dtype


def capability_here(device: str) -> Capability | None:
    """What the card behind `device` can do; None where it is no CUDA card."""
    if torch.device(device).type != "cuda" or torch.version.cuda is None:
        return None
    return capability_of(*torch.cuda.get_device_capability(device), torch.__version__)


def remarks_on(device: str) -> list[str]:
    """What a person should hear once about an old card. TrainingError where this torch has no code for it."""
    capability = capability_here(device)
    if capability is None:
        return []
    name, (major, minor) = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    architectures = torch.cuda.get_arch_list()
    if not is_in_build(major, minor, architectures):
        raise TrainingError(
            "device.not_in_build", where=name, given=f"sm_{major}{minor}", torch=torch.__version__,
            built=listed(architectures),
        )  # fmt: skip
    return [say(key, name=name, generation=capability.generation) for key in capability.remarks]


def free_memory_bytes(device: str) -> int:
    """What the device has free now; 0 where a system does not say."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows, macOS
        return 0


def describe_hardware(device: str) -> str:
    """One line for reports."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)} · torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads · torch {torch.__version__}"


@contextlib.contextmanager
def saying_when_memory_ends(where: str) -> Iterator[None]:
    """The device's memory running out is told with the knob that helps."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError("pipeline.out_of_memory", where=where, why=str(error).partition("\n")[0][:300]) from error
