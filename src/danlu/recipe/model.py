"""Chapter `model`: which weights to start from and how their chat template is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from danlu.recipe.section import Section


class ModelSection(Section):
    base: str = "ember"
    """A folder, a hub id such as Qwen/Qwen2.5-7B-Instruct, or the embedded teaching model `ember`."""

    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """Where a hub id is fetched from when it is not yet on this machine."""

    revision: str | None = None
    """Branch, tag or commit of a hub id; empty means the hub's main branch. The commit found is recorded."""

    mirror: str | None = None
    """Base URL of a hub mirror (http or https), for intranets."""

    init: Literal["pretrained", "random"] = "pretrained"
    """Start from the checkpoint's weights, or from random ones of the same shape (pretraining from scratch)."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of frozen weights and of arithmetic; auto takes bfloat16 where the device computes it natively."""

    quantize: Literal["none", "fp8", "nf4", "int8"] = "none"
    """In what the frozen linear layers lie beside an adapter: 16 bits, or fewer. Embedding, head, norms stay whole."""

    template: str = "auto"
    """Chat template: auto reads the tokenizer's own; a name from `danlu list templates` stands in for a missing one."""

    system: str | None = Field(None, max_length=20_000)
    """System prompt put before conversations that have none. Part of the template contract."""

    thinking: Literal["keep", "drop", "mask"] = "keep"
    """What happens to <think> passages of answers: learnt, removed, or kept as context without being learnt."""
