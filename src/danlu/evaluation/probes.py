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
    "consistency": "46f2d7d576c0d3581db41bfb25ecb97b5cb2a74d33083f71bbfce518f05cda08",
    "forgetting": "d89a48ae9362a6301d889dafc30ebce2e91564e42907c22f1c6c911f82c667d2",
    "format": "c038fe157a94421b9ca99fd3d80045a4e3d61d998bdb9819e4643b60ee632799",
    "injection": "d398202337c1303ddc86a931fe50337c473b1ee677ed38dc54e82ea5b839cd19",
    "negation": "eb906da0edaeb9b949ca3c447b8ed602fe803579edcd50e09ad65f57cf344868",
    "sarcasm": "ad2494d70e057056677ade4cdc5819cd8222ca4e6e46bf2f96860cd69bbc282e",
    "typo": "b96e3ca40714c55c70cc134f56efe0a9e27a3ee069ff2689307633adf941a953",
    "unanswerable": "2ff30a14e6ca849acf9ec6fc50e8b0b864757bb104211d6b55ada06248f5202b",
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
