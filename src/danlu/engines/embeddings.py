"""Embeddings by the native engine: the mean of a text's hidden states after the final norm, its length made one.

It is what llama.cpp makes of the same model with `--pooling mean`, to rounding, and what transformers' hidden states
give. No chat model is trained for it: good enough to group texts and to find near ones in a small collection, worse
than a model trained to embed, and every version of an adapter has a space of its own. No template, no system prompt;
the tokenizer's own beginning mark where it puts one. Torch-free.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import orjson

from danlu.engines.asking import AskedMeans


def embedding_answer(asked: AskedMeans, sums_D: Sequence[npt.NDArray[np.float32]]) -> bytes:
    """OpenAI's answer; `sums_D` are the hidden states of each prompt, added up."""
    data = []
    for index, sum_D in enumerate(sums_D):
        # a sum points where its mean does
        one_D = (sum_D / max(float(np.linalg.norm(sum_D)), 1e-12)).astype("<f4")
        told = base64.b64encode(one_D.tobytes()).decode() if asked.is_base64 else one_D.tolist()
        data.append({"object": "embedding", "index": index, "embedding": told})
    num = sum(map(len, asked.prompts))
    usage = {"prompt_tokens": num, "total_tokens": num}
    return orjson.dumps({"object": "list", "data": data, "model": asked.model, "usage": usage})
