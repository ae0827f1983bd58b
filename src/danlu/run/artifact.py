"""Artefact manifest: what a shippable folder is, what it came of, and the proof it carries.

`artifact.json` (format 1, documented in docs/reference.md) lists every other file with its sha256; `digest` is
the digest of that list, so it names the content. Canaries are prompts with the greedy answers the trained model gave.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from danlu.core.errors import ExportError
from danlu.core.files import read_json, sha256_file, sha256_json, write_json
from danlu.version import VERSION

FORMAT = 1
NAME = "artifact.json"


@dataclass(frozen=True, slots=True)
class Canary:
    """A rendered prompt and its greedy answer, both as token ids, with the text for people."""

    prompt: str
    prompt_ids: tuple[int, ...]
    answer: str
    answer_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """`base` = {name, revision, digest}; `parents` = digests of dataset, checkpoint and the like, by role;
    `parity` = the verdict and its numbers (see exports/parity.py)."""

    kind: str
    name: str
    base: dict[str, Any]
    parents: dict[str, str]
    contract: dict[str, Any]
    canaries: tuple[Canary, ...]
    parity: dict[str, Any]
    created: str
    files: dict[str, str] = field(default_factory=dict)
    danlu: str = VERSION
    format: int = FORMAT

    @property
    def digest(self) -> str:
        return sha256_json(self.files)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"digest": self.digest}

    def write(self, folder: Path) -> Manifest:
        """Hash every file under `folder` and write the manifest beside them; returns the completed manifest."""
        files = {
            path.relative_to(folder).as_posix(): sha256_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != NAME
        }
        complete = Manifest(**(_fields(self) | {"files": files}))
        write_json(folder / NAME, complete.to_json())
        return complete

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """What stands in `folder`. ExportError where it is no artefact, of another format, torn, or edited."""
        path = folder / NAME
        if not path.is_file():
            raise ExportError("run.not_an_artifact", where=str(folder), given=str(folder))
        try:
            tree = read_json(path)
            if (given := tree.get("format")) != FORMAT:
                raise ExportError("run.foreign_artifact", where=str(folder), given=given, expected=FORMAT)
            recorded, manifest = tree.pop("digest"), cls(**tree | {"canaries": _canaries(tree["canaries"])})
            _check_shape(manifest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # not JSON, or not of this shape
            raise ExportError("run.bad_manifest", where=str(path), said=str(error)[:200]) from error
        if recorded != manifest.digest:
            raise ExportError("run.tampered", where=str(path), expected=recorded, given=manifest.digest)
        return manifest

    def check_files(self, folder: Path) -> None:
        """Raise ExportError naming the first file that is missing, changed, or not in the manifest."""
        present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != NAME}
        for name in sorted(present | set(self.files)):
            found = sha256_file(folder / name) if name in present else None
            if found != self.files.get(name):
                raise ExportError("run.tampered", where=str(folder / name), expected=self.files.get(name), given=found)


def verdict_of(verdicts: Collection[str]) -> str:
    """Of all checks: fail if anything failed, incomplete if anything was not run."""
    return "fail" if "fail" in verdicts else "incomplete" if "not run" in verdicts else "pass"


def _canaries(told: Any) -> tuple[Canary, ...]:
    return tuple(Canary(c["prompt"], tuple(c["prompt_ids"]), c["answer"], tuple(c["answer_ids"])) for c in told)


def _check_shape(manifest: Manifest) -> None:
    """TypeError where a member is something else than its name says: whoever reads it goes by that."""
    for names, kind in ((("kind", "name", "created", "danlu"), str), (("base", "parents", "contract", "parity"), dict)):
        for name in names:
            if not isinstance(value := getattr(manifest, name), kind):
                raise TypeError(f"{name}: {type(value).__name__} instead of {kind.__name__}")
    if not isinstance(manifest.parity.get("verdict"), str):
        raise TypeError("parity: no verdict")
    if not isinstance(manifest.files, dict) or not all(isinstance(one, str) for one in manifest.files.values()):
        raise TypeError("files: not names with their sha256")


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}
