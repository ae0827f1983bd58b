"""The verb behind `danlu bundle`: everything a machine without a network needs to serve, or train, in one folder.

Artefacts (each looked at by the door of `exports/verify.py`), the bases of adapters, wheels for one Python, deployment
files, and the sha256 of each file. The folder appears whole or not at all. Wheels are held to the versions that stand
in this environment, which are the ones that were tried.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from danlu.core.errors import DanluError, ExportError
from danlu.core.files import read_json, replacing_folder, sha256_file, write_json, write_text
from danlu.core.messages import listed, say
from danlu.core.progress import Progress, Silent
from danlu.exports.verify import verify
from danlu.model.hub import EMBEDDED, find_base
from danlu.model.shards import known_digest
from danlu.recipe.serving import MODEL_NAME, ServingSection
from danlu.run.artifact import Manifest
from danlu.serving.choosing import refuse_unserved
from danlu.serving.deployment import Deployment, Placed, deployment_files
from danlu.version import VERSION

SUMS, CARD = "SHA256SUMS", "bundle.json"
KNOWN_PTH = {"distutils-precedence.pth"}
"""Files by which a wheel may run code at each start of Python: setuptools' own. Any other closes the bundle."""
BASES = "bases"
ADAPTERS = ("adapter", "vllm-lora")
EXTRAS = {"gguf": "export", "gguf-lora": "export", "ollama": "export", "lmstudio": "export"}
"""danlu's extra that answers from an artefact of a kind; every other is answered by torch."""
TRAINING = ("train", "data", "eval", "export")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall be in it. `wheels`: a folder of wheels that were fetched already; `python` and `platform` name another
    machine's, as pip does (3.12, manylinux_2_28_x86_64)."""

    targets: tuple[tuple[str, Path], ...]
    section: ServingSection
    others: tuple[Path, ...] = ()
    """Recipes and data that travel along."""
    wheels: Path | None = None
    has_wheels: bool = True
    to_train: bool = False
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"
    platform: str = ""
    name: str = "danlu"


@dataclass(frozen=True, slots=True)
class Wheel:
    name: str
    version: str
    licence: str
    file: str
    sha256: str


@dataclass(slots=True)
class Bundle:
    """What came of it, as `bundle.json` says."""

    folder: str
    models: list[dict[str, Any]] = field(default_factory=list)
    wheels: list[Wheel] = field(default_factory=list)
    num_files: int = 0
    num_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"danlu": VERSION}


def bundle(folder: Path, wanted: Wanted, *, progress: Progress | None = None) -> Bundle:
    """Make it at `folder`, which must not stand yet. ExportError or DanluError says what is missing."""
    progress = progress or Silent()
    if folder.exists():
        raise ExportError("bundle.exists", where=str(folder))
    made = Bundle(str(folder))
    with replacing_folder(folder) as place:
        models = _put_models(place / "models", wanted, progress)
        _put_others(place / "data", wanted.others)
        extras = _extras(models, wanted)
        size = sum(path.stat().st_size for path in _files(place))
        deployment = Deployment(wanted.name, models, wanted.section, extras, wanted.python, size)
        for name, text in deployment_files(deployment).items():
            write_text(place / name, text)
        for name in ("install.sh", "deploy/make-secrets.sh", "deploy/kubernetes/secrets.sh"):
            (place / name).chmod(0o755)
        if wanted.has_wheels:
            made.wheels = _put_wheels(place / "wheels", extras, wanted, progress)
        made.models = [asdict(model) for model in models]
        _tell(place, deployment, has_wheels=wanted.has_wheels)
        files = list(_files(place))
        made.num_files, made.num_bytes = len(files), sum(path.stat().st_size for path in files)
        write_json(place / CARD, made.to_json() | {"folder": folder.name})
        _seal(place)
    return made


