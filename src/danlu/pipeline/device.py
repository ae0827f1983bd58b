"""Where to compute."""

from __future__ import annotations

import torch


def choose_device(device: str = "auto") -> str:
    """`auto` is the GPU where there is one, else the CPU."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def describe_hardware(device: str) -> str:
    """One line for reports."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()} · torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads · torch {torch.__version__}"
