"""One GGUF file: header, tokenizer, template, sampling and weights, written tensor by tensor.

The name in the header is chosen with care: llama.cpp reads "phi-3" in it as "control tokens eat the spaces after them".
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from danlu.core.errors import ExportError
from danlu.core.files import sync_folder
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.contract import Contract
from danlu.exports.gguf.architecture import Description, describe, typed
from danlu.exports.gguf.kquants import package
from danlu.exports.gguf.tensors import Entry, Quantize, entries_of
from danlu.exports.gguf.vocabulary import Vocabulary, read_vocabulary
from danlu.model.build import family_of
from danlu.model.model import Model

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18, "bf16": 32}
"""llama.cpp's numbers for how most of a file's matrices are stored."""
_QUANTIZATION_VERSION = 2
_MEANT = {"phi-3": "phi 3", "phi3": "phi 3", "jina-v2": "jina v2", "modern-bert": "modern bert"}
"""In a model's name, llama.cpp takes these for the habits of one tokenizer; beside each a spelling that it does not."""
_STOPPING = ("eos", "eot", "eom")
STOPS_BY_NAME = frozenset((
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>",
    "<|end_of_text|>", "<|return|>", "<|call|>", "<end_of_utterance>",
))  # fmt: skip
"""Tokens at which llama.cpp ends an answer because of what they are called."""
GENERATION = "generation_config.json"
_SAMPLING = {"temperature": "temp", "top_p": "top_p", "top_k": "top_k", "repetition_penalty": "penalty_repeat"}


@dataclass(frozen=True, slots=True)
class About:
    """What the header tells people. `base` is the base's name."""

    name: str
    base: str = ""
    licence: str = ""
    tags: tuple[str, ...] = ("danlu",)
    languages: tuple[str, ...] = ("zh", "en")
    more: Mapping[str, str] = field(default_factory=dict)


def write_model(
    model: Model,
    target: Path,
    *,
    contract: Contract,
    source: Path,
    about: About,
    quantize: Quantize = "f16",
    reach: int = 0,
    progress: Progress | None = None,
) -> Description:
    """The model's weights as they are in memory, with the tokenizer files of `source` and what the contract says of
    template, stops and sampling. Texts of at least `reach` tokens fit. The file appears whole or not at all."""
    described = describe(model.spec, reach=reach)
    vocabulary = read_vocabulary(source, model.spec.vocab_size, first_ids=first_ids(contract))
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    entries = entries_of(weights, model.spec, family_of(model.config).fused, described, quantize)
    header = typed(described.architecture, described.keys)
    header |= general(about, vocabulary) | speech(contract, vocabulary)
    header["general.file_type"] = FILE_TYPES[quantize]
    if quantize not in ("f32", "f16", "bf16"):
        header["general.quantization_version"] = _QUANTIZATION_VERSION
    write_file(target, described.architecture.name, header, entries, progress=progress or Silent())
    return described


def general(about: About, vocabulary: Vocabulary) -> dict[str, Any]:
    """Keys `general.*`."""
    name = plain_name(about.name)
    if vocabulary.strips_after_control:
        name = f"{name} phi-3"
    told: dict[str, Any] = {"general.type": "model", "general.name": name, "general.license": about.licence}
    told |= {"general.tags": list(about.tags), "general.languages": list(about.languages)}
    if about.base:
        told |= {"general.base_model.count": 1, "general.base_model.0.name": about.base}
    return told | dict(about.more)


def plain_name(name: str) -> str:
    """The name without what llama.cpp would take for a habit."""
    return re.sub("|".join(_MEANT), lambda found: _MEANT[found.group().lower()], name, flags=re.IGNORECASE)