def check(folder: Path) -> int:
    """How many files there are, all as they were sealed; ExportError names the first that is not. What install.sh does
    with sha256sum, for machines that have none, and files nobody knows of are found too."""
    if not (folder / SUMS).is_file():
        raise ExportError("bundle.none", where=str(folder))
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    known = {line[66:]: line[:64] for line in lines}
    present = {path.relative_to(folder).as_posix() for path in _files(folder)} - {SUMS}
    for name in sorted(present | set(known)):
        given = sha256_file(folder / name) if name in present else None
        if given != known.get(name):
            key = "bundle.missing" if given is None else "bundle.changed" if name in known else "bundle.strange"
            raise ExportError(key, where=str(folder / name))
    return len(known)


def _put_models(place: Path, wanted: Wanted, progress: Progress) -> tuple[Placed, ...]:
    placed: list[Placed] = []
    for name, _ in wanted.targets:  # an artefact's own name is somebody else's word, and becomes a folder here
        if name == BASES or not re.fullmatch(MODEL_NAME, name):
            raise ExportError("bundle.bad_name", given=name[:80])
    for name, source in wanted.targets:
        progress.note(say("bundle.copying", name=name))
        manifest = verify(source)
        refuse_unserved(name, source, manifest)
        shutil.copytree(source, place / name)
        base = _put_base(place / BASES, manifest) if manifest.kind in ADAPTERS else ""
        rank = int(read_json(source / "adapter_config.json").get("r", 0)) if base else 0
        placed.append(Placed(name, name, manifest.kind, base, rank))
    stands_on = sorted({model.base or model.folder for model in placed})
    if wanted.section.engine == "vllm" and len(stands_on) > 1:
        raise ExportError("bundle.one_base", given=listed(stands_on))
    return tuple(placed)


def _put_base(place: Path, manifest: Manifest) -> str:
    """The base of an adapter, by its path under `models/`. Adapters on one base share it."""
    named = str(manifest.base["name"])
    base = find_base(named, revision=manifest.base.get("revision"), is_offline=True)
    given, expected = known_digest(base), str(manifest.base.get("digest"))
    if given != expected:
        raise ExportError("export.other_base", where=str(base), given=given[:16], expected=expected[:16])
    name = EMBEDDED if named == EMBEDDED else PurePosixPath(named.rstrip("/")).name
    if not (place / name).exists():
        shutil.copytree(base, place / name, ignore=shutil.ignore_patterns("__pycache__", "*.py", ".danlu.json"))
    return f"{BASES}/{name}"


def _put_others(place: Path, others: Sequence[Path]) -> None:
    for path in others:
        if not path.exists():
            raise DanluError("bundle.no_such", where=str(path))
        place.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, place / path.name)
        else:
            shutil.copy2(path, place / path.name)


def _extras(models: Sequence[Placed], wanted: Wanted) -> tuple[str, ...]:
    """What danlu is installed with: the gateway always, and what answers from these kinds."""
    needed = set(TRAINING) if wanted.to_train else set()
    if wanted.section.engine == "llamacpp":
        needed.add("export")
    elif wanted.section.engine in ("auto", "native"):
        needed |= {EXTRAS.get(model.kind, "train") for model in models}
    return ("serve", "shared", *sorted(needed))


def _put_wheels(place: Path, extras: Sequence[str], wanted: Wanted, progress: Progress) -> list[Wheel]:
    place.mkdir()
    if wanted.wheels is not None:
        for path in sorted(wanted.wheels.glob("*.whl")):
            shutil.copy2(path, place / path.name)
    else:
        progress.note(say("bundle.fetching", extras=",".join(extras), python=wanted.python))
        _fetch(place, extras, wanted)
    found = [_wheel(path) for path in sorted(place.glob("*.whl"))]
    if "danlu" not in {wheel.name for wheel in found}:
        raise ExportError("bundle.no_danlu", where=str(wanted.wheels or place))
    _try_install(place, extras, wanted)
    return found


