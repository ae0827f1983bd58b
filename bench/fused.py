"""Ops that do in one pass what several did: each against the several, on CUDA.

    python bench/fused.py [--cases 7b 0.5b] [--only gated …] [--out FILE] [--sweep]

One JSON line for each op, shape and way: microseconds on the device with a cold cache (median), of the host to launch
it, GB/s of the bytes that the new way must move at least once, and by how much the new way's results differ from the
old way's (relative, with a thousandth of the largest value as floor). `--sweep` tries other tiles.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from kernels import DEVICE, DTYPE, SHAPES, Shape, changed, hardware, rows, time_us, worst

from danlu.ops import cross_entropy, gated_low_rank, kernels, low_rank, norm_low_rank, rms_norm
from danlu.ops.gated import gated_backward_
from danlu.ops.gated_low_rank import gated_backward_low_rank_
from danlu.ops.low_rank import Part, add_product_, pairs_backward
from danlu.ops.many_copies import Copy, ManyCopies
from danlu.ops.norm_low_rank import add_normed_product_

CASES = {"7b": ("qwen2.5-7b", 16_384), "0.5b": ("qwen2.5-0.5b", 2048)}
RANK, PADDING = 16, 64


@dataclass(frozen=True)
class Contest:
    """Both ways write into `results`, old and new; they may overwrite what they read, for timing does not mind."""

    op: str
    num_bytes: int
    ways: dict[str, Callable[[], object]]
    difference: Callable[[], float]


def gated_contest(shape: Shape, T: int) -> Contest:
    F = shape.ffn
    gate_up, grad, ds = rows(T, 2 * F), rows(T, F), rows(T, RANK)
    grad_a = torch.zeros(RANK, F, device=DEVICE)

    def old() -> None:
        gated_backward_(grad, gate_up, "silu")
        add_product_(grad_a, ds, grad)

    def new() -> None:
        gated_backward_low_rank_(grad, gate_up, "silu", ds, grad_a)

    def difference() -> float:
        before = grad.clone(), gate_up.clone()
        results = []
        for run in (old, new):
            grad.copy_(before[0])
            gate_up.copy_(before[1])
            grad_a.zero_()
            run()
            results.append((gate_up.clone(), grad_a.clone()))
        return worst(*((new, old.double()) for old, new in zip(*results, strict=True)))

    return Contest("gated backward + dA", 10 * T * F, {"old": old, "new": new}, difference)


def pairs_contest(name: str, T: int, sizes: list[int]) -> Contest:
    N = sum(sizes)
    dy, b, s, out = rows(T, N), rows(N, PADDING, 0.02), rows(T, PADDING), rows(T, PADDING)
    parts, row = [], 0
    for at, size in enumerate(sizes):
        ranks = slice(RANK * at, RANK * (at + 1))
        parts.append(Part(slice(row, row + size), ranks, torch.zeros(size, RANK, device=DEVICE), 2.0))
        row += size

    def by_cublas() -> None:
        with changed(low_rank, has_kernel=lambda *tensors: False):
            pairs_backward(dy, b, s, parts, out_TP=out)

    def new() -> None:
        pairs_backward(dy, b, s, parts, out_TP=out)

    def difference() -> float:
        results = []
        for run in (by_cublas, new):
            for part in parts:
                part.gradient.zero_()
            run()
            results.append((out.clone(), *(part.gradient.clone() for part in parts)))
        return worst(*((ours, theirs.double()) for theirs, ours in zip(*results, strict=True)))

    return Contest(f"pairs_backward {name}", 2 * T * N, {"cublas": by_cublas, "new": new}, difference)


def norm_contest(shape: Shape, T: int) -> Contest:
    D = shape.hidden
    x, add, total, out = rows(T, D), rows(T, D), rows(T, D), rows(T, D)
    weight = torch.rand(D, device=DEVICE).to(DTYPE) + 0.5

    def old() -> None:
        torch.add(x, add, out=total)
        rms_norm.norm_forward(total, weight, 1e-6, out_TD=out)

    def new() -> None:
        rms_norm.norm_forward(x, weight, 1e-6, out_TD=out, add_TD=add, sum_TD=total)

    def difference() -> float:
        new()
        ours = total.clone(), out.clone()
        old()
        return worst((ours[0], total.double()), (ours[1], out.double()))

    return Contest("norm of a sum", 8 * T * D, {"old": old, "new": new}, difference)


def normed_product_contest(shape: Shape, T: int, rank: int) -> Contest:
    D = shape.hidden
    x, normed, ds, weight = rows(T, D), rows(T, D), rows(T, rank), torch.rand(D, device=DEVICE).to(DTYPE) + 0.5
    grad = torch.zeros(rank, D, device=DEVICE)
    _, inverse = rms_norm.norm_forward(x, weight, 1e-6)

    def old() -> None:
        rms_norm.norm_forward(x, weight, 1e-6, out_TD=normed)
        add_product_(grad, ds, normed)

    def new() -> None:
        add_normed_product_(grad, ds, x, weight, inverse)

    def difference() -> float:
        results = []
        for run in (old, new):
            grad.zero_()
            run()
            results.append(grad.clone())
        return worst((results[1], results[0].double()))

    return Contest(f"norm again + dA R={rank}", 2 * T * D, {"old": old, "new": new}, difference)


def copies_contest(shape: Shape, num_layers: int = 24) -> Contest:
    """The seven pairs of each layer, as after an update."""
    D, F, size = shape.hidden, shape.ffn, shape.head_size
    N, K = shape.num_heads * size, shape.num_kv_heads * size
    copies = []
    for _ in range(num_layers):
        for num_outputs, num_inputs in ((N, D), (K, D), (K, D), (D, N), (F, D), (F, D), (D, F)):
            a, b = torch.randn(RANK, num_inputs, device=DEVICE), torch.randn(num_outputs, RANK, device=DEVICE)
            copies += [Copy(a, rows(RANK, num_inputs)), Copy(b, rows(num_outputs, RANK), 2.0)]
    many = ManyCopies(copies)

    def old() -> None:
        for copy in copies:
            torch.mul(copy.source, copy.scale, out=copy.target)

    def difference() -> float:
        many()
        ours = [copy.target.clone() for copy in copies]
        old()
        return worst(*((one, copy.target.double()) for one, copy in zip(ours, copies, strict=True)))

    num_bytes = sum(6 * copy.source.numel() for copy in copies)
    return Contest(f"copies of {len(copies)}", num_bytes, {"old": old, "new": many}, difference)


def loss_contest(num_rows: int = 3456, num_columns: int = 151_936) -> Contest:
    logits = torch.randn(num_rows, num_columns, device=DEVICE).to(DTYPE)
    targets = torch.randint(num_columns, (num_rows,), device=DEVICE)

    def new() -> None:
        cross_entropy.chunk_in_place(logits, targets, None, True)

    return Contest("loss", 6 * num_rows * num_columns, {"new": new}, lambda: 0.0)


def contests(shape: Shape, num_tokens: int) -> Iterator[Contest]:
    yield norm_contest(shape, num_tokens)
    yield normed_product_contest(shape, num_tokens, 48)
    yield copies_contest(shape)
    yield loss_contest()
    yield gated_contest(shape, num_tokens)
    heads = [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads]
    yield pairs_contest("gate|up", num_tokens, [shape.ffn] * 2)
    yield pairs_contest("q|k|v", num_tokens, [count * shape.head_size for count in heads])
    yield pairs_contest("down", num_tokens, [shape.hidden])


def measure(contest: Contest, way: str) -> dict[str, float]:
    device_us, host_us = time_us(contest.ways[way])
    return {"us": round(device_us, 1), "host_us": round(host_us, 1), "gb_s": round(contest.num_bytes / device_us / 1e3)}


def variants() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(beginning of the op's name, module, what to set)"""
    for tokens, columns, warps, registers in (
        (16, 256, 8, 128), (16, 128, 4, 128), (32, 128, 8, 128), (16, 512, 16, 128), (32, 128, 4, None)
    ):  # fmt: skip
        values = {"BACKWARD_TOKENS": tokens, "BACKWARD_COLUMNS": columns, "BACKWARD_WARPS": warps}
        yield "gated backward", gated_low_rank, values | {"REGISTERS": registers}
    for tokens, columns, warps, stages, programs in (
        (64, 128, 8, 3, 2), (64, 64, 4, 3, 4), (64, 64, 4, 4, 4), (64, 128, 8, 3, 1), (64, 128, 8, 4, 1)
    ):  # fmt: skip
        values = {"BACK_TOKENS": tokens, "BACK_COLUMNS": columns, "BACK_WARPS": warps, "BACK_STAGES": stages}
        registers = 128 if programs > 1 else 255
        yield "norm again", norm_low_rank, values | {"BACK_PROGRAMS": programs, "REGISTERS": registers}
    for block, warps, stages in (
        (8192, 16, 1), (8192, 16, 2), (8192, 16, 3), (16_384, 16, 2), (8192, 32, 3), (16_384, 32, 3), (16_384, 32, 4)
    ):  # fmt: skip
        yield "loss", cross_entropy, {"BLOCK_COLUMNS": block, "NUM_WARPS": warps, "NUM_STAGES": stages}
    for tokens, outputs in ((64, 512), (64, 256), (128, 256)):
        yield "pairs_backward gate", low_rank, {"TOKENS": tokens, "OUTPUTS": outputs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--only", nargs="+", default=[""])
    given = parser.parse_args()
    if not torch.cuda.is_available() or not kernels.HAS_TRITON:
        sys.exit("kernels are timed on CUDA, with Triton")

    def write(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)
        if given.out:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    write(hardware())
    torch.manual_seed(0)
    for name in given.cases:
        shape, num_tokens = SHAPES[CASES[name][0]], CASES[name][1]
        for contest in contests(shape, num_tokens):
            if not contest.op.startswith(tuple(given.only)):
                continue
            line: dict[str, Any] = {"case": name, "op": contest.op}
            if given.sweep:
                sweep(contest, line, write)
                continue
            line["difference"] = float(f"{contest.difference():.2e}")
            for way in contest.ways:
                write(line | {"way": way} | measure(contest, way))


def sweep(contest: Contest, line: dict[str, Any], write: Callable[[dict[str, Any]], None]) -> None:
    for beginning, module, values in variants():
        if contest.op.startswith(beginning):
            with changed(module, **values):
                try:
                    write(line | {"with": values} | measure(contest, "new"))
                except kernels.triton.runtime.errors.OutOfResources as error:
                    write(line | {"with": values, "refused": str(error)})


if __name__ == "__main__":
    main()
