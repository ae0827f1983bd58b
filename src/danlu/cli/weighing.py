"""`danlu weigh`: prints what was weighed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import danlu
from danlu.cli.voice import Voice
from danlu.core.messages import say
from danlu.engines.cost import Price
from danlu.engines.remote import Endpoint
from danlu.evaluation.arms.wishes import PAGE, Wishes
from danlu.evaluation.gate import percent
from danlu.run.run import Run


def wishes_of(
    *,
    documents: Sequence[Path],
    questions: Path | None,
    num_passages: int,
    passage_tokens: int,
    num_examples: int,
    instructions: str,
    max_items: int | None,
    prices: tuple[float, float] | None,
    price_per_h: float | None,
    embeddings: tuple[str, str] | None,
    rerank: tuple[str, str] | None,
    key_file: Path | None,
    key_variable: str | None,
) -> Wishes:
    def endpoint(named: tuple[str, str] | None) -> Endpoint | None:
        return Endpoint(*named, key_file=key_file, key_variable=key_variable) if named else None

    return Wishes(
        tuple(documents), questions, num_passages, passage_tokens, num_examples, instructions, max_items,
        price=Price(*prices, currency="") if prices else None, price_per_h=price_per_h,
        embedder=endpoint(embeddings), reranker=endpoint(rerank),
    )  # fmt: skip


def show_weighed(run: Run, wishes: Wishes, voice: Voice) -> None:
    weighed = danlu.weigh(run, wishes, progress=voice.progress)
    heads = [say(f"weigh.{name}") for name in ("arm", "accuracy", "p50", "p95", "prompt_tokens", "cost_1000")]
    voice.table(heads, [_row(name, arm, weighed["unit"]) for name, arm in weighed["arms"].items()])
    chosen = weighed["recommended"]["chosen"]
    is_some = weighed["recommended"]["best"]["accuracy"] > 0
    voice.say(say("weigh.take", way=way_text(chosen)) if is_some else say("weigh.none_right"), "bold")
    share = weighed["retrieval"]["value"]["shown"]
    if share is not None:
        voice.say(say("weigh.line_retrieval", share=percent(share)))
    upkeep = weighed["upkeep"]
    voice.say(say("weigh.line_upkeep", index=f"{upkeep['index_s']:.1f}", train=f"{upkeep['train_s']:,.0f}"))
    if weighed["recommended"]["is_small"]:
        voice.say(say("weigh.line_small", num=weighed["num_items"]), "yellow")
    voice.say(say("weigh.page", path=run.path(PAGE)))
    voice.result({key: value for key, value in weighed.items() if key != "items"} | {"page": str(run.path(PAGE))})


def way_text(way: dict[str, Any]) -> str:
    if way["threshold"] is None:
        return say(f"weigh.{way['sure']}")
    share = percent(way["shares"].get(way["sure"], 0.0))
    return say("weigh.mixed", sure=say(f"weigh.{way['sure']}"), unsure=say(f"weigh.{way['unsure']}"), share=share)


def _row(name: str, arm: dict[str, Any], unit: str) -> tuple[str, ...]:
    latency = arm["latency_s"]
    cost = f"{arm['cost_per_1000']:,.1f} s" if unit == "seconds" else f"{arm['cost_per_1000']:,.4g}"
    low, high = arm["interval"]
    return (
        say(f"weigh.{name}"), f"{percent(arm['accuracy'])} ({percent(low)}–{percent(high)})",
        f"{latency.get('p50', 0):.2f} s", f"{latency.get('p95', 0):.2f} s", f"{arm['prompt_tokens']:,.0f}", cost,
    )  # fmt: skip
