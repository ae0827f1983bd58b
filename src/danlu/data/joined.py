"""The texts of many rows, taken out once and shared by the stages: what `data.stage.PieceStage` is handed.

Rows are cut into pages of two thousand, whose letters stay in the cache. A page holds its texts end to end, as UTF-16
units and as UTF-8, each made when first asked for: a stage asks once over all of them whether there is anything to do,
and opens only rows where there is. A row that a stage changed is stale: its letters on the page are those it had. So
`Page.rows_at` tells of a place on the page whose row it is, and whoever judges a page looks at stale rows one by one.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from danlu.data.sample import Conversation, Sample
from danlu.data.texts import is_pair, texts_of
from danlu.data.twins.folding import Folded, fold_pairs

Units = npt.NDArray[np.uint16]
Places = npt.NDArray[np.int64]
PAGE_ROWS = 2048
_STALE = 0.2
"""Share of stale rows from which new pages cost less than looking at rows one by one."""
BREAK = "\n"
"""Closes each text of a page; a text may hold it too."""


TELLING = "`:&?[<#锟烫屯"
"""Common characters at which something begins that a cleaner looks for."""


@functools.cache
def _is_telling() -> npt.NDArray[np.bool_]:
    """By UTF-16 unit."""
    table = np.ones(65536, bool)
    table[0x20:0x7F] = table[0x4E00:0xA000] = False
    table[[ord(letter) for letter in TELLING]] = True
    return table


class Laid:
    """Texts laid end to end, each closed by a break. Places count from the beginning of the first."""

    def __init__(self, flat: list[str]) -> None:
        self.flat = flat

    @functools.cached_property
    def joined(self) -> str:
        return BREAK.join([*self.flat, ""])

    @functools.cached_property
    def units(self) -> Units:
        """`joined` in UTF-16; half surrogates stay as they are."""
        return np.frombuffer(self.joined.encode("utf-16-le", "surrogatepass"), np.uint16)

    @functools.cached_property
    def num_chars(self) -> Places:
        """(texts,) characters of each."""
        return np.fromiter(map(len, self.flat), np.int64, len(self.flat))

    @functools.cached_property
    def unit_ends(self) -> Places:
        """(texts,) where in `units` the break of each text stands."""
        ends = np.cumsum(self.num_chars + 1) - 1
        num_pairs = len(self.units) - len(self.joined)
        if not num_pairs:
            return ends
        second = np.flatnonzero(self.units >> 10 == 0x37)
        if len(second) == num_pairs:  # whole pairs alone
            return ends + np.searchsorted(second - np.arange(1, num_pairs + 1), ends)
        lengths = [len(text.encode("utf-16-le", "surrogatepass")) // 2 + 1 for text in self.flat]
        return np.cumsum(np.array(lengths, np.int64)) - 1

    @functools.cached_property
    def telling(self) -> tuple[Places, Units]:
        """Places in `units` of what is neither a common Han character nor a plain one of ASCII, and what stands there:
        few, and all that cleaners look for begins at one of them."""
        places = np.flatnonzero(np.take(_is_telling(), self.units))
        return places, self.units[places]

    def at_any(self, letters: str) -> Places:
        """Where one of these letters, all of them of `TELLING`, stands."""
        places, units = self.telling
        is_one = units == ord(letters[0])
        for letter in letters[1:]:
            is_one |= units == ord(letter)
        found: Places = places[is_one]
        return found

    def at_table(self, table: npt.NDArray[np.bool_]) -> Places:
        """Where a unit stands that is True in this table; of common Han and ASCII those of `TELLING` alone."""
        places, units = self.telling
        found: Places = places[np.take(table, units)]
        return found

    @functools.cached_property
    def data(self) -> bytes:
        """`joined` in UTF-8."""
        return self.joined.encode("utf-8", "surrogatepass")

    @functools.cached_property
    def data_ends(self) -> Places:
        """(texts,) where in `data` the break of each text stands: as many breaks stand before it as in `units`."""
        breaks = np.flatnonzero(self.units == ord(BREAK))
        ends: Places = np.flatnonzero(np.frombuffer(self.data, np.uint8) == ord(BREAK))
        return ends[np.searchsorted(breaks, self.unit_ends)]


class Page(Laid):
    """Some rows' texts as they were when the page was made. `rows` are their numbers; the texts of row `rows[i]` are
    `flat[first[i] : first[i + 1]]`."""

    def __init__(self, rows: range, samples: Sequence[Sample | None], *, is_pairs: bool = False) -> None:
        """`is_pairs`: each of them is a pair (`texts.is_pair`), so every other text is an answer."""
        super().__init__([])
        self.rows, self.is_pairs = rows, is_pairs
        if is_pairs:
            chats = cast("Sequence[Conversation]", samples)
            self.flat = [turn.content for sample in chats for turn in sample.messages]
            self.first = list(range(0, 2 * len(samples) + 1, 2))
            return
        self.first = [0]
        flat = self.flat
        for sample in samples:
            if sample is not None:
                flat += texts_of(sample)
            self.first.append(len(flat))

    @functools.cached_property
    def folded(self) -> Folded:
        """What `fold_all` gives of question, nothing and answer of each row, where rows are pairs: made once for who
        looks for words and for who signs."""
        assert self.is_pairs, "every other text is an answer"
        return fold_pairs(self.flat, self.units, self.unit_ends)

    @functools.cached_property
    def row_of_text(self) -> Places:
        """(texts,) the number of the row that each text is of."""
        return np.repeat(np.arange(self.rows.start, self.rows.stop), np.diff(self.first))

    def row_of(self, text: int) -> int:
        """The number of the row that this text is of."""
        return self.rows.start + bisect.bisect_right(self.first, text) - 1

    def rows_at(self, places: Places, ends: Places) -> list[int]:
        """The rows in which these places lie, each once, in order. `ends` are `unit_ends` or `data_ends`."""
        found: list[int] = np.unique(self.row_of_text[np.searchsorted(ends, places)]).tolist()
        return found


class Texts:
    """Rows and their texts. `samples[row]` is the row as it is now; None once it was dropped.

    Stages only read it. Whoever drives them puts their outcomes in, with `put`, before the next stage is asked."""

    def __init__(self, samples: Iterable[Sample | None]) -> None:
        self.samples: list[Sample | None] = list(samples)
        self.pairs: list[bool] = list(map(is_pair, self.samples))
        """Which of them are a question and an answer alone: nobody has to look at their turns again."""
        self.num_alive = sum([sample is not None for sample in self.samples])
        self.stale: set[int] = set()
        """Rows that are no more what their page says."""
        self._pages: list[Page] = []

    def __len__(self) -> int:
        return len(self.samples)

    def pages(self) -> Sequence[Page]:
        """All rows, in order; cut anew where many have become stale, so ask for `stale` after this."""
        if not self._pages or len(self.stale) > _STALE * len(self):
            self._pages = [*self._cut()]
            self.stale.clear()
        return self._pages

    def put(self, row: int, sample: Sample | None) -> None:
        """What a stage made of the row; None: it dropped it. Costs nothing where it is the very same sample."""
        before = self.samples[row]
        if before is not sample:
            self.samples[row] = sample
            self.num_alive += (sample is not None) - (before is not None)
            self.pairs[row] = is_pair(sample)
            self.stale.add(row)

    def of(self, row: int) -> list[str]:
        """`texts_of` the row as it is now."""
        sample = self.samples[row]
        if sample is None:
            return []
        if row in self.stale or not self._pages:
            return texts_of(sample)
        page = self._pages[row // PAGE_ROWS]
        at = row - page.rows.start
        return page.flat[page.first[at] : page.first[at + 1]]

    def stale_in(self, page: Page) -> list[int]:
        """The rows of a page that are there, but are no more what it says."""
        if not self.stale:
            return []
        return [row for row in page.rows if row in self.stale and self.samples[row] is not None]

    def are_pairs(self, page: Page) -> bool:
        """Whether all its rows are there, as the page says them, and each is a question and an answer."""
        return page.is_pairs and self.stale.isdisjoint(page.rows)

    def suspects_in(self, page: Page, places: Places) -> list[int]:
        """The rows of a page that a stage has to look at closely: those of these places in `units`, and stale ones."""
        return sorted({*page.rows_at(places, page.unit_ends), *self.stale_in(page)})

    def alive(self) -> list[Sample]:
        """The rows that are still there."""
        return [sample for sample in self.samples if sample is not None]

    def _cut(self) -> Iterator[Page]:
        for first in range(0, len(self.samples), PAGE_ROWS):
            rows = range(first, min(first + PAGE_ROWS, len(self.samples)))
            own = slice(rows.start, rows.stop)
            yield Page(rows, self.samples[own], is_pairs=all(self.pairs[own]))
