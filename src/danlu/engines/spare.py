"""`python -m danlu.engines.spare`: the native engine's process before it knows what to serve. It loads all that every
engine loads, which is nearly all of a small one's start, and waits.

The first line of standard input is its order, `{"argv": [...], "log": "…"}`: from then on it is `danlu.engines.server`
with the arguments that stand behind that name and is listed so (own_name.py), prints to the log (first that it took the
order), and reads its secret from the next line. The end of input means that it was not needed.
"""

from __future__ import annotations

import json
import os
import sys

from danlu.engines.own_name import be_called

SERVER = "danlu.engines.server"


def main() -> int:
    # what an engine loads, before it is one
    import torch
    import uvicorn

    from danlu.engines import looped, server

    uvicorn.Config(_nothing, lifespan="off", ws="none").load()
    if not torch.cuda.is_available():
        looped.load_loops()
    line = sys.stdin.readline()
    if not line:
        return 0
    order = json.loads(line)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    be_called(order["argv"])
    print(f"{os.getpid()}: made of a spare process", flush=True)
    return server.main(order["argv"][order["argv"].index(SERVER) + 1 :])


async def _nothing(scope: object, receive: object, send: object) -> None:
    raise AssertionError("an application that is never asked")


if __name__ == "__main__":
    sys.exit(main())
