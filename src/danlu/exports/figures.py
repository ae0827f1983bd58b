"""A proof in words and figures, for the card: each check with what was measured and what was allowed, and, where
training had a quantised base, which base the update went into and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.core.messages import Language, say


def proof_table(parity: Mapping[str, Any], language: Language) -> list[str]:
    """Rows of a Markdown table: check, result, figures."""
    heads = [say("export.card_check", language), say("export.card_result", language), say("parity.measured", language)]
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|"]
    for check in parity["checks"]:
        result = say(f"export.card_{check['verdict'].replace(' ', '_')}", language)
        name = say(f"export.check_{check['name']}", language)
        lines.append(f"| {name} | {result} | {figure(check, language)} |")
    return lines


def figure(check: Mapping[str, Any], language: Language) -> str:
    """What one check measured; "" where its name says it all."""
    found, limits = check["numbers"], check["limits"]
    if not found:
        return str(check["note"]).replace("|", "/")[:120]
    kind = next((kind for kind, needed in _NEEDED.items() if needed <= found.keys()), None)
    if kind is None:
        return ""
    allowed = {f"allowed_{name}": value for name, value in limits.items()}
    unsaid = {"floor_mean_kl": "-", "allowed_mean_kl": "-", "allowed_max_abs": "-",
              "allowed_largest_lead_at_parting": "-", "largest_lead_at_parting": "-", "num_unshown": "-"}  # fmt: skip
    filled = {name: _short(value) for name, value in {**unsaid, **found, **allowed}.items()}
    return say(f"parity.figure_{kind}", language, **filled)


_NEEDED: dict[str, set[str]] = {
    "logits": {"mean_kl", "max_abs", "num_positions"},
    "answers": {"num_answers", "num_equal"},
    "prompts": {"num_prompts", "num_equal"},
    "stops": {"num_stops", "num_lost"},
    "sized": {"num_modules", "least_size", "most_size"},
    "arrived": {"num_modules", "least_arrived", "most_arrived"},
    "questions": {"num_questions", "num_right", "num_right_trained"},
    "kept": {"num_modules", "least_kept_ratio", "largest_kept_ratio"},
}
"""Kinds of figures, by the numbers that a check of the kind has."""


def merging_lines(parity: Mapping[str, Any], quantize: str, language: Language) -> list[str]:
    """Which base the update went into; [] where there was no choice."""
    merging = parity.get("merging")
    if not merging:
        return []
    ways = {
        f"{part}_{onto}": _short(merging[part][onto]) for part in ("kl", "num_right") for onto in ("codes", "original")
    }
    whole = {"quantize": quantize, "num_questions": merging["num_questions"], "p": _short(merging["p"])}
    trained = {"num_right_trained": merging["num_right_trained"]}
    taken = say(f"parity.onto_{merging['taken']}", language, quantize=quantize)
    because = say("parity.by_questions" if merging["is_by_questions"] else "parity.by_nearness", language)
    table = say("parity.merging", language, **ways, **whole, **trained)
    return ["", f"{taken} (`{merging['taken']}`) {because}", "", *table.split("\n")]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
