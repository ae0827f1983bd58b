"""A worker process of the local executor: `python -m danlu.data.flow.worker`, spoken to through its pipes alone."""

from __future__ import annotations

import gc
import os
import sys
from multiprocessing.connection import Connection

from danlu.core.errors import DanluError
from danlu.data.flow.batches import arrow
from danlu.data.flow.work import Work
from danlu.data.privacy.scan import Scanner
from danlu.data.sample import line_origin, plain_conversation, plain_message
from danlu.data.twins import signatures
from danlu.data.twins.compiled import WARM_UNITS, is_kept, purse


def get_ready() -> None:
    """Load what the first rows would wait for: Arrow, compiled patterns, tables of characters, compiled loops."""
    arrow()
    Scanner()  # RE2 keeps the patterns that it compiled
    if is_kept():
        turns = plain_message("user", "?"), plain_message("assistant", "!")
        row = plain_conversation(turns, line_origin("", 1), None, {})
        signatures([row], quick=True)
        purse.num_units = max(purse.num_units, WARM_UNITS)  # what loading costs is spent


def main() -> None:
    orders, answers = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # what a parser prints must not come between
    gc.disable()  # rows make no circles, and walking over all of them again and again is a quarter of the time
    if sys.argv[1:] == ["early"]:
        get_ready()
    try:
        work: Work = orders.recv()
        while True:
            task = orders.recv()
            try:
                answer = work(task)
            except DanluError as error:
                answers.send(error)
                return
            gc.collect()
            gc.freeze()  # what is left is code, tables and caches: not looked through again
            answers.send(answer)
    except EOFError:  # nobody is there any more
        return


if __name__ == "__main__":
    main()
