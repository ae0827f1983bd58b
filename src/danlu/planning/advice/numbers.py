"""Method and numbers for the data at hand, each with its range, its reason and what others say instead.

Ranges and reasons of a knob are the recipe's own (`danlu explain`); here stands only what follows from the data: how
many rows, how long, of which kinds.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from danlu.core.messages import current_language
from danlu.planning.advice.words import Reason
from danlu.recipe.defaults import USUAL_LR
from danlu.recipe.knobs import all_knobs
from danlu.recipe.recipe import Recipe

FEW_ROWS, MANY_ROWS = 200, 20_000
STEPS_AN_EPOCH = 50
"""Fewer updates an epoch hardly move the weights; the schedule wants room to warm up and to cool down."""
LEAST_BATCH, USUAL_BATCH = 2048, 16_384
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)
FEW_DOCUMENTS_RATIO = 0.05
"""Of the text: a README beside thousands of questions is worth no stage of its own."""
TINY_PARAMS = 100_000_000
"""A base below it wants larger steps and more of them, as `danlu demo` has found for the embedded one."""
TINY_LR = {"pretrain": 5e-4, "sft": 3e-3, "dpo": 1e-4}
TINY_TOKENS, TINY_EPOCHS = 2_000_000, 7.0
"""As many passes as the demo takes, fewer where that would take a CPU more than minutes."""
TINY_CONTEXTS = (256, 512, 1024)
LEARNT_BY = {"document": "pretrain", "conversation": "sft", "label": "sft", "preference": "dpo"}
"""Which method learns from a kind of rows."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the data; nothing where none was shown. Lengths are in tokens, as far as characters tell."""

    kinds: dict[str, int] = field(default_factory=dict)
    num_tokens: int = 0
    longest_tokens: int = 0
    num_duplicates: int = 0
    tokens_of: dict[str, int] = field(default_factory=dict)
    """By kind."""

    @property
    def num_rows(self) -> int:
        return sum(self.kinds.values())

    @property
    def context(self) -> int:
        """The shortest usual context that holds the longest row; documents are cut at sentences and need none."""
        longest = self.longest_tokens if set(self.kinds) - {"document"} else 0
        wanted = next((size for size in CONTEXTS if size >= longest), CONTEXTS[-1])
        return max(2048, wanted) if longest > 1024 or not longest else max(1024, wanted)

    def tokens_for(self, accepts: Collection[str]) -> int:
        """An epoch's tokens of what a method learns from that accepts these kinds."""
        return sum(tokens for kind, tokens in self.tokens_of.items() if kind in accepts)

    @property
    def has_few_documents(self) -> bool:
        """Documents that hardly count beside the other rows."""
        tokens = self.tokens_of.get("document", 0)
        return set(self.kinds) != {"document"} and 0 < tokens < self.num_tokens * FEW_DOCUMENTS_RATIO


@dataclass(frozen=True, slots=True)
class Opinion:
    value: str
    who: str
    note: str


@dataclass(frozen=True, slots=True)
class Number:
    """One knob's value for this data. `reason` is why it is this one; `opinions` are what others take."""

    key: str
    value: Any
    bounds: str
    reason: Reason
    opinions: tuple[Opinion, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key, "value": self.value, "range": self.bounds, "reason": self.reason.to_json(),
            "others": [{"value": one.value, "who": one.who, "note": one.note} for one in self.opinions],
        }  # fmt: skip


def choose_stages(facts: Facts) -> tuple[tuple[str, ...], list[Reason]]:
    """(methods in their order, reasons and warnings)."""
    kinds, reasons = facts.kinds, []
    stages: list[str] = []
    if kinds.get("document") and facts.has_few_documents:
        reasons.append(Reason("documents_few", {"rows": kinds["document"]}))
    elif kinds.get("document"):
        stages.append("pretrain")
        reasons.append(Reason("method_pretrain", {"rows": kinds["document"]}))
    if not kinds or set(kinds) & {"conversation", "label"}:
        stages.append("sft")
        rows = kinds.get("conversation", 0) + kinds.get("label", 0)
        reasons.append(Reason("method_sft", {"rows": rows}) if rows else Reason("method_sft_unseen"))
    if set(kinds) == {"label"}:
        reasons.append(Reason("method_classify", {"rows": kinds["label"]}))
    if kinds.get("preference"):
        if "sft" not in stages:
            reasons.append(Reason("method_dpo_alone"))
        stages.append("dpo")
        reasons.append(Reason("method_dpo", {"rows": kinds["preference"]}))
    if kinds and set(kinds) == {"document"}:
        reasons.append(Reason("documents_alone"))
    if kinds and 0 < facts.num_rows < FEW_ROWS and "document" not in kinds:
        reasons.append(Reason("few_rows", {"rows": facts.num_rows}))
    if facts.num_duplicates > facts.num_rows * 0.1:
        reasons.append(Reason("duplicates", {"rows": facts.num_duplicates, "total": facts.num_rows}))
    return tuple(stages or ["sft"]), reasons