def _try_install(place: Path, extras: Sequence[str], wanted: Wanted) -> None:
    """What install.sh will ask of pip, asked here, where a wheel that is missing can still be fetched."""
    words = ["install", "--dry-run", "--ignore-installed", "--no-index", "--find-links", str(place)]
    with tempfile.TemporaryDirectory() as nowhere:
        _pip(*words, "--target", nowhere, *_machine(wanted), f"danlu[{','.join(extras)}]=={VERSION}")


def _machine(wanted: Wanted) -> list[str]:
    """pip's words for another machine than this one."""
    words = ["--only-binary", ":all:"]
    words += ["--platform", wanted.platform] if wanted.platform else []
    is_own = wanted.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    return words + ([] if is_own else ["--python-version", wanted.python])


def _fetch(place: Path, extras: Sequence[str], wanted: Wanted) -> None:
    """pip asks wherever it is set up to ask; versions are those of this environment."""
    with tempfile.TemporaryDirectory() as scratch:
        held = Path(scratch) / "constraints.txt"
        held.write_text("".join(f"{name}=={version}\n" for name, version in _installed()), encoding="utf-8")
        source = _source()
        _pip("wheel", "--no-deps", "--wheel-dir", str(place), source or f"danlu=={VERSION}")
        own = next(place.glob("danlu-*.whl"))
        words = ["download", "--dest", str(place), "--constraint", str(held), *_machine(wanted)]
        _pip(*words, f"{own}[{','.join(extras)}]")


def _pip(*words: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own words and folders
        [sys.executable, "-m", "pip", words[0], "--quiet", "--disable-pip-version-check", *words[1:]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = "\n".join(line for line in done.stderr.splitlines() if line.startswith("ERROR"))[-600:]
        raise ExportError("bundle.pip", verb=words[0], said=said or done.stderr[-600:])


def _source() -> str:
    """Where danlu was installed from, if that is a folder of this machine (PEP 610)."""
    told = metadata.distribution("danlu").read_text("direct_url.json")
    url = orjson.loads(told)["url"] if told else ""
    return url.removeprefix("file://") if url.startswith("file://") else ""


def _installed() -> Iterable[tuple[str, str]]:
    """Versions without their build's label: what is 2.13.0+cpu here is 2.13.0 to an index, and either will do."""
    return [(one.name, one.version.partition("+")[0]) for one in metadata.distributions() if one.name != "danlu"]


def _wheel(path: Path) -> Wheel:
    """What a wheel says of itself. A file that would run code at every start of Python is refused: so have releases of
    well-known packages stolen credentials."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        strange = [name for name in names if name.endswith(".pth") and PurePosixPath(name).name not in KNOWN_PTH]
        if strange:
            raise ExportError("bundle.pth", where=path.name, given=listed(strange))
        card = next(name for name in names if name.endswith(".dist-info/METADATA"))
        told = HeaderParser().parsestr(archive.read(card).decode("utf-8", "replace"))
    licence = told["License-Expression"] or told["License"] or _classified(told.get_all("Classifier") or [])
    return Wheel(
        told["Name"], told["Version"], licence.splitlines()[0][:80] if licence else "", path.name, sha256_file(path)
    )


def _classified(classifiers: Sequence[str]) -> str:
    return "; ".join(line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License ::"))


def _tell(place: Path, deployment: Deployment, *, has_wheels: bool) -> None:
    """README in both languages: what this is and what to type."""
    names = ", ".join(model.name for model in deployment.models)
    for language, name in (("en", "README.md"), ("zh", "README.zh.md")):
        key = "bundle.readme" if has_wheels else "bundle.readme_files"
        values = {"name": deployment.name, "models": names, "python": deployment.python, "version": VERSION}
        write_text(place / name, say(key, language, **values))  # type: ignore[arg-type]


def _seal(place: Path) -> None:
    lines = [f"{sha256_file(path)}  {path.relative_to(place).as_posix()}\n" for path in _files(place)]
    write_text(place / SUMS, "".join(lines))


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
