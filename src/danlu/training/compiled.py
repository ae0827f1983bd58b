"""What `training.compile` compiles: the parts of a decoder block between its big products, at one fixed shape.

Feed-forward and norms only: attention sees other document bounds in every batch and is one kernel already. The trainer
pads its batches to `micro_tokens`, so that one compilation lasts for the whole training.
"""

from __future__ import annotations

from danlu.model.decoder import MLP, RMSNorm
from danlu.model.model import Model


def compile_blocks(model: Model) -> int:
    """Compile in place, lazily: the first forward pays. Returns how many modules it concerns, 0 for a foreign model."""
    modules = [module for module in model.modules() if isinstance(module, MLP | RMSNorm)]
    for module in modules:
        module.compile(dynamic=False)
    return len(modules)
