"""`engine: auto`: which engine serves which artefact, and why; every candidate is told with what speaks for and against
it. Artefacts on one base that speak alike share a pool: its base is loaded once, and each of them is a lens.

Nothing is started here, and no weights are read.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from danlu.core.errors import EngineError
from danlu.core.files import sha256_json
from danlu.core.messages import say
from danlu.run.artifact import Manifest
from danlu.serving.drivers import DRIVERS
from danlu.serving.drivers.about import ADAPTERS, GGUF_ADAPTERS, LAST, PEFT_ADAPTERS, Device
from danlu.serving.drivers.driver import Driver, EngineSpec
from danlu.serving.drivers.peft_settings import beside_no_base, rank_of
from danlu.serving.pool_plan import PoolPlan, quantize_of

DEFAULT_ADAPTERS, DEFAULT_RANK = 8, 32
FindBase = Callable[[Path, Manifest], Path]
"""Where an adapter's base lies: its folder, or for a GGUF adapter the base's GGUF file."""


@dataclass(frozen=True, slots=True)
class Offered:
    """An artefact that shall be served, verified already."""

    name: str
    folder: Path
    manifest: Manifest

    @property
    def is_adapter(self) -> bool:
        return self.manifest.kind in ADAPTERS

    @property
    def quantize(self) -> str:
        return quantize_of(self.manifest)


@dataclass(frozen=True, slots=True)
class Machine:
    """What can run here: `here` names the drivers whose engines are installed."""

    device: Device
    here: frozenset[str]

    @classmethod
    def look(cls, *, python: str = "", device: str = "") -> Machine:
        """Without torch: a GPU is there when its driver's own tool is."""
        found = device or ("cuda" if shutil.which("nvidia-smi") else "cpu")
        here = frozenset(name for name, driver in _drivers().items() if driver.is_here(python))
        return cls("cpu" if found == "cpu" else "cuda", here)


@dataclass(frozen=True, slots=True)
class Knobs:
    """What the operator settled; 0 and "" leave it to the choice."""

    engine: str = "auto"
    python: str = ""
    context: int = 0
    num_slots: int = 0
    num_replicas: int = 1
    max_adapters: int = 0
    max_rank: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One candidate for one pool."""

    driver: str
    can: bool
    pros: tuple[str, ...]
    cons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A pool with what it serves, and how it was chosen."""

    plan: PoolPlan
    names: tuple[str, ...]
    verdicts: tuple[Verdict, ...]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(driver, chosen / could / cannot, for, against), the chosen one first: the table people see."""
        ordered = sorted(self.verdicts, key=lambda each: (each.driver != self.plan.driver, not each.can))
        comma = say("drivers.separator")
        return [(each.driver, self._state(each), comma.join(each.pros), comma.join(each.cons)) for each in ordered]

    def to_json(self) -> dict[str, Any]:
        candidates = [
            {"driver": each.driver, "state": self._state(each), "for": each.pros, "against": each.cons}
            for each in self.verdicts
        ]
        return {"pool": self.plan.name, "driver": self.plan.driver, "serves": self.names, "candidates": candidates}

    def _state(self, verdict: Verdict) -> str:
        if verdict.driver == self.plan.driver:
            return say("drivers.state_chosen")
        return say("drivers.state_could" if verdict.can else "drivers.state_cannot")


def refuse_unserved(name: str, folder: Path, manifest: Manifest) -> None:
    """EngineError for an artefact that no engine serves, before any is looked for, started or packed."""
    if "classes" in manifest.contract:
        raise EngineError("drivers.only_classes", given=name)
    if manifest.kind in PEFT_ADAPTERS and (setting := beside_no_base(folder)):
        key = "unserved_dora" if setting == "use_dora" else "unserved_kind"
        raise EngineError(f"drivers.{key}", where=name, given=setting)


def choose(
    offered: Sequence[Offered], machine: Machine, find_base: FindBase, knobs: Knobs | None = None
) -> list[Choice]:
    """A choice for each pool. EngineError where nothing on this machine, or not the engine that was named, can."""
    for each in offered:
        refuse_unserved(each.name, each.folder, each.manifest)
    settled = knobs or Knobs()
    return [_choose(group, machine, find_base, settled) for group in pools_of(offered)]


def pools_of(offered: Sequence[Offered]) -> list[list[Offered]]:
    """Adapters that can share one base in memory stand together; whole models alone."""
    groups: dict[tuple[str, ...], list[Offered]] = {}
    for each in offered:
        groups.setdefault(_key(each), []).append(each)
    return list(groups.values())


def why_apart(one: Offered, other: Offered) -> str:
    """Why two artefacts cannot share a base; "" where they can."""
    for each in (one, other):
        if not each.is_adapter:
            return say("drivers.apart_whole", name=each.name, kind=each.manifest.kind)
    names = ("apart_base", "apart_files", "apart_dtype", "apart_quantize", "apart_template", "apart_stops")
    differing = [name for name, a, b in zip(names, _key(one), _key(other), strict=True) if a != b]
    return say(f"drivers.{differing[0]}") if differing else ""


def notes_apart(offered: Sequence[Offered]) -> list[str]:
    """Adapters of one base that get an engine each all the same: memory that somebody may not have reckoned with."""
    adapters = [group[0] for group in pools_of(offered) if group[0].is_adapter]
    pairs = itertools.combinations(adapters, 2)
    return [
        say("drivers.note_apart", one=one.name, other=other.name, why=why_apart(one, other))
        for one, other in pairs
        if _key(one)[0] == _key(other)[0]
    ]


def _key(each: Offered) -> tuple[str, ...]:
    manifest = each.manifest
    if not each.is_adapter:
        return ("", str(each.folder), "", "", "", "")
    value = manifest.contract
    stops = ",".join(str(stop["id"]) for stop in value["stop"])
    files = "gguf" if manifest.kind in GGUF_ADAPTERS else "safetensors"
    dtype = str(manifest.base.get("dtype") or "auto")  # in another precision even the right weights say other things
    return (str(manifest.base.get("digest")), files, dtype, each.quantize, str(value["template_digest"]), stops)


def _choose(group: Sequence[Offered], machine: Machine, find_base: FindBase, knobs: Knobs) -> Choice:
    drivers = _drivers()
    verdicts = tuple(judge(drivers[name], group, machine) for name in _order(drivers, machine.device))
    names = tuple(each.name for each in group)
    wanted = next((each for each in verdicts if each.driver == knobs.engine), None)
    if knobs.engine != "auto" and (wanted is None or not wanted.can):
        known = ", ".join(each.driver for each in verdicts)
        why = say("drivers.separator").join(wanted.cons) if wanted else say("drivers.no_such", known=known)
        raise EngineError("drivers.not_this", driver=knobs.engine, given=", ".join(names), why=why)
    chosen = wanted or next((each for each in verdicts if each.can), None)
    if chosen is None:
        why = say("drivers.separator").join(f"{each.driver}: {', '.join(each.cons)}" for each in verdicts)
        raise EngineError("drivers.no_engine", given=", ".join(names), why=why)
    return Choice(_plan(drivers[chosen.driver], group, machine, find_base, knobs), names, verdicts)


def kinds_taken(engine: str) -> tuple[str, ...]:
    """Kinds of artefacts that an engine serves, the preferred first; none for `auto` and names that are not known."""
    driver = _drivers().get(engine)
    return driver.about.takes if driver is not None else ()


def _drivers() -> dict[str, Driver]:
    """All that may be chosen, other packages' too."""
    every = {name: DRIVERS.load(name)() for name in DRIVERS.names()}
    return {name: driver for name, driver in every.items() if driver.about.takes}


