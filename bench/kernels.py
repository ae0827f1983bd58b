"""Every kernel of `danlu.ops` that works on rows, against torch's own way of doing the same, on CUDA.

    python bench/kernels.py [--shapes qwen2.5-7b …] [--tokens 16384 2048] [--out FILE] [--sweep]

One JSON line for each op, shape and way (triton, torch): microseconds on the device with a cold cache (median),
microseconds of the host to launch it, GB/s of the bytes that must move at least once, and the largest error against
fp64 (relative, with a thousandth of the largest value as floor). `--sweep` tries other launch parameters at 16,384
tokens of the first shape. `--only` names beginnings of ops.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.ops import gated, kernels, low_rank, rms_norm, turn
from danlu.ops.rope import HeadNorms, RopeSpec, Rotation, rotation

DTYPE, DEVICE = torch.bfloat16, "cuda"
PADDING = 64  # columns beside the ones that count, as in the trainer's buffers
CHECKED_ROWS = 256


@dataclass(frozen=True)
class Shape:
    hidden: int
    ffn: int
    num_heads: int
    num_kv_heads: int
    head_size: int


SHAPES = {
    "qwen2.5-7b": Shape(3584, 18944, 28, 4, 128),
    "llama-3.1-8b": Shape(4096, 14336, 32, 8, 128),
    "qwen2.5-0.5b": Shape(896, 4864, 14, 2, 64),
}


@dataclass(frozen=True)
class Case:
    """`run` may overwrite its inputs: timing does not mind. `errors` starts from fresh ones."""

    op: str
    num_bytes: int
    run: Callable[[], object]
    error: Callable[[], float]


def rows(num_rows: int, width: int, scale: float = 1.0) -> Tensor:
    """Leading columns of a wider buffer."""
    return (torch.randn(num_rows, width + PADDING, device=DEVICE) * scale).to(DTYPE)[:, :width]


def worst(*pairs: tuple[Tensor, Tensor]) -> float:
    return max(
        float(((ours.double() - exact).abs() / (exact.abs() + 1e-3 * exact.abs().max())).max()) for ours, exact in pairs
    )


@contextlib.contextmanager
def torch_path() -> Iterator[None]:
    """The ops without their kernels."""
    modules: list[Any] = [gated, low_rank, rms_norm, turn]
    for module in modules:
        module.fits = lambda *tensors: False
    try:
        yield
    finally:
        for module in modules:
            module.fits = kernels.fits


def norm_cases(shape: Shape, num_tokens: int) -> Iterator[Case]:
    T, D = num_tokens, shape.hidden
    x, grad, through, out = (rows(T, D) for _ in range(4))
    weight = torch.rand(D, device=DEVICE).to(DTYPE) + 0.5
    inverse = rms_norm.norm_forward(x, weight, 1e-6)[1]
    few = slice(0, CHECKED_ROWS)
    exact, exact_inverse = rms_norm.reference_norm_forward(x[few].double(), weight.double(), 1e-6, 0.0)

    def forward_error() -> float:
        ours, inverse_T = rms_norm.norm_forward(x, weight, 1e-6)
        return worst((ours[few], exact), (inverse_T[few], exact_inverse))

    def backward_error() -> float:
        ours = rms_norm.norm_backward(grad, x, weight, inverse, through_TD=through)
        exact_dx = rms_norm.reference_norm_backward(
            grad[few].double(), x[few].double(), weight.double(), exact_inverse, 0.0
        )
        return worst((ours[few], exact_dx + through[few].double()))

    def weight_error() -> float:
        exact_dw = (grad.double() * x.double()).T @ inverse.double()
        return worst((rms_norm.norm_weight_gradient(grad, x, inverse), exact_dw))

    yield Case("norm_forward", 4 * T * D, lambda: rms_norm.norm_forward(x, weight, 1e-6, out_TD=out), forward_error)
    yield Case(
        "norm_backward + residual", 8 * T * D,
        lambda: rms_norm.norm_backward(grad, x, weight, inverse, through_TD=through, out_TD=out), backward_error,
    )  # fmt: skip
    yield Case("norm_weight_gradient", 4 * T * D, lambda: rms_norm.norm_weight_gradient(grad, x, inverse), weight_error)


def turn_cases(shape: Shape, num_tokens: int, *, has_norms: bool) -> Iterator[Case]:
    T, H, K, D = num_tokens, shape.num_heads, shape.num_kv_heads, shape.head_size
    N, turned = (H + 2 * K) * D, (H + K) * D
    qkv, out = rows(T, N), rows(T, N)
    angles = rotation(RopeSpec(D, 1e6), torch.arange(T, device=DEVICE) % 2048, DTYPE)
    weights = [torch.rand(D, device=DEVICE).to(DTYPE) + 0.5 for _ in range(2)]
    norms = HeadNorms(*weights, eps=1e-6) if has_norms else None
    grads = [rows(T, heads * D).unflatten(-1, (heads, D)) for heads in (H, K, K)]
    few = slice(0, CHECKED_ROWS)

    def exactly(back: bool) -> Tensor:
        wide_norms = HeadNorms(*(w.double() for w in weights), eps=1e-6) if has_norms else None
        wide_turn = Rotation(angles.cos[few].double(), angles.sin[few].double())
        to = torch.empty(CHECKED_ROWS, N, dtype=torch.float64, device=DEVICE)
        raw = qkv[few].double()
        inverse = turn.turn_qkv(raw, wide_turn, H, K, D, wide_norms, out_TN=to)
        if back:
            turn.turn_qkv_back(*(g[few].double() for g in grads), wide_turn, wide_norms, raw, inverse, out_TN=to)
        return to

    def forward_error() -> float:
        turn.turn_qkv(qkv, angles, H, K, D, norms, out_TN=out)
        return worst((out[few], exactly(False)))

    def backward_error() -> float:
        inverse = turn.turn_qkv(qkv, angles, H, K, D, norms, out_TN=out)
        turn.turn_qkv_back(*grads, angles, norms, qkv, inverse, out_TN=out)
        return worst((out[few], exactly(True)))

    name = " + head norms" if has_norms else ""
    inverse = turn.turn_qkv(qkv, angles, H, K, D, norms, out_TN=out)
    if has_norms:
        yield Case(
            f"turn_qkv{name}", 4 * T * N, lambda: turn.turn_qkv(qkv, angles, H, K, D, norms, out_TN=out), forward_error
        )
    else:
        in_place = rows(T, N)
        yield Case("turn_qkv in place", 4 * T * turned, lambda: turn.turn_qkv(in_place, angles, H, K, D), forward_error)
    yield Case(
        f"turn_qkv_back{name}", 4 * T * N + (2 * T * turned if has_norms else 0),
        lambda: turn.turn_qkv_back(*grads, angles, norms, qkv, inverse, out_TN=out), backward_error,
    )  # fmt: skip


def gated_cases(shape: Shape, num_tokens: int) -> Iterator[Case]:
    T, F = num_tokens, shape.ffn
    gate_up, grad, out = rows(T, 2 * F), rows(T, F), rows(T, F)
    few = slice(0, CHECKED_ROWS)

    def forward_error() -> float:
        exact = gated.gated_forward(gate_up[few].double(), "silu")
        return worst((gated.gated_forward(gate_up, "silu")[few], exact))

    def backward_error() -> float:
        ours, exact = [x[few].clone() for x in (grad, gate_up)], [x[few].double() for x in (grad, gate_up)]
        product = gated.gated_forward(gate_up[few], "silu")
        gated.gated_backward_(*ours, "silu")
        gated.gated_backward_(*exact, "silu")
        assert torch.equal(ours[0], product), "the backward remakes the forward's product"
        return worst(*zip(ours, exact, strict=True))

    yield Case("gated_forward", 6 * T * F, lambda: gated.gated_forward(gate_up, "silu", out_TF=out), forward_error)
    used_grad, used_gate_up = rows(T, F), rows(T, 2 * F)
    yield Case(
        "gated_backward_", 12 * T * F, lambda: gated.gated_backward_(used_grad, used_gate_up, "silu"), backward_error
    )


def pair_case(name: str, num_tokens: int, num_outputs: int, rank: int) -> Case:
    T, N, R = num_tokens, num_outputs, rank
    dy, b, s, out = rows(T, N), rows(N, R, 0.02), rows(T, R), rows(T, R)
    grad = torch.zeros(N, R, device=DEVICE)

    def backward(gradient: Tensor) -> None:
        part = low_rank.Part(slice(0, N), slice(0, R), gradient, 2.0)
        low_rank.pairs_backward(dy, b, s, [part], out_TP=out)

    def error() -> float:
        mine = torch.zeros_like(grad)
        backward(mine)
        return worst((out, dy.double() @ b.double()), (mine, 2 * dy.double().T @ s.double()))

    return Case(f"pairs_backward {name} N={N} R={R}", 2 * T * N, lambda: backward(grad), error)


def product_case(name: str, num_tokens: int, num_inputs: int, rank: int) -> Case:
    T, K, R = num_tokens, num_inputs, rank
    ds, x, grad = rows(T, R), rows(T, K), torch.zeros(R, K, device=DEVICE)

    def error() -> float:
        mine = torch.zeros_like(grad)
        low_rank.add_product_(mine, ds, x)
        return worst((mine, ds.double().T @ x.double()))

    return Case(f"add_product_ {name} K={K} R={R}", 2 * T * K, lambda: low_rank.add_product_(grad, ds, x), error)


def cases(shape: Shape, num_tokens: int) -> Iterator[Case]:
    D, F, size = shape.hidden, shape.ffn, shape.head_size
    yield from norm_cases(shape, num_tokens)
    yield from turn_cases(shape, num_tokens, has_norms=False)
    yield from turn_cases(shape, num_tokens, has_norms=True)
    yield from gated_cases(shape, num_tokens)
    yield pair_case("gate and up", num_tokens, 2 * F, 32)
    yield pair_case("gate", num_tokens, F, 16)
    yield pair_case("q", num_tokens, shape.num_heads * size, 16)
    yield pair_case("down", num_tokens, D, 16)
    yield product_case("of down", num_tokens, F, 16)
    yield product_case("of gate and up", num_tokens, D, 32)
    yield product_case("of q, k and v", num_tokens, D, 48)
    yield product_case("of o", num_tokens, D, 16)


def time_us(run: Callable[[], object], budget_s: float = 0.03) -> tuple[float, float]:
    """(device, host) microseconds: the median call with a cold L2, and a call's share of the host's time."""
    sweep = torch.empty(1 << 28, dtype=torch.int8, device=DEVICE)
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    num_calls = max(5, min(20, int(budget_s / (time.perf_counter() - begin))))
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(num_calls)]
    for before, after in marks:
        sweep.zero_()  # empties the cache, and gives the host time to be ahead
        sweep.zero_()
        before.record()
        run()
        after.record()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(10):
        run()
    host_us = (time.perf_counter() - begin) / 10 * 1e6
    torch.cuda.synchronize()
    return statistics.median(before.elapsed_time(after) for before, after in marks) * 1e3, host_us


def measure(case: Case) -> dict[str, float]:
    error = case.error()
    device_us, host_us = time_us(case.run)
    return {
        "us": round(device_us, 1), "host_us": round(host_us, 1), "gb_s": round(case.num_bytes / device_us / 1e3),
        "error": float(f"{error:.2e}"),
    }  # fmt: skip


@contextlib.contextmanager
def changed(module: Any, **values: Any) -> Iterator[None]:
    old = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in old.items():
            setattr(module, name, value)


def variants() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(beginning of the op's name, module, what to set)"""
    for num_rows, num_warps in ((1, 4), (1, 8), (1, 16), (2, 8), (2, 16)):
        tile = lambda width, r=num_rows, w=num_warps: (r, kernels.power_of_2(width), w)  # noqa: E731
        tile.__name__ = f"{num_rows} rows, {num_warps} warps"
        yield "norm_", rms_norm, {"_tile": tile}
    plain = turn._tile
    for num_rows, num_warps in ((16, 2), (16, 4), (32, 4), (32, 8), (64, 8)):
        tile = lambda size, angles, r=num_rows, w=num_warps: plain(size, angles) | {"ROWS": r, "num_warps": w}  # noqa: E731
        tile.__name__ = f"{num_rows} rows, {num_warps} warps"
        yield "turn_", turn, {"_tile": tile}
    for columns, num_warps in ((512, 2), (512, 4), (1024, 4), (1024, 8), (2048, 4), (2048, 8), (4096, 8)):
        yield "gated_", gated, {"COLUMNS": columns, "NUM_WARPS": num_warps}
    for tokens, outputs in ((64, 512), (64, 256), (128, 256), (128, 128)):
        yield "pair_", low_rank, {"TOKENS": tokens, "OUTPUTS": outputs}
        yield "add_", low_rank, {"TOKENS": tokens, "OUTPUTS": outputs}


