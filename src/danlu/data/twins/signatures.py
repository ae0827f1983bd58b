"""signatures: from samples to the columns that twins are found by. Pure: equal samples give equal columns anywhere.

A sample's text is put in the order question, middle, answer: the question is the first user turn, the answer the last
assistant turn (both answers of a preference). A system prompt and tools count for exact twins and prompts only: shared
by all rows, they would make all of them alike.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import orjson

from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Preference, Sample
from danlu.data.texts import answer_at, is_pair
from danlu.data.twins.columns import GRAM_BORDER, GRAM_OVERLAP, KINDS, QUESTION, TEXT
from danlu.data.twins.compiled import purse
from danlu.data.twins.digests import PIECES, Framed, digests, digests_quickly, key_of
from danlu.data.twins.folding import Folded, Places, Units, fold_all, fold_finely
from danlu.data.twins.minhash import LONG_GRAM, SHORT_GRAM, Signed, Spans, sign

_KIND_CODES = {kind: code for code, kind in enumerate(KINDS)}
_ROW_FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".xlsx")


class _Told(NamedTuple):
    """A sample's text in three pieces. `frame` is a digest of what else makes two rows different: kind, roles, system
    prompt, tools. `judgement` takes the place of the answer where one text is judged (a label, a liking). Two answers
    of a preference are no answer that another row's could contradict."""

    question: str
    middle: str
    answer: str
    frame: bytes
    is_asked: bool = True
    is_answered: bool = True
    judgement: str | None = None


