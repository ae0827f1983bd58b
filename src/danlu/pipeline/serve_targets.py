"""What a person wants served, in every way to say it: an artefact's folder, a run or recipe, a version of the registry,
a URL; each with a name in front (`law=runs/law-1234`) where its own does not suit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from danlu.core.errors import RunError
from danlu.core.messages import listed
from danlu.openai.address import Address
from danlu.recipe.serving import MODEL_NAME, ServedSection, ServingSection
from danlu.run.artifact import NAME as ARTIFACT_FILE
from danlu.run.artifact import Manifest
from danlu.run.registry import Registry
from danlu.run.run import Run
from danlu.serving.choosing import kinds_taken

_NAMED = re.compile(r"(?P<name>[\w][\w.\-]{0,63})=(?P<rest>.+)")
_LABEL = re.compile(r"[\w][\w.\-]{0,63}[@:][\w\-]+")
_ORDER = ("adapter", "vllm-lora", "merged", "vllm", "gguf", "ollama", "lmstudio", "gguf-lora")
"""Which artefact of a run is served, unless an engine is named: adapters first, for many of them share one base."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One model. One of `folder`, `label` and `url` says what answers; `folder` beside `url`: what stands behind it."""

    name: str
    folder: Path | None = None
    label: str = ""
    url: str = ""
    remote: str = ""
    key_file: str = ""


def read_targets(
    targets: Sequence[str], section: ServingSection, runs: Path, open_run: Callable[[str], Run]
) -> list[Wanted]:
    """The command line's targets, else the chapter's models. RunError where one is nothing, or two have one name."""
    given = [_read(target) for target in targets] or list(section.models)
    wanted = [_wanted(each, section, runs, open_run) for each in given]
    twice = [name for name, count in Counter(each.name for each in wanted).items() if count > 1]
    if twice:
        raise RunError("serve.same_name", where=twice[0], given=twice[0])
    return wanted


def _read(target: str) -> ServedSection:
    """`law=runs/x` or `runs/x`; a path may hold an equals sign, so a name has no slash."""
    match = None if Path(target).exists() else _NAMED.fullmatch(target)
    name, rest = (match["name"], match["rest"]) if match else (None, target)
    if rest.startswith(("http://", "https://")) and name is None:
        raise RunError("serve.name_url", where=target, given=target)
    return ServedSection(name=name, target=rest)


def _wanted(served: ServedSection, section: ServingSection, runs: Path, open_run: Callable[[str], Run]) -> Wanted:
    if served.is_url:
        assert served.name is not None, "the section asks for it"
        Address.parse(served.target)  # now, and not when all else has started
        folder = Path(served.artifact).resolve() if served.artifact else None
        return Wanted(served.name, folder, "", served.target, served.model or "", served.key_file or "")
    path = Path(served.target).expanduser()
    if (path / ARTIFACT_FILE).is_file():
        return Wanted(served.name or checked_name(Manifest.read(path).name), path.resolve())
    if _LABEL.fullmatch(served.target) and not path.exists():
        version = Registry(runs).resolve(served.target)
        return Wanted(served.name or checked_name(version.name), label=served.target)
    run = open_run(served.target)
    return Wanted(served.name or checked_name(run.recipe.name), _of_run(run, section.engine).resolve())


def _of_run(run: Run, engine: str) -> Path:
    """The artefact of a run that is served; RunError where it has none that was proven."""
    found: dict[str, Path] = {}
    for path in sorted(run.path("artifacts").glob(f"*/{ARTIFACT_FILE}")):
        manifest = Manifest.read(path.parent)
        if manifest.parity["verdict"] != "fail":
            found.setdefault(manifest.kind, path.parent)
    for kind in kinds_taken(engine) or _ORDER:
        if kind in found:
            return found[kind]
    raise RunError("serve.no_artifact", where=str(run.folder), given=run.name, kinds=listed(found) or "-")


def checked_name(text: str) -> str:
    """What clients may call a model; RunError for anything else."""
    if not re.fullmatch(MODEL_NAME, text):
        raise RunError("serve.odd_name", where=text, given=text)
    return text
