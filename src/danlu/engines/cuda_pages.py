"""Keys and values of rows on a card, in pages: memory is taken once, a row holds a list of pages, and no key ever
moves, so that a recorded step finds them where they were (paged attention: Kwon et al. 2023, arXiv:2309.06180). A whole
page of a prompt is known by its tokens and by what stands before it; who begins alike shares it.

Shapes: P pages, K key/value heads, D head size.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import torch

from danlu.model.spec import Spec

PAGE = 64
"""Tokens of a page."""
Key = tuple[object, tuple[int, ...]]
"""What stands before a page (another page's number among all that were ever known, or the lens), and its tokens."""


def num_pages(num_tokens: int) -> int:
    return -(-num_tokens // PAGE)


class Pages:
    """`keys[layer]` and `values[layer]` are [P, K, PAGE, D], not initialised."""

    def __init__(self, spec: Spec, num: int, *, dtype: torch.dtype, device: torch.device) -> None:
        shape = (num, spec.num_kv_heads, PAGE, spec.head_size)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(spec.num_layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(spec.num_layers)]
        self.num, self._numbers = num, itertools.count()
        self.clear()

    def clear(self) -> None:
        """No page is in use or known."""
        self._free = list(range(self.num))
        self._uses = [0] * self.num
        self._known: dict[Key, int] = {}
        self._told: dict[int, tuple[Key, int, object]] = {}
        """Of each known page: its key, its number, its lens."""
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Known pages that no row uses, the first to go first."""

    @property
    def num_used(self) -> int:
        return self.num - len(self._free) - len(self._idle)

    def found(self, ids: Sequence[int], lens: object) -> list[int]:
        """Known pages that a prompt begins with, now in one more use; at least one token stays its own."""
        pages: list[int] = []
        before: object = lens
        for start in range(0, len(ids) - PAGE, PAGE):
            page = self._known.get((before, tuple(ids[start : start + PAGE])))
            if page is None:
                break
            pages.append(page)
            before = self._told[page][1]
        for page in pages:
            self._uses[page] += 1
            self._idle.pop(page, None)
        return pages

    def take(self, num: int) -> list[int]:
        """Pages for one row; what is known of idle ones goes first."""
        while len(self._free) < num:
            assert self._idle, "who admits rows counts their pages"
            page, _ = self._idle.popitem(last=False)
            self._unlearn(page)
            self._free.append(page)
        taken = [self._free.pop() for _ in range(num)]
        for page in taken:
            self._uses[page] = 1
        return taken

    def learn(self, pages: Sequence[int], ids: Sequence[int], lens: object) -> None:
        """These pages hold the keys and values of these tokens, as far as they fill them."""
        before: object = lens
        for page, start in zip(pages, range(0, len(ids) - PAGE + 1, PAGE), strict=False):
            key = (before, tuple(ids[start : start + PAGE]))
            if key not in self._known:
                self._known[key] = page
                self._told[page] = key, next(self._numbers), lens
            before = self._told[self._known[key]][1]

    def release(self, pages: Sequence[int]) -> None:
        """One use less of each; the last of a prompt are the first to be taken again."""
        for page in reversed(pages):
            self._uses[page] -= 1
            if not self._uses[page]:
                if page in self._told:
                    self._idle[page] = None
                else:
                    self._free.append(page)

    def forget(self, lens: object) -> None:
        """Nothing that was computed with this lens is known any more."""
        for page in [page for page, (_, _, own) in self._told.items() if own is lens]:
            self._unlearn(page)
            if page in self._idle:
                del self._idle[page]
                self._free.append(page)

    def _unlearn(self, page: int) -> None:
        del self._known[self._told.pop(page)[0]]
