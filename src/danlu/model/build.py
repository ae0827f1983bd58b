"""`load_model`: from what a recipe calls `model.base` to a model that computes. And `save`, its reverse."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from danlu.core.errors import ModelError
from danlu.core.files import sha256_json
from danlu.core.messages import listed, say
from danlu.core.progress import Progress, Silent
from danlu.model import weights
from danlu.model.classifier import Classifier, EncoderSpec
from danlu.model.decoder import Decoder
from danlu.model.families import own_family
from danlu.model.families.family import Family
from danlu.model.hub import Hub, find_base
from danlu.model.model import Model
from danlu.model.quantized import make_room, refuse_quantized
from danlu.model.quantizers.quantizer import Quantize
from danlu.model.shards import digest_folder

DTYPES = {
    "fp32": torch.float32, "float32": torch.float32, "bf16": torch.bfloat16, "bfloat16": torch.bfloat16,
    "fp16": torch.float16, "float16": torch.float16, "fp64": torch.float64,
}  # fmt: skip


def load_model(
    base: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    init: Literal["pretrained", "random"] = "pretrained",
    seed: int = 0,
    quantize: Quantize = "none",
    revision: str | None = None,
    hub: Hub = "huggingface",
    mirror: str | None = None,
    progress: Progress | None = None,
) -> Model:
    """A model ready to compute, from a folder, the embedded `ember`, or a hub id.

    `init="random"` needs config.json only and draws weights from `seed`. dtype "auto": bf16 where the device
    computes in it, else fp32. `quantize` is what the blocks' linear layers lie in, made layer by layer. Raises
    ModelError (format, family, shape, remote code, pickle) and HubError (a hub that does not deliver).
    """
    needs_weights = init == "pretrained"
    folder = find_base(
        base, revision=revision, hub=hub, mirror=mirror, needs_weights=needs_weights, progress=progress or Silent()
    )
    config = weights.read_config(folder)
    device = torch.device(device)
    dtype = resolve_dtype(dtype, device)
    family = own_family(config)
    if family is None:
        _refuse_foreign(config, quantize, folder)
        other: Model = _foreign().load_foreign(folder, config, dtype=dtype, device=device, init=init, seed=seed)
        return other
    is_packed = bool(config.get("quantization_config"))
    if family.text_config is not None:
        config = family.text_config(config)
    spec = family.spec(config)
    if isinstance(spec, EncoderSpec) and (is_packed or quantize != "none"):
        raise ModelError("model.quantize_encoder", where=str(folder), given=quantize)
    with torch.device("meta"):
        model = Classifier(spec, folder, config) if isinstance(spec, EncoderSpec) else Decoder(spec, folder, config)
    if needs_weights:
        if is_packed and quantize == "none":
            (progress or Silent()).note(say("model.dequantizing", name=str(base)))
        lacking = weights.load_weights(model, folder, family, dtype=dtype, device=device, quantize=quantize)
        if lacking:
            assert isinstance(model, Classifier), "of a decoder nothing may lack"
            model.draw(lacking, torch.Generator().manual_seed(seed))
            model.begun = tuple(sorted({name.rpartition(".")[0] for name in lacking}))
        model._digest = lambda: digest_folder(folder)
    else:
        _draw(model, seed, dtype=dtype, device=device, quantize=quantize)
        model._digest = sha256_json({"config": config, "init": "random", "seed": seed})
    return model.eval()


def _draw(
    model: Decoder | Classifier, seed: int, *, dtype: torch.dtype, device: torch.device, quantize: Quantize
) -> None:
    """Random weights; those to be quantised are drawn in the CPU's memory and leave it one by one."""
    is_quantized = quantize != "none"
    model.to(dtype).to_empty(device="cpu" if is_quantized else device)
    model.reset_parameters(torch.Generator().manual_seed(seed))
    if is_quantized:
        drawn = dict(model.named_parameters())
        make_room(model, quantize, dtype)
        for name in list(drawn):
            weights.place(model, name, drawn.pop(name).detach(), dtype=dtype, device=device)


def _refuse_foreign(config: dict[str, Any], quantize: Quantize, folder: Path) -> None:
    """Only our own decoder knows quantised layers."""
    stored = (config.get("quantization_config") or {}).get("quant_method")
    if stored or quantize != "none":
        raise ModelError(
            "model.quantize_foreign", where=str(folder), given=stored or quantize, family=config["model_type"]
        )


def save_model(model: Model, folder: Path, dtype: str | torch.dtype | None = None) -> None:
    """A Hugging Face checkpoint folder: config, weights, tokenizer; `dtype` is that on disk, None the model's own."""
    refuse_quantized(model, "save_model")
    chosen = DTYPES[dtype] if isinstance(dtype, str) else dtype or model.dtype
    if isinstance(model, Decoder | Classifier):
        weights.save_model(model, folder, family_of(model.config), chosen)
    else:
        hf = _foreign()
        assert isinstance(model, hf.ForeignModel), "a model is ours or a foreign one"
        hf.save_foreign(model, folder, chosen)


def load_state(model: Model, folder: Path) -> None:
    """A checkpoint's tensors into a living model, in place: its parameters stay the same objects."""
    if isinstance(model, Decoder | Classifier):
        weights.load_state(model, folder, family_of(model.config))
    else:
        hf = _foreign()
        assert isinstance(model, hf.ForeignModel), "a model is ours or a foreign one"
        hf.load_foreign_state(model, folder)


def family_of(config: dict[str, Any]) -> Family:
    """The family of a config; a foreign one has no tables, its names are its module's."""
    return own_family(config) or _foreign().FAMILY


def _foreign() -> ModuleType:
    from danlu.model.families import hf  # transformers is heavy; only other architectures need it

    return hf


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """A name as a dtype; "auto" is bf16 where it is fast (any CUDA that has it, a CPU with AVX512-BF16 or AMX), else
    fp32."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16() else torch.float32
    if dtype not in DTYPES:
        raise ModelError("model.unknown_dtype", where="model.dtype", given=dtype, known=listed(["auto", *DTYPES]))
    return DTYPES[dtype]


def cpu_has_bf16() -> bool:
    """Emulated bf16 is slower than fp32; only a CPU with instructions for it gains."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