def signatures(
    samples: Sequence[Sample],
    ids: Sequence[str] | None = None,
    *,
    pairs: Sequence[bool] | None = None,
    folds: Callable[[], Folded | None] | None = None,
    quick: bool | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """The columns of these samples (`columns.LAYOUT`). `ids` are their ids, needed where other rows name parents;
    `pairs` says of each whether it is one (`texts.is_pair`), where that is known, and `folds` gives the folds of their
    texts, where they may be made already. `quick`: by compiled loops or without; by default where they pay. The
    columns are the same."""
    pieces, told = _all_told(samples, list(map(is_pair, samples)) if pairs is None else pairs)
    sizes = np.fromiter(map(len, pieces), np.int32, len(pieces)).reshape(-1, PIECES)
    if quick is None:
        quick = purse.is_worth(int(sizes.sum()))
    folded = (folds() if folds and quick else None) or fold_all(pieces, quick=quick)
    lengths = np.diff(folded.coarse_at).reshape(-1, PIECES)
    start = np.concatenate([[0], np.cumsum(lengths.sum(axis=1))]).astype(np.int64)
    asked = np.where(told.is_asked, lengths[:, 0], 0).astype(np.int32)
    label_names, label = _labels(samples)
    tie_row, tie_key = _ties(samples, ids)
    return {
        **(digests_quickly if quick else digests)(told, folded),
        "kind": np.array([_KIND_CODES[sample.kind] for sample in samples], np.uint8),
        "quality": np.array([_quality(sample) if sample.tags else 0.0 for sample in samples], np.float32),
        "length": sizes.sum(axis=1, dtype=np.int32),
        "label": label,
        "label_names": label_names,
        "tie_row": tie_row,
        "tie_key": tie_key,
        "units": folded.coarse,
        "start": start,
        "asked": asked,
        "said": lengths[:, 2].astype(np.int32),
        **_entries(folded.coarse, start, asked, quick),
    }


def _all_told(samples: Sequence[Sample], pairs: Sequence[bool]) -> tuple[list[str], Framed]:
    """Three pieces of text for each sample, one after the other, and what stands around them."""
    pieces: list[str] = []
    frames: list[bytes] = []
    is_asked, is_answered = np.ones(len(samples), bool), np.ones(len(samples), bool)
    judgements: dict[int, str] = {}
    if all(pairs):
        chats = cast("Sequence[Conversation]", samples)
        pieces = [text for chat in chats for text in (chat.messages[0].content, "", chat.messages[1].content)]
        return pieces, Framed([_PLAIN] * len(samples), is_asked, is_answered, judgements)
    for row, (sample, is_plain) in enumerate(zip(samples, pairs, strict=True)):
        if is_plain and type(sample) is Conversation:  # as the general way below, for nearly all rows
            asked, answered = sample.messages
            pieces += (asked.content, "", answered.content)
            frames.append(_PLAIN)
            continue
        one = _told(sample)
        pieces += (one.question, one.middle, one.answer)
        frames.append(one.frame)
        is_asked[row], is_answered[row] = one.is_asked, one.is_answered
        if one.judgement is not None:
            judgements[row] = one.judgement
    return pieces, Framed(frames, is_asked, is_answered, judgements)


def _told(sample: Sample) -> _Told:
    match sample:
        case Document():
            return _Told("", sample.text, "", _frame("document"), is_asked=False)
        case Label():
            return _Told(sample.text, "", "", _frame("label"), judgement=sample.label)
        case Preference():
            frame = _frame_of("preference", sample.prompt, sample.tools)
            question, middle = _opened(sample.prompt)
            both = _joined(sample.chosen) + "\n" + _joined(sample.rejected)
            return _Told(question, middle, both, frame, is_answered=False)
    turns = sample.messages
    last = answer_at(turns)
    question, middle = _opened(turns[:last])
    frame = _frame_of(sample.kind, turns, sample.tools)
    judgement = str(sample.desirable) if isinstance(sample, Feedback) else None
    return _Told(question, middle, _joined(turns[last:]), frame, judgement=judgement)


def _opened(turns: Sequence[Message]) -> tuple[str, str]:
    """The first user turn, and all later ones together."""
    first = next((at for at, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        return "", _joined(turns)
    if len(turns) == first + 1:
        return turns[first].content, ""
    return turns[first].content, _joined(turns[first + 1 :])


def _joined(turns: Sequence[Message]) -> str:
    if len(turns) == 1 and not turns[0].reasoning and not turns[0].tool_calls:
        return turns[0].content
    parts: list[str] = []
    for turn in turns:
        if turn.role != "system":
            parts += [turn.reasoning or "", turn.content, *(map(_exactly, turn.tool_calls))]
    return "\n".join(part for part in parts if part)


def _exactly(value: Any) -> str:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # whole numbers beyond 64 bits
        return json.dumps(value, default=str, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _frame_of(kind: str, turns: Sequence[Message], tools: Sequence[Any]) -> bytes:
    roles = ",".join([turn.role for turn in turns])
    if not tools and "system" not in roles and not any(turn.tool_calls for turn in turns):
        return _frame(kind, roles)
    system = fold_finely("\n".join(turn.content for turn in turns if turn.role == "system"))
    calls = [turn.tool_calls for turn in turns if turn.tool_calls]
    return _frame(kind, roles, system, _exactly([tools, calls]) if tools or calls else "")


@functools.lru_cache(4096)
def _frame(*parts: str) -> bytes:
    return blake2b("\x00".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


_PLAIN = _frame("conversation", "user,assistant")


def _labels(samples: Sequence[Sample]) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int32]]:
    names = sorted({sample.label for sample in samples if isinstance(sample, Label)})
    if not names:
        return np.array([], "<U1"), np.full(len(samples), -1, np.int32)
    places = {name: place for place, name in enumerate(names)}
    codes = [places[sample.label] if isinstance(sample, Label) else -1 for sample in samples]
    return np.array(names, dtype=f"<U{max(map(len, names), default=1)}"), np.array(codes, np.int32)


def _quality(sample: Sample) -> float:
    scores = sample.tags.get("scores")
    score = scores.get("quality", 0.0) if isinstance(scores, dict) else 0.0
    return (score if isinstance(score, int | float) else 0.0) - len(sample.tags.get("flags") or ())


def _ties(samples: Sequence[Sample], ids: Sequence[str] | None) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    rows, keys = [], []
    for row, sample in enumerate(samples):
        if sample.group is not None or sample.tags or isinstance(sample, Document):
            for name in _names_of(sample):
                rows.append(row)
                keys.append(_tie(name))
        if ids is not None:
            rows.append(row)
            keys.append(key_of(ids[row].encode()))
    return np.array(rows, np.int32), np.frombuffer(b"".join(keys), np.uint64)


def group_tie(group: str) -> np.uint64:
    """The tie that rows of a group share, in `tie_key`."""
    return np.uint64(np.frombuffer(_tie(f"group\x00{group}"), np.uint64)[0])


def _names_of(sample: Sample) -> Iterator[str]:
    """What must not be parted: the group that the data state, the document, parents and the documents that prove it."""
    if sample.group is not None:
        yield f"group\x00{sample.group}"
    if isinstance(sample, Document) and not is_row(sample):
        yield f"document\x00{sample.origin.document or sample.origin.file}"
    if sample.tags:
        for parent in sample.tags.get("parents") or ():
            yield str(parent)
        for proof in sample.tags.get("evidence") or ():
            if isinstance(proof, dict) and proof.get("document"):
                yield f"document\x00{proof['document']}"


def is_row(sample: Sample) -> bool:
    """Is this one row of a table, and not a passage of a document?"""
    name = sample.origin.file.lower().removesuffix(".gz").removesuffix(".zst")
    return sample.origin.page is None and name.endswith(_ROW_FILES)


@functools.lru_cache(4096)
def _tie(name: str) -> bytes:
    return key_of(name.encode("utf-8", "surrogatepass"))


def _entries(units: Units, start: Places, asked: npt.NDArray[np.int32], quick: bool) -> dict[str, npt.NDArray[Any]]:
    """Signatures of each row's text and question; near the border of gram sizes in both, or a pair across it would
    never meet."""
    length = np.diff(start)
    head = np.where(asked < length, asked, 0).astype(np.int64)
    rows, views, bands, sketches = [], [], [], []

    def add(at: Places, view: int, found: Signed) -> None:
        rows.append(at)
        views.append(np.full(len(at), view, np.uint8))
        bands.append(found.bands)
        sketches.append(found.sketch)

    for gram, lowest, highest in ((SHORT_GRAM, 1, GRAM_OVERLAP), (LONG_GRAM, GRAM_BORDER, 1 << 60)):
        fits = (length >= lowest) & (length < highest)
        fits_head = (head >= max(lowest, gram)) & (head < highest)
        both = np.flatnonzero(fits)
        of_head = np.where(fits_head, head, 0)[both]
        whole, heads = sign(units, Spans(start[:-1][both], length[both], of_head), gram, quick=quick)
        add(both, TEXT | (gram == LONG_GRAM), whole)
        add(both[of_head > 0], QUESTION | (gram == LONG_GRAM), heads)
        alone = np.flatnonzero(fits_head & ~fits)
        add(
            alone,
            QUESTION | (gram == LONG_GRAM),
            sign(units, Spans(start[:-1][alone], head[alone], 0 * alone), gram, quick=quick)[0],
        )
    return {
        "entry_row": np.concatenate(rows).astype(np.int32),
        "entry_view": np.concatenate(views),
        "bands": np.concatenate(bands),
        "sketch": np.concatenate(sketches),
    }
