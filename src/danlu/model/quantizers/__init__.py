"""In what a frozen base lies in memory, when not in 16 bits. A shelf; `quantizer.py` is its contract.

To add one: the arithmetic in `danlu.ops`, a class like those here in a file of its own, one line below, and its name in
the recipe's `model.quantize`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from danlu.core.shelf import Shelf

if TYPE_CHECKING:
    from danlu.model.quantizers.quantizer import QuantizedLinear

QUANTIZERS: Shelf[type[QuantizedLinear]] = Shelf(
    "quantizers",
    {
        "fp8": "danlu.model.quantizers.fp8:FP8Linear",
        "int8": "danlu.model.quantizers.int8:Int8Linear",
        "nf4": "danlu.model.quantizers.nf4:NF4Linear",
    },
)
