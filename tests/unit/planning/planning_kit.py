"""Work to plan, and hypotheses about any work."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from danlu.planning.bases import BASES
from danlu.planning.cards import CARDS
from danlu.planning.plan import Limits
from danlu.planning.work import Work
from danlu.recipe import Recipe

G = 2**30


def work_on(base: str = "qwen2.5-7b", **changes: Any) -> Work:
    """LoRA r16 on a base: 16,384 tokens at once in documents of 2,048, all of them learnt."""
    usual: dict[str, Any] = {"context": 2048, "micro_tokens": 16_384, "batch_tokens": 16_384}
    return Work(shapes=BASES[base], **(usual | changes))


any_base = st.sampled_from(["qwen2.5-0.5b", "qwen2.5-7b", "qwen3-4b", "llama-3.1-8b", "qwen2.5-32b"])
any_card = st.sampled_from(list(CARDS.values()))


@st.composite
def any_work(draw: st.DrawFn) -> Work:
    tokens = draw(st.integers(2, 40)) * 1024
    return work_on(
        draw(any_base),
        micro_tokens=tokens,
        batch_tokens=tokens * draw(st.integers(1, 4)),
        rank=draw(st.sampled_from([1, 8, 16, 64, 256])),
        precision=draw(st.sampled_from(["16", "32", "fp8", "nf4", "int8"])),
        method=draw(st.sampled_from(["sft", "dpo", "pretrain"])),
        supervised_ratio=draw(st.sampled_from([0.05, 0.3, 1.0])),
        targets=draw(st.sampled_from([None, ("q_proj", "v_proj")])),
        document_tokens=draw(st.sampled_from([0, 128, 2048])),
    )


def within(gib: float, *, host_gib: float = 256) -> Limits:
    return Limits(int(gib * G), int(host_gib * G))


def recipe(**tree: object) -> Recipe:
    return Recipe.from_tree({"model": {"base": "qwen2.5-7b"}, "data": {"sources": ["x.jsonl"]}, **tree})