def sweep(name: str, only: list[str], write: Callable[[dict[str, Any]], None]) -> None:
    todo = [case for case in cases(SHAPES[name], 16_384) if case.op.startswith(tuple(only))]
    for beginning, module, values in variants():
        with changed(module, **values):
            shown = {key: getattr(value, "__name__", value) for key, value in values.items()}
            for case in todo:
                if not case.op.startswith(beginning):
                    continue
                line = {"shape": name, "tokens": 16_384, "op": case.op, "with": shown}
                try:
                    write(line | measure(case))
                except kernels.triton.runtime.errors.OutOfResources as error:
                    write(line | {"refused": str(error)})


def hardware() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": kernels.triton.__version__,
        "commit": commit.stdout.strip(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[16_384, 2048])
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

    low_rank.MIN_BYTES = 0  # small ones too, to see where the two ways meet
    write(hardware())
    torch.manual_seed(0)
    if given.sweep:
        sweep(given.shapes[0], given.only, write)
        return
    for name in given.shapes:
        for num_tokens in given.tokens:
            for case in cases(SHAPES[name], num_tokens):
                if not case.op.startswith(tuple(given.only)):
                    continue
                write({"shape": name, "tokens": num_tokens, "op": case.op, "way": "triton"} | measure(case))
                with torch_path():
                    write({"shape": name, "tokens": num_tokens, "op": case.op, "way": "torch"} | measure(case))


if __name__ == "__main__":
    main()
