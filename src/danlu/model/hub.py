"""Where `model.base` lies: a folder, the embedded base `ember`, or a model hub (Hugging Face, ModelScope), offline
first.

Torch-free. What a hub sends is in `download.py`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from danlu.core.errors import HubError, ModelError
from danlu.core.progress import Progress

Hub = Literal["huggingface", "modelscope"]
EMBEDDED = "ember"


def find_base(
    base: str | Path, *, revision: str | None, hub: Hub, mirror: str | None, needs_weights: bool, progress: Progress
) -> Path:
    """The folder of a base on this machine."""
    if base == EMBEDDED:
        return embedded_folder()
    folder = Path(base).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ModelError("model.base_is_file", where="model.base", given=str(base))
    raise HubError("model.base_missing", where="model.base", given=str(base))


def embedded_folder() -> Path:
    """The base that ships with the package."""
    folder = Path(str(resources.files("danlu.assets") / EMBEDDED))
    if not (folder / "config.json").is_file():
        raise ModelError("model.no_ember", where="model.base", folder=str(folder))
    return folder
