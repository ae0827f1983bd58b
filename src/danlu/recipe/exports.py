"""Chapter `exports`: what is shipped, each proven equal to what was trained."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from danlu.core.messages import listed
from danlu.recipe.section import Section

ExportKind = Literal["adapter", "merged", "gguf", "gguf-lora", "ollama", "lmstudio", "awq", "gptq", "vllm", "vllm-lora"]
Stored = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "fp8", "int8"]
_GGUF = ("q8_0", "f32", "f16", "bf16", "q6_k", "q5_k_m", "q4_k_m")
QUANTIZE: dict[str, tuple[str, ...]] = {
    "gguf": _GGUF, "ollama": _GGUF, "lmstudio": _GGUF, "vllm": ("fp8", "int8"),
}  # fmt: skip
"""What each kind can be stored in; of the kinds of GGUF the first is what an empty `quantize` means."""


READ_BY_VLLM = ("awq", "gptq", "vllm", "vllm-lora")

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM's `max_lora_rank` takes."""


class PushSection(Section):
    repo: str = Field(pattern=r"^[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*$")
    """Where to: organisation/name. Nothing is sent before the artefact's proof has passed."""

    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """Which hub; its token lies in ~/.cache/danlu/<hub>.token."""

    private: bool = True
    """A repository that is made for it is private. One that exists keeps what it is, and a public one is refused."""

    endpoint: str | None = None
    """A mirror, or a hub of one's own."""


class ExportSection(Section):
    kind: ExportKind
    """adapter: a PEFT folder; merged: a Hugging Face folder that needs nothing beside it; gguf: one file for llama.cpp;
    gguf-lora: the adapter for llama.cpp; ollama: gguf with a Modelfile; lmstudio: gguf laid out for LM Studio; awq,
    gptq: four bits a weight, rounded on the training texts, for vLLM and SGLang; vllm: merged, ready for them;
    vllm-lora: the adapter, ready for them."""

    quantize: Stored | None = None
    """How matrices are stored. GGUF: q8_0 when empty, f32, f16, bf16, q6_k, q5_k_m or q4_k_m. vllm: empty keeps the
    base's, or fp8, int8."""

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """merged: in what the files are; auto keeps the base's."""

    vllm: str | None = None
    """vllm, vllm-lora, awq, gptq: the python of an environment in which vLLM is installed, so that vLLM itself reads
    what is written. Empty: `vllm` on the path, if it is there."""

    push: PushSection | None = None
    """Send it to a model hub. Empty sends nothing anywhere."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        known = QUANTIZE.get(self.kind, ())
        if self.quantize is not None and self.quantize not in known:
            raise PydanticCustomError(
                "export_quantize", "{expected}", {"expected": f"{self.kind}: {', '.join(known) or '-'}"}
            )
        if self.vllm is not None and self.kind not in READ_BY_VLLM:
            raise PydanticCustomError("export_reader", "{expected}", {"expected": listed(READ_BY_VLLM)})
        return self

    @property
    def stored(self) -> str | None:
        """`quantize`, or what an empty one means."""
        known = QUANTIZE.get(self.kind, ())
        return self.quantize or (known[0] if self.kind != "vllm" and known else None)

    @property
    def folder(self) -> str:
        """The artefact's folder in a run."""
        parts = [
            self.kind,
            *([self.quantize] if self.quantize else []),
            *([self.dtype] if self.dtype != "auto" else []),
        ]
        return "-".join(parts)

    def settings(self) -> dict[str, Any]:
        """What a writer of this kind is told."""
        told: dict[str, Any] = {"quantize": self.stored} if self.kind in QUANTIZE else {}
        if self.kind == "merged":
            told["dtype"] = self.dtype
        if self.kind in READ_BY_VLLM:
            told["python"] = self.vllm
        return told