def speech(contract: Contract, vocabulary: Vocabulary) -> dict[str, Any]:
    """Keys `tokenizer.*` and `general.sampling.*`: vocabulary, special ids, template, recommended sampling."""
    value = contract.value
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": vocabulary.model,
        "tokenizer.ggml.pre": vocabulary.pre,
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in vocabulary.kinds],
        "tokenizer.ggml.scores": vocabulary.scores,
        "tokenizer.ggml.merges": vocabulary.merges,
        "tokenizer.ggml.add_bos_token": value["bos"] is not None and adds_bos(contract),
        "tokenizer.ggml.add_eos_token": False,
    }
    if vocabulary.prefixes_space is not None:
        keys["tokenizer.ggml.add_space_prefix"] = vocabulary.prefixes_space
    keys |= {f"tokenizer.ggml.{role}_token_id": token for role, token in _roles(contract).items()}
    keys["tokenizer.chat_template"] = value["template"]["default"]
    if others := {name: text for name, text in value["template"].items() if name != "default"}:
        keys |= {f"tokenizer.chat_template.{name}": text for name, text in others.items()}
        keys["tokenizer.chat_templates"] = sorted(others)
    for name, setting in value["sampling"].items():
        if name in _SAMPLING:
            keys[f"general.sampling.{_SAMPLING[name]}"] = int(setting) if name == "top_k" else float(setting)
    return keys


def first_ids(contract: Contract) -> frozenset[int]:
    """What prompts begin with."""
    return frozenset(prompt[0] for prompt in _prompts(contract))


def adds_bos(contract: Contract) -> bool:
    """Whether llama.cpp shall put BOS before texts: only where templates do too, or a prompt would begin with one
    that was not there in training. Of one that both write, llama.cpp takes the template's."""
    prompts = _prompts(contract)
    return bool(prompts) and all(prompt[0] == contract.value["bos"] for prompt in prompts)


def _prompts(contract: Contract) -> list[list[int]]:
    return [golden["prompt"] for golden in contract.value["golden"].values() if golden.get("prompt")]


def _roles(contract: Contract) -> dict[str, int]:
    """Special tokens by role. llama.cpp stops at EOS, EOT and EOM, and at some tokens whatever their role."""
    value = contract.value
    names = {entry["id"]: entry["token"] for entry in value["stop"]}
    turn = next((token for token, name in names.items() if name == value["end_of_turn"]), None)
    unknown = [token for token, name in names.items() if name not in STOPS_BY_NAME]
    ordered = [token for token in dict.fromkeys([value["eos"], turn, *unknown, *names]) if token is not None]
    roles = dict(zip(_STOPPING, ordered, strict=False))
    if lost := set(unknown) - set(roles.values()):
        raise ExportError("gguf.many_stops", where=GENERATION, given=", ".join(names[token] for token in sorted(lost)))
    return {"bos": value["bos"]} | roles if value["bos"] is not None else roles


def write_file(
    target: Path, architecture: str, header: Mapping[str, Any], entries: Sequence[Entry], *, progress: Progress
) -> None:
    """A GGUF file of these keys and tensors; one tensor in memory at a time."""
    gguf = package()
    part = target.with_name(f".{target.name}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(part, architecture)
    with contextlib.ExitStack() as at_end:
        at_end.callback(part.unlink, missing_ok=True)
        at_end.callback(writer.close)
        for key, value in header.items():
            _add(writer, key, value)
        for entry in entries:
            _announce(writer, entry, gguf)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        progress.start(say("gguf.writing", name=target.name), len(entries))
        for entry in entries:
            writer.write_tensor_data(entry.encoded())
            progress.advance()
        writer.flush()
        os.fsync(writer.fout[0].fileno())
        writer.close()
        part.replace(target)
        sync_folder(target.parent)
        progress.finish()


def _announce(writer: Any, entry: Entry, gguf: Any) -> None:
    kind = gguf.GGMLQuantizationType[entry.type]
    block, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    size = math.prod(entry.shape) // block * num_bytes
    writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.float32), size, raw_dtype=kind)


def _add(writer: Any, key: str, value: Any) -> None:
    """A key with the type that its value has; what is empty is left out."""
    match value:
        case None | "" | [] | ():
            return
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)
