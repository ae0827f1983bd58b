"""Collect the peers for a machine without a network, as one archive of about 20 MiB.

    python bench/race/wheels.py wheels-peers [wheels]        here, where pip works
    python3 -m tarfile -e wheels-peers/site.tar.xz /tmp/site  there; then PYTHONPATH=$PWD/src:/tmp/site

For Python 3.12 beside torch 2.11, transformers 5.17, peft and accelerate, which that machine has. Pins are the newest
that work there; Unsloth decides (it asks for transformers <= 5.17, trl <= 1.15, datasets < 5). Unsloth loses its studio
and bitsandbytes its other CUDA builds, which nothing here runs. LLaMA-Factory's older TRL goes into a folder of its
own, `factory`. A second folder's wheels (danlu's own needs) are packed too.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

PINS = (
    "unsloth==2026.10.9", "unsloth_zoo==2026.10.9", "trl==1.15.0", "datasets==4.8.5", "dill==0.4.1",
    "multiprocess==0.70.19", "tyro==1.0.17", "docstring-parser==0.18.0", "typeguard==4.6.0",
    "cut_cross_entropy==25.1.1", "msgspec==0.22.0", "hf_transfer==0.1.9", "torchao==0.18.0", "bitsandbytes==0.50.2",
    "liger-kernel==0.8.5",
)  # fmt: skip
THERE = ("pytest", "hypothesis", "pluggy", "iniconfig", "attrs", "sortedcontainers")
"""What that machine has anyway."""
OWN = ("annotated_types", "nvidia_cudnn_frontend", "orjson", "pydantic", "typing_extensions", "typing_inspection")
"""What danlu's trainer imports and that machine lacks."""
FACTORY_TRL = ("trl==0.24.0",)
FACTORY = ("llamafactory==0.9.5", "omegaconf==2.4.0", "fire==0.7.1", "termcolor==3.3.0")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014", "manylinux1")
UNUSED: dict[str, Callable[[str], bool]] = {
    "unsloth": lambda name: name.startswith(("studio/", "unsloth_cli/")),
    "bitsandbytes": lambda name: name.endswith(".so") and not name.endswith(("cuda130.so", "cpu.so")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path)
    parser.add_argument("more", type=Path, nargs="*", help="folders of wheels that are packed too")
    parser.add_argument("--only-own", action="store_true", help="no peers: what danlu's trainer imports, from `more`")
    given = parser.parse_args()
    given.place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        fresh, site = Path(work) / "wheels", Path(work) / "site"
        fresh.mkdir()
        if not given.only_own:
            download(fresh, PINS + FACTORY)
            download(fresh / "factory", FACTORY_TRL)
        for wheel in sorted(fresh.glob("*.whl")):
            unpack(wheel, site)
        for wheel in sorted((fresh / "factory").glob("*.whl")):
            unpack(wheel, site / "factory")
        for wheel in sorted(wheel for folder in given.more for wheel in folder.glob("*.whl")):
            if wheel.name.startswith(OWN) if given.only_own else not wheel.name.startswith(THERE):
                unpack(wheel, site)
        archive = given.place / "site.tar.xz"
        with tarfile.open(archive, "w:xz", preset=9) as packed:
            for entry in sorted(site.iterdir()):
                packed.add(entry, entry.name)
    print(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB")


def download(folder: Path, pins: Iterable[str]) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--python-version", "3.12", "--implementation", "cp"]
    command += [part for platform in PLATFORMS for part in ("--platform", f"{platform}_x86_64")]
    subprocess.run([*command, *pins], check=True)


def unpack(wheel: Path, site: Path) -> None:
    """A wheel's files as an installer would lay them, without scripts and without what nothing here runs."""
    is_unused = UNUSED.get(wheel.name.partition("-")[0], lambda name: False)
    with zipfile.ZipFile(wheel) as packed:
        for name in packed.namelist():
            if not is_unused(name) and ".data/scripts/" not in name:
                packed.extract(name, site)
    for data in site.glob("*.data/purelib"):
        shutil.copytree(data, site, dirs_exist_ok=True)
        shutil.rmtree(data.parent)


if __name__ == "__main__":
    main()
