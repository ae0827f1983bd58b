"""The shelf of chat templates for checkpoints that bring none. Chosen by name: `model.template: chatml`.

To add one: a file with `TEMPLATE` (Jinja, as transformers reads it) and a line here. Begin with BOS where the model's
own inference code does, end each assistant turn with the token that the model stops at.
"""

from __future__ import annotations

from danlu.core.shelf import Shelf

_HERE = "danlu.data.templates"

TEMPLATES: Shelf[str] = Shelf(
    "templates",
    {
        name: f"{_HERE}.{name}:TEMPLATE"
        for name in ("chatml", "gemma", "llama2", "llama3", "mistral", "phi3", "plain", "vicuna", "zephyr")
    },
)
