"""Every attention kernel on one GPU, forward and backward, against fp32: JSON lines.

    PYTHONPATH=src python bench/attention.py [OUT.jsonl]

Shapes are 16,384 tokens of equal documents and of a mix like questions and answers (lengths log-normal, median 150,
clipped to 16 … 1024). q, k and v are slices of one fused row, as the model gives them. `*_ms` are the GPU's times with
launches hidden (the faster half's mean); `*_wall_ms` of the mix are whole calls on further batches, plans that a kernel
builds included, and `first_ms` is the first call of all. Kernels that fail say why.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from danlu.ops.attention import describe, may_compile
from danlu.ops.attention.bounds import Bounds
from danlu.ops.attention.choice import KERNELS, choose
from danlu.ops.attention.kernel import AnyKernel, Ask, Heads, Kernel, is_plain
from danlu.ops.attention.measure import HEAD_START_CYCLES, Inputs, both_ways, error_of, truth_of

TOKENS = 16_384
HEADS = {"28/4x128": (28, 4, 128), "32/8x128": (32, 8, 128), "14/2x64": (14, 2, 64)}
EVEN = {"8x2048": 2048, "32x512": 512, "128x128": 128, "1x16384": 16_384}
NUM_MIXES = 6


def mixed(seed: int) -> Bounds:
    """Documents of drawn lengths that fill the row; the last is cut."""
    random, lengths = np.random.default_rng(seed), []
    while sum(lengths) < TOKENS:
        lengths.append(int(np.clip(random.lognormal(np.log(150), 0.7), 16, 1024)))
    lengths[-1] -= sum(lengths) - TOKENS
    return Bounds.of([n for n in lengths if n])


def fused(heads: tuple[int, int, int], dtype: torch.dtype) -> Inputs:
    """q, k, v as slices of one row."""
    H, K, D = heads
    row = torch.randn(TOKENS, H + 2 * K, D, device="cuda", dtype=dtype)
    return row[:, :H], row[:, H : H + K], row[:, H + K :]


def gpu_ms(call: Callable[[], object], most: int = 8) -> float:
    """Mean of the faster half; few rounds where a call is slow."""
    times: list[float] = []
    while len(times) < most and sum(times) < 150:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(HEAD_START_CYCLES)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    faster = sorted(times)[: max(1, len(times) // 2)]
    return sum(faster) / len(faster)


def wall_ms(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    begun = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) * 1e3


def measure(kernel: AnyKernel, inputs: Inputs, asks: list[Ask]) -> dict[str, object]:
    """One kernel on one shape; further asks are other batches of the kind."""
    grad = torch.randn(inputs[0].shape, dtype=inputs[0].dtype, device="cuda")
    truth = truth_of(inputs, asks[0])
    first = wall_ms(lambda: both_ways(kernel, inputs, grad, asks[0]))
    facts: dict[str, object] = {"first_ms": first, "error": error_of(kernel, inputs, asks[0], truth)}
    facts["both_ms"] = gpu_ms(lambda: both_ways(kernel, inputs, grad, asks[0]))
    if not is_plain(kernel):
        facts |= apart(kernel, inputs, grad, asks[0])
    if asks[1:]:
        walls = [wall_ms(lambda ask=ask: both_ways(kernel, inputs, grad, ask)) for ask in asks[1:]]
        facts["new_batch_wall_ms"] = walls
        facts["known_batch_wall_ms"] = [
            wall_ms(lambda ask=ask: both_ways(kernel, inputs, grad, ask)) for ask in asks[1:]
        ]
        facts["known_batch_ms"] = [gpu_ms(lambda ask=ask: both_ways(kernel, inputs, grad, ask), 3) for ask in asks[1:]]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    both_ways(kernel, inputs, grad, asks[0])
    return facts | {"extra_mib": (torch.cuda.max_memory_allocated() - before) / 2**20}


def apart(kernel: Kernel, inputs: Inputs, grad: Tensor, ask: Ask) -> dict[str, float]:
    out, saved = kernel.forward(*inputs, ask)
    return {
        "forward_ms": gpu_ms(lambda: kernel.forward(*inputs, ask)),
        "backward_ms": gpu_ms(lambda: kernel.backward(grad, *inputs, out, saved, ask)),
    }


def cases() -> Iterator[tuple[str, str, Inputs, list[Ask]]]:
    for heads_name, heads in HEADS.items():
        inputs, scale = fused(heads, torch.bfloat16), heads[2] ** -0.5
        for shape, length in EVEN.items():
            yield heads_name, shape, inputs, [Ask(Bounds.of([length] * (TOKENS // length)), scale)]
        yield heads_name, "mixed", inputs, [Ask(mixed(seed), scale) for seed in range(NUM_MIXES)]
        if heads_name == "28/4x128":
            yield heads_name, "8x2048 window 512", inputs, [Ask(Bounds.of([2048] * 8), scale, window=512)]


def flops(heads: str, bounds: Bounds) -> float:
    """Of forward and backward: two products forward, five backward, half of each square visible."""
    H, _, D = HEADS[heads]
    return 7 * H * D * sum(n * n for n in bounds.lengths)


GROUPS = {
    "sure": ["cuDNN", "varlen FA2", "varlen memory-efficient"],
    "successors": ["varlen FA3", "varlen FA4"],
    "compiled": ["FlexAttention"],
}
"""Each in a process of its own: a kernel that writes where it should not takes its process with it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--groups", nargs="*", choices=[*GROUPS, "choice"], help="which to run; not those that compile")
    parser.add_argument("--group", choices=[*GROUPS, "choice"], help="one process's part; all where absent")
    parser.add_argument("--seconds", type=float, default=45, help="of a group")
    given = parser.parse_args()
    if given.group == "choice":
        choices()
    elif given.group:
        group(GROUPS[given.group], given.seconds)
    else:
        tell({
            "gpu": torch.cuda.get_device_name(), "capability": torch.cuda.get_device_capability(),
            "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(),
        })  # fmt: skip
        lines = []
        for name in given.groups or ["sure", "choice"]:
            command = [sys.executable, __file__, "--group", name, "--seconds", str(given.seconds)]
            begun = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            print(done.stdout, end="", flush=True)
            lines += done.stdout.splitlines()
            end = {"group": name, "rc": done.returncode, "seconds": round(time.perf_counter() - begun, 1)}
            lines.append(json.dumps(end | ({"stderr": done.stderr[-1500:]} if done.returncode else {})))
            print(lines[-1], flush=True)
            if given.out:
                given.out.write_text("\n".join(lines) + "\n")


