"""`danlu prune`: which layers a base loses, what that costs, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import danlu
from danlu.cli.voice import Voice
from danlu.core.messages import say


def prune_command(
    voice: Voice,
    base: Annotated[str, typer.Argument(metavar="BASE", help=say("prune.arg_base"))],
    layers: Annotated[int, typer.Option("--layers", metavar="N", min=1, help=say("prune.opt_layers"))],
    data: Annotated[list[str], typer.Option("--data", metavar="PATH", help=say("prune.opt_data"))],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help=say("prune.opt_out"))],
) -> None:
    show_pruned(base, layers, data, out, voice)


def show_pruned(base: str, layers: int, data: Sequence[str], out: Path, voice: Voice) -> None:
    record = danlu.prune(base, layers, data, out, progress=voice.progress)
    heads = [say(f"prune.col_{name}") for name in ("layer", "influence", "fate")]
    gone = set(record["left_out"])
    rows = [
        (str(layer), f"{value:.4f}", say("prune.left_out") if layer in gone else "")
        for layer, value in enumerate(record["influence"])
    ]
    voice.table(heads, rows)
    cost, (before, after) = record["held_out"], record["params"]
    voice.say(
        say(
            "prune.cost", loss=f"{cost['loss']:.3f}", pruned=f"{cost['pruned_loss']:.3f}", kl=f"{cost['kl']:.3f}",
            same=f"{cost['same_choice']:.0%}", tokens=f"{cost['num_tokens']:,}",
        )
    )  # fmt: skip
    smaller = f"{1 - after / before:.0%}"
    voice.say(say("prune.size", before=f"{before:,}", after=f"{after:,}", smaller=smaller))
    for check in record["checks"]:
        key = "prune.read" if check["verdict"] == "pass" else "prune.not_read"
        voice.say(say(key, reader=check["name"].removesuffix("_logits")))
    voice.say(say("prune.next", folder=out), "bold")
    voice.result(record | {"folder": str(out)})
