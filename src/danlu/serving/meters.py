"""What a gateway worker counts of each request, and how the server adds up what its workers counted.

A worker's numbers only grow; they go up its line twice a second with the mark of its start. A worker that died keeps
what it had counted in the sum: counters that fall would be read as a restart of everything. Labels come from the board
and from our own words, never from a client, so nobody can make a million series (a model that is not served is "").

Two calls a request, a few microseconds together. `exposition.py` writes the sums as Prometheus reads them.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from danlu.serving.tally import Tally

FIRST_S = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
BETWEEN_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
WHOLE_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
BEFORE_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0)
BOUNDS = {"first": FIRST_S, "between": BETWEEN_S, "answer": WHOLE_S, "gateway": BEFORE_S}
"""Upper bounds of the buckets, in seconds, by histogram."""
SEPARATOR = "\x1f"
"""Between the labels of a series, where they are one key of JSON."""


class Meters:
    """One a worker. What `ended` is told once each request."""

    def __init__(self) -> None:
        self.start = secrets.token_hex(6)
        self.num_begun = self.num_ended = 0
        self._requests: dict[tuple[str, str, int], int] = {}
        self._tokens: dict[tuple[str, str], list[int]] = {}
        """(model, lens) to tokens of prompts and of answers."""
        self._refusals: dict[str, int] = {}
        self._aborts: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._retries: dict[str, int] = {}
        self._uncounted: dict[str, int] = {}
        self._unstopped: dict[str, int] = {}
        self._histograms: dict[str, dict[str, list[float]]] = {name: {} for name in BOUNDS}
        """By lens: the sum, then a count for each bucket, the last one without bound."""

    def began(self) -> None:
        self.num_begun += 1

    def ended(self, tally: Tally) -> None:
        self.num_ended += 1
        lens = tally.lens
        model = tally.model if lens else ""
        _add(self._requests, (model, lens, tally.status))
        if not lens:
            if tally.status >= 400:
                _add(self._refusals, tally.code or str(tally.status))
            return
        tokens = self._tokens.get((model, lens))
        if tokens is None:
            tokens = self._tokens[model, lens] = [0, 0]
        tokens[0] += tally.prompt_tokens
        tokens[1] += tally.answer_tokens
        self._observe("gateway", lens, tally.before_s)
        if tally.num_tries > 1:
            _add(self._retries, lens, tally.num_tries - 1)
        if tally.outcome == "done":
            self._observe("answer", lens, tally.whole_s)
        elif tally.outcome == "aborted":
            _add(self._aborts, lens)
        elif tally.outcome == "failed":  # one that was declined is the client's fault, and alarms nobody
            _add(self._failures, tally.replica)
        if tally.is_stream and tally.first_s:
            self._observe("first", lens, tally.first_s)
            if tally.answer_tokens > 1:
                self._observe("between", lens, (tally.whole_s - tally.first_s) / (tally.answer_tokens - 1))
        if not tally.is_counted and tally.status == 200:
            _add(self._uncounted, lens)
        if tally.is_unstopped:
            _add(self._unstopped, lens)

    def counters(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return {
            "start": self.start,
            "in_flight": self.num_begun - self.num_ended,
            "counters": {
                "requests": {SEPARATOR.join(map(str, key)): value for key, value in self._requests.items()},
                "tokens": {
                    SEPARATOR.join((*key, what)): value
                    for key, pair in self._tokens.items()
                    for what, value in zip(("prompt", "answer"), pair, strict=True)
                },
                "refusals": dict(self._refusals),
                "aborts": dict(self._aborts),
                "failures": dict(self._failures),
                "retries": dict(self._retries),
                "uncounted": dict(self._uncounted),
                "unstopped": dict(self._unstopped),
            },
            "histograms": {
                name: {lens: list(row) for lens, row in by.items()} for name, by in self._histograms.items()
            },
        }

    def _observe(self, name: str, lens: str, seconds: float) -> None:
        by_lens, bounds = self._histograms[name], BOUNDS[name]
        row = by_lens.get(lens)
        if row is None:
            row = by_lens[lens] = [0.0] * (len(bounds) + 2)
        row[0] += seconds
        row[1 + bisect_left(bounds, seconds)] += 1


class Totals:
    """The server's side: the newest of each worker, and the last of those that are gone."""

    def __init__(self) -> None:
        self._newest: dict[str, Mapping[str, Any]] = {}
        self._gone: dict[str, Any] = _empty()

    def take(self, told: Mapping[str, Mapping[str, Any]]) -> None:
        """What each worker told last, by its name. One that began anew, or is named no more, is kept as it was."""
        for name, last in list(self._newest.items()):
            if name not in told or told[name].get("start") != last["start"]:
                _add_up(self._gone, last)
                del self._newest[name]
        self._newest |= {name: value for name, value in told.items() if "start" in value}

    @property
    def num_in_flight(self) -> int:
        return sum(value["in_flight"] for value in self._newest.values())

    def worst(self, gauge: str) -> float:
        """Of what each worker says of itself (`gauges`), the largest."""
        return max((value.get("gauges", {}).get(gauge, 0.0) for value in self._newest.values()), default=0.0)

    def sum(self) -> dict[str, Any]:
        """`{"counters": {name: {labels: n}}, "histograms": {name: {lens: [sum, buckets…]}}}`."""
        total = _empty()
        for value in (self._gone, *self._newest.values()):
            _add_up(total, value)
        return total


def _empty() -> dict[str, Any]:
    return {"counters": {}, "histograms": {}}


def _add_up(total: dict[str, Any], value: Mapping[str, Any]) -> None:
    for name, series in value["counters"].items():
        into = total["counters"].setdefault(name, {})
        for labels, number in series.items():
            into[labels] = into.get(labels, 0) + number
    for name, series in value["histograms"].items():
        into = total["histograms"].setdefault(name, {})
        for lens, row in series.items():
            known = into.get(lens)
            into[lens] = list(row) if known is None else [a + b for a, b in zip(known, row, strict=True)]


def _add(counts: dict[Any, int], key: Any, number: int = 1) -> None:
    counts[key] = counts.get(key, 0) + number
