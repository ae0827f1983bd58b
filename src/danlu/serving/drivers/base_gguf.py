"""The GGUF file of a base, for llama.cpp to put adapters on: written once, by a process of its own that may load torch.

    python -m danlu.serving.drivers.base_gguf BASE_FOLDER ARTEFACT TARGET

Words (tokenizer, template, stops) are the artefact's; so artefacts that speak otherwise get files of their own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from danlu.core.errors import EngineError
from danlu.data.contract import Contract
from danlu.run.artifact import Manifest

MOST_S = 3600.0


def base_file(manifest: Manifest, folder: Path, base: Path, cache: Path) -> Path:
    """The file, written first where it is not there yet. EngineError with the writer's last words."""
    spoken = str(manifest.contract["digest"])[:12]
    target = cache / f"{str(manifest.base['digest'])[:12]}-{spoken}.gguf"
    if target.is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "danlu.serving.drivers.base_gguf", str(base), str(folder), str(target)]
    done = subprocess.run(  # noqa: S603 - our own module, folders that the server chose
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=MOST_S, check=False
    )
    if done.returncode != 0 or not target.is_file():
        said = " / ".join(done.stderr.decode(errors="replace").splitlines()[-2:])[:400]
        raise EngineError("drivers.no_base_file", where=str(base), said=said)
    return target


def main(base: str, artefact: str, target: str) -> None:
    # torch, which the server does without
    from danlu.exports.gguf.write import About, write_model
    from danlu.exports.reload import stored_dtype
    from danlu.exports.rounding import rounding_of
    from danlu.model.build import load_model

    manifest = Manifest.read(Path(artefact))
    model = load_model(Path(base), dtype="auto", device="cpu")
    kept = rounding_of(stored_dtype(model))
    assert kept != "q8_0", "a checkpoint's own dtype"
    write_model(
        model, Path(target), contract=Contract.from_json(manifest.contract), source=Path(artefact),
        about=About(str(manifest.base.get("name") or "base")), quantize=kept,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