def choose_numbers(
    facts: Facts, stages: tuple[str, ...], context: int, *, num_params: int | None = None
) -> list[Number]:
    """The knobs that decide most, for the last stage that learns answers; `num_params` are the base's, where chosen."""
    method = "sft" if "sft" in stages else stages[-1]
    is_tiny = num_params is not None and num_params < TINY_PARAMS
    how = {"rows": facts.num_rows, "tokens": f"{facts.num_tokens:,}", "longest": f"{facts.longest_tokens:,}"}
    rank, why_rank = _rank(facts, stages, is_tiny)
    epochs, why_epochs = _epochs(facts, is_tiny)
    batch = _batch(facts, context)
    found = [
        ("adapter.rank", rank, why_rank),
        ("adapter.alpha", 2 * rank, "alpha"),
        ("adapter.targets", "all-linear", "targets"),
        ("adapter.dropout", 0.0, "dropout"),
        ("training.lr", rate_of(method, is_tiny=is_tiny), "lr_tiny" if is_tiny else "lr"),
        ("training.epochs", epochs, why_epochs),
        ("training.batch_tokens", batch, "batch_small" if batch < USUAL_BATCH else "batch"),
        ("training.context", context, _why_context(facts, context)),
        ("data.replay.ratio", 0.1, "replay"),
    ]
    if method == "sft":
        found.append(("method.train_on", "assistant", "train_on"))
    knobs = all_knobs(Recipe)
    return [
        Number(key, value, knobs[key].bounds, Reason(code, how | {"method": method}), opinions(key))
        for key, value, code in found
    ]


def rate_of(method: str, *, is_tiny: bool) -> float:
    """The usual learning rate of a stage with LoRA."""
    return TINY_LR[method] if is_tiny else USUAL_LR[method, "lora"]


def tiny_context(longest_tokens: int, most: int) -> int:
    """The shortest context of a tiny base that holds the longest row; at most what the base can."""
    return min(most, next((size for size in TINY_CONTEXTS if size >= longest_tokens), most))


def _rank(facts: Facts, stages: tuple[str, ...], is_tiny: bool) -> tuple[int, str]:
    if is_tiny:
        return 32, "rank_tiny"
    is_large = stages[0] == "pretrain" and facts.num_tokens > 20_000_000
    return (64, "rank_large") if is_large else (16, "rank")


def _epochs(facts: Facts, is_tiny: bool) -> tuple[float, str]:
    if is_tiny:
        return float(min(TINY_EPOCHS, max(1, TINY_TOKENS // max(1, facts.num_tokens)))), "epochs_tiny"
    return (1.0, "epochs_many") if facts.num_rows > MANY_ROWS else (3.0, "epochs")


def _why_context(facts: Facts, context: int) -> str:
    if not facts.longest_tokens:
        return "context_unseen"
    if facts.longest_tokens <= context:
        return "context"
    return "context_passages" if set(facts.kinds) == {"document"} else "context_base"


def _batch(facts: Facts, context: int) -> int:
    """Tokens per step: the usual ones, fewer where an epoch would have too few steps. A power of two."""
    wanted = USUAL_BATCH
    if facts.num_tokens:
        wanted = min(wanted, 2 ** int(math.log2(max(1, facts.num_tokens / STEPS_AN_EPOCH))))
    return max(LEAST_BATCH, context, wanted)


def opinions(key: str) -> tuple[Opinion, ...]:
    """What others take for this knob."""
    language = current_language()
    return tuple(
        Opinion(one["value"], _who(one["who"], language), one["note"][language]) for one in _opinions().get(key, ())
    )


def _who(told: str | dict[str, str], language: str) -> str:
    """Names are the same everywhere; "tutorials" is a word."""
    return told if isinstance(told, str) else told[language]


@functools.cache
def _opinions() -> dict[str, list[dict[str, Any]]]:
    path = resources.files("danlu.assets") / "advice" / "opinions.json"
    told: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))["opinions"]
    return told
