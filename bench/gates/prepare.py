"""Real text as tokens, made where the text lies, for a machine that has neither: two small .npz files.

    python bench/gates/prepare.py CORPUS CONVERSATIONS OUT

CORPUS: a folder of documents (what ember was pretrained on) → OUT/corpus.npz, rows of at most 1,024 tokens.
CONVERSATIONS: a folder of questions and answers → OUT/chats.npz, what is learnt marked, twins only once, the last
tenth held out. Both with ember's tokenizer and template. Text itself is not kept; nothing of OUT is committed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from danlu.data.encode import Encoder
from danlu.data.ledger import Ledger
from danlu.data.sample import Document
from danlu.data.sources import read
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.data.tokens import Tokens
from danlu.model.hub import find_base

CONTEXT = 1024
TOKENS_PER_FILE = 1_400_000
HELD_OUT = 0.1
SEED = 3407


def main() -> None:
    corpus, chats, out = (Path(argument) for argument in sys.argv[1:4])
    out.mkdir(parents=True, exist_ok=True)
    base = find_base("ember", needs_weights=False)
    tokenizer = Tokenizer.load(base)
    encoder = Encoder(tokenizer, Template.load(base, tokenizer), context=CONTEXT, over_length="split")
    save(out / "corpus.npz", shuffled(documents(corpus, encoder)))
    save(out / "chats.npz", shuffled(conversations(chats, encoder)))


def documents(folder: Path, encoder: Encoder) -> list[Tokens]:
    """As many tokens of every file, so that no kind of text drowns the others."""
    kept = []
    for path in sorted(folder.glob("*.jsonl*")):
        if "validation" in path.name:
            continue
        count, ledger = 0, Ledger()
        texts = (sample for sample in read([path], ledger) if isinstance(sample, Document))
        for item in encoder.items(texts, ledger):
            kept += item.tokens
            count += sum(map(len, item.tokens))
            if count > TOKENS_PER_FILE:
                break
        print(f"{path.name}: {count} tokens")
    return kept


def conversations(folder: Path, encoder: Encoder) -> list[Tokens]:
    ledger, seen, kept = Ledger(), set[bytes](), []
    files = sorted(path for path in folder.iterdir() if path.suffix == ".gz")
    for sample in read(files, ledger):
        for tokens in encoder.encode(sample, ledger):
            if tokens.ids.tobytes() not in seen and tokens.num_supervised:
                seen.add(tokens.ids.tobytes())
                kept.append(tokens)
    print(f"{len(kept)} conversations, {sum(map(len, kept))} tokens")
    return kept


def shuffled(items: list[Tokens]) -> list[Tokens]:
    return [items[index] for index in np.random.default_rng(SEED).permutation(len(items))]


def save(path: Path, items: Iterable[Tokens]) -> None:
    items = list(items)
    np.savez_compressed(
        path,
        ids=np.concatenate([tokens.ids for tokens in items]).astype(np.uint16),
        weights=np.packbits(np.concatenate([tokens.weights for tokens in items]).astype(bool)),
        bounds=np.cumsum([0, *map(len, items)]).astype(np.int64),
        num_held_out=np.int64(len(items) * HELD_OUT),
    )
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
