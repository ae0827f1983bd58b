"""Where the device's time goes in a step: shares by kind of kernel, and the longest kernels."""

from __future__ import annotations

from typing import Any

import torch

KINDS = {
    "attention": ("flash", "fmha", "sdpa", "attention", "cudnn_generated"),
    "cross-entropy": ("cross_entropy", "softmax", "nll_loss", "logsumexp", "logprob"),
    "optimizer": ("adam", "multi_tensor"),
    "product": ("gemm", "nvjet", "cutlass", "xmma", "splitk", "cublas", "wgmma", "_mm"),
    "dequantise": ("dequant", "nf4"),
    "norm": ("rms", "layernorm", "layer_norm", "norm_forward", "norm_backward"),
    "rope": ("rope", "rotary", "turn"),
    "gate": ("swiglu", "silu", "geglu", "gated", "_fg_kernel"),
    "copy": ("memcpy", "memset"),
}
NOT_KERNELS = ("Optimizer.", "ProfilerStep", "Torch-Compiled", "##")
MOST = 40


def kind_of(name: str) -> str:
    low = name.lower()
    return next((kind for kind, marks in KINDS.items() if any(mark in low for mark in marks)), "other")


def profiled(profile: torch.profiler.profile, num_steps: int) -> dict[str, Any]:
    """`profile`: ms a step by kind, how long any kernel ran (their union) and how many; `kernels`: a table."""
    spans, by_kind, by_name = [], dict[str, float](), dict[str, list[float]]()
    for event in profile.events():
        if not str(event.device_type).endswith("CUDA") or event.name.startswith(NOT_KERNELS):
            continue
        if getattr(event, "is_user_annotation", False):
            continue
        spans.append((event.time_range.start, event.time_range.end))
        ms = (event.time_range.end - event.time_range.start) / 1000 / num_steps
        by_kind[kind_of(event.name)] = by_kind.get(kind_of(event.name), 0.0) + ms
        row = by_name.setdefault(event.name, [0.0, 0])
        row[0], row[1] = row[0] + ms, row[1] + 1
    longest = sorted(by_name.items(), key=lambda item: -item[1][0])[:MOST]
    lines = [f"{ms:9.2f} ms  x{count // num_steps:<6.0f} {name[:120]}" for name, (ms, count) in longest]
    shares = {kind: round(ms, 2) for kind, ms in sorted(by_kind.items(), key=lambda item: -item[1])}
    busy = round(union(spans) / 1000 / num_steps, 2)
    return {
        "profile": {"busy_ms": busy, "kernels": round(len(spans) / num_steps), "ms_by_kind": shares},
        "kernels": "\n".join(lines) or "no device kernels",
    }


def union(spans: list[tuple[float, float]]) -> float:
    """How long at least one of them was running."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
