"""What both four-bit exports do alike."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from pathlib import Path

from danlu.exports.calibrated.prove import prove_calibrated
from danlu.exports.calibrated.schemes import Scheme
from danlu.exports.calibrated.write import Effort, write_calibrated
from danlu.exports.export import Proof, Subject
from danlu.exports.merging import context_of, merged_model, prove_speech
from danlu.exports.reload import living, proof_dtype, stored_dtype
from danlu.exports.serving import write_serving
from danlu.model.quantized import num_params


class Calibrated:
    """One of the formats; `kind` and the scheme are the shelf's affair."""

    def __init__(self, kind: str, scheme: Scheme, python: str | None) -> None:
        self.kind, self.scheme, self.python = kind, scheme, python
        self._effort: Effort | None = None

    def size_bytes(self, subject: Subject) -> int:
        """The whole model lies beside the codes until they are found."""
        model = subject.engine.model
        return num_params(model) * (stored_dtype(model).itemsize + 1) + 2**26

    def write(self, subject: Subject, folder: Path) -> None:
        self._effort = write_calibrated(subject, folder, self.scheme)
        write_serving(folder, name=subject.facts.name, contract=subject.contract, context=context_of(subject))

    def prove(self, subject: Subject, folder: Path) -> Proof:
        assert self._effort is not None, "written before it is proven"
        checks = prove_speech(subject, folder)
        merged = merged_model(subject, where=f"exports: {self.kind}")
        found, noise = prove_calibrated(
            subject, folder, merged, self.scheme, self._effort.group, python=self.python
        )  # fmt: skip
        version = importlib.metadata.version("auto-round")
        facts = {"dtype": str(proof_dtype(subject.engine.model))[6:], "files_dtype": self.kind,
                 "calibration": asdict(self._effort) | {"rounded_by": f"auto-round {version}"}}  # fmt: skip
        return Proof(checks + found, noise.worst(living(subject).floor), facts)
