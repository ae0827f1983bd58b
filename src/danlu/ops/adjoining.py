"""Tensors that lie one after another in memory, as one: layers that read the same input are one product then.

Shapes: whatever; tensors are alike in all dimensions but the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def adjoined(parts: Sequence[Tensor]) -> Tensor | None:
    """The tensor that these are the rows of, without a copy; None where they do not lie so."""
    first, at = parts[0], parts[0].data_ptr()
    for part in parts:
        is_next = part.data_ptr() == at and part.stride() == first.stride() and part.dtype == first.dtype
        if not is_next or part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return None
        at += len(part) * part.stride(0) * part.element_size()
    num = sum(len(part) for part in parts)
    return first.detach().as_strided((num, *first.shape[1:]), first.stride(), first.storage_offset())


def moved_together(parts: Sequence[Tensor]) -> list[Tensor]:
    """Copies that `adjoined` finds to be one."""
    with torch.inference_mode(False), torch.no_grad():
        bytes_of = [part.detach().view(torch.uint8) if part.dtype.itemsize == 1 else part.detach() for part in parts]
        whole = torch.cat(bytes_of).view(parts[0].dtype)
    return list(torch.split(whole, [len(part) for part in parts]))
