"""Digests that exact twins, equal questions and conflicts are found by: BLAKE2b (RFC 7693) of the fine fold, so that
3.5 is not 35. `digests` says what they are; `digests_quickly` gives the same by compiled loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from danlu.data.twins.folding import Folded, Places
from danlu.data.twins.loops_digest import BLOCK, START, digest_all

PIECES = 3
"""Of text for each row: question, middle, answer."""
_LEAST_OPENING = 6
"""Units of a question from which conversations of several turns count as opened alike: a greeting is no question."""
_NONE = bytes(8)
_WIDE, _NARROW = 16, 8

Keys = npt.NDArray[np.uint64]


class Framed(NamedTuple):
    """What stands around the text of each row: a digest of all else that makes two rows different; whether the first
    piece is a question and the last one its answer; and judgements, by row, which take the place of the answer."""

    frames: Sequence[bytes]
    is_asked: npt.NDArray[np.bool_]
    is_answered: npt.NDArray[np.bool_]
    judgements: Mapping[int, str]


def key_of(content: bytes | memoryview) -> bytes:
    return blake2b(content, digest_size=8).digest()


def digests(framed: Framed, folded: Folded) -> dict[str, Keys]:
    """`exact`, `opening`, `prompt` and `answer`, as laid out in columns.py."""
    content, at = memoryview(folded.fine.tobytes()), (folded.fine_at * 2).tolist()
    exact, openings, prompts, answers = [], [], [], []
    for row, person in enumerate(framed.frames):
        begin, middle, answer, end = at[row * PIECES : (row + 1) * PIECES + 1]
        plain = answer - middle == 2  # nothing between question and answer but a line break
        judgement = framed.judgements.get(row)
        if judgement is not None:
            answers.append(said := _of_judgement(judgement))
            prompts.append(prompt := blake2b(content[begin:end], digest_size=_NARROW, person=person).digest())
            exact.append(blake2b(prompt + said, digest_size=_WIDE, person=person).digest())
        else:
            exact.append(blake2b(content[begin:end], digest_size=_WIDE, person=person).digest())
            is_answered = end - answer > 2 and framed.is_asked[row] and framed.is_answered[row]
            answers.append(key_of(content[answer:end]) if is_answered else _NONE)
            prompts.append(
                blake2b(content[begin:answer], digest_size=_NARROW, person=person).digest()
                if framed.is_asked[row]
                else _NONE
            )
        is_opening = judgement is not None or middle - begin > 2 * (1 if plain else _LEAST_OPENING)
        openings.append(key_of(content[begin:middle]) if is_opening else _NONE)
    found = {"opening": openings, "prompt": prompts, "answer": answers}
    columns = {name: np.frombuffer(b"".join(digests), np.uint64) for name, digests in found.items()}
    return {"exact": np.frombuffer(b"".join(exact), np.uint64).reshape(-1, 2)} | columns


def digests_quickly(framed: Framed, folded: Folded) -> dict[str, Keys]:
    """The same: all digests of all rows side by side."""
    num = len(framed.frames)
    begin, middle, answer, end = (folded.fine_at[place : len(folded.fine_at) - PIECES + place : PIECES]
                                  for place in range(PIECES + 1))  # fmt: skip
    known = {frame: number for number, frame in enumerate(dict.fromkeys(framed.frames))}
    frame = np.fromiter((known[frame] for frame in framed.frames), np.int64, num)
    states = _states([(_NARROW, bytes(16)), *((size, person) for person in known for size in (_NARROW, _WIDE))])
    narrow, wide = 1 + 2 * frame, 2 + 2 * frame
    judged = np.fromiter(framed.judgements, np.int64, len(framed.judgements))
    is_judged = np.zeros(num, bool)
    is_judged[judged] = True
    exact, keys = np.zeros((num, 2), np.uint64), np.zeros((3, num), np.uint64)
    opening, prompt, said = keys
    plain = answer - middle == 1
    of_exact = np.flatnonzero(~is_judged)
    of_prompt = np.flatnonzero(framed.is_asked | is_judged)
    of_answer = np.flatnonzero(~is_judged & (end - answer > 1) & framed.is_asked & framed.is_answered)
    of_opening = np.flatnonzero(is_judged | (middle - begin > np.where(plain, 1, _LEAST_OPENING)))
    behind = np.where(is_judged, end, answer)
    found = _hashed(
        folded.fine.view(np.uint16),
        np.concatenate([begin[of_exact], begin[of_prompt], answer[of_answer], begin[of_opening]]),
        np.concatenate([end[of_exact], behind[of_prompt], end[of_answer], middle[of_opening]]),
        np.concatenate([wide[of_exact], narrow[of_prompt], 0 * of_answer, 0 * of_opening]),
        states,
    )
    exact[of_exact] = found[: len(of_exact)]
    last = len(of_exact)
    for column, rows in ((prompt, of_prompt), (said, of_answer), (opening, of_opening)):
        column[rows] = found[last : last + len(rows), 0]
        last += len(rows)
    if len(judged):
        names = {name: _of_judgement(name) for name in framed.judgements.values()}
        said[judged] = np.frombuffer(b"".join(map(names.__getitem__, framed.judgements.values())), np.uint64)
        both = np.stack([prompt[judged], said[judged]], axis=1).view(np.uint16).ravel()
        first = 8 * np.arange(len(judged))
        exact[judged] = _hashed(both, first, first + 8, wide[judged], states)
    return {"exact": exact, "opening": opening, "prompt": prompt, "answer": said}


def _of_judgement(judgement: str) -> bytes:
    return key_of(judgement.encode("utf-8", "surrogatepass"))


def _hashed(units: npt.NDArray[np.uint16], begin: Places, end: Places, state: Places, states: Keys) -> Keys:
    """The first two words of the digest of each `units[begin:end]`, from that of the states on."""
    length = end - begin
    order = np.argsort(np.minimum(-(-length // BLOCK), 65535).astype(np.uint16), kind="stable")
    found = np.empty((len(begin), 2), np.uint64)
    digest_all(units, order, begin, length, state, states, found)
    return found


def _states(parameters: Sequence[tuple[int, bytes]]) -> Keys:
    """What hashing begins with for these sizes and persons (sections 2.5 and 3.2 of the RFC, person as in BLAKE2)."""
    states: Keys = np.tile(START, (len(parameters), 1))
    for state, (size, person) in zip(states, parameters, strict=True):
        state[0] ^= np.uint64(0x01010000 | size)
        state[6:] ^= np.frombuffer(person, "<u8")
    return states
