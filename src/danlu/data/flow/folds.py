"""Folds of a piece's rows, from those that cleaners made page by page: no text is folded twice.

Only where every page holds questions with their answers, as in nearly all files of rows; what stages changed since is
folded anew. Read when rows are signed, yet of the rows as they are now: what privacy does later is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from danlu.data.joined import Page, Texts
from danlu.data.sample import Sample
from danlu.data.texts import texts_of
from danlu.data.twins.digests import PIECES
from danlu.data.twins.folding import Folded, end_to_end, fold_all, replaced


class Folds:
    """Of the rows of `texts` that are there now, in their order: what `fold_all` gives of three pieces of each."""

    def __init__(self, texts: Texts) -> None:
        pages = texts.pages()
        changed = [(row, texts.samples[row]) for row in sorted(texts.stale)]
        self.pages: Sequence[Page] = pages if all(page.is_pairs for page in pages) else ()
        self.fresh = [(row, sample) for row, sample in changed if sample is not None]
        self.gone = [row for row, sample in changed if sample is None]
        if not all(texts.pairs[row] for row, _ in self.fresh):
            self.pages = ()

    def __call__(self) -> Folded | None:
        """None where a row is something else than a question with its answer."""
        if not self.pages:
            return None
        folded = end_to_end([page.folded for page in self.pages])
        if not self.fresh and not self.gone:
            return folded
        fresh = fold_all([piece for _, sample in self.fresh for piece in _pieces(sample)], quick=True)
        at = [PIECES * row + piece for row, _ in self.fresh for piece in range(PIECES)]
        gone = [PIECES * row + piece for row in self.gone for piece in range(PIECES)]
        return replaced(folded, at, fresh, gone)


def _pieces(sample: Sample) -> tuple[str, str, str]:
    asked, answered = texts_of(sample)
    return asked, "", answered
