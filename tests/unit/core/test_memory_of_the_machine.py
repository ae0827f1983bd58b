"""The machine's memory: what a container may have of it counts."""

from __future__ import annotations

from pathlib import Path

from danlu.core import memory


def test_what_is_available_is_part_of_the_whole() -> None:
    assert 0 < memory.available_bytes() <= memory.total_bytes()


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch) -> None:
    """A machine of a terabyte, a container of two gigabytes: pinning by the former ended the process."""
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUPS", (limit, tmp_path / "absent"))
    whole = memory.total_bytes()
    limit.write_text("max\n")
    assert memory.total_bytes() == whole
    limit.write_text("1048576\n")
    assert memory.total_bytes() == memory.available_bytes() == 1048576
