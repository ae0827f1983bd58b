"""auto-round in an interpreter of its own: it changes transformers where it is imported, logs to the terminal, and
keeps what it has read.

    python -m danlu.exports.calibrated.child JOB.json

JOB: model and out (folders), texts (a file: an array of token ids, all of one length), format, is_symmetric, group,
iterations, batch, device, threads.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch


def main(path: str) -> None:
    import auto_round.schemes  # optional: the extra `quantize`
    import transformers

    job = json.loads(Path(path).read_text())
    torch.set_num_threads(job["threads"])
    scheme = auto_round.schemes.QuantizationScheme(
        bits=4, group_size=job["group"], sym=job["is_symmetric"], data_type="int"
    )
    texts_ST = torch.tensor(json.loads(Path(job["texts"]).read_text()))
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"], local_files_only=True, trust_remote_code=False)
    rounding = auto_round.AutoRound(
        job["model"], tokenizer, scheme=scheme, dataset=[text_T[None] for text_T in texts_ST], nsamples=len(texts_ST),
        seqlen=texts_ST.shape[1], iters=job["iterations"], batch_size=job["batch"], device_map=job["device"],
        enable_torch_compile=False, seed=0,
    )  # fmt: skip
    rounding.quantize_and_save(job["out"], format=job["format"])


if __name__ == "__main__":
    main(*sys.argv[1:])
