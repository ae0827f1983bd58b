"""Collect the peers' wheels for a machine without a network, about 22 MiB: `python bench/race/wheels.py wheels-peers`.

For Python 3.12 beside torch 2.11, transformers 5.17 and peft, which that machine has. Pins are the newest that work
there; Unsloth decides (it asks for transformers <= 5.17, trl <= 1.15, datasets < 5). Unsloth loses its studio and
bitsandbytes its other CUDA builds, which nothing here runs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

PINS = (
    "unsloth==2026.10.9", "unsloth_zoo==2026.10.9", "trl==1.15.0", "datasets==4.8.5", "dill==0.4.1",
    "multiprocess==0.70.19", "tyro==1.0.17", "docstring-parser==0.18.0", "typeguard==4.6.0",
    "cut_cross_entropy==25.1.1", "msgspec==0.22.0", "hf_transfer==0.1.9", "torchao==0.18.0", "bitsandbytes==0.50.2",
    "liger-kernel==0.8.5",
)  # fmt: skip
FACTORY = ("llamafactory==0.9.5", "omegaconf==2.4.0", "fire==0.7.1", "termcolor==3.3.0")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014", "manylinux1")
UNUSED: dict[str, Callable[[str], bool]] = {
    "unsloth": lambda name: name.startswith(("studio/", "unsloth_cli/")),
    "bitsandbytes": lambda name: name.endswith(".so") and not name.endswith(("cuda130.so", "cpu.so")),
}


def main() -> None:
    place = Path(sys.argv[1])
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as fresh:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", fresh]
        command += ["--python-version", "3.12", "--implementation", "cp"]
        command += [part for platform in PLATFORMS for part in ("--platform", f"{platform}_x86_64")]
        subprocess.run([*command, *PINS, *FACTORY], check=True)
        for old in place.glob("*.whl"):
            old.unlink()
        for wheel in sorted(Path(fresh).glob("*.whl")):
            drop = UNUSED.get(wheel.name.partition("-")[0])
            if drop:
                without(wheel, place / wheel.name, drop)
            else:
                shutil.copy(wheel, place)
    for wheel in sorted(place.glob("*.whl")):
        print(f"{wheel.stat().st_size / 2**20:6.1f} MiB {wheel.name}")


def without(source: Path, target: Path, drop: Callable[[str], bool]) -> None:
    """A wheel without some files, its record told."""
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        record = next(name for name in given.namelist() if name.endswith(".dist-info/RECORD"))
        kept = [name for name in given.namelist() if name != record and not drop(name)]
        for name in kept:
            made.writestr(given.getinfo(name), given.read(name))
        known = {*kept, record}
        rows = [row for row in given.read(record).decode().splitlines() if row.partition(",")[0] in known]
        made.writestr(record, "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
