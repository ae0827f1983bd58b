"""Questions that training has seen are not asked: a twin in the training data makes any score worthless."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from danlu.core.files import dump_json, writing
from danlu.data.sample import Document, Label, Origin, Preference, Sample
from danlu.data.split import THRESHOLD, fold
from danlu.data.twins import Columns, signatures
from danlu.data.twins.likeness import Texts
from danlu.data.twins.overlap import Across, across
from danlu.run.run import Run

_SOME = 5000
"""Prompts signed at a time. Only those that share a band with a question are held on to."""
_NOWHERE = Origin("", 0)


@dataclass(frozen=True, slots=True)
class Sifted:
    """Questions that may be asked. `nearest` is the highest similarity (Jaccard of character n-grams) that any of them
    was found to have to a training prompt that shares a band with it; the report shows it beside the score."""

    kept: list[Sample]
    num_leaks: int
    nearest: float


def write_prompts(path: Path, samples: Iterable[Sample]) -> int:
    """A JSON list of everything that these samples ask, folded, each text once; how many samples ask. Texts go to the
    file as they come: of those before only digests are held."""
    seen: set[int] = set()
    num_asking = 0
    with writing(path) as file:
        file.write(b"[")
        for sample in samples:
            turns = asked(sample)
            num_asking += bool(turns)
            for text in map(fold, turns):
                digest = int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
                if digest not in seen:
                    file.write((b",\n" if seen else b"\n") + dump_json(text, indent=False))
                    seen.add(digest)
        file.write(b"\n]\n")
    return num_asking


def without_leaks(samples: Sequence[Sample], run: Run) -> Sifted:
    """Leave out what training has seen: questions (the last of a conversation) that are a training prompt once width,
    case, punctuation and spaces are gone, or nearly one. Those that only a form's template makes alike are asked."""
    prompts: list[str] = run.read("dataset", "prompts.json")
    texts = [fold(turns[-1]) if (turns := asked(sample)) else "" for sample in samples]
    found = _alike(texts, prompts)
    is_near = (found.ratio >= THRESHOLD) & ~found.is_form
    near = set(found.held_out[is_near].tolist())
    seen = set(texts).intersection(prompts) - {""}
    fresh = [at for at, text in enumerate(texts) if text not in seen and at not in near]
    of_fresh = np.isin(found.held_out, fresh) & ~found.is_form
    nearest = float(found.ratio[of_fresh].max(initial=0.0))
    return Sifted([samples[at] for at in fresh], len(samples) - len(fresh), nearest)


def _alike(texts: Sequence[str], prompts: Sequence[str]) -> Across:
    """Pairs of a text and a prompt that share a band, as the split finds them; `held_out` are places in `texts`."""
    own = _signed(texts)
    wanted = np.unique(_keys(own))
    mates = [prompt for some in _batches(prompts) for prompt, is_mate in zip(some, _meets(some, wanted), strict=True)
             if is_mate]  # fmt: skip
    shards = [own, *(_signed(some) for some in _batches(mates))]
    held_out = np.arange(len(texts) + len(mates)) < len(texts)
    return across(shards, Texts(shards), held_out, ~held_out, THRESHOLD)


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[at : at + _SOME] for at in range(0, len(texts), _SOME))


def _signed(texts: Sequence[str]) -> Columns:
    return signatures([Document(text, _NOWHERE) for text in texts])


def _meets(texts: Sequence[str], wanted: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which of the texts share a band with the wanted ones."""
    columns = _signed(texts)
    is_mate = np.zeros(len(texts), bool)
    is_mate[columns["entry_row"][np.isin(_keys(columns), wanted).any(axis=1)]] = True
    return is_mate


def _keys(columns: Columns) -> npt.NDArray[np.uint64]:
    """Of each signature its bands (entries, bands), with the number of view and band, so that only like ones meet."""
    bands, view = columns["bands"].astype(np.uint64), columns["entry_view"].astype(np.uint64)
    band = np.arange(bands.shape[1], dtype=np.uint64)
    keys: npt.NDArray[np.uint64] = view[:, None] << np.uint64(40) | band << np.uint64(32) | bands
    return keys


def asked(sample: Sample) -> list[str]:
    """What a sample asks: each of the user's turns, or the text to judge; a document asks nothing."""
    match sample:
        case Document():
            return []
        case Label():
            return [sample.text]
        case Preference():
            turns = sample.prompt
        case _:
            turns = sample.messages
    return [turn.content for turn in turns if turn.role == "user"]
