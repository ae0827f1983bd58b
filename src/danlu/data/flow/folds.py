"""Folds of a piece's rows, from those that cleaners made page by page: no text is folded twice.

Only where every page holds questions with their answers, as in nearly all files of rows; what stages changed since is
folded anew. Read when rows are signed, yet of the rows as they are now: what privacy does later is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from danlu.data.joined import Page, Texts
from danlu.data.sample import Sample
from danlu.data.texts import texts_of
from danlu.data.twins.digests import PIECES
from danlu.data.twins.folding import Folded, Some, fold_all, gathered


class Folds:
    """Of the rows of `texts` that are there now, in their order: what `fold_all` gives of three pieces of each."""

    def __init__(self, texts: Texts) -> None:
        pages = texts.pages()
        self.stale = np.array(sorted(texts.stale), np.int64)
        self.changed = {row: sample for row in self.stale.tolist() if (sample := texts.samples[row]) is not None}
        are_pairs = all(page.is_pairs for page in pages) and all(texts.pairs[row] for row in self.changed)
        self.pages: Sequence[Page] = pages if are_pairs else ()

    def __call__(self) -> Folded | None:
        """None where a row is something else than a question with its answer."""
        if not self.pages:
            return None
        fresh = fold_all([piece for sample in self.changed.values() for piece in _pieces(sample)], quick=True)
        parts: list[Some] = []
        num_fresh = 0
        for page in self.pages:
            last = page.rows.start
            for row in self.stale[slice(*np.searchsorted(self.stale, [page.rows.start, page.rows.stop]))].tolist():
                parts.append(_rows(page.folded, last - page.rows.start, row - page.rows.start))
                if row in self.changed:
                    parts.append(_rows(fresh, num_fresh, num_fresh + 1))
                    num_fresh += 1
                last = row + 1
            parts.append(_rows(page.folded, last - page.rows.start, len(page.rows)))
        return gathered(parts)


def _rows(folded: Folded, first: int, last: int) -> Some:
    return folded, PIECES * first, PIECES * last


def _pieces(sample: Sample) -> tuple[str, str, str]:
    asked, answered = texts_of(sample)
    return asked, "", answered
