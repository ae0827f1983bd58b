"""decide: over the columns of all rows, which are twins, which of them is kept, and what contradicts what.

The best of twins is kept: the higher quality, then the longer, then the earlier row. A row is left out only for a twin
that is kept and verified, so a chain of likenesses loses nothing at its far end. Rows whose texts are nearly the same
and whose answers are not (one form with another value; a label that flipped) are no twins but a conflict. Nor are texts
that are the same but for their figures: they stay, on one side of the split.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from danlu.data.twins.columns import (
    EXACT,
    GRAM_BORDER,
    KINDS,
    NEAR,
    NUM_BANDS,
    QUESTION,
    TEXT,
    Columns,
    Conflict,
    Decision,
    Settings,
)
from danlu.data.twins.folding import Places
from danlu.data.twins.forms import of_forms
from danlu.data.twins.groups import Rows, Ties, in_order, kept_of, ranked
from danlu.data.twins.likeness import Ratios, Texts, differ_in_figures_alone, jaccard
from danlu.data.twins.linking import Link
from danlu.data.twins.minhash import LONG_GRAM, SHORT_GRAM, Signed
from danlu.data.twins.threads import threaded

_ANSWERS_AGREE = 0.3
"""Similarity of two answers below which they contradict each other, however alike the rest is."""
_NUM_LARGEST = 20
_MAX_CONFLICTS = 10_000

Mask = npt.NDArray[np.bool_]


class _Edges(NamedTuple):
    """Pairs of rows, the better one first."""

    better: Rows
    worse: Rows
    ratio: Ratios

    def where(self, mask: Mask) -> _Edges:
        return _Edges(self.better[mask], self.worse[mask], self.ratio[mask])


class _Rows:
    """The columns of all shards, end to end, and what is asked of them."""

    def __init__(self, shards: Sequence[Columns]) -> None:
        self.shards = shards
        self.texts = Texts(shards)
        self.num = len(self.texts.start)
        self.first = np.cumsum([0, *(len(shard["answer"]) for shard in shards)])
        quality, length = -self.column("quality"), self.column("length").astype(np.int64)
        self.by_rank = ranked(np.searchsorted(np.unique(quality), quality), length.max(initial=0) - length)
        self.rank = np.empty(self.num, np.int64)
        self.rank[self.by_rank] = np.arange(self.num)

    def column(self, name: str) -> npt.NDArray[Any]:
        parts = [np.asarray(shard[name]) for shard in self.shards]
        return np.concatenate(parts) if parts else np.zeros((0, 2) if name == "exact" else 0, np.uint64)

    def entries(self, view: int, rows: Mask) -> tuple[Rows, Signed]:
        """Rows that have a signature of this view, best first, and these; the bands lie band by band."""
        asks_all = self.texts.asked == self.texts.length
        found: list[Rows] = [np.zeros(0, np.int64)]
        wanted: list[Rows] = []
        for first, shard in zip(self.first.tolist(), self.shards, strict=False):
            row, views = shard["entry_row"].astype(np.int64) + first, np.asarray(shard["entry_view"])
            is_wanted = views == view
            if view & QUESTION:  # the text to be judged is all that such a row has, and it is a question too
                is_wanted |= (views == view - QUESTION) & asks_all[row]
            wanted.append(np.flatnonzero(is_wanted & rows[row]))
            found.append(row[wanted[-1]])
        row = np.concatenate(found)
        return _ordered(self.shards, wanted, row, self.rank[row])


def _ordered(shards: Sequence[Columns], wanted: list[Rows], row: Rows, rank: Rows) -> tuple[Rows, Signed]:
    order = ranked(rank)
    bands, sketch = np.empty((NUM_BANDS, len(row)), np.uint32), np.empty((len(row), 2), np.uint64)
    ends = np.cumsum([len(at) for at in wanted]).tolist()

    def fill(shard: Columns, at: Rows, last: int) -> None:
        first = last - len(at)
        bands[:, first:last] = np.asarray(shard["bands"])[at].T
        sketch[first:last] = np.asarray(shard["sketch"])[at]

    def put_in_order(band: npt.NDArray[np.uint32]) -> None:
        band[:] = band[order]

    for _ in threaded(lambda job: fill(*job), zip(shards, wanted, ends, strict=True)):
        pass
    for _ in threaded(put_in_order, bands):
        pass
    return row[order], Signed(bands.T, sketch[order])


def decide(
    shards: Sequence[Columns], *, settings: Settings | None = None, kept: Mask | None = None, link: bool = True
) -> Decision:
    """Verdicts, clusters and conflicts over all rows; `kept` are the rows that still take part. Without `link` nothing
    is compared: exact twins and equal questions only."""
    settings = settings or Settings()
    rows = _Rows(shards)
    is_in = np.ones(rows.num, bool) if kept is None else np.asarray(kept, bool)
    twin, is_exact = _exact(rows, is_in)
    counts: dict[str, int] = {"rows": int(is_in.sum()), "exact": int(is_exact.sum()), "compared": 0, "crowded": 0}
    with ThreadPoolExecutor(1) as beside:  # two comparisons that know nothing of each other
        waiting = beside.submit(_alike_questions, rows, is_in & ~is_exact & link, settings)
        alike, twins, clashes, is_kept = _near(rows, is_in & ~is_exact & link, settings, counts)
        questions = waiting.result()
    is_kept |= is_in & ~is_exact & (not link)
    similarity = np.ones(rows.num, np.float32)
    is_near = is_in & ~is_exact & ~is_kept
    _choose_twins(rows, twins.where(is_near[twins.worse] & is_kept[twins.better]), twin, similarity)
    # an exact twin of a row that has a better near twin goes where that one goes
    moved = is_exact & is_near[twin]
    similarity[moved], twin[moved] = similarity[twin[moved]], twin[twin[moved]]
    verdict = np.where(is_exact, EXACT, np.where(is_near, NEAR, 0)).astype(np.uint8)
    ties = Ties(rows.num)
    ties.join(np.arange(rows.num)[is_in], twin[is_in])
    ties.join(alike.better, alike.worse)
    ties.join(clashes.better, clashes.worse)
    ties.join_equal(np.where(is_in & ~is_exact, rows.column("opening"), 0))
    for edges, one in questions:
        ties.join(edges.better, edges.worse)
        counts["compared"] += one.num_compared
        counts["crowded"] += one.num_crowded
    conflicts = _conflicts(rows, is_in & (verdict == 0), clashes)
    sizes = np.bincount(ties.first[is_in], minlength=1)
    counts |= {"near": int(is_near.sum()), "conflicts": len(conflicts),
               "clusters": int((sizes > 1).sum()), "largest_cluster": int(sizes.max())}  # fmt: skip
    return Decision(verdict, twin, similarity, ties.first, conflicts, _largest(twin, verdict), counts, settings)


def _exact(rows: _Rows, is_in: Mask) -> tuple[Rows, Mask]:
    """For each row the best one with the same digest, and whether that is another."""
    twin, is_exact = np.arange(rows.num), np.zeros(rows.num, bool)
    members = rows.by_rank[is_in[rows.by_rank]]
    key, rest = rows.column("exact")[members].T
    order = in_order(key)  # stable: within equal digests the best stays first
    is_first = _differ(key[order], rest[order])
    if (is_first[1:] & (key[order[1:]] == key[order[:-1]])).any():  # equal in one half of the digest
        order = np.lexsort((rest, key))
        is_first = _differ(key[order], rest[order])
    members = members[order]
    twin[members] = members[is_first][np.cumsum(is_first) - 1] if len(members) else members
    is_exact[members] = ~is_first
    return twin, is_exact


def _differ(*columns: npt.NDArray[Any]) -> Mask:
    """Which places differ from the one before in any column; the first one does."""
    found = np.ones(len(columns[0]), bool)
    found[1:] = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        found[1:] |= column[1:] != column[:-1]
    return found


class _Near(NamedTuple):
    """Pairs that are alike, those of them of which one may go, pairs that contradict each other; the rows that stay."""

    alike: _Edges
    twins: _Edges
    clashes: _Edges
    is_kept: Mask


class _Seen:
    """Of pairs that were looked at whether they contradict each other, and whether they differ in figures alone."""

    def __init__(self, rows: _Rows) -> None:
        self.rows = rows
        self.keys = np.zeros(0, np.uint64)
        self.found = np.zeros((2, 0), bool)

    def look(self, edges: _Edges) -> tuple[Mask, Mask]:
        keys = edges.better.astype(np.uint64) << np.uint64(32) | edges.worse.astype(np.uint64)
        fresh = edges.where(~np.isin(keys, self.keys)) if len(self.keys) else edges
        if len(fresh.better):
            found = np.stack([
                _contradict(self.rows, fresh),
                # rows of one form with other figures are kept apart in the split, but none of them is a copy
                differ_in_figures_alone(self.rows.texts, fresh.better, fresh.worse),
            ])  # fmt: skip
            own = fresh.better.astype(np.uint64) << np.uint64(32) | fresh.worse.astype(np.uint64)
            every = np.concatenate([self.keys, own])
            self.keys, first = np.unique(every, return_index=True)
            self.found = np.concatenate([self.found, found], axis=1)[:, first]
        clash, is_form = self.found[:, np.searchsorted(self.keys, keys)]
        return clash, is_form


def _near(rows: _Rows, is_in: Mask, settings: Settings, counts: dict[str, int]) -> _Near:
    links = [(view, *_open(rows, view, is_in, settings.threshold)) for view in (TEXT, TEXT | 1)]
    is_kept, kind, seen = is_in, rows.column("kind"), _Seen(rows)
    num_edges = -1
    while True:
        for _, entries, link in links:
            link.link(np.flatnonzero(is_kept[entries] & (link.in_crowd | (num_edges < 0))))
        edges = _edges_of(rows, links, settings.threshold)
        if len(edges.better) == num_edges:
            break
        num_edges = len(edges.better)
        clash, is_form = seen.look(edges)
        twins = edges.where(~clash & ~is_form & (kind[edges.better] == kind[edges.worse]))
        stays = kept_of(rows.num, rows.rank[twins.worse], rows.rank[twins.better])
        is_kept = is_in & stays[rows.rank]
        # a crowd is compared with its best row only; if that is left out itself, its crowd looks for another
        if not any(link.in_crowd.any() for *_, link in links):
            break
    for *_, link in links:
        counts["compared"] += link.num_compared
        counts["crowded"] += link.num_crowded
    return _Near(edges.where(~clash), twins, edges.where(clash), is_kept)


def _open(rows: _Rows, view: int, is_in: Mask, threshold: float) -> tuple[Rows, Link]:
    entries, signed = rows.entries(view, is_in)
    part, size = ("question", rows.texts.asked) if view & QUESTION else ("text", rows.texts.length)
    gram = LONG_GRAM if view & 1 else SHORT_GRAM

    def compare(first: Places, second: Places) -> Ratios:
        left, right = entries[first], entries[second]
        ratios = np.zeros(len(left), np.float32)
        # long texts that are signed in 3-grams too are compared so with short ones only
        fits = (size[left] < GRAM_BORDER) | (size[right] < GRAM_BORDER) | (gram == LONG_GRAM)
        ratios[fits] = jaccard(rows.texts, left[fits], right[fits], gram=gram, part=part)
        return ratios

    return entries, Link(signed.bands, signed.sketch, threshold, compare)


def _edges_of(rows: _Rows, links: Sequence[tuple[int, Rows, Link]], threshold: float) -> _Edges:
    """Pairs of rows, without those that are alike by a form's template only."""
    found = []
    for view, entries, link in links:
        first, second, ratio = link.pairs()
        edges = _Edges(entries[first], entries[second], ratio)
        part, gram = "question" if view & QUESTION else "text", LONG_GRAM if view & 1 else SHORT_GRAM
        is_form = of_forms(rows.texts, edges.better, edges.worse, gram=gram, part=part, threshold=threshold)
        found.append(edges.where(~is_form))
    return _Edges(
        np.concatenate([edges.better for edges in found]),
        np.concatenate([edges.worse for edges in found]),
        np.concatenate([edges.ratio for edges in found]),
    )


