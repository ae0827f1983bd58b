"""Supervised fine-tuning, flat: the loop that `danlu train` runs, with nothing hidden. Twin of `training/trainer.py`.

    python examples/sft_by_hand.py

The embedded base learns the demo company's travel rules (13, in Chinese) from questions and answers, and is asked about
two of them in words that it has not seen. Not shown here: the split, the leak check and the report; see `whole_run.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import danlu
from danlu.data.encode import Encoder
from danlu.data.ledger import Ledger
from danlu.data.sample import Message
from danlu.data.sources import read
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.engines.engine import Question, Sampling
from danlu.engines.native import NativeEngine
from danlu.recipe.training import TrainingSection

COMPANY = Path(danlu.__file__).parent / "assets" / "company"
QUESTIONS = (
    "我下周去成都出差，每天吃饭能补多少？",  # I travel next week: how much a day for meals? 80 yuan
    "订高铁的时候该选哪个席别才给报",  # which class of train ticket is paid? second
)


def main(*, num_steps: int = 20, folder: Path | None = None) -> dict[str, list[str]]:
    """Train for `num_steps` and return the answers before and after."""
    folder = folder or Path(tempfile.mkdtemp(prefix="danlu-sft-"))

    # 1 · Weights, and small matrices beside them that train instead.
    model = danlu.load_model("ember", dtype="float32")
    lora = danlu.LoRA(rank=32).attach(model)

    # 2 · Text in. The tokenizer and its chat template lie in the model's folder; the ledger counts every row.
    tokenizer = Tokenizer.load(model.folder)
    encoder = Encoder(tokenizer, Template.load(model.folder, tokenizer), context=256)
    ledger = Ledger()
    samples = [sample for sample in read([COMPANY / "qa.jsonl"], ledger) if (sample.group or "").startswith("travel-")]
    print(f"{ledger.num_read} rows read, {len(ledger.rejects)} rejected; {len(samples)} are about travelling")

    # 3 · Samples as tokens: which of them are learnt (the answers) is decided here, once.
    dataset = danlu.Dataset.write(folder / "dataset", {"train": encoder.items(samples, ledger)})
    part = dataset.part("train")
    learnt = sum(tokens.num_supervised for index in range(len(part)) for tokens in part[index])
    print(f"{len(part)} conversations, {part.num_tokens:,} tokens, {learnt:,} of them learnt")

    # 4 · Ask, train, ask again. The engine answers with whatever the weights are at that moment.
    engine = NativeEngine(model, encoder, name="by hand", adapter=lora)
    before = ask(engine, QUESTIONS)
    section = TrainingSection(lr=3e-3, epochs=1000, max_steps=num_steps, context=256, batch_tokens=1024)
    trainer = danlu.Trainer(model, lora, danlu.SFT(), dataset, section=section, folder=folder / "checkpoints")
    for step in trainer.steps():
        if step.number in (1, num_steps) or step.number % 10 == 0:
            print(f"step {step.number:3}  loss {step.loss:.3f}  lr {step.lr:.1e}  {step.tokens_per_s:,.0f} tokens/s")
    after = ask(engine, QUESTIONS)
    for question, was, now in zip(QUESTIONS, before, after, strict=True):
        print(f"\n{question}\n  before: {was}\n  after:  {now}")

    # 5 · What PEFT loads: adapter_config.json and adapter_model.safetensors.
    lora.save(folder / "adapter")
    print(f"\nThe adapter lies in {folder / 'adapter'}")
    return {"before": before, "after": after}


def ask(engine: NativeEngine, questions: Iterable[str]) -> list[str]:
    asked = [Question((Message("user", question),)) for question in questions]
    return [answer.text for answer in engine.generate(asked, Sampling(max_new_tokens=40))]


if __name__ == "__main__":
    main()
