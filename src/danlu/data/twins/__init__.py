"""Twins: rows that say the same thing, found over the whole data, and questions that are answered twice.

Two steps, so that the first can run anywhere and be kept, and the second sees only small columns:

    signatures(samples, ids=None) -> Columns
        Pure and per shard: equal samples give equal columns, in any process. `Columns` is a plain dict of numpy arrays
        without objects (names, dtypes and shapes: `columns.LAYOUT`), as large as the text itself, to be stored in
        whatever way and given back as arrays, memory-mapped ones best. `VERSION` goes into the cache key; nothing else
        decides an outcome. `ids` are needed where other rows name these as parents.

    decide(shards, *, settings=Settings(), kept=None, link=True) -> Decision
        Once, over the columns of all shards in their order. Row numbers count through all shards. `kept`: bool per row,
        False for rows that a row stage dropped: they take no part. The same whatever the number of shards or processes
        was. Reads `units` only of rows that have a candidate. Without `link` nothing is compared, and only twins to the
        letter and equal questions are found.

A `Decision` holds one array element per row:
        verdict  uint8    KEEP, EXACT (a twin letter by letter, marks and case aside), NEAR (verified Jaccard)
        twin     int64    the row that is kept instead; the row itself where it is kept. A dropped row's twin is always
                          kept, and verified to be at least `settings.threshold` similar
        similarity  float32   the verified Jaccard similarity to `twin`; 1 for EXACT
        cluster  int64    rows that must not be parted: the smallest row number of those tied by twins of any kind, near
                          or exact, of the text or of the question; rows of one cluster go to one side of the split
and `conflicts` (groups of rows that answer one question differently), `largest` clusters and `counts` (plain JSON).
EXACT and NEAR say what was found; whether such rows are dropped, flagged or kept is the recipe's word
(`data.duplicates`, `data.cleaning.near_duplicates`), read by whoever folds the decision into the ledger.

folding.py      what two copies of a text share, by table over UTF-16 units
minhash.py      grams, MinHash, bands                  digests.py     of the fine fold: exact twins, equal questions
compiled.py     when compiled loops pay; they are in loops_*.py and give what the numpy code beside them gives
threads.py      bands and pairs on all cores            draws.py       the numbers that MinHash multiplies with
signatures.py   samples to columns                      linking.py    bands to verified pairs, crowds too
likeness.py     exact Jaccard of pairs                  groups.py     who hangs together, who stays
decide.py       all of it over all rows                 overlap.py    what two parts share, for the certificate

`danlu.data.split.split_columns(shards, decision, kept=..., test=..., validation=..., seed=..., name_of=...)` gives a
part for each row and the certificate, from the same columns.
"""

from __future__ import annotations

from danlu.data.twins.columns import (
    EXACT,
    KEEP,
    NEAR,
    VERSION,
    Columns,
    Conflict,
    Decision,
    Settings,
)
from danlu.data.twins.decide import decide
from danlu.data.twins.folding import fold, fold_finely
from danlu.data.twins.signatures import signatures

__all__ = [
    "EXACT",
    "KEEP",
    "NEAR",
    "VERSION",
    "Columns",
    "Conflict",
    "Decision",
    "Settings",
    "decide",
    "fold",
    "fold_finely",
    "signatures",
]
