"""What engines tell of themselves: cache in use, answers being computed, requests that wait inside. Each kind has names
of its own for them; those that it lacks, or no longer has, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NAMES: Mapping[str, tuple[str, ...]] = {
    "cache": (
        "danlu_engine_cache_ratio", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc",
        "llamacpp:kv_cache_usage_ratio", "sglang:token_usage",
    ),
    "running": (
        "danlu_engine_running", "vllm:num_requests_running", "llamacpp:requests_processing", "sglang:num_running_reqs",
    ),
    "queue": (
        "danlu_engine_waiting", "vllm:num_requests_waiting", "llamacpp:requests_deferred", "sglang:num_queue_reqs",
    ),
}  # fmt: skip
"""Key of `exposition.STANDING` to what engines call it."""
MOST_BYTES = 4 * 2**20
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[^\n]*\})? ([-+0-9.eE]+)(?: -?\d+)?$", re.M)


def read_figures(text: bytes) -> dict[str, float]:
    """Key to value, of an engine's own `/metrics`; series of one name are added up (a share: the largest)."""
    wanted = {name: key for key, names in NAMES.items() for name in names}
    found: dict[str, float] = {}
    for name, number in _SAMPLE.findall(text[:MOST_BYTES].decode("utf-8", "replace")):
        key = wanted.get(name)
        if key is None:
            continue
        try:
            value = float(number)
        except ValueError:
            continue
        found[key] = max(found.get(key, 0.0), value) if key == "cache" else found.get(key, 0.0) + value
    return found