def _contradict(rows: _Rows, edges: _Edges) -> Mask:
    """Which pairs answer differently: another judgement, or an answer that has little in common."""
    answer, said = rows.column("answer"), rows.texts.said
    better, worse = edges.better, edges.worse
    clash: Mask = (answer[better] != answer[worse]) & (answer[better] != 0) & (answer[worse] != 0)
    is_judged = rows.column("kind") == KINDS.index("feedback")
    asked = clash & (said[better] > 0) & (said[worse] > 0) & ~(is_judged[better] & is_judged[worse])
    clash[asked] = jaccard(rows.texts, better[asked], worse[asked], gram=SHORT_GRAM, part="answer") < _ANSWERS_AGREE
    return clash


def _choose_twins(rows: _Rows, edges: _Edges, twin: Rows, similarity: Ratios) -> None:
    """Each row that is left out names the kept one that it is most like, of equally alike ones the best."""
    order = np.lexsort((rows.rank[edges.better], -edges.ratio, edges.worse))
    worse, better, ratio = edges.worse[order], edges.better[order], edges.ratio[order]
    is_first = np.diff(worse, prepend=-1) != 0
    twin[worse[is_first]] = better[is_first]
    similarity[worse[is_first]] = ratio[is_first]


def _alike_questions(rows: _Rows, is_in: Mask, settings: Settings) -> list[tuple[_Edges, Link]]:
    """Rows that open with nearly the same question, which are not parted."""
    if not is_in.any():
        return []
    opening = rows.column("opening")
    members = rows.by_rank[is_in[rows.by_rank]]
    _, first = np.unique(opening[members], return_index=True)  # one row for each question is enough
    is_first = np.zeros(rows.num, bool)
    is_first[members[first]] = True
    asks_all = rows.texts.asked == rows.texts.length
    if asks_all.all() and settings.threshold <= settings.tie:
        return []  # texts to be judged, and nothing else: their questions have been compared as texts
    found = []
    for view in (QUESTION, QUESTION | 1):
        entries, link = _open(rows, view, is_first & (opening != 0), settings.tie)
        link.link(np.arange(len(entries)))
        found.append((_edges_of(rows, [(view, entries, link)], settings.tie), link))
    return found


