"""The rule `servable` of check: can what this recipe exports be served by the programs it is for? Asked before
training, answered without torch.

A fault is a complaint: training would end in an export that is refused. What only costs (a file that grows, a package
that is missing on this machine) is a warning.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from danlu.core.errors import DanluError, DataError, ExportError, RecipeError
from danlu.core.files import read_json
from danlu.core.messages import say
from danlu.core.progress import Progress
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.exports.calibrated.needs import MULTIPLE, PACKAGES
from danlu.exports.gguf.vocabulary import read_vocabulary
from danlu.exports.ollama.modelfile import refuse_unsaid
from danlu.exports.ollama.turns import learn
from danlu.exports.push import CLIENTS, token_file
from danlu.exports.vllm_program import program
from danlu.planning.servable import (
    Fault,
    adapter_faults,
    coarser_rows,
    cut_context,
    gguf_faults,
    start_faults,
    text_of,
)  # fmt: skip
from danlu.planning.shapes import Shapes
from danlu.recipe import Recipe
from danlu.recipe.complaints import Complaint
from danlu.recipe.exports import READ_BY_VLLM, VLLM_RANKS, ExportSection

CALIBRATED = ("awq", "gptq")
DEFAULT_EXPORTS = Recipe.model_fields["exports"].default
GGUF = ("gguf", "gguf-lora", "ollama", "lmstudio")
BESIDE_A_BASE = ("gguf-lora", "vllm-lora")
"""For programs that put plain low-rank pairs beside a base, and nothing else."""
NEEDS_ADAPTER = ("adapter", "gguf-lora", "vllm-lora")
_PACKAGES = {"gguf": "gguf", "gguf-lora": "gguf", "ollama": "gguf", "lmstudio": "gguf"}


def servable(recipe: Recipe, folder: Path | None) -> tuple[list[Complaint], list[dict[str, Any]]]:
    """(complaints, warnings). `folder` is the base's, None when it is not on this machine."""
    config = read_json(folder / "config.json") if folder is not None else None
    complaints = list(_twice(recipe))
    warnings: list[dict[str, Any]] = []
    for number, section in enumerate(recipe.exports):
        key = f"exports.{number}"
        if recipe.adapter.kind == "prefix" and section.kind != "adapter":
            fault = Fault("prefix_unmerged", {"given": section.kind})
            if recipe.exports == DEFAULT_EXPORTS:  # nobody asked for it
                warnings.append(_warning(f"{key}.kind", fault))
            else:
                complaints.append(_complaint(f"{key}.kind", section.kind, Fault("prefix_alone", {})))
            continue
        if recipe.adapter.kind == "full" and section.kind in NEEDS_ADAPTER:
            warnings.append(_warning(f"{key}.kind", Fault("no_adapter", {"given": section.kind})))
            continue
        complaints += [_complaint(f"{key}.kind", section.kind, fault) for fault in _faults(recipe, section, config)]
        if folder is not None:
            complaints += _speech(recipe, folder, section, f"{key}.kind", config)
        warnings += [_warning(key, fault) for fault in _costs(recipe, section, config)]
    complaints += _start(recipe)
    shapes = Shapes.read(config) if config is not None else None
    if recipe.adapter.kind == "prefix" and shapes is not None and shapes.is_foreign:
        complaints.append(_complaint("adapter.kind", "prefix", Fault("prefix_foreign", {})))
    return complaints, warnings


def refuse_unservable(recipe: Recipe, folder: Path | None, progress: Progress) -> None:
    """Before hours of training: RecipeError when they would end in an export that is refused; what only costs is
    told."""
    complaints, warnings = servable(recipe, folder)
    if complaints:
        lines = "\n".join(f"  {complaint}" for complaint in complaints)
        raise RecipeError("recipe.invalid", where=complaints[0].key, count=len(complaints), list=lines)
    for warning in warnings:
        progress.note(f"{warning['message']}\n  → {warning['fix']}")


def _twice(recipe: Recipe) -> Iterator[Complaint]:
    folders = [section.folder for section in recipe.exports]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            yield Complaint(f"exports.{number}", folder, say("serving.twice"))
    repos = [(section.push.hub, section.push.repo) if section.push else None for section in recipe.exports]
    for number, repo in enumerate(repos):
        if repo is not None and repo in repos[:number]:  # what is sent takes the place of what lay there
            yield Complaint(f"exports.{number}.push.repo", repo[1], say("serving.one_repo"))


def _faults(recipe: Recipe, section: ExportSection, config: dict[str, Any] | None) -> Iterator[Fault]:
    if section.kind in GGUF and config is not None:
        yield from gguf_faults(config)
    if section.kind in CALIBRATED and config is not None:
        yield from _odd_shapes(config)
    if section.kind in BESIDE_A_BASE and recipe.adapter.kind == "lora" and recipe.adapter.dora:
        yield Fault("no_dora", {})
    if section.kind == "vllm-lora" and recipe.adapter.kind == "lora":
        yield from adapter_faults(config, recipe.adapter.rank, recipe.adapter.targets, VLLM_RANKS)


