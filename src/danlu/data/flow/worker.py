"""A worker process of the local executor: `python -m danlu.data.flow.worker`, spoken to through its pipes alone."""

from __future__ import annotations

import os
import sys

from danlu.core.errors import DanluError
from danlu.data.flow.pipes import receive, send
from danlu.data.flow.work import Work


def main() -> None:
    to = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a parser prints must not come between
    back = sys.stdin.buffer
    try:
        work: Work = receive(back)
        while True:
            task = receive(back)
            try:
                work(task)
            except DanluError as error:
                send(to, error)
                return
            send(to, None)
    except EOFError:  # nobody is there any more
        return


if __name__ == "__main__":
    main()
