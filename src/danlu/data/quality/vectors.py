"""Texts as hashed TF-IDF vectors of character n-grams: one way to say "alike" for Chinese and English, in plain numpy.

No words are cut, so no dictionary is needed. Rows are stored end to end (compressed sparse rows, as scipy knows them);
each has length 1, so a dot product is a cosine. Used for diversity in the report and for choosing rows to label.

Shapes: N texts, M entries in all, D dimensions.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Vectors:
    """Row i holds `values[starts[i]:starts[i + 1]]` at `places[...]` of `num_dims` dimensions."""

    starts: Ints
    """(N + 1)"""
    places: Ints
    """(M)"""
    values: Floats
    """(M)"""
    num_dims: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def dot(self, dense_D: Floats) -> Floats:
        """Cosine of every row with one dense vector of length 1."""
        products = self.values * dense_D[self.places]
        return np.add.reduceat(products, self.starts[:-1]).astype(np.float32) if len(self) else products

    def dense(self, index: int) -> Floats:
        """One row as a dense vector."""
        row_D = np.zeros(self.num_dims, np.float32)
        found = slice(int(self.starts[index]), int(self.starts[index + 1]))
        row_D[self.places[found]] = self.values[found]
        return row_D

    def mean(self, indices: Ints) -> Floats:
        """The mean of some rows, brought to length 1."""
        sum_D = np.zeros(self.num_dims, np.float32)
        for index in indices:
            found = slice(int(self.starts[index]), int(self.starts[index + 1]))
            sum_D[self.places[found]] += self.values[found]
        norm = float(np.linalg.norm(sum_D))
        return sum_D / norm if norm else sum_D

    def matrix(self, indices: Ints) -> Floats:
        """Some rows as a dense matrix; for few rows or few dimensions."""
        rows_ND = np.zeros((len(indices), self.num_dims), np.float32)
        for row, index in enumerate(indices):
            rows_ND[row] = self.dense(int(index))
        return rows_ND


def vectors_of(texts: Sequence[str], *, sizes: tuple[int, ...] = (1, 2, 3), bits: int = 18) -> Vectors:
    """TF-IDF (1 + log tf, smoothed idf) of character n-grams of these sizes, hashed into 2 ** bits dimensions."""
    rows = [_grams(text, sizes, bits) for text in texts]
    starts_N = np.cumsum([0, *(len(places) for places, _ in rows)], dtype=np.int64)
    places_M = np.concatenate([places for places, _ in rows]) if rows else np.zeros(0, np.int64)
    counts_M = np.concatenate([counts for _, counts in rows]) if rows else np.zeros(0, np.int64)
    often_D = np.bincount(places_M, minlength=1 << bits)
    idf_D = np.log((1 + len(rows)) / (1 + often_D)) + 1
    values_M = (1 + np.log(np.maximum(counts_M, 1))) * idf_D[places_M]
    if len(rows):
        norms_N = np.sqrt(np.add.reduceat(values_M**2, starts_N[:-1]))
        values_M = values_M / np.repeat(norms_N, np.diff(starts_N))
    return Vectors(starts_N, places_M, values_M.astype(np.float32), 1 << bits)


def nearest_of(vectors: Vectors) -> Floats:
    """Cosine of each row with its nearest other row; exact, in blocks. Meant for up to a few thousand rows."""
    num = len(vectors)
    if num < 2:
        return np.zeros(num, np.float32)
    every_ND = vectors.matrix(np.arange(num))
    best_N = np.zeros(num, np.float32)
    for start in range(0, num, _BLOCK):
        alike_BN = every_ND[start : start + _BLOCK] @ every_ND.T
        alike_BN[np.arange(len(alike_BN)), np.arange(start, start + len(alike_BN))] = -1
        best_N[start : start + _BLOCK] = alike_BN.max(axis=1)
    return np.clip(best_N, 0, 1)


def _grams(text: str, sizes: tuple[int, ...], bits: int) -> tuple[Ints, Ints]:
    """Where a text's n-grams fall, and how often; never empty. Case, width and runs of spaces do not count."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split()) or " "
    points = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    found = []
    for size in sizes:
        if len(points) >= size:
            hashed = np.full(len(points) - size + 1, np.uint64(size))
            for offset in range(size):
                hashed = (hashed ^ points[offset : len(points) - size + 1 + offset]) * _PRIME
                hashed ^= hashed >> np.uint64(32)
            found.append((hashed >> np.uint64(64 - bits)).astype(np.int64))
    grams = np.concatenate(found) if found else np.zeros(1, np.int64)
    places, counts = np.unique(grams, return_counts=True)
    return places.astype(np.int64), counts.astype(np.int64)
