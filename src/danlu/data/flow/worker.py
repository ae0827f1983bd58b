"""A worker process of the local executor: `python -m danlu.data.flow.worker`, spoken to through its pipes alone."""

from __future__ import annotations

import gc
import os
from multiprocessing.connection import Connection

from danlu.core.errors import DanluError
from danlu.data.flow.work import Work


def main() -> None:
    orders, answers = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # what a parser prints must not come between
    gc.disable()  # rows make no circles, and walking over all of them again and again is a quarter of the time
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
