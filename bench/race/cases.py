"""The named cases of the race and how each system runs them: equal micro-batch first, then what is best for it.

Peers' best settings come from sweeps made before (checkpointing on and off, micro-batch 1 to 8 rows, compiled or not);
a setting marked "best" is there only where it differs from the equal one.
"""

from __future__ import annotations

from dataclasses import dataclass

from race.settings import Setting

ROW = 2048
STEP = 16_384


@dataclass(frozen=True)
class Case:
    """`step_tokens` per optimizer step; full rows of `row_tokens`, or documents of a mix where it is None."""

    name: str
    shape: str
    step_tokens: int
    row_tokens: int | None
    settings: dict[str, tuple[Setting, ...]]
    supervised_share: float = 1.0
    memory_gib: float | None = None
    device: str = "cuda"
    num_warm: int = 4
    num_steps: int = 8
    limit_s: float = 150.0
    first_tolerance: float = 0.01
    last_tolerance: float = 0.03


OWN = (Setting("danlu"),)
"""danlu chooses for itself: nothing to set."""
MICRO_4 = Setting("4 rows × 2", micro_tokens=4 * ROW)
LIGER_4 = Setting("4 rows × 2, liger", micro_tokens=4 * ROW, extras={"liger": True})

DENSE = {
    "danlu": OWN,
    "unsloth": (Setting("8 rows"),),
    "liger_compile": (Setting("8 rows"),),
    "liger": (Setting("8 rows"),),
    "transformers_peft": (MICRO_4,),
    "trl": (LIGER_4,),
    "llama_factory": (LIGER_4,),
}
SMALL = {
    "danlu": OWN,
    "unsloth": (Setting("one piece"),),
    "liger_compile": (Setting("one piece"),),
    "transformers_peft": (Setting("one piece"),),
    "trl": (Setting("one piece, liger", extras={"liger": True}),),
}
SHORT_DOCUMENTS = {
    "danlu": OWN,
    "unsloth": (
        Setting("padding-free", layout="packed"),
        Setting("padded, sorted", layout="padded", extras={"pad_multiple": 8}),
    ),
    "liger_compile": (
        Setting("packed, FlexAttention", layout="packed", attention="flex_attention", extras={"pad_to": STEP}),
        Setting("padded, sorted", layout="padded", extras={"pad_multiple": 64, "dynamic": True}),
    ),
    "liger": (
        Setting("packed, FlexAttention", layout="packed", attention="flex_attention", extras={"pad_to": STEP}),
        Setting("padded, sorted", layout="padded"),
    ),
    "trl": (Setting("padding-free, liger", layout="packed", extras={"liger": True}),),
    "transformers_peft": (Setting("padded, sorted", layout="padded", micro_tokens=4 * ROW),),
}
LEAN = {
    "danlu": OWN,
    "unsloth": (Setting("8 rows, offloaded checkpoints", checkpointing="unsloth"),),
    "liger_compile": (Setting("4 rows × 2, checkpointed", micro_tokens=4 * ROW, checkpointing="on"),),
    "transformers_peft": (Setting("1 row × 8, checkpointed", micro_tokens=ROW, checkpointing="on"),),
}
FP8 = {"danlu": (Setting("fp8 base", base="fp8"), Setting("danlu")), "unsloth": DENSE["unsloth"]}
NF4 = {
    "danlu": (Setting("NF4 base", base="nf4"),),
    "unsloth": (Setting("NF4, 8 rows, offloaded checkpoints", base="nf4", checkpointing="unsloth"),),
}
NF4_PIECES = {
    "danlu": tuple(
        Setting(f"NF4 base, {micro:,} tokens at once", base="nf4", micro_tokens=micro) for micro in (16384, 8192, 4096)
    )
}
"""What the planner chooses among under the same limit."""
FEWER = {
    "danlu": OWN,
    "unsloth": (Setting("4 rows"),),
    "liger_compile": (Setting("4 rows"),),
    "transformers_peft": (Setting("4 rows"),),
}
"""Micro-batches that every system holds without checkpoints."""
LONG = {
    "danlu": OWN,
    "unsloth": (Setting("1 row"),),
    "liger": (Setting("1 row"),),
    "liger_compile": (Setting("1 row"),),
}
PADDED = [Setting(f"padded, sorted, {num} pieces", layout="padded", extras={"pieces": num}) for num in (1, 2, 4)]
CPU = {
    "danlu": OWN,
    "trl": (
        *PADDED,
        Setting("padding-free", layout="packed"),
        Setting("2 pieces, fp32 weights under autocast", layout="padded", extras={"pieces": 2, "wide": True}),
        Setting("2 pieces, fp32", layout="padded", base="fp32", extras={"pieces": 2}),
    ),
    "transformers_peft": (Setting("padded, sorted, 2,048 at once", layout="padded", micro_tokens=2048),),
}
CPU_HALF = {
    "danlu": OWN,
    "trl": (*PADDED[:2], Setting("padding-free", layout="packed")),
    "transformers_peft": (Setting("padded, sorted, 512 at once", layout="padded", micro_tokens=512),),
}


