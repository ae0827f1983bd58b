"""synthesise: documents in, checked samples out. The join of this folder; each kind of sample has a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from danlu.core.progress import Progress
from danlu.data.ledger import Ledger
from danlu.data.sample import Document, Sample
from danlu.data.synthesis.teacher import Teacher
from danlu.recipe.synthesis import SynthesisSection


def synthesise(
    documents: Sequence[Document],
    seeds: Sequence[Sample],
    section: SynthesisSection,
    teacher: Teacher,
    cache_folder: Path,
    ledger: Ledger,
    progress: Progress,
    *,
    base: Teacher | None = None,
) -> list[Sample]:
    """Samples made from `documents` (masked and graded before, where the teacher is external) and from `seeds` (example
    tasks; empty takes danlu's own). `base` answers for the rejected side of preference pairs.

    Every answer about a document cites spans that were found in it: `tags["evidence"]` is a list of {document, start,
    end, text}, offsets into the document's extracted text, `text` as it stands there. Further tags: `made_by`
    "teacher", `parents` ids of the documents, `level` and `masked` inherited, `question` its kind, `teacher` its name.
    `group` is the document's, so that no question of a document is split from it; `origin` is the passage's.

    The same input and replies give the same samples in the same order. Replies lie in the teacher's cache, so a
    run that was killed asks only what is missing. `cache_folder` gets `yield.json` (asked, parsed, grounded, kept,
    reasons, cost, what a cap left undone) and `refused.jsonl` (every refused item with its reason). Kept samples count
    as used rows in the ledger; refused items are no rows of the user's and stand in the yield alone.

    DataError when something that is not masked, or of a level the recipe does not name, would leave this machine.
    """
    raise NotImplementedError
