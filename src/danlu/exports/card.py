"""The card (README.md) of an artefact, Chinese and English in one file. Everything in it was handed in or measured.

Known keys of the values: `data`, `training`, `evaluation` (each a mapping of what to its figure, mappings inside are
flattened), `licence`, `limits`, `credits` (texts; a mapping {"zh", "en"} where the languages differ).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from danlu.adapters.peft_format import CONFIG
from danlu.core.files import read_json, write_text
from danlu.core.messages import LANGUAGES, Language, say
from danlu.exports.figures import merging_lines, proof_table
from danlu.exports.usage import nature_of, usage
from danlu.run.artifact import Manifest

NAME = "README.md"
MAX_CANARY_CHARS = 300


def write_card(folder: Path, manifest: Manifest, values: Mapping[str, Any]) -> None:
    """README.md with the front matter that model hubs read."""
    parts = [_front_matter(folder, manifest, values), f"# {_plain(manifest.name)}"]
    parts += [_section(folder, manifest, values, language) for language in reversed(LANGUAGES)]
    write_text(folder / NAME, "\n\n".join(parts) + "\n")


def _front_matter(folder: Path, manifest: Manifest, values: Mapping[str, Any]) -> str:
    nature = nature_of(_kind(manifest))
    front: dict[str, Any] = {
        "base_model": str(manifest.base.get("name")),
        "base_model_relation": nature.relation,
        "library_name": nature.library,
        "pipeline_tag": nature.task,
        "language": ["zh", "en"],
        "tags": ["danlu", *(_adapter_tags(folder) if manifest.kind == "adapter" else nature.tags)],
    }
    if licence := _in(values.get("licence"), "en"):
        front["license"] = licence.lower() if len(licence.split()) == 1 else "other"
    return f"---\n{yaml.safe_dump(front, allow_unicode=True, sort_keys=True)}---"


def _adapter_tags(folder: Path) -> list[str]:
    """What hubs call an adapter of this kind."""
    config = read_json(folder / CONFIG)
    kind = str(config.get("peft_type", "")).lower().replace("_", "-")
    return [kind, *(["dora"] if config.get("use_dora") else [])]


def _kind(manifest: Manifest) -> str:
    """What it is, an encoder being another thing than a decoder of the same kind."""
    return "merged-classes" if "classes" in manifest.contract else manifest.kind


def _section(folder: Path, manifest: Manifest, values: Mapping[str, Any], language: Language) -> str:
    def tell(key: str, **filled: Any) -> str:
        return say(f"export.card_{key}", language, **filled)

    base = manifest.base
    lines = [say(f"card.what_{_kind(manifest).replace('-', '_')}", language), "", f"## {tell('base')}", ""]
    revision, digest = base.get("revision") or "-", str(base.get("digest"))[:16]
    lines.append(tell("base_row", name=base.get("name"), revision=revision, digest=digest))
    if base.get("quantize", "none") != "none":
        lines += ["", tell("quantized", quantize=base["quantize"])]
        lines += merging_lines(manifest.parity, str(base["quantize"]), language)
    for key in ("data", "training", "evaluation"):
        if values.get(key):
            lines += ["", f"## {tell(key)}", "", *_table(values[key])]
        elif key == "evaluation":
            lines += ["", f"## {tell(key)}", "", tell("no_evaluation")]
    lines += ["", f"## {tell('licence')}", "", _in(values.get("licence"), language) or tell("no_licence")]
    for key in ("limits", "credits"):
        if text := _in(values.get(key), language):
            lines += ["", f"## {tell(key)}", "", text]
    used = usage(_kind(manifest), folder, language, base=str(base.get("name")), name=_plain(manifest.name))
    lines += ["", f"## {tell('use')}", "", *used]
    if system := manifest.contract.get("system"):
        lines += ["", tell("system"), "", *(f"> {line}" for line in str(system).splitlines())]
    lines += ["", f"## {tell('proof')}", "", *_proof(manifest, language)]
    return "\n".join(lines)


def _proof(manifest: Manifest, language: Language) -> list[str]:
    parity = manifest.parity
    lines = [say(f"export.card_verdict_{parity['verdict']}", language), ""]
    lines += proof_table(parity, language)
    lines += ["", f"{say('export.card_canaries', language)}:", ""]
    for canary in manifest.canaries:
        lines.append(f"- `{_plain(canary.prompt)}` → `{_plain(canary.answer)}`")
    return lines


def _table(values: Mapping[str, Any]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {_plain(name)} | {_plain(figure)} |" for name, figure in _flat(values))]


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} · ")
        elif isinstance(value, float):
            yield f"{above}{name}", f"{value:.4g}"
        elif isinstance(value, list | tuple):
            yield f"{above}{name}", ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
        else:
            yield f"{above}{name}", str(value)


def _in(text: Any, language: Language) -> str:
    return str(text.get(language) or "") if isinstance(text, Mapping) else str(text or "")


def _plain(text: str) -> str:
    """One line that cannot break a table or open markup of its own."""
    line = " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")
    return line if len(line) <= MAX_CANARY_CHARS else line[:MAX_CANARY_CHARS] + "…"
