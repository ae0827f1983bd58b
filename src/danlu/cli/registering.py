"""`danlu registry`: versions of what passed its gate, what points at them, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.cli.targets import open_target
from danlu.cli.voice import Voice
from danlu.core.errors import RunError
from danlu.core.messages import listed, say
from danlu.run.registry import Registry, Version, check_alias


def add(target: str, runs: Path, voice: Voice, *, kind: str | None, alias: str | None, reason: str) -> None:
    from danlu.pipeline.register import register  # opens a run's weights, which needs torch; the others do not

    run = open_target(target, (), runs)
    registry = Registry(run.folder.parent)
    if alias is not None:
        check_alias(alias)
    if registry.folder.resolve() != runs.resolve():
        voice.progress.note(say("registry.elsewhere", given=registry.folder, runs=runs))
    version = register(run, kind=kind, reason=reason)
    if alias is not None:
        registry.point(version.name, alias, version.number, reason=reason)
    aliases = registry.read().aliases_of(version)
    voice.say(say("registry.added", version=version.label, kind=version.kind, aliases=listed(aliases) or "-"))
    named = f"{version.name}@{aliases[0]}" if aliases else version.label
    voice.say(say("cli.next", command=f"danlu serve {named}" if aliases else f"danlu registry alias {named} prod"))
    voice.result(version.to_json() | {"aliases": aliases})


def show_versions(name: str | None, runs: Path, voice: Voice) -> None:
    state = Registry(runs).read()
    shown = [v for known, versions in sorted(state.versions.items()) if name in (None, known) for v in versions]
    if name is not None and not shown:
        Registry(runs).resolve(name)  # says which names there are
    if not shown:
        voice.say(say("registry.empty"))
    else:
        columns = [
            say(f"registry.col_{part}") for part in ("version", "aliases", "kind", "accuracy", "gain", "created")
        ]
        voice.table(columns, [_row(version, state.aliases_of(version)) for version in shown])
    voice.result([version.to_json() | {"aliases": state.aliases_of(version)} for version in shown])


def show_version(named: str, runs: Path, voice: Voice) -> None:
    from danlu.pipeline.register import lineage  # its module registers, too, and that needs torch

    registry = Registry(runs)
    version = registry.resolve(named)
    told = lineage(registry, version)
    voice.say(f"{version.label}  {' '.join('@' + alias for alias in told['aliases'])}", "bold cyan")
    rows = [(role, digest[:16]) for role, digest in sorted(version.parents.items())]
    voice.table([say("registry.col_parent"), say("registry.col_digest")], [("artifact", version.digest[:16]), *rows])
    for path in (told["run"] or {}).get("sources", []):
        voice.say(say("registry.source", path=path))
    history = [deed for deed in registry.read().deeds if deed.name == version.name and deed.number == version.number]
    for deed in history:
        what = say(f"registry.deed_{deed.deed}", alias=deed.alias)
        voice.say(f"{deed.time[:19].replace('T', ' ')}  {deed.actor}  {what}  {deed.reason}".rstrip())
    voice.result(told | {"history": [_deed(deed) for deed in history]})


def point(named: str, alias: str, runs: Path, voice: Voice, *, reason: str) -> None:
    registry = Registry(runs)
    version = registry.resolve(named)
    registry.open(version)  # an alias never points at files that changed
    registry.point(version.name, alias.removeprefix("@"), version.number, reason=reason)
    _tell_alias(version, alias.removeprefix("@"), voice)


def roll_back(named: str, runs: Path, voice: Voice, *, reason: str) -> None:
    name, _, alias = named.partition("@")
    if not alias:
        raise RunError("registry.wants_alias", where=named, given=named)
    registry = Registry(runs)
    registry.open(registry.before(name, alias))
    _tell_alias(registry.roll_back(name, alias, reason=reason), alias, voice)


def withdraw(named: str, runs: Path, voice: Voice, *, reason: str) -> None:
    registry = Registry(runs)
    version = registry.resolve(named)
    if not reason:
        raise RunError("registry.no_reason", where="--reason", given=version.label)
    registry.withdraw(version.name, version.number, reason=reason)
    voice.say(say("registry.withdrawn", version=version.label))
    voice.result({"version": version.label, "withdrawn": True})


def _tell_alias(version: Version, alias: str, voice: Voice) -> None:
    voice.say(say("registry.pointed", name=version.name, alias=alias, number=version.number))
    voice.result({"name": version.name, "alias": alias, "number": version.number})


def _row(version: Version, aliases: list[str]) -> tuple[str, ...]:
    measured, interval = version.measured, version.measured.get("interval")
    gain = "-" if interval is None else f"{100 * interval[0]:+.1f} … {100 * interval[1]:+.1f}"
    accuracy = "-" if measured.get("accuracy") is None else f"{100 * measured['accuracy']:.1f} %"
    mark = say("registry.mark_withdrawn") if version.is_withdrawn else listed(aliases)
    return version.label, mark, version.kind, accuracy, gain, version.created[:16].replace("T", " ")


def _deed(deed: Any) -> dict[str, Any]:
    return {"time": deed.time, "actor": deed.actor, "deed": deed.deed, "alias": deed.alias, "reason": deed.reason}
