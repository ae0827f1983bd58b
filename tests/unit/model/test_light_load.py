"""What loading a model costs beside its weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tiny_chat import write_base
from waiting_kit import PATIENCE_S


def test_loading_a_model_does_not_load_torchs_compiler(tmp_path: Path) -> None:
    """An embedding that was drawn on the meta device brought it in: a second of CPU in each process, at each engine's
    restart too."""
    base = write_base(tmp_path / "base")
    told = (
        "import sys; from pathlib import Path; from danlu.model.build import load_model; "
        f"load_model(Path({str(base)!r})); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout.split() == ["False"]
