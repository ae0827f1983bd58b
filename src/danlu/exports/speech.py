"""How an artefact speaks: tokenizer, chat template and generation settings travel exactly, and are read back.

Other programs know nothing of a contract, so what it says is written where they look: the template in
chat_template.jinja, the whole stop set in generation_config.json, recommended sampling beside it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

from danlu.core.errors import ExportError, TemplateError
from danlu.core.files import read_json, sha256_file, write_json, write_text
from danlu.data.classes import golden_texts, is_of_classes
from danlu.data.contract import Contract, golden_conversations
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.engines.engine import Question
from danlu.engines.native import NativeEngine
from danlu.exports.parity import Check, check_ids
from danlu.exports.verify import reload_contract
from danlu.model.weights import BESIDE_WEIGHTS

GENERATION, TOKENIZER = "generation_config.json", "tokenizer_config.json"
VOCABULARY = frozenset(BESIDE_WEIGHTS) - {GENERATION, TOKENIZER, "chat_template.jinja", "chat_template.json"}
SAMPLING_KEYS = ("temperature", "top_p", "top_k", "repetition_penalty")


def golden_prompts(contract: Contract, engine: NativeEngine) -> tuple[Question, ...]:
    """The contract's golden conversations up to their last turn, as far as the template takes them; of an encoder its
    golden texts."""
    if is_of_classes(contract):
        return tuple(Question((Message("user", text),)) for text in golden_texts(contract))
    conversations = golden_conversations(engine.encoder.template)
    golden = contract.value["golden"]
    taken = [pair for name, pair in conversations.items() if "refused" not in golden.get(name, {"refused": ""})]
    return tuple(Question(messages[:-1], tools) for messages, tools in taken)


def write_speech(contract: Contract, source: Path, folder: Path) -> None:
    """Copy the tokenizer's files from `source`; write template, stop set and sampling as the contract has them."""
    for name in BESIDE_WEIGHTS:
        if (source / name).is_file() and source != folder:
            shutil.copyfile(source / name, folder / name)
    tokenizer = Tokenizer.load(folder)
    if _texts_of(folder, tokenizer) != contract.value["template"]:
        _write_template(contract.value["template"], folder)
    settings: dict[str, Any] = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    stops = list(contract.stop_ids)
    if contract.value["eos"] in stops:  # the token that ends texts first, as others expect it
        stops = [contract.value["eos"], *(token for token in stops if token != contract.value["eos"])]
    sampling = {key: item for key, item in contract.value["sampling"].items() if key in SAMPLING_KEYS}
    settings |= {"eos_token_id": stops[0] if len(stops) == 1 else stops or None, "pad_token_id": tokenizer.pad_id}
    if sampling:
        settings |= sampling | {"do_sample": sampling.get("temperature", 1.0) > 0}
    write_json(folder / GENERATION, settings)


def check_speech(trained: Contract, folder: Path) -> Check:
    """The folder's own files give the trained contract again: template, special ids, stop set, golden token ids."""
    lines = trained.differences(reload_contract(folder, trained))
    note = "\n".join(lines)[:2000]
    return Check("contract", "fail" if lines else "pass", {"num_differences": len(lines)}, {"num_differences": 0}, note)


def check_tokenizer(source: Path, folder: Path) -> Check:
    """The vocabulary's files are the base's, byte for byte: golden texts do not touch every token."""
    names = {path.name for place in (source, folder) for path in place.iterdir() if path.name in VOCABULARY}
    differing = [name for name in sorted(names) if _digest(source / name) != _digest(folder / name)]
    numbers = {"num_files": len(names), "num_differing": len(differing)}
    verdict: Literal["pass", "fail"] = "fail" if differing or not names else "pass"
    return Check("tokenizer", verdict, numbers, {"num_differing": 0}, ", ".join(differing))


def _digest(path: Path) -> str:
    return sha256_file(path) if path.is_file() else ""


def check_reloaded_prompts(
    expected: list[list[int]], probes: tuple[Question, ...], folder: Path, trained: Contract
) -> Check:
    """The probes rendered with the folder's tokenizer and template."""
    tokenizer = Tokenizer.load(folder)
    value = trained.value
    template = Template.load(folder, tokenizer, system=value["system"], thinking=value["thinking"])
    encoder = Encoder(tokenizer, template)
    found = [encoder.encode_prompt(question.messages, question.tools) for question in probes]
    return check_ids("prompts", expected, found)


def _texts_of(folder: Path, tokenizer: Tokenizer) -> dict[str, str] | None:
    try:
        return Template.load(folder, tokenizer).texts
    except TemplateError as error:
        if error.key == "template.none":
            return None
        raise


def _write_template(texts: dict[str, str], folder: Path) -> None:
    """The one place where the loaders look first; a second template for tools only fits into the tokenizer's config."""
    (folder / "chat_template.json").unlink(missing_ok=True)
    path = folder / TOKENIZER
    config: dict[str, Any] = read_json(path) if path.is_file() else {}
    if set(texts) == {"default"}:
        config.pop("chat_template", None)
        write_text(folder / "chat_template.jinja", texts["default"])
    else:
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        config["chat_template"] = [{"name": name, "template": text} for name, text in texts.items()]
    if not config:
        raise ExportError("export.no_tokenizer_config", where=str(path))
    write_json(path, config)
