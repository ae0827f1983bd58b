"""What four bits ask for, known without torch: `danlu check` asks before training."""

from __future__ import annotations

PACKAGES = ("auto_round", "auto_round_kernel", "accelerate")
"""The extra `quantize`: what rounds, its products on a CPU, and what transformers reads codes with."""
MULTIPLE = 32
"""Of rows and columns of a weight that can be coded."""
