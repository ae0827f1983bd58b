"""Shelf of drivers: how each kind of engine process is started, watched, asked and drained.

To add one: a class like `driver.Driver` in a file here, built with no arguments, and one line below (or an entry point
`danlu.drivers`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from danlu.core.shelf import Shelf

if TYPE_CHECKING:
    from danlu.serving.drivers.driver import Driver

DRIVERS: Shelf[type[Driver]] = Shelf(
    "drivers",
    {
        "native": "danlu.serving.drivers.native:NativeDriver",
        "llamacpp": "danlu.serving.drivers.llamacpp:LlamaCppDriver",
        "vllm": "danlu.serving.drivers.vllm:VLLMDriver",
        "sglang": "danlu.serving.drivers.sglang:SGLangDriver",
        "upstream": "danlu.serving.drivers.upstream:UpstreamDriver",
    },
)
