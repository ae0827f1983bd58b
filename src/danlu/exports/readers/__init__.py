"""The shelf of readers: programs that read what we wrote, each asked the same things. A proof is not our own word.

To add one: a class like `reader.Reader` in a file here and one line below (or an entry point `danlu.readers`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from danlu.core.shelf import Shelf

if TYPE_CHECKING:
    from danlu.exports.readers.reader import Reader

READERS: Shelf[type[Reader]] = Shelf(
    "readers",
    {
        "danlu": "danlu.exports.readers.own:OwnReader",
        "transformers": "danlu.exports.readers.hf:TransformersReader",
        "peft": "danlu.exports.readers.peft:PeftReader",
        "autoround": "danlu.exports.readers.autoround:AutoRoundReader",
        "llamacpp": "danlu.exports.readers.llamacpp:LlamaCppReader",
        "vllm": "danlu.exports.readers.vllm:VLLMReader",
    },
)
