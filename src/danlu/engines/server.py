"""`python -m danlu.engines.server FOLDER --socket PATH`: the native engine as a process of its own, for a gateway.

The first line of standard input is the secret that every request must bring; its end means that the parent is gone, and
so is this process at once. Listens on a unix socket that only its owner may open, or on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from danlu.core.errors import DanluError, EngineError
from danlu.data.encode import Encoder
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.engines.api import Api
from danlu.engines.asking import Reader
from danlu.engines.engine import Sampling
from danlu.engines.live import Live
from danlu.model.build import load_model
from danlu.model.hub import find_base
from danlu.model.quantizers import QUANTIZERS
from danlu.model.quantizers.quantizer import Quantize

BROKEN = 70
"""The exit status of an engine whose computing thread died (EX_SOFTWARE)."""


def open_live(
    folder: Path,
    secret: str,
    *,
    name: str = "base",
    speech: Path | None = None,
    adapters: Sequence[tuple[str, Path]] = (),
    num_slots: int = 16,
    context: int = 0,
    dtype: str = "auto",
    quantize: Quantize = "none",
    device: str = "",
    read_tokens: int = 0,
    died: Callable[[], None] = lambda: None,
) -> tuple[Api, Live]:
    """An engine that runs, and its API. `speech` is where tokenizer and template lie, when not in `folder`; `quantize`:
    in what the base lay that the adapters were trained on; `died` is called where it computes no more."""
    found = find_base(folder)
    spoken = speech or found
    tokenizer = Tokenizer.load(spoken)
    encoders = {
        thinks: Encoder(tokenizer, Template.load(spoken, tokenizer, thinking="keep" if thinks else "drop"))
        for thinks in (True, False)
    }
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(found, dtype=dtype, device=chosen, quantize=quantize)
    api = Api(Reader(encoders, usual_sampling(spoken)), secret)
    live = Live(
        model, encoders[True], base=name, deliver=api.deliver, num_slots=num_slots, context=context,
        read_tokens=read_tokens, died=died,
    )  # fmt: skip
    for lens, place in adapters:
        live.load(lens, place)
    api.bind(live)
    live.start()
    return api, live


def usual_sampling(folder: Path) -> Sampling:
    """What `generation_config.json` says of drawing; where it says nothing, OpenAI's temperature of 1."""
    path = folder / "generation_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not said.get("do_sample"):
        return Sampling(temperature=1.0)
    return Sampling(
        temperature=float(said.get("temperature") or 1.0), top_p=float(said.get("top_p") or 1.0),
        top_k=int(said.get("top_k") or 0),
    )  # fmt: skip


def listen(path: Path | None, port: int | None) -> socket.socket:
    """A socket that is bound: a unix one only its owner may open, or a port of the loopback."""
    if path is None:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port or 0))
        return bound
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        bound.bind(str(path))
    finally:
        os.umask(before)
    return bound


def main(argv: Sequence[str] | None = None) -> int:
    chosen = _parse(argv)
    try:
        secret = _secret(chosen.secret_file)
        threading.Thread(target=_leave_with_parent, args=(chosen.socket,), daemon=True).start()
        torch.set_num_threads(chosen.threads or torch.get_num_threads())
        api, _ = open_live(
            chosen.folder, secret, name=chosen.name, speech=chosen.speech, adapters=chosen.adapter,
            num_slots=chosen.slots, context=chosen.context, dtype=chosen.dtype, quantize=chosen.quantize,
            device=chosen.device, read_tokens=chosen.read_tokens, died=_leave_broken,
        )  # fmt: skip
    except DanluError as fault:
        print(fault, file=sys.stderr)
        return 2
    import uvicorn  # the extra `serve`; engines themselves need none

    config = uvicorn.Config(
        api, lifespan="off", ws="none", access_log=False, server_header=False, proxy_headers=False,
        log_level="warning", timeout_keep_alive=75,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listen(chosen.socket, chosen.port)])
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m danlu.engines.server", description=__doc__)
    parser.add_argument("folder", type=Path, help="a base, a merged model, or ember")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--socket", type=Path)
    place.add_argument("--port", type=int, help="of 127.0.0.1; 0: any that is free")
    parser.add_argument("--adapter", type=_adapter, action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--name", default="base", help="what the model without adapter is called")
    parser.add_argument("--speech", type=Path, help="where tokenizer and template lie, when not in FOLDER")
    parser.add_argument("--slots", type=int, default=16, help="requests answered at once")
    parser.add_argument("--context", type=int, default=0, help="tokens of a prompt and its answer; 0: the model's")
    parser.add_argument(
        "--read-tokens", type=int, default=0, help="tokens of prompts that a step reads; 0: as many as suit"
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", default="none", choices=["none", *QUANTIZERS.names()])
    parser.add_argument("--device", default="")
    parser.add_argument("--secret-file", type=Path, help="instead of the first line of standard input")
    return parser.parse_args(argv)


def _adapter(given: str) -> tuple[str, Path]:
    name, _, folder = given.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError("NAME=FOLDER")
    return name, Path(folder)


def _secret(path: Path | None) -> str:
    """EngineError where there is none: a server without one would be open."""
    said = path.read_text(encoding="utf-8") if path is not None else sys.stdin.readline()
    secret = said.strip()
    if not secret or not secret.isascii():
        raise EngineError("engine.no_secret")
    return secret


def _leave_broken() -> None:
    """A server that computes no more would let everybody wait: who supervises it starts another."""
    sys.stderr.flush()
    os._exit(BROKEN)


def _leave_with_parent(path: Path | None) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    if path is not None:
        path.unlink(missing_ok=True)
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