def _odd_shapes(config: dict[str, Any]) -> Iterator[Fault]:
    """Four bits are packed eight to a word, and groups share a scale."""
    text = text_of(config)
    sizes = {int(text[name]) for name in ("hidden_size", "intermediate_size") if text.get(name)}
    heads, width = text.get("num_attention_heads"), text.get("hidden_size")
    if heads and width:
        head = int(text.get("head_dim") or width // heads)
        sizes |= {head * int(heads), head * int(text.get("num_key_value_heads") or heads)}
    if odd := sorted(size for size in sizes if size % MULTIPLE):
        yield Fault("odd_codes", {"given": ", ".join(map(str, odd)), "multiple": MULTIPLE})


def _costs(recipe: Recipe, section: ExportSection, config: dict[str, Any] | None) -> Iterator[Fault]:
    if config is not None and section.kind in GGUF:
        yield from coarser_rows(config, section.stored or "")
        yield from cut_context(config, max(stage.training.context for stage in recipe.plan_stages()))
    if section.kind == "adapter" and recipe.adapter.kind == "lora" and recipe.adapter.dora:
        yield Fault("dora_unserved", {})
    if section.kind == "adapter" and recipe.adapter.kind == "prefix":
        yield Fault("prefix_unserved", {})
    package = "compressed_tensors" if section.kind == "vllm" and section.quantize else _PACKAGES.get(section.kind)
    wanted = [name for name in (package, "xllamacpp" if package == "gguf" else None) if name]
    if missing := [name for name in wanted if importlib.util.find_spec(name) is None]:
        yield Fault("no_package", {"given": ", ".join(missing), "kind": section.kind})
    rounding = PACKAGES if section.kind in CALIBRATED else ()
    if missing := [name for name in rounding if importlib.util.find_spec(name) is None]:
        yield Fault("no_rounding", {"given": ", ".join(missing), "kind": section.kind})
    if section.kind in READ_BY_VLLM and section.vllm is not None and program(section.vllm) is None:
        yield Fault("no_vllm", {"given": section.vllm})
    if section.push is not None:
        hub = section.push.hub
        if importlib.util.find_spec(CLIENTS[hub]) is None:
            yield Fault("no_client", {"given": CLIENTS[hub], "hub": hub})
        if not token_file(hub).is_file():
            yield Fault("no_token", {"hub": hub, "file": token_file(hub)})


def _speech(
    recipe: Recipe, folder: Path, section: ExportSection, key: str, config: dict[str, Any] | None
) -> Iterable[Complaint]:
    """Tokenizer and template, for programs that bring readers of their own."""
    try:
        tokenizer = Tokenizer.load(folder)
    except DataError:
        return  # said elsewhere
    num_rows = text_of(config or {}).get("vocab_size")
    if num_rows is not None and tokenizer.vocab_size > num_rows:
        values = {"given": tokenizer.vocab_size, "rows": num_rows}
        yield _complaint("model.base", str(folder), Fault("more_tokens", values))
        return
    try:
        if section.kind in GGUF and section.kind != "gguf-lora":
            read_vocabulary(folder, num_rows or tokenizer.vocab_size, first_ids=frozenset())
        if section.kind == "ollama":
            named = recipe.model.template
            learn(Template.load(folder, tokenizer, None if named == "auto" else named))
            refuse_unsaid(recipe.model.system or "", "model.system")
    except (ExportError, RecipeError) as error:
        yield Complaint(key, section.kind, error.text)
    except DanluError:
        return  # no template in the folder: the recipe names one, or preparing says so


def _start(recipe: Recipe) -> Iterator[Complaint]:
    """An adapter to continue from brings its settings along."""
    if recipe.adapter.kind != "lora" or not recipe.adapter.start:
        return
    path = Path(recipe.adapter.start) / "adapter_config.json"
    if path.is_file():
        settings = read_json(path)
        if bool(settings.get("use_dora")) != recipe.adapter.dora:
            given = "true" if settings.get("use_dora") else "false"
            yield _complaint("adapter.dora", recipe.adapter.dora, Fault("start_dora", {"given": given}))
        for fault in start_faults(settings):
            yield _complaint("adapter.start", recipe.adapter.start, fault)


def _complaint(key: str, given: Any, fault: Fault) -> Complaint:
    return Complaint(key, given, say(f"serving.{fault.key}", **fault.values).split("\n")[0])


def _warning(where: str, fault: Fault) -> dict[str, Any]:
    return ExportError(f"serving.{fault.key}", where=where, **fault.values).to_json()
