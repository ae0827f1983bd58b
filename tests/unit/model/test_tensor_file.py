"""A disk that fills up while weights are written ended in a traceback: safetensors raises what is no OSError."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danlu.model.tensor_file import write_tensors


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_tensors({"a": torch.arange(6.0)}, tmp_path / "one.safetensors")
    assert load_file(tmp_path / "one.safetensors")["a"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        write_tensors({"a": torch.zeros(3)}, tmp_path / "nowhere" / "one.safetensors")
    assert caught.value.errno == errno.ENOENT


def test_no_room_for_it(tmp_path: Path) -> None:
    """A file may grow to this size and no further, which is told in the same way as a full disk."""
    signal = pytest.importorskip("signal")
    before, kept = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="large") as caught:
            write_tensors({"a": torch.zeros(10_000)}, tmp_path / "one.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, kept)
    assert caught.value.errno == errno.EFBIG
