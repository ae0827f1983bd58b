"""Files are whole or absent, whatever happens."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.core.files import replacing_folder, sha256_json, write_bytes


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with replacing_folder(target) as fresh:
        (fresh / "a").write_text("1")
    with pytest.raises(RuntimeError), replacing_folder(target) as fresh:
        (fresh / "a").write_text("2")
        raise RuntimeError
    assert (target / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Half a checkpoint is as large as a whole one, and nobody would ever look for it."""
    code = (
        "import os, signal, sys; from pathlib import Path; from danlu.core.files import replacing_folder\n"
        "with replacing_folder(Path(sys.argv[1])) as fresh:\n"
        "    (fresh / 'big').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "step-1"
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1 and not target.exists()
    with replacing_folder(target) as fresh:
        (fresh / "a").write_text("1")
    assert os.listdir(tmp_path) == ["step-1"]


def test_killed_while_writing_leaves_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_bytes(path, b"0" * 100_000)
    code = (
        "import sys; from pathlib import Path; from danlu.core.files import write_bytes\n"
        "n = 1\nprint('go', flush=True)\n"
        "while True:\n    write_bytes(Path(sys.argv[1]), str(n % 10).encode() * 100_000); n += 1\n"
    )
    for pause in (0.05, 0.11, 0.17):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        try:
            child.wait(pause)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
        content = path.read_bytes()
        assert len(content) == 100_000 and len(set(content)) == 1


@pytest.mark.parametrize(("umask", "modes"), [(0o022, ["755", "644", "644"]), (0o077, ["700", "600", "600"])])
def test_what_a_user_keeps_from_others_is_kept_from_them(tmp_path: Path, umask: int, modes: list[str]) -> None:
    """Rows of training lay open to everybody on the machine, whatever the user's umask said."""
    code = (
        "import os, sys; os.umask(int(sys.argv[2])); from pathlib import Path\n"
        "from danlu.core.files import replacing_folder, write_text\n"
        "with replacing_folder(Path(sys.argv[1], 'out')) as fresh:\n    write_text(fresh / 'a', 'x')\n"
        "write_text(Path(sys.argv[1], 'b'), 'x')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(umask)], check=True)
    assert [f"{(tmp_path / name).stat().st_mode & 0o777:o}" for name in ("out", "out/a", "b")] == modes


def test_digest_ignores_key_order() -> None:
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})
