"""What laying a frozen weight out for the CPU beforehand would save in training: one product forward, one backward.

    python bench/prepacked.py [--out bench/results/prepacked-2cores.json]

oneDNN orders a bf16 weight anew at every call. `packed` gives it the weight as it orders it; the best of several calls
in CPU seconds of one thread. Answering does this (`engines/packed.py`), where products have few rows; see
docs/architecture.md for why training does not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit

from danlu.pipeline.device import describe_hardware

WEIGHTS = {  # outputs, inputs: of the 25M shape and of Qwen2.5-0.5B
    "25m qkv": (1536, 512),
    "25m gate+up": (2816, 512),
    "25m down": (512, 1408),
    "0.5b o": (896, 896),
    "0.5b gate+up": (9728, 896),
    "0.5b down": (896, 4864),
}
ROWS = (256, 1024, 4096)
CALLS = 15


def best_ms(call: Callable[[], torch.Tensor]) -> float:
    taken = []
    for _ in range(CALLS + 1):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return 1e3 * min(taken[1:])


def measure(num_outputs: int, num_inputs: int, rows: int) -> dict[str, float]:
    weight = torch.randn(num_outputs, num_inputs, dtype=torch.bfloat16)
    x, dy = (torch.randn(rows, size, dtype=torch.bfloat16) for size in (num_inputs, num_outputs))
    order = torch.ops.mkldnn._reorder_linear_weight
    ahead, back = order(weight.clone()), order(weight.t().contiguous().clone())

    def packed(what: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(what, by, None, "none", [], "")

    return {
        "forward_ms": round(best_ms(lambda: F.linear(x, weight)), 2),
        "forward_packed_ms": round(best_ms(lambda: packed(x, ahead)), 2),
        "backward_ms": round(best_ms(lambda: dy @ weight), 2),
        "backward_packed_ms": round(best_ms(lambda: packed(dy, back)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode(False), torch.no_grad():
        rows = [
            {"weight": name, "rows": count, **measure(*shape, count)}
            for name, shape in WEIGHTS.items()
            for count in ROWS
        ]
    plain, packed = (sum(row[f"forward{end}"] + row[f"backward{end}"] for row in rows) for end in ("_ms", "_packed_ms"))
    told = {
        "hardware": describe_hardware(torch.device("cpu")),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "command": " ".join(sys.argv),
        "saved_ratio_in_sum": round(1 - packed / plain, 3),
        "products": rows,
    }
    print(json.dumps(told, indent=2))
    if given.out:
        given.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