def _conflicts(rows: _Rows, is_kept: Mask, clashes: _Edges) -> list[Conflict]:
    """Kept rows that answer one prompt differently; then pairs of nearly equal texts that do."""
    prompt, answer = rows.column("prompt"), rows.column("answer")
    members = np.flatnonzero(is_kept & (prompt != 0) & (answer != 0))
    order = in_order(prompt[members])
    members = members[order]
    code = np.cumsum(_differ(prompt[members])) - 1
    order = in_order(answer[members], code)
    members, code = members[order], code[order]
    is_new = _differ(code, answer[members])
    members, code = members[is_new], code[is_new]  # the first row of each answer
    begin = np.flatnonzero(_differ(code))
    size = np.diff(begin, append=len(code))
    smallest = np.minimum.reduceat(members, begin) if len(begin) else begin
    wanted = np.flatnonzero(size > 1)
    wanted = wanted[np.argsort(smallest[wanted])][:_MAX_CONFLICTS]
    found = [
        Conflict(tuple(sorted(members[first : first + num].tolist())))
        for first, num in zip(begin[wanted].tolist(), size[wanted].tolist(), strict=True)
    ]
    near = clashes.where(is_kept[clashes.better] & is_kept[clashes.worse])
    near = near.where(prompt[near.better] != prompt[near.worse])
    pairs = sorted({(min(pair), max(pair)) for pair in zip(near.better.tolist(), near.worse.tolist(), strict=True)})
    return [*found, *(Conflict(pair, is_near=True) for pair in pairs)][:_MAX_CONFLICTS]


def _largest(twin: Rows, verdict: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
    keepers, sizes = np.unique(twin[verdict > 0], return_counts=True)
    order = np.lexsort((keepers, -sizes))[:_NUM_LARGEST]
    return list(zip(keepers[order].tolist(), sizes[order].tolist(), strict=True))
