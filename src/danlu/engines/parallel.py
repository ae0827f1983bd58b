"""Several decodings at once, a thread each: on a CPU many small sums leave most of their time to one core, and parts of
a batch side by side keep all busy. Rows, seats and answers are nobody's but their own decoding's.
torch's own threads are shared out meanwhile, for the whole process, and given back at the end.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence

import torch

from danlu.engines.decoding import Decoding
from danlu.engines.rows import Row

Word = tuple[list[Row], BaseException | None] | None
"""Rows that are done, or what went wrong; None at the end of one."""


def side_by_side(decodings: Sequence[Decoding]) -> Generator[list[Row], None, None]:
    """The rows that each step of any has finished. Who stops asking stops them; what one raises is raised here."""
    words: queue.SimpleQueue[Word] = queue.SimpleQueue()
    is_over = threading.Event()

    def work(decoding: Decoding) -> None:
        try:
            for done in decoding.run():
                if is_over.is_set():
                    break
                if done:
                    words.put((done, None))
        except BaseException as fault:  # raised again where the answers are wanted
            words.put(([], fault))
        words.put(None)

    num_before = torch.get_num_threads()
    threads = [threading.Thread(target=work, args=(decoding,), daemon=True) for decoding in decodings]
    torch.set_num_threads(max(1, num_before // len(threads)))
    try:
        for thread in threads:
            thread.start()
        left = len(threads)
        while left:
            word = words.get()
            if word is None:
                left -= 1
            elif word[1] is not None:
                raise word[1]
            else:
                yield word[0]
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        torch.set_num_threads(num_before)
