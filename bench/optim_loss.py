"""The head with its loss, and AdamW, on one GPU: JSON lines.

    PYTHONPATH=src python bench/optim_loss.py [OUT.jsonl] [--tune]

`loss` is forward and backward of the summed loss with a frozen head, against torch's whole logits (`eager`, where they
fit) and in chunks of several sizes; `products_ms` is what its two products alone take, the floor. `kernel` is the loss
kernel alone on one chunk, with the bandwidth it reaches counting two readings and one writing (`--tune`: in several
block sizes). `adamw` is one update of as many elements as rank 16 gives Qwen2.5-7B, against torch's fused AdamW over as
many tensors; `adamw_bf16` one of a bf16 matrix without master, with fp32 and with 8-bit moments. `…_error` is relative,
against fp64 on a small case. Times are the faster half's mean. Less than 45 s.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danlu.ops import cross_entropy
from danlu.ops.adamw import adamw_, reference_adamw_
from danlu.ops.adamw_8bit import Moments, adamw_8bit_
from danlu.ops.cross_entropy import chunk_in_place, linear_cross_entropy, reference_log_probs, rows_per_chunk
from danlu.training.flat import FlatAdamW
from danlu.training.optim import clip_gradients, gradient_norm

LOSS_CASES = [(16_384, 3584, 152_064), (4915, 3584, 152_064), (16_384, 896, 151_936), (4915, 896, 151_936)]
CHUNK_ROWS = (1024, 2048, 3584, 4096)
EAGER_BYTES = 60 << 30  # logits three times over, in fp32, must fit
PAIR_SHAPES = [(16, 3584), (3584, 16), (16, 3584), (512, 16), (16, 3584), (512, 16), (16, 3584), (3584, 16),
               (16, 3584), (18_944, 16), (16, 3584), (18_944, 16), (16, 18_944), (3584, 16)]  # fmt: skip
NUM_LAYERS = 28


def gpu_ms(call: Callable[[], object], most: int = 8) -> float:
    """Mean of the faster half; few rounds where a call is slow."""
    call()
    times: list[float] = []
    while len(times) < most and sum(times) < 500:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    faster = sorted(times)[: max(1, len(times) // 2)]
    return round(sum(faster) / len(faster), 4)


def peak_mib(call: Callable[[], object]) -> int:
    """What a call takes beyond what was there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) >> 20


def products(hidden_ND: Tensor, weight_VD: Tensor, rows: int) -> None:
    """What no loss can do without."""
    room_CV, grad_ND = weight_VD.new_empty(rows, len(weight_VD)), torch.empty_like(hidden_ND)
    for start in range(0, len(hidden_ND), rows):
        part = hidden_ND[start : start + rows]
        logits = torch.mm(part, weight_VD.T, out=room_CV[: len(part)])
        torch.mm(logits, weight_VD, out=grad_ND[start : start + rows])


def time_loss(num_rows: int, width: int, vocab: int) -> Iterator[dict[str, Any]]:
    case = {"what": "loss", "rows": num_rows, "width": width, "vocab": vocab}
    hidden = (torch.randn(num_rows, width, device="cuda", dtype=torch.bfloat16)).requires_grad_()
    weight = torch.randn(vocab, width, device="cuda", dtype=torch.bfloat16) * 0.02
    targets = torch.randint(0, vocab, (num_rows,), device="cuda")

    def ours(rows: int) -> Callable[[], object]:
        def call() -> Tensor:
            loss = linear_cross_entropy(hidden, weight, targets, chunk_rows=rows) / num_rows
            return torch.autograd.grad(loss, hidden)[0]

        return call

    def eager() -> Tensor:
        loss = torch.nn.functional.cross_entropy((hidden @ weight.T).float(), targets)
        return torch.autograd.grad(loss, hidden)[0]

    default = rows_per_chunk(num_rows, vocab, 2)
    floor = gpu_ms(lambda: products(hidden.detach(), weight, default))
    for rows in sorted({default, *CHUNK_ROWS}):
        if rows < num_rows + 128:
            took = gpu_ms(ours(rows))
            yield case | {
                "how": "danlu", "chunk_rows": rows, "is_default": rows == default, "ms": took, "products_ms": floor,
                "tflops": round(4 * num_rows * width * vocab / took / 1e9, 1), "peak_mib": peak_mib(ours(rows)),
            }  # fmt: skip
    if 12 * num_rows * vocab < EAGER_BYTES:
        yield case | {"how": "eager", "ms": gpu_ms(eager), "peak_mib": peak_mib(eager)}


def time_kernel(vocab: int, does_tune: bool) -> Iterator[dict[str, Any]]:
    rows = rows_per_chunk(16_384, vocab, 2)
    logits = torch.randn(rows, vocab, device="cuda", dtype=torch.bfloat16)
    targets = torch.randint(0, vocab, (rows,), device="cuda")
    usual = (cross_entropy.BLOCK_COLUMNS, cross_entropy.NUM_WARPS)
    tried = [(2048, 4), (2048, 8), (4096, 8), (8192, 8), (8192, 16), (16_384, 16), (16_384, 32), (32_768, 32)]
    for block, warps in tried if does_tune else [usual]:
        cross_entropy.BLOCK_COLUMNS, cross_entropy.NUM_WARPS = block, warps
        took = gpu_ms(lambda: chunk_in_place(logits, targets, None, True), 20)
        forward = gpu_ms(lambda: chunk_in_place(logits, targets, None, False), 20)
        yield {
            "what": "kernel", "rows": rows, "vocab": vocab, "block": block, "warps": warps, "ms": took,
            "forward_ms": forward, "tb_per_s": round(3 * logits.nbytes / took / 1e9, 2),
        }  # fmt: skip
    cross_entropy.BLOCK_COLUMNS, cross_entropy.NUM_WARPS = usual


