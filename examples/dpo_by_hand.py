"""Preference learning, flat: pairs of a better and a worse answer move the model towards the better (DPO).

    python examples/dpo_by_hand.py

The pairs are the demo company's: concise over rambling, polite over rude, right over wrong. The reference is the same
model with the adapter off, so nothing is loaded twice. After the training, pairs that it never saw are scored: how
often did the better answer gain more than the worse one?
"""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path

import danlu
from danlu.data.encode import Encoder
from danlu.data.ledger import Ledger
from danlu.data.sources import read
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.data.tokens import Tokens
from danlu.engines.engine import Engine
from danlu.engines.native import NativeEngine
from danlu.recipe.training import TrainingSection

COMPANY = Path(danlu.__file__).parent / "assets" / "company"


def main(*, num_steps: int = 20, num_held_out: int = 40, folder: Path | None = None) -> float:
    """Train for `num_steps` and return the share of held-out pairs whose better answer gained more."""
    folder = folder or Path(tempfile.mkdtemp(prefix="danlu-dpo-"))
    model = danlu.load_model("ember", dtype="float32")
    lora = danlu.LoRA(rank=16).attach(model)
    tokenizer = Tokenizer.load(model.folder)
    encoder = Encoder(tokenizer, Template.load(model.folder, tokenizer), context=256)
    ledger = Ledger()

    # A pair is one item of two token sequences, chosen first; only the answers' tokens count.
    pairs = read([COMPANY / "preference.jsonl"], ledger)
    dataset = danlu.Dataset.write(folder / "dataset", {"train": encoder.items(pairs, ledger)})
    print(f"{len(dataset.part('train'))} pairs to learn from, {len(ledger.rejects)} rejected")

    # Before the first step policy and reference are one model, so the loss of a pair is ln 2 = 0.693.
    section = TrainingSection(lr=3e-4, epochs=1000, max_steps=num_steps, context=256, batch_tokens=1024)
    method = danlu.DPO(beta=0.1)
    trainer = danlu.Trainer(model, lora, method, dataset, section=section, folder=folder / "checkpoints")
    for step in trainer.steps():
        if step.number in (1, num_steps) or step.number % 10 == 0:
            margin, accuracy = step.metrics["reward_margin"], step.metrics["pair_accuracy"]
            print(
                f"step {step.number:3}  loss {step.loss:.3f}  reward margin {margin:+.3f}  pairs right {accuracy:.0%}"
            )

    # log π(y) - log π_ref(y) of the better answer against that of the worse one, on pairs nobody trained on.
    held_out = [
        encoder.encode(pair, ledger) for pair in islice(read([COMPANY / "preference_test.jsonl"], ledger), num_held_out)
    ]
    tuned = NativeEngine(model, encoder, name="tuned", adapter=lora)
    chosen, rejected = [pair[0] for pair in held_out], [pair[1] for pair in held_out]
    gains = zip(gain(tuned, tuned.base(), chosen), gain(tuned, tuned.base(), rejected), strict=True)
    accuracy = sum(better > worse for better, worse in gains) / len(held_out)
    print(f"held out: the better answer gained more in {accuracy:.0%} of {len(held_out)} pairs")
    return accuracy


def gain(tuned: Engine, base: Engine, answers: list[Tokens]) -> list[float]:
    """By how much each answer became likelier, in nats."""
    return [now.total - was.total for now, was in zip(tuned.score(answers), base.score(answers), strict=True)]


if __name__ == "__main__":
    main()
