"""The probe suites that come with danlu: questions of our own in Chinese and English, CC0, pinned by digest.

Not for training: `pipeline/passing.py` hands them to the decontamination of every project, and a suite whose file was
changed is refused, so that two reports that name a suite asked the same questions.
"""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

import orjson

from danlu.core.errors import EvaluationError
from danlu.core.files import sha256_bytes
from danlu.evaluation.items import Item, load_questions

PINNED = {
    "consistency": "90b38d5427e75bcba189f6ca6a65e038b6ea84b0428e09ed04a3c14cd21930c6",
    "forgetting": "a63319dae933e0c1c0cfebe45ac6c8700bc0271722ff5922e71a3c0742a13ef3",
    "format": "18dd10b9ff4c6b05ecaa780bb4a5a3e13f4c6c8e1110f2f2525f6c2c8f94c7a2",
    "injection": "2d58ce80f9d527b4aad0637dd4707c4e1190ee6f198a0b811bf1b703f34bf39b",
    "negation": "0a3d51a8440de277a8f885de2ec7098e6986c9bf5a0c666c3ec6c2a5cc208130",
    "sarcasm": "ad2494d70e057056677ade4cdc5819cd8222ca4e6e46bf2f96860cd69bbc282e",
    "typo": "b96e3ca40714c55c70cc134f56efe0a9e27a3ee069ff2689307633adf941a953",
    "unanswerable": "46c3111a872d1bee16e4e7a9a1ef8a90c195116ab01c24d2b13cfa481f148cc4",
}
"""Suites and the sha256 of their files. A changed suite is another suite: its results compare with no earlier ones."""


def suite_path(name: str) -> Path:
    return Path(str(resources.files("danlu.assets") / "probes" / f"{name}.jsonl"))


def suite_paths() -> list[Path]:
    """The files of all suites, for keeping them out of training."""
    return [suite_path(name) for name in PINNED]


@functools.cache
def load_suite(name: str) -> tuple[Item, ...]:
    """A suite's items in their order. EvaluationError when its file was changed or is gone."""
    path = suite_path(name)
    content = path.read_bytes() if path.is_file() else b""
    if sha256_bytes(content) != PINNED[name]:
        raise EvaluationError("evaluation.probe_changed", where=str(path), given=name, expected=PINNED[name][:12])
    return load_questions((orjson.loads(line) for line in content.splitlines()), name=name).items
