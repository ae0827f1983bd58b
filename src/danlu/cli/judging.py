"""`danlu judge`: a model's opinion of the answers, and people's opinion of the judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.cli.voice import Voice
from danlu.core.messages import say
from danlu.engines.cost import Price
from danlu.pipeline.judge import FREE_LEVELS, Seat, judge, read_people
from danlu.run.run import Run


def seat_of(
    model: str,
    url: str | None,
    key_file: Path | None,
    key_variable: str | None,
    prices: tuple[float, float] | None,
    max_cost: float | None,
    levels: Sequence[str],
) -> Seat:
    price = Price(*prices, currency="") if prices else None
    return Seat(model, url, key_file, key_variable, price=price, max_cost=max_cost, levels=(*FREE_LEVELS, *levels))


def show_judgement(run: Run, seat: Seat, voice: Voice, *, rubric: str, max_items: int | None, rows: int) -> None:
    found = judge(run, seat, rubric=rubric, max_items=max_items, sheet_rows=rows, progress=voice.progress)
    pairs, scores = found["pairs"], found["scores"]
    if "win_rate" in pairs:
        low, high = ((1 + edge) / 2 for edge in pairs["difference"]["interval"])
        voice.say(
            say("judge.won", win_rate=_percent(pairs["win_rate"]), num=pairs["num_items"] - pairs["num_unread"],
                low=_percent(low), high=_percent(high), ties=pairs["ties"]), "bold",
        )  # fmt: skip
        voice.say(say("judge.biases", same=_percent(pairs["same_in_both_orders"]),
                      first=_percent(pairs["first_shown_preferred"]),
                      equal=_percent(pairs["win_rate_at_equal_length"])))  # fmt: skip
    if "difference" in scores:
        voice.say(say("judge.scores", base=f"{scores['base']['mean']:.2f}", tuned=f"{scores['tuned']['mean']:.2f}"))
    if found["reading"]["unread"]:
        voice.say(say("judge.unread", unread=found["reading"]["unread"], asked=found["reading"]["asked"]), "yellow")
    voice.say(say("judge.sheet_written", path=found["sheet"], rows=found["sheet_rows"]))
    voice.result({key: value for key, value in found.items() if key != "items"})


def show_people(run: Run, sheet: Path, voice: Voice) -> None:
    agreement: dict[str, Any] = read_people(run, sheet)
    told = [agreement[name]["kappa"] for name in ("winner", "score") if agreement[name]]
    known = [kappa for kappa in told if kappa is not None]
    kappa = f"{min(known):.2f}" if known else "–"
    voice.say(say(f"judge.{agreement['verdict']}", kappa=kappa, enough=agreement["enough"]), "bold")
    voice.result(agreement)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}%"