def loss_error(softcap: float | None) -> dict[str, Any]:
    hidden, weight = torch.randn(300, 256, device="cuda"), torch.randn(5003, 256, device="cuda") * 0.2
    targets = torch.randint(0, 5003, (300,), device="cuda")
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        ours = [x.to(dtype).requires_grad_() for x in (hidden, weight)]
        exact = [x.detach().double().requires_grad_() for x in ours]
        loss = linear_cross_entropy(*ours, targets, softcap=softcap, chunk_rows=128)
        truth = -reference_log_probs(*exact, targets, softcap).sum()
        pairs = zip(torch.autograd.grad(loss, ours), torch.autograd.grad(truth, exact), strict=True)
        errors = [float((got.double() - want).norm() / want.norm()) for got, want in pairs]
        found[str(dtype)] = [abs(loss.item() / truth.item() - 1), *errors]
    return {"what": "loss_error", "softcap": softcap, "relative": found}


def time_adamw() -> Iterator[dict[str, Any]]:
    def draw() -> dict[str, nn.Parameter]:
        shapes = [shape for _ in range(NUM_LAYERS) for shape in PAIR_SHAPES]
        return {str(i): nn.Parameter(torch.randn(shape, device="cuda")) for i, shape in enumerate(shapes)}

    ours = draw()
    flat = FlatAdamW(ours, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01)
    flat.flat.grad.normal_()

    def step_flat() -> None:
        flat.clip(flat.norm(), 1.0)
        flat.step()

    theirs = draw()
    for weight in theirs.values():
        weight.grad = torch.randn_like(weight)
    fused = torch.optim.AdamW(theirs.values(), lr=1e-4, weight_decay=0.01, fused=True)

    def step_fused() -> None:
        clip_gradients(theirs, gradient_norm(theirs), 1.0)
        fused.step()

    num = flat.flat.data.numel()
    case = {"what": "adamw", "elements": num, "tensors": len(ours)}
    for how, call, clear in (
        ("danlu flat", step_flat, flat.zero_grad),
        ("torch fused", step_fused, lambda: torch._foreach_zero_([weight.grad for weight in theirs.values()])),
    ):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(10):
            call()
        launched = (time.perf_counter() - begun) * 100
        yield case | {
            "how": how, "norm_clip_step_ms": gpu_ms(call, 30), "zero_ms": gpu_ms(clear, 30),
            "host_ms": round(launched, 3), "floor_ms": round(num * 4 * 8 / 4.26e9, 4),
        }  # fmt: skip


def time_lean(num: int = 1 << 28) -> Iterator[dict[str, Any]]:
    """Full fine-tuning's update of a big bf16 matrix without master, fp32 and 8-bit moments."""
    param, grad = (torch.randn(num, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    numbers = {"lr": torch.tensor(1e-5, dtype=torch.float64, device="cuda"), "step": torch.ones((), device="cuda")}
    settings: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    moments, wide = Moments.like(param), [torch.zeros(num, device="cuda") for _ in range(2)]
    for how, num_bytes, call in (
        ("8-bit moments", 10, lambda: adamw_8bit_(param, grad, moments, **numbers, **settings)),
        ("fp32 moments", 22, lambda: adamw_(param, grad, *wide, **numbers, **settings)),
    ):
        took = gpu_ms(call, 20)
        yield {
            "what": "adamw_bf16", "how": how, "elements": num, "ms": took,
            "tb_per_s": round(num_bytes * num / took / 1e9, 2), "s_for_8e9": round(took * 8e9 / num / 1e3, 4),
        }  # fmt: skip


def adamw_error() -> dict[str, Any]:
    ours = [torch.randn(100_000, device="cuda") for _ in range(3)]
    ours.append(torch.rand(100_000, device="cuda"))
    exact = [x.double() for x in ours]
    settings: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
    for number in range(1, 11):
        numbers = {
            "lr": torch.tensor(1e-3, dtype=torch.float64, device="cuda"),
            "step": torch.tensor(float(number), device="cuda"),
        }
        adamw_(*ours, **numbers, **settings)
        reference_adamw_(*exact, **numbers, **settings)
    errors = [float((x.double() - y).norm() / y.norm()) for x, y in zip(ours, exact, strict=True)]
    return {"what": "adamw_error", "steps": 10, "param_grad_average_square": errors}


def lines(does_tune: bool) -> Iterator[dict[str, Any]]:
    yield {"what": "device", "name": torch.cuda.get_device_name(), "torch": torch.__version__}
    yield from (loss_error(softcap) for softcap in (None, 5.0))
    yield adamw_error()
    yield from time_adamw()
    yield from time_lean()
    for vocab in (152_064, 50_257):
        yield from time_kernel(vocab, does_tune)
    for case in LOSS_CASES:
        yield from time_loss(*case)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--tune", action="store_true")
    asked = parser.parse_args()
    torch.manual_seed(0)
    found = []
    for line in lines(asked.tune):
        found.append(json.dumps(line))
        print(found[-1], flush=True)
    if asked.out:
        asked.out.write_text("\n".join(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
