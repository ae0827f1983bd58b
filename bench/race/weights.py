"""The same weights in every system: each parameter is drawn on the device from a generator seeded by its name.

Base weights are normal, 0.02 (the two projections into the residual stream smaller by the root of twice the layers),
norms one, biases normal too, so that a forgotten bias shows. LoRA's A is uniform as Kaiming's rule has it, B is zero.
A device draws the same numbers for the same name, count and dtype, whatever module holds the parameter.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from race.shapes import Shape

STD = 0.02


def plain_name(name: str) -> str:
    """A parameter's name in the bare checkpoint, whatever PEFT wrapped around it."""
    name = name.removeprefix("base_model.model.").replace(".base_layer", "")
    return name.replace("lora_A.default.weight", "lora_A").replace("lora_B.default.weight", "lora_B")


@torch.no_grad()
def draw(parameters: Iterable[tuple[str, Tensor]], num_layers: int) -> int:
    """Fill parameters in place by name; returns how many numbers were drawn."""
    count = 0
    for name, tensor in parameters:
        draw_one(plain_name(name), tensor, num_layers)
        count += tensor.numel()
    return count


@torch.no_grad()
def draw_one(name: str, tensor: Tensor, num_layers: int) -> Tensor:
    generator = torch.Generator(device=tensor.device).manual_seed(zlib.crc32(name.encode()))
    if name.endswith("lora_B"):
        return tensor.zero_()
    if name.endswith("lora_A"):
        bound = 1 / math.sqrt(tensor.shape[1])
        return tensor.uniform_(-bound, bound, generator=generator)
    if "norm" in name:
        return tensor.fill_(1)
    std = STD / math.sqrt(2 * num_layers) if name.endswith(("o_proj.weight", "down_proj.weight")) else STD
    return tensor.normal_(0, std, generator=generator)


def write_checkpoint(folder: Path, shape: Shape, device: str, *, is_full: bool) -> Path:
    """A checkpoint folder for systems that insist on one. `is_full` False: only the final norm is in it, the loader
    makes up the rest and `draw` fills it in; True where a loader quantises what it reads."""
    from safetensors.torch import save_file

    if (folder / "done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape.hf_config(), indent=2))
    wanted = dict(shape.parameters())
    if not is_full:
        wanted = {"model.norm.weight": wanted["model.norm.weight"]}
    shards: list[dict[str, Tensor]] = [{}]
    for name, size in wanted.items():
        if sum(tensor.nbytes for tensor in shards[-1].values()) > 4 * 2**30:
            shards.append({})
        fresh = draw_one(name, torch.empty(size, dtype=torch.bfloat16, device=device), shape.num_layers)
        shards[-1][name] = fresh.cpu()
    places = {}
    for number, shard in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_tokenizer(folder)
    (folder / "done").touch()
    return folder


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer without merges: the systems that want one never use it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    named = ["<pad>", "<bos>", "<eos>", "<unk>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(named + letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(named)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>",
        "unk_token": "<unk>", "model_max_length": 32_768, "padding_side": "right",
        "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
