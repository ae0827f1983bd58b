"""Bases in few bits on CUDA: dequantising, fp8 casts apart and fused, fp8 products both ways, at a real model's shapes.

    python bench/quantize.py [--shape qwen2.5-7b] [--tokens 16384] [--out FILE] [--only dequantise …] [--sweep]

One JSON line for each thing, cold cache, median: microseconds, and either GB/s of the bytes that must move at least
once (with the share of what a plain copy of that size reaches) or TFLOP/s (with bf16's on the same shape), and the
error that its rounding makes. `--sweep` tries other launch parameters of the widest rows and of NF4. On a CPU
(`--device cpu --shape tiny --tokens 64`) it only shows that it runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.ops import fp8, fp8_rows, int8, nf4
from danlu.ops.gated import gated_backward_, gated_forward
from danlu.ops.kernels import triton
from danlu.ops.rms_norm import norm_backward, norm_forward

SHAPES = {  # hidden, ffn, q + k + v
    "qwen2.5-7b": (3584, 18944, 4608),
    "llama-3.1-8b": (4096, 14336, 6144),
    "tiny": (64, 160, 128),
}
PADDING = 64
"""Columns of the buffer that a product's weight is dequantised into, beside the weight."""
DTYPE = torch.bfloat16


class Clock:
    """Median time of a call with a cold cache, in seconds."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._flush = torch.empty(2**28 if device == "cuda" else 1, dtype=torch.uint8, device=device)

    def __call__(self, run: Callable[[], object], num_times: int = 12) -> float:
        for _ in range(3):
            run()
        times = []
        for _ in range(num_times):
            self._flush.zero_()
            if self.device == "cuda":
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                run()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end) / 1e3)
            else:
                began = time.perf_counter()
                run()
                times.append(time.perf_counter() - began)
        return statistics.median(times)


class Bench:
    """The cases; each yields records."""

    def __init__(self, shape: str, num_tokens: int, device: str) -> None:
        self.hidden, self.ffn, self.qkv = SHAPES[shape]
        self.num_tokens, self.device, self.clock = num_tokens, device, Clock(device)
        self.weights = {
            "qkv": (self.qkv, self.hidden), "o": (self.hidden, self.hidden),
            "gate_up": (2 * self.ffn, self.hidden), "down": (self.hidden, self.ffn),
        }  # fmt: skip

    def rows(self, width: int, scale: float = 1.0) -> Tensor:
        """Leading columns of a wider buffer."""
        return (torch.randn(self.num_tokens, width + PADDING, device=self.device) * scale).to(DTYPE)[:, :width]

    def weight(self, num_rows: int, num_columns: int) -> Tensor:
        return (torch.randn(num_rows, num_columns, device=self.device) * 0.02).to(DTYPE)

    def moved(self, name: str, num_bytes: int, run: Callable[[], object], **facts: Any) -> dict[str, Any]:
        """A record of something bound by memory, beside a copy that reads and writes as many bytes."""
        seconds = self.clock(run)
        half = torch.empty(num_bytes // 2, dtype=torch.uint8, device=self.device)
        copy_s = self.clock(lambda: half.clone())
        return {
            "what": name, "us": round(seconds * 1e6, 1), "GB/s": round(num_bytes / seconds / 1e9),
            "of_copy": round(copy_s / seconds, 3), **facts,
        }  # fmt: skip

    # ---- cases

    def quantise(self) -> Iterator[dict[str, Any]]:
        """What loading costs, once per weight."""
        weight = self.weight(*self.weights["gate_up"])
        for module in (nf4, int8, fp8):
            seconds = self.clock(lambda m=module: m.quantise(weight), 3)
            yield {
                "what": f"quantise {module.__name__[-4:].strip('.')}",
                "us": round(seconds * 1e6),
                "elements": weight.numel(),
            }

    def dequantise(self) -> Iterator[dict[str, Any]]:
        for name, (num_rows, num_columns) in self.weights.items():
            weight = self.weight(num_rows, num_columns)
            out = torch.empty(num_rows + PADDING, num_columns + PADDING, dtype=DTYPE, device=self.device)
            room = out[:num_rows, :num_columns]
            packs = {
                "nf4": nf4.quantise(weight), "nf4 plain scales": nf4.quantise(weight, is_double=False),
                "int8": int8.quantise(weight),
            }  # fmt: skip
            for kind, packed in packs.items():
                run = nf4.dequantise if kind.startswith("nf4") else int8.dequantise
                truth = nf4.reference_dequantise(packed) if isinstance(packed, nf4.NF4) else None
                run(packed, room)
                facts = {} if truth is None else {"equals_reference": torch.equal(room, truth.to(DTYPE))}
                num_bytes = packed.num_bytes + 2 * weight.numel()
                yield self.moved(
                    f"dequantise {kind} {name}", num_bytes, lambda p=packed, run=run, room=room: run(p, room), **facts
                )

    def casts(self) -> Iterator[dict[str, Any]]:
        """fp8 codes of rows, apart from what made them: 2 bytes read and 1 written per element."""
        for width in (self.hidden, self.ffn, 2 * self.ffn):
            x, columns = self.rows(width), torch.rand(width, device=self.device).to(DTYPE)
            for name, given in (("", None), (" with columns", columns)):
                codes, _ = fp8.quantise_rows(x, columns=given)
                reference, _ = fp8.reference_quantise_rows(x[:256], columns=given)
                differing = (codes[:256].float() != reference.float()).float().mean().item()
                yield self.moved(
                    f"quantise_rows {width}{name}", 3 * x.numel(), lambda g=given, x=x: fp8.quantise_rows(x, columns=g),
                    differing_codes=differing,
                )  # fmt: skip

    def fused(self) -> Iterator[dict[str, Any]]:
        """Producers that write codes, beside the producer and then the cast."""
        T, D, F = self.num_tokens, self.hidden, self.ffn
        x, grad, through, out = self.rows(D), self.rows(D), self.rows(D), self.rows(D)
        factor, columns = torch.rand(D, device=self.device).to(DTYPE), torch.rand(D, device=self.device).to(DTYPE)
        _, inverse = norm_forward(x, factor, 1e-6)
        yield from self.both(
            "norm_forward", T * D * 5,
            lambda: fp8_rows.norm_forward_fp8(x, factor, 1e-6, out_TD=out),
            lambda: fp8.quantise_rows(norm_forward(x, factor, 1e-6, out_TD=out)[0]),
        )  # fmt: skip
        yield from self.both(
            "norm_backward", T * D * 9,
            lambda: fp8_rows.norm_backward_fp8(
                grad, x, factor, inverse, columns_D=columns, through_TD=through, out_TD=out
            ),
            lambda: fp8.quantise_rows(
                norm_backward(grad, x, factor, inverse, through_TD=through, out_TD=out), columns=columns
            ),
        )  # fmt: skip
        gate_up, grad, out = self.rows(2 * F, 1e-2), self.rows(F, 1e-2), self.rows(F)
        columns = torch.rand(2 * F, device=self.device).to(DTYPE)
        yield from self.both(
            "gated_forward", T * F * 7,
            lambda: fp8_rows.gated_forward_fp8(gate_up, "silu", out_TF=out),
            lambda: fp8.quantise_rows(gated_forward(gate_up, "silu", out_TF=out)),
        )  # fmt: skip

        def apart() -> None:
            gated_backward_(grad, gate_up, "silu")
            fp8.quantise_rows(gate_up, columns=columns)

        yield from self.both(
            "gated_backward", T * F * 14,
            lambda: fp8_rows.gated_backward_fp8_(grad, gate_up, "silu", columns_E=columns), apart,
        )  # fmt: skip

    def both(
        self, name: str, num_bytes: int, together: Callable[[], object], apart: Callable[[], object]
    ) -> Iterator[dict[str, Any]]:
        record = self.moved(f"fused {name}", num_bytes, together)
        yield record | {"apart_us": round(self.clock(apart) * 1e6, 1)}

    def products(self) -> Iterator[dict[str, Any]]:
        """Both ways; the error is of fp8 against bf16's product, in norm."""
        for name, (num_rows, num_columns) in self.weights.items():
            dense = self.weight(num_rows, num_columns)
            packed = fp8.with_turned(fp8.quantise(dense))
            x, grad = self.rows(num_columns).contiguous(), self.rows(num_rows).contiguous()
            codes, scale = fp8.quantise_rows(x)
            back = fp8.quantise_rows(grad, columns=packed.columns)
            ways: dict[str, Callable[[], Tensor]] = {
                "forward bf16": lambda x=x, dense=dense: x @ dense.t(),
                "forward fp8": lambda a=codes, b=scale, w=packed: fp8.product(a, b, w),
                "backward bf16": lambda g=grad, dense=dense: g @ dense,
                "backward fp8": lambda b=back, w=packed: fp8.product_back(*b, w),
                "backward fp8 fast": lambda b=back, w=packed: fp8.product_back(*b, w, is_fast=True),
            }
            if self.device == "cuda":
                ways["forward fp8, scaled afterwards"] = lambda a=codes, b=scale, w=packed: fp8.product(
                    a, b, w, way="tensor"
                )
            truths = {"forward": ways["forward bf16"]().float(), "backward": ways["backward bf16"]().float()}
            for way, run in ways.items():
                seconds = self.clock(run)
                truth = truths[way.split()[0]]
                error = float((run().float() - truth).norm() / truth.norm())
                yield {
                    "what": f"product {name} {way}", "us": round(seconds * 1e6, 1),
                    "TFLOP/s": round(2 * self.num_tokens * num_rows * num_columns / seconds / 1e12), "error": error,
                }  # fmt: skip
            yield self.moved(f"turn {name}", 2 * packed.codes.numel(), lambda w=packed: fp8.turn(w.codes))

    def sweep(self) -> Iterator[dict[str, Any]]:
        """Tiles and warps of quantise_rows on the widest rows, and blocks and warps of NF4."""
        width = 2 * self.ffn
        x, codes = self.rows(width), torch.empty(self.num_tokens, width, dtype=fp8.E4M3, device=self.device)
        scale = torch.empty(self.num_tokens, device=self.device)
        for tile in (1024, 2048, 4096, 8192):
            for num_warps in (4, 8, 16):

                def run(tile: int = tile, num_warps: int = num_warps) -> None:
                    fp8._quantise_rows_kernel[(self.num_tokens,)](
                        x, None, codes, scale, width, x.stride(0), HAS_COLUMNS=False, TILE=tile, num_warps=num_warps
                    )  # fmt: skip

                yield self.moved(f"quantise_rows {width} tile {tile} warps {num_warps}", 3 * x.numel(), run)
        packed = nf4.quantise(self.weight(*self.weights["gate_up"]))
        nested, out = packed.absmax, torch.empty(self.weights["gate_up"], dtype=DTYPE, device=self.device)
        assert isinstance(nested, nf4.Nested)
        for blocks in (16, 32, 64, 128):
            for num_warps in (2, 4, 8):

                def dequantise(blocks: int = blocks, num_warps: int = num_warps) -> None:
                    nf4._dequantise_kernel[(triton.cdiv(len(nested.codes), blocks),)](
                        packed.codes, nested.codes, nested.scale, nested.levels, nested.offset,
                        nf4.values_on(out.device), out, out.numel(), len(packed.codes), out.shape[1], out.stride(0),
                        PER_SCALE=256, IS_NESTED=True, IS_EVEN=True, HALF=32, BLOCKS=blocks,
                        num_warps=num_warps, enable_fp_fusion=False,
                    )  # fmt: skip

                num_bytes = packed.num_bytes + 2 * out.numel()
                yield self.moved(f"dequantise nf4 blocks {blocks} warps {num_warps}", num_bytes, dequantise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-7b")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="*", default=["dequantise", "casts", "fused", "products", "quantise"])
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    bench = Bench(given.shape, given.tokens, given.device)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    lines = [{"device": name, "torch": torch.__version__, "shape": given.shape, "tokens": given.tokens}]
    print(json.dumps(lines[0]), flush=True)
    for case in [*given.only, *(["sweep"] if given.sweep else [])]:
        for record in getattr(bench, case)():
            lines.append(record)
            print(json.dumps(record), flush=True)
    if given.out:
        given.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
