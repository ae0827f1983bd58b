"""The door: is an artefact still what it was when it was sealed, and was it proven? Chatting, evaluating and serving go
through it first. Files are hashed again, the contract is made again from them, the verdict is read; it takes seconds
and needs neither the model nor torch. `replay.py` then asks the engine that was opened.
"""

from __future__ import annotations

from pathlib import Path

from danlu.core.errors import ExportError
from danlu.core.messages import listed
from danlu.data.classes import contract_again, is_of_classes
from danlu.data.contract import Contract, make_contract
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.run.artifact import NAME, Manifest, verdict_of


def verify(folder: Path, *, allow_unproven: bool = False) -> Manifest:
    """The manifest, once every file, the stored contract and the verdict have been looked at. ExportError or
    TemplateError says what differs. A proof that failed closes the door, unless `allow_unproven`; one that could not be
    run to its end does not: `unproven` says what is missing."""
    manifest = _read(folder)
    manifest.check_files(folder)
    stored = Contract.from_json(manifest.contract)
    stored.check(reload_contract(folder, stored), where=str(folder))
    if manifest.parity["verdict"] == "fail" and not allow_unproven:
        raise ExportError("export.parity_failed", where=str(folder), checks=listed(unproven(manifest)))
    return manifest


def unproven(manifest: Manifest) -> list[str]:
    """The checks that failed, or were not run."""
    return [check["name"] for check in manifest.parity["checks"] if check["verdict"] != "pass"]


def reload_contract(folder: Path, trained: Contract) -> Contract:
    """The contract of what stands in the folder, under the trained one's system prompt and thinking mode."""
    tokenizer = Tokenizer.load(folder)
    if is_of_classes(trained):
        return contract_again(trained, tokenizer)
    value = trained.value
    template = Template.load(folder, tokenizer, system=value["system"], thinking=value["thinking"])
    return make_contract(template, tokenizer, value["sampling"])


def _read(folder: Path) -> Manifest:
    """The manifest, its verdict being what its own checks give."""
    manifest = Manifest.read(folder)
    try:
        told, verdicts = manifest.parity["verdict"], {check["verdict"] for check in manifest.parity["checks"]}
    except (KeyError, TypeError) as error:
        raise ExportError("run.bad_manifest", where=str(folder / NAME), said=f"parity: {error!r}"[:200]) from error
    if told != verdict_of(verdicts):
        raise ExportError("export.bad_manifest", where=str(folder / NAME), said=f"verdict {told!r}, {sorted(verdicts)}")
    return manifest
