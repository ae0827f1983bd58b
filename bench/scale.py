"""Several cards that train one model (`training/together.py`): whether they learn what one learns, and how fast.

    python bench/scale.py OUT.json                            one card, then two; 0.5B for the losses, 7B for the speed
    python bench/scale.py OUT.json --ranks 1 2 4 --shape llama-3.1-8b --steps 12
    python bench/scale.py OUT.json --same tiny --speed tiny --device cpu                  a trial

Weights and ids are drawn, LoRA of rank 16 and all weights, AdamW, documents of 2,048 tokens, all learnt, through the
public Trainer. `same` are the losses of one training by each number of cards and their largest difference; `speed` the
median tokens a second of a step of so many pieces a card. Each number of cards is a set of processes of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LENGTH = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--same", default="qwen2.5-0.5b", help="shape for the losses")
    parser.add_argument("--speed", default="qwen2.5-7b", help="shape for the speed")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--one", nargs=3, metavar=("CASE", "SIZE", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        case, size, folder = given.one
        be_a_rank(case, int(size), Path(folder), given)
        return
    found: dict[str, Any] = {"command": " ".join(sys.argv), "cases": []}
    for case in (["lora", "full"] if given.same else []) + (["speed"] if given.speed else []):
        told = [run(case, size, given) for size in given.ranks]
        row: dict[str, Any] = {"case": case, "ranks": dict(zip(map(str, given.ranks), told, strict=True))}
        if case == "speed":
            speeds = [one["tokens_per_s"] for one in told]
            row["times_one_rank"] = [round(speed / speeds[0], 3) for speed in speeds]
        else:
            alone, *others = (one["losses"] for one in told)
            apart = [abs(one / two - 1) for losses in others for one, two in zip(losses, alone, strict=True)]
            row["largest_relative_difference"] = max(apart)
        found["cases"].append(row)
        print(json.dumps(row), flush=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")


def run(case: str, size: int, given: argparse.Namespace) -> dict[str, Any]:
    """One training by so many processes; what the first of them told."""
    with tempfile.TemporaryDirectory() as folder:
        passed = ["--same", given.same, "--speed", given.speed, "--steps", str(given.steps), "--device", given.device]
        children = [
            subprocess.Popen(
                [sys.executable, __file__, str(given.out), *passed, "--one", case, str(size), folder],
                env=os.environ | {"RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"},
            )
            for rank in range(size)
        ]
        codes = [child.wait() for child in children]
        assert not any(codes), f"ranks ended with {codes}"
        told: dict[str, Any] = json.loads((Path(folder) / "told.json").read_text())
        return told


def be_a_rank(case: str, size: int, folder: Path, given: argparse.Namespace) -> None:
    from danlu.pipeline.rank import see_one_card

    rank = int(os.environ["RANK"])
    see_one_card(rank)
    # torch is imported when one card is seen
    from danlu.training.ranks import ALONE
    from danlu.training.together import join

    if size == 1:
        told = train(case, folder, given, ALONE)
    else:
        with join(given.device, rank=rank, size=size, meet=folder / "store") as ranks:
            told = train(case, folder, given, ranks)
    if rank == 0:
        (folder / "told.json").write_text(json.dumps(told))


def train(case: str, folder: Path, given: argparse.Namespace, ranks: Any) -> dict[str, Any]:
    import numpy as np
    import torch

    sys.path.append(str(Path(__file__).parent))
    from step import draw

    from danlu.adapters.full import Full
    from danlu.adapters.lora import LoRA
    from danlu.data.dataset import Dataset
    from danlu.data.tokens import Item, Tokens
    from danlu.recipe.training import TrainingSection
    from danlu.training.methods.pretrain import Pretrain
    from danlu.training.trainer import Trainer

    is_speed = case == "speed"
    pieces, length = (2 * max(given.ranks), LENGTH) if is_speed else (4, 512)
    at_once = (8192 if is_speed else 2048) if given.device == "cuda" else 512
    length = min(length, at_once)
    model = draw(given.speed if is_speed else given.same, given.device)
    random = np.random.default_rng(1)
    items = [
        Item((Tokens(random.integers(0, model.spec.vocab_size, length).astype(np.int32), np.ones(length, np.uint8)),))
        for _ in range(given.steps * pieces * at_once // length)
    ]
    with ranks.in_turn():
        if ranks.is_first:
            Dataset.write(folder / "data", {"train": items})
    section = TrainingSection(
        lr=1e-4, epochs=1, batch_tokens=pieces * at_once, micro_tokens=at_once, context=length, save_every=10_000,
        warmup_ratio=0.0, schedule="constant",
    )  # fmt: skip
    adapter = (Full() if case == "full" else LoRA(rank=16)).attach(model)
    trainer = Trainer(
        model, adapter, Pretrain(), Dataset.open(folder / "data"), section=section, folder=folder / "checkpoints",
        policies=["all"] * model.spec.num_layers if case != "full" and given.device == "cuda" else (), ranks=ranks,
    )  # fmt: skip
    steps = []
    for step in trainer.steps():
        steps.append(step)
        if len(steps) == given.steps - 1:  # the last would write a checkpoint
            break
    told: dict[str, Any] = {
        "losses": [step.loss for step in steps],
        "tokens_per_s": round(statistics.median(step.tokens_per_s for step in steps[min(3, len(steps) - 1) :])),
        "torch": torch.__version__,
    }
    if given.device == "cuda":
        told["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
        told["card"] = torch.cuda.get_device_name()
    return told


if __name__ == "__main__":
    main()