def _small(rows: int, steps: int = 20) -> Case:
    name = f"small-{rows * ROW // 1024}k"
    return Case(name, "qwen2.5-0.5b", rows * ROW, ROW, SMALL, num_warm=6, num_steps=steps, limit_s=110)


CASES = {
    case.name: case
    for case in (
        Case("bf16-2k", "qwen2.5-7b", STEP, ROW, DENSE),
        Case("bf16-2k-4rows", "qwen2.5-7b", STEP // 2, ROW, FEWER),
        Case("bf16-2k-last30", "qwen2.5-7b", STEP, ROW, DENSE, supervised_share=0.3),
        Case("bf16-2k-20gib", "qwen2.5-7b", STEP, ROW, LEAN, memory_gib=20.0),
        Case("fp8-2k", "qwen2.5-7b", STEP, ROW, FP8, first_tolerance=0.05, last_tolerance=0.05),
        Case("bf16-16k", "qwen2.5-7b", STEP, STEP, LONG),
        Case("packed-short", "qwen2.5-7b", STEP, None, SHORT_DOCUMENTS),
        Case("nf4-2k", "qwen2.5-7b", STEP, ROW, NF4, memory_gib=10.9, first_tolerance=0.05, last_tolerance=0.05,
             limit_s=240),
        Case("nf4-2k-pieces", "qwen2.5-7b", STEP, ROW, NF4_PIECES, memory_gib=10.9, limit_s=240),
        _small(1), _small(4), _small(16),
        Case("llama-2k", "llama-3.1-8b", STEP, ROW, DENSE),
        Case("cpu-25m", "25m", 4096, None, CPU, device="cpu", num_warm=2, num_steps=5),
        Case("cpu-0.5b", "qwen2.5-0.5b", 1024, None, CPU_HALF, device="cpu", num_warm=1, num_steps=2, limit_s=200),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Cases, systems (empty: all of a case), and how often each is run in turn."""

    cases: tuple[str, ...]
    systems: tuple[str, ...] = ()
    rounds: int = 1


PLANS = {
    "short": Plan(("bf16-2k",), ("danlu", "unsloth", "liger_compile"), rounds=2),
    "dense": Plan(("bf16-2k-last30", "bf16-16k", "llama-2k"), ("danlu", "unsloth")),
    "lean": Plan(("bf16-2k-20gib", "nf4-2k"), ("danlu", "unsloth")),
    "fp8": Plan(("fp8-2k",), ("danlu", "unsloth")),
    "packed": Plan(("packed-short",), ("danlu", "unsloth", "liger_compile")),
    "small": Plan(("small-2k", "small-8k", "small-32k"), ("danlu", "liger_compile")),
    "trainers": Plan(("bf16-2k",), ("trl", "llama_factory", "transformers_peft")),
    "all": Plan(tuple(CASES)),
} | {name: Plan((name,)) for name in CASES}
