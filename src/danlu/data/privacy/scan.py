"""The one pass: all texts of a batch as one text, one alternation of all patterns, validators where it stops.

RE2 walks UTF-8 bytes in linear time; without it `re` walks the string. Both stop at the same places because patterns
keep to what both understand (detectors/detector.py), which a test holds them to. Offsets are characters throughout.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from danlu.core.errors import DataError
from danlu.data.joined import Page
from danlu.data.privacy.detectors import DETECTORS, Recognizer, Rule, Spot
from danlu.data.privacy.finding import KINDS, SECRETS, Finding

Engine = Literal["auto", "re2", "re"]
_BETWEEN = "\x1e\n"
"""Stands between texts in the joined text; no pattern matches across it."""
_BATCH_CHARACTERS = 2_000_000
_MAX_MEMORY = 256 << 20
LOOKED_AROUND = 16


class SpentError(Exception):
    """An `Effort` is at its end."""


class Effort:
    """How many characters may be looked at closely, where somebody else chose the text: a table of numbers in groups
    costs hundreds of times what prose does. The pass itself costs next to nothing, and is not counted; each place where
    it stops counts as `LOOKED_AROUND` characters at least."""

    def __init__(self, num_characters: int) -> None:
        self._left = num_characters

    def spend(self, num_characters: int) -> None:
        self._left -= max(num_characters, LOOKED_AROUND)
        if self._left < 0:
            raise SpentError


class _StringWalk:
    """Where the pattern stops in a text, from a place on."""

    def __init__(self, pattern: re.Pattern[str], text: str) -> None:
        self.pattern, self.text = pattern, text

    def stop(self, at: int) -> tuple[int, int] | None:
        found = self.pattern.search(self.text, at)
        return found.span() if found else None


class _ByteWalk:
    """The same over UTF-8. One pair (character, byte) is kept and counted on from, so counting is linear too: places
    asked for must not fall behind the last stop."""

    def __init__(self, pattern: Any, text: str) -> None:
        self.search, self.text = pattern.search, text
        self.data = text.encode("utf-8", "surrogatepass")
        self.is_ascii = len(self.data) == len(text)
        self.char = self.byte = 0

    def stop(self, at: int) -> tuple[int, int] | None:
        if self.is_ascii:
            found = self.search(self.data, at)
            return found.span() if found else None
        byte = self.byte + len(self.text[self.char : at].encode("utf-8", "surrogatepass"))
        found = self.search(self.data, byte)
        if not found:
            return None
        first, last = found.span()
        char = at + len(self.data[byte:first].decode("utf-8", "surrogatepass"))
        self.char, self.byte = char, first
        return char, char + len(self.data[first:last].decode("utf-8", "surrogatepass"))


class Scanner:
    """All rules of the shelf, or those named. `scan(texts)` gives each text's findings, in order, apart."""

    def __init__(self, rules: Sequence[Rule] | None = None, *, engine: Engine = "auto") -> None:
        self.rules = list(rules) if rules is not None else own_rules()
        pattern = "|".join(f"(?:{rule.pattern})" for rule in self.rules)
        self.engine, self._compiled = _compile(pattern, engine)
        gate = "|".join(f"(?:{rule.gate})" for rule in self.rules)
        self._gate = _compile(gate, engine)[1] if self.engine == "re2" else None
        self._asked: dict[str, tuple[Rule, ...]] = {}
        for rule in self.rules:
            for letter in rule.opens:
                self._asked[letter] = (*self._asked.get(letter, ()), rule)

    def suspects(self, page: Page) -> Iterator[int]:
        """The texts of a page in which there may be a finding; in all others there is none."""
        if self._gate is None:
            yield from range(len(page.flat))
            return
        data, ends = page.data, page.data_ends.tolist()
        search, at = self._gate.search, 0
        while (found := search(data, at)) is not None:
            text = bisect.bisect_left(ends, found.start())
            yield text
            at = ends[text] + 1

    def scan(self, texts: Sequence[str], effort: Effort | None = None) -> list[list[Finding]]:
        """SpentError where there is an effort, and it does not suffice."""
        found: list[list[Finding]] = []
        batch: list[str] = []
        size = 0
        for text in texts:
            batch.append(text)
            size += len(text)
            if size > _BATCH_CHARACTERS:
                found += self._scan(batch, effort)
                batch, size = [], 0
        return found + (self._scan(batch, effort) if batch else [])

    def stops(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the pass stops in a text: what it costs before anything is judged."""
        walk, at = self._walk(text), 0
        while (stop := walk.stop(at)) is not None:
            yield stop
            at = stop[1]

    def _walk(self, text: str) -> _StringWalk | _ByteWalk:
        return (_ByteWalk if self.engine == "re2" else _StringWalk)(self._compiled, text)

    def _scan(self, texts: list[str], effort: Effort | None) -> list[list[Finding]]:
        joined = _BETWEEN.join(texts)
        hits: list[list[Finding]] = [[] for _ in texts]
        index, low, high = 0, 0, len(texts[0])
        next_stop, at = self._walk(joined).stop, 0
        while (stop := next_stop(at)) is not None:
            start, end = stop
            while start >= high + len(_BETWEEN):
                index += 1
                low, high = high + len(_BETWEEN), high + len(_BETWEEN) + len(texts[index])
            at = start + 1
            spot = Spot(joined, start, end, low, high)
            for rule in self._asked.get(joined[start], ()):
                found, resume = rule.find(spot)
                if resume > at:
                    at = resume
                if found:
                    hits[index] += [Finding(f[0] - low, f[1] - low, f[2], f[3], f[4], f[5]) for f in found]
                    break
            if effort is not None:
                effort.spend(max(at, end) - start)
        return [settle(one) if len(one) > 1 else one for one in hits]


def own_rules() -> list[Rule]:
    return [DETECTORS.load(name)() for name in DETECTORS._own]


def settle(findings: Iterable[Finding]) -> list[Finding]:
    """Where findings overlap the better one stays: secrets first, then score, then length."""
    found = list(findings)
    if all(one.end <= other.start for one, other in itertools.pairwise(found)):
        return found
    kept: list[Finding] = []
    for finding in sorted(found, key=lambda f: (f.kind not in SECRETS, -round(f.score, 1), f.start - f.end, f.start)):
        place = bisect.bisect_left(kept, finding.start, key=lambda f: f.start)
        is_free = (place == 0 or kept[place - 1].end <= finding.start) and (
            place == len(kept) or kept[place].start >= finding.end
        )
        if is_free:
            kept.insert(place, finding)
    return kept


def _compile(pattern: str, engine: Engine) -> tuple[Literal["re2", "re"], Any]:
    if engine != "re":
        try:
            import re2  # optional: fifty times faster than `re` on this pattern
        except ImportError as error:
            if engine == "re2":
                raise DataError("data.missing_package", what="privacy", package="google-re2") from error
        else:
            options = re2.Options()
            options.max_mem = _MAX_MEMORY
            return "re2", re2.compile(pattern.encode(), options=options)
    return "re", re.compile(pattern)


def open_recognizer(name: str) -> Recognizer:
    """A plug-in by name; DataError when it is not one, or speaks of kinds that do not exist."""
    made = DETECTORS.load(name, where="data.privacy.recognizers")()
    if not isinstance(made, Recognizer) or not set(made.kinds) <= set(KINDS):
        raise DataError("privacy.no_recognizer", where="data.privacy.recognizers", given=name)
    return made
