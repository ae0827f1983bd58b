"""Export `adapter`: a PEFT folder with the tokenizer, template and generation settings that it was trained with.

Small, and only as good as the base beside it: the base's digest stands in the manifest and is asked for again by
whoever puts the two together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from danlu.adapters.adapter import Attached
from danlu.adapters.peft_format import CONFIG
from danlu.core.errors import ExportError
from danlu.core.files import read_json, write_json
from danlu.exports.export import Proof, Subject
from danlu.exports.merging import prove_speech
from danlu.exports.proof import Promise, prove_readers
from danlu.exports.reload import check_adapter, living, proof_dtype
from danlu.exports.speech import write_speech


class AdapterExport:
    kind: Literal["adapter"] = "adapter"

    def size_bytes(self, subject: Subject) -> int:
        return 4 * sum(weight.numel() for weight in _adapter(subject).parameters().values()) + 2**24

    def write(self, subject: Subject, folder: Path) -> None:
        adapter = _adapter(subject)
        adapter.check()
        adapter.save(folder)
        config = read_json(folder / CONFIG)
        base = subject.facts.base
        names = {"base_model_name_or_path": base.get("name"), "revision": base.get("revision")}
        write_json(folder / CONFIG, config | names)
        write_speech(subject.contract, subject.engine.model.folder, folder)

    def prove(self, subject: Subject, folder: Path) -> Proof:
        checks = prove_speech(subject, folder)
        trained = living(subject)
        checks += check_adapter(subject, folder, trained)
        promise = Promise(("danlu", "peft"), is_merged=False, beside=subject.engine.model.folder)
        found, noise = prove_readers(subject, folder, promise)
        return Proof(checks + found, noise.worst(trained.floor), {"dtype": str(proof_dtype(subject.engine.model))[6:]})


def _adapter(subject: Subject) -> Attached:
    """What was attached, if it can stand beside its base."""
    adapter = subject.engine.adapter
    if adapter is None or not adapter.can_disable:
        raise ExportError("export.no_adapter", where="exports", given=adapter.kind if adapter else "-")
    return adapter
