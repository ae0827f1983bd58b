"""Exports in codes (fp8, int8, awq, gptq), honest and spoilt, before all that proves them.

Honest four-bit files are auto-round's own, and so are those whose codes are spoilt afterwards (`sabotage_codes.py`);
where a harm comes before rounding (`sabotage_harms.py`), codes are rounded to nearest (`nearest_codes.py`): auto-round
would take hours for hundreds of files.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from danlu.exports.calibrated import schemes as calibrated
from danlu.exports.calibrated.prove import prove_calibrated
from danlu.exports.calibrated.write import check_shapes, write_calibrated
from danlu.exports.compressed import schemes as compressed
from danlu.exports.compressed.prove import prove_compressed
from danlu.exports.compressed.write import write_compressed
from danlu.exports.merging import context_of, merged_model, prove_speech
from danlu.exports.parity import Check
from danlu.exports.reload import stored_dtype
from danlu.exports.serving import write_serving
from danlu.exports.speech import write_speech
from nearest_codes import write_nearest
from sabotage_codes import CODES
from sabotage_kit import Draft, Harm, draft_of
from sabotage_kit import merged_model as merged_draft
from sabotage_trial import Trial

EIGHT, FOUR = ("fp8", "int8"), ("awq", "gptq")
KINDS = EIGHT + FOUR


class CodedTrial(Trial):
    """A pupil whose exports in codes are on trial. `python`: of vLLM's environment, to ask vLLM as well."""

    def __init__(self, family: str, folder: Path, *, seed: int = 0, python: str | None = None) -> None:
        super().__init__(family, folder, seed=seed)
        self.python = python
        self.pupil.subject = replace(self.pupil.subject, texts=self._texts)

    def _texts(self) -> list[list[int]]:
        return [list(told.prompt_ids + told.answer_ids) * 4 for told in self.pupil.subject.records]

    def honest(self, kind: str) -> list[Check]:
        return self.judge(kind, self.export(kind))

    def nearest(self, kind: str) -> list[Check]:
        """The honest twin of what harms before rounding are compared with."""
        folder = self.folder / "nearest"
        try:
            return self.judge(kind, self.write(draft_of(self.pupil), kind, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def spoilt(self, kind: str, harm: Harm, *, until_failed: bool = False) -> list[Check] | None:
        draft, folder = draft_of(self.pupil), self.folder / "spoilt"
        if harm(draft) is False:
            return None
        try:
            if harm in CODES[kind].values():
                shutil.copytree(self.export(kind), folder)
                before = contents(folder)
                draft.edit(folder)
                if contents(folder) == before:
                    return None
            else:
                self.write(draft, kind, folder)
            return self.judge(kind, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def export(self, kind: str) -> Path:
        """By the writers of the exports themselves, once."""
        folder, subject = self.folder / "exported" / kind, self.pupil.subject
        if folder.is_dir():
            return folder
        folder.mkdir(parents=True)
        if kind in EIGHT:
            merged = merged_model(subject, where="test")
            write_compressed(merged, folder, compressed.SCHEMES[kind], stored_dtype(merged))
            write_speech(subject.contract, subject.engine.model.folder, folder)
        else:
            write_calibrated(subject, folder, calibrated.SCHEMES[kind])
        write_serving(folder, name="pupil", contract=subject.contract, context=context_of(subject))
        return folder

    def write(self, draft: Draft, kind: str, folder: Path) -> Path:
        """Codes nearest to the weights of a draft."""
        folder.mkdir(parents=True)
        model = merged_draft(draft)
        if kind in EIGHT:
            write_compressed(model, folder, compressed.SCHEMES[kind], stored_dtype(model))
        else:
            write_nearest(model, folder, calibrated.SCHEMES[kind], check_shapes(model, "test"))
        write_speech(draft.contract, draft.source, folder)
        write_serving(folder, name="pupil", contract=draft.contract, context=context_of(draft.pupil.subject))
        draft.edit(folder)
        return folder

    def judge(self, kind: str, folder: Path) -> list[Check]:
        """All that an export of the kind has to pass."""
        subject = self.pupil.subject
        merged = merged_model(subject, where="test")
        checks = prove_speech(subject, folder)
        with contextlib.redirect_stdout(io.StringIO()):
            if kind in EIGHT:
                scheme = compressed.SCHEMES[kind]
                found, _ = prove_compressed(subject, folder, merged, scheme, python=self.python)
            else:
                group = check_shapes(merged, "test")
                found, _ = prove_calibrated(
                    subject, folder, merged, calibrated.SCHEMES[kind], group, python=self.python
                )
        return checks + found


def contents(folder: Path) -> dict[str, bytes]:
    """Of a folder, tensors by their names."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".safetensors"}
    for path in folder.glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            told = f"{tensor.dtype} {list(tensor.shape)} ".encode()
            found[f"{path.name}: {name}"] = told + tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return found