def group(names: list[str], seconds: float) -> None:
    begun = time.perf_counter()
    may_compile(True)
    for heads, shape, inputs, asks in cases():
        for kernel in (kernel for kernel in KERNELS if kernel.name in names):
            line: dict[str, object] = {"heads": heads, "shape": shape, "kernel": kernel.name}
            if time.perf_counter() - begun > seconds:
                tell(line | {"skipped": "out of time"})
                continue
            if not kernel.fits(Heads.of(*inputs[:2]), asks[0]):
                tell(line | {"skipped": "does not fit"})
                continue
            try:
                facts = measure(kernel, inputs, asks)
                tell(line | facts | {"tflops": flops(heads, asks[0].bounds) / float(str(facts["both_ms"])) / 1e9})
            except Exception as failure:
                tell(line | {"failed": f"{type(failure).__name__}: {str(failure)[:400]}"})


def choices() -> None:
    """What `choose` does by itself, without kernels that compile."""
    for heads, shape, inputs, asks in cases():
        wall = wall_ms(lambda inputs=inputs, asks=asks: choose(*inputs, asks[0]))
        tell({"heads": heads, "shape": shape, "choosing_wall_ms": wall})
    for choice in describe():
        tell({
            "kind": str(choice.kind), "chosen": choice.name, "times_ms": choice.times_ms, "excluded": choice.excluded,
        })  # fmt: skip


def tell(line: dict[str, object]) -> None:
    print(json.dumps({key: _rounded(value) for key, value in line.items()}), flush=True)


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return {key: _rounded(item) for key, item in value.items()} if isinstance(value, dict) else value


if __name__ == "__main__":
    main()