def _order(drivers: Mapping[str, Driver], device: Device) -> list[str]:
    return sorted(drivers, key=lambda name: (drivers[name].about.place.get(device, LAST), name))


def judge(driver: Driver, group: Sequence[Offered], machine: Machine) -> Verdict:
    """What speaks for and against one driver. What is missing, and what the artefact itself is, shut it out."""
    shut = [reason for each in group for reason in _shut_out(driver, each)]
    if driver.name not in machine.here:
        shut.append(driver.missing())
    if machine.device not in driver.about.devices:
        shut.append(say("drivers.con_no_gpu"))
    if shut:
        return Verdict(driver.name, False, (), tuple(dict.fromkeys(shut)))
    pros, cons = driver.reasons(machine.device, has_adapters=any(each.is_adapter for each in group))
    if group[0].quantize != "none":
        pros = [*pros, say("drivers.pro_quantized_base", given=group[0].quantize)]
    readers = [_reader(driver, each.manifest) for each in group]
    if all(readers):
        pros = [*pros, say("drivers.pro_proven", reader=", ".join(dict.fromkeys(readers)))]
    return Verdict(driver.name, True, tuple(pros), tuple(cons))


def _shut_out(driver: Driver, each: Offered) -> list[str]:
    manifest = each.manifest
    if manifest.kind not in driver.about.takes:
        return [say("drivers.con_kind", kind=manifest.kind)]
    found = driver.against(each.folder, manifest)
    if each.quantize != "none" and not driver.about.quantizes_bases:
        found = [say("drivers.con_quantized_base", given=each.quantize), *found]
    return found


def _reader(driver: Driver, manifest: Manifest) -> str:
    """Who proved the artefact's logits, of those that read as this engine does; "" where nobody did."""
    passed = {check["name"] for check in manifest.parity["checks"] if check["verdict"] == "pass"}
    return next((reader for check, reader in driver.about.proofs.items() if check in passed), "")


def _plan(driver: Driver, group: Sequence[Offered], machine: Machine, find_base: FindBase, knobs: Knobs) -> PoolPlan:
    first, about = group[0], driver.about
    dtype = str(first.manifest.base.get("dtype") or "auto")
    spec = EngineSpec(
        first.folder, name="base", python=knobs.python if about.has_environment else "", context=knobs.context,
        num_slots=knobs.num_slots, max_adapters=0, dtype="auto" if about.is_gguf else dtype, device=machine.device,
    )  # fmt: skip
    plan = PoolPlan(_pool_name(driver.name, first), driver.name, spec, num_replicas=knobs.num_replicas)
    if not first.is_adapter:
        return plan
    rank = max([knobs.max_rank or DEFAULT_RANK, *(rank_of(each.folder) for each in group)])
    spec = replace(
        spec, folder=find_base(first.folder, first.manifest), speech=first.folder, max_rank=rank,
        max_adapters=knobs.max_adapters or max(DEFAULT_ADAPTERS, len(group)), quantize=first.quantize,
    )  # fmt: skip
    return replace(
        plan, spec=spec, takes=about.adapters, base_digest=str(first.manifest.base.get("digest")),
        template_digest=str(first.manifest.contract["template_digest"]), max_rank=rank,
    )  # fmt: skip


def _pool_name(driver: str, first: Offered) -> str:
    """By content: the same base and words are the same pool, whoever asks."""
    digest = sha256_json(_key(first)) if first.is_adapter else first.manifest.digest
    return f"{driver}-{digest[:12]}"
