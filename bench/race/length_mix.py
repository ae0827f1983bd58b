"""Measure a folder's length mix and write its quantiles; the race draws its short documents from them.

    python bench/race/length_mix.py ../shared/data/medical_qa bench/race/medical_qa_lengths.json

Conversations are rendered and encoded as `danlu train` does, with ember's tokenizer and template. Only numbers are
written: quantiles of tokens per conversation, and the learnt share in each tenth of the lengths.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from danlu.core.files import write_json
from danlu.data.encode import Encoder
from danlu.data.ledger import Ledger
from danlu.data.sources import read
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.model.hub import find_base

CONTEXT = 2048
NUM_QUANTILES = 200


def measure(folder: Path) -> dict[str, object]:
    base = find_base("ember", needs_weights=False)
    tokenizer = Tokenizer.load(base)
    encoder = Encoder(tokenizer, Template.load(base, tokenizer), context=CONTEXT)
    files = sorted(path for path in folder.iterdir() if path.suffix == ".gz")
    ledger = Ledger()
    found = [tokens for sample in read(files, ledger) for tokens in encoder.encode(sample, ledger)]
    lengths = np.array([len(tokens) for tokens in found])
    shares = np.array([tokens.num_supervised / len(tokens) for tokens in found])
    order = np.argsort(lengths, kind="stable")
    tenths = np.array_split(order, 10)
    return {
        "source": folder.name,
        "tokenizer": "ember",
        "context": CONTEXT,
        "conversations": len(lengths),
        "mean": round(float(lengths.mean()), 2),
        "quantiles": [int(q) for q in np.quantile(lengths, np.linspace(0, 1, NUM_QUANTILES + 1), method="nearest")],
        "supervised_share_by_tenth": [
            round(float((shares[tenth] * lengths[tenth]).sum() / lengths[tenth].sum()), 4) for tenth in tenths
        ],
    }


if __name__ == "__main__":
    told = measure(Path(sys.argv[1]))
    write_json(Path(sys.argv[2]), told)
    print(json.dumps({key: value for key, value in told.items() if key != "quantiles"}))
