"""`engine: auto`: which engine serves which artefact, and why; every candidate is told with what speaks for and against
it. Artefacts on one base that speak alike share a pool: its base is loaded once, and each of them is a lens.

Nothing is started here, and no weights are read.
"""

from __future__ import annotations

import importlib.util
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from danlu.core.errors import EngineError
from danlu.core.files import read_json, sha256_json
from danlu.core.messages import say
from danlu.recipe.exports import VLLM_RANKS
from danlu.run.artifact import Manifest
from danlu.serving.drivers.driver import EngineSpec
from danlu.serving.pool_plan import PoolPlan

ADAPTERS = ("adapter", "vllm-lora")
WHOLE = ("merged", "vllm")
GGUF = ("gguf", "ollama", "lmstudio")
GGUF_ADAPTERS = ("gguf-lora",)
TAKES = {
    "native": ADAPTERS + WHOLE, "llamacpp": GGUF + GGUF_ADAPTERS, "vllm": ADAPTERS + WHOLE, "sglang": ADAPTERS + WHOLE,
}  # fmt: skip
"""Kinds of artefacts that each driver serves."""
PREFERRED = {"cuda": ("vllm", "sglang", "native", "llamacpp"), "cpu": ("llamacpp", "native", "vllm", "sglang")}
PROOFS = {
    "native": {"danlu_logits": "danlu", "merged_logits": "danlu", "adapter_logits": "danlu"},
    "llamacpp": {"llamacpp_logits": "llama.cpp"},
    "vllm": {"vllm_logits": "vLLM", "transformers_logits": "transformers", "peft_logits": "PEFT"},
    "sglang": {"transformers_logits": "transformers", "peft_logits": "PEFT"},
}  # fmt: skip
"""Checks of an artefact's proof whose reading is that of the engine, or nearest to it: check to who read."""
NEEDS = {"native": "torch", "llamacpp": "xllamacpp"}
EXTRAS = {"native": "train", "llamacpp": "export"}
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
        return self.manifest.kind in ADAPTERS + GGUF_ADAPTERS


@dataclass(frozen=True, slots=True)
class Machine:
    """What can run here. `programs` are engines with an environment of their own."""

    device: str
    packages: frozenset[str]
    programs: frozenset[str] = frozenset()

    @classmethod
    def look(cls, *, python: str = "", device: str = "") -> Machine:
        """Without torch: a GPU is there when its driver's own tool is."""
        found = device or ("cuda" if shutil.which("nvidia-smi") else "cpu")
        packages = {name for name in NEEDS.values() if importlib.util.find_spec(name) is not None}
        return cls("cpu" if found == "cpu" else "cuda", frozenset(packages), _programs(python))


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
        return [(each.driver, self._state(each), "; ".join(each.pros), "; ".join(each.cons)) for each in ordered]

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


def choose(
    offered: Sequence[Offered], machine: Machine, find_base: FindBase, knobs: Knobs | None = None
) -> list[Choice]:
    """A choice for each pool. EngineError where nothing on this machine, or not the engine that was named, can."""
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
    names = ("apart_base", "apart_files", "apart_dtype", "apart_template", "apart_stops")
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
        return ("", str(each.folder), "", "", "")
    value = manifest.contract
    stops = ",".join(str(stop["id"]) for stop in value["stop"])
    is_gguf = "gguf" if manifest.kind in GGUF_ADAPTERS else "safetensors"
    dtype = str(manifest.base.get("dtype") or "auto")  # in another precision even the right weights say other things
    return (str(manifest.base.get("digest")), is_gguf, dtype, str(value["template_digest"]), stops)


def _choose(group: Sequence[Offered], machine: Machine, find_base: FindBase, knobs: Knobs) -> Choice:
    verdicts = tuple(judge(driver, group, machine) for driver in PREFERRED[machine.device])
    names = tuple(each.name for each in group)
    wanted = next((each for each in verdicts if each.driver == knobs.engine), None)
    if knobs.engine != "auto" and (wanted is None or not wanted.can):
        why = "; ".join(wanted.cons) if wanted else say("drivers.no_such", known=", ".join(TAKES))
        raise EngineError("drivers.not_this", driver=knobs.engine, given=", ".join(names), why=why)
    chosen = wanted or next((each for each in verdicts if each.can), None)
    if chosen is None:
        why = "; ".join(f"{each.driver}: {', '.join(each.cons)}" for each in verdicts)
        raise EngineError("drivers.no_engine", given=", ".join(names), why=why)
    return Choice(_plan(chosen.driver, group, machine, find_base, knobs), names, verdicts)


def judge(driver: str, group: Sequence[Offered], machine: Machine) -> Verdict:
    """What speaks for and against one driver. Only the first list of cons shuts it out."""
    shut = [reason for each in group for reason in _shut_out(driver, each)]
    if driver in NEEDS and NEEDS[driver] not in machine.packages:
        shut.append(say("drivers.con_package", package=NEEDS[driver], extra=EXTRAS[driver]))
    if driver not in NEEDS and driver not in machine.programs:
        shut.append(say("drivers.con_program", program=driver))
    if driver == "sglang" and machine.device == "cpu":
        shut.append(say("drivers.con_no_gpu"))
    cons = list(dict.fromkeys(shut))
    if shut:
        return Verdict(driver, False, (), tuple(cons))
    pros = [say(f"drivers.pro_{driver}")]
    readers = [_reader(driver, each.manifest) for each in group]
    if all(readers):
        pros.append(say("drivers.pro_proven", reader=", ".join(dict.fromkeys(readers))))
    if driver == "llamacpp" and any(each.is_adapter for each in group):
        cons.append(say("drivers.con_fixed"))
    if driver == "vllm" and machine.device == "cpu":
        cons.append(say("drivers.con_vllm_cpu"))
    if driver == "native" and machine.device == "cuda":
        cons.append(say("drivers.con_native_gpu"))
    return Verdict(driver, True, tuple(pros), tuple(cons))


def _shut_out(driver: str, each: Offered) -> list[str]:
    manifest, found = each.manifest, []
    if manifest.kind not in TAKES[driver]:
        found.append(say("drivers.con_kind", kind=manifest.kind))
    stored = str(manifest.parity.get("files_dtype", ""))
    if driver == "native" and manifest.kind == "vllm" and stored in ("fp8", "int8"):
        found.append(say("drivers.con_compressed", stored=stored))
    if each.is_adapter and manifest.base.get("quantize", "none") != "none":
        found.append(say("drivers.con_quantized_base", given=manifest.base["quantize"]))
    if driver in ("vllm", "sglang") and manifest.kind in ADAPTERS:
        config = _adapter_config(each.folder)
        patterns = [key for key in ("rank_pattern", "alpha_pattern", "use_dora") if config.get(key)]
        found += [say("drivers.con_patterns", given=", ".join(patterns))] if patterns else []
        if rank_of(each) > VLLM_RANKS[-1]:
            found.append(say("drivers.con_rank", given=rank_of(each), most=VLLM_RANKS[-1]))
    return found


def _reader(driver: str, manifest: Manifest) -> str:
    """Who proved the artefact's logits, of those that read as this engine does; "" where nobody did."""
    passed = {check["name"] for check in manifest.parity["checks"] if check["verdict"] == "pass"}
    return next((reader for check, reader in PROOFS[driver].items() if check in passed), "")


def rank_of(each: Offered) -> int:
    config = _adapter_config(each.folder)
    return max([int(config.get("r", 0)), *map(int, (config.get("rank_pattern") or {}).values())])


def _adapter_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "adapter_config.json"
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _plan(driver: str, group: Sequence[Offered], machine: Machine, find_base: FindBase, knobs: Knobs) -> PoolPlan:
    first = group[0]
    has_program = driver not in NEEDS
    dtype = str(first.manifest.base.get("dtype") or "auto")
    spec = EngineSpec(
        first.folder, name="base", python=knobs.python if has_program else "", context=knobs.context,
        num_slots=knobs.num_slots, max_adapters=0, dtype="auto" if driver == "llamacpp" else dtype,
        device=machine.device,
    )  # fmt: skip
    plan = PoolPlan(_pool_name(driver, first), driver, spec, num_replicas=knobs.num_replicas)
    if not first.is_adapter:
        return plan
    rank = max([knobs.max_rank or DEFAULT_RANK, *(rank_of(each) for each in group)])
    spec = replace(
        spec, folder=find_base(first.folder, first.manifest), speech=first.folder, max_rank=rank,
        max_adapters=knobs.max_adapters or max(DEFAULT_ADAPTERS, len(group)),
    )  # fmt: skip
    kinds = GGUF_ADAPTERS if driver == "llamacpp" else ADAPTERS
    return replace(
        plan, spec=spec, takes=kinds, base_digest=str(first.manifest.base.get("digest")),
        template_digest=str(first.manifest.contract["template_digest"]), max_rank=rank,
    )  # fmt: skip


def _pool_name(driver: str, first: Offered) -> str:
    """By content: the same base and words are the same pool, whoever asks."""
    digest = sha256_json(_key(first)) if first.is_adapter else first.manifest.digest
    return f"{driver}-{digest[:12]}"


def _programs(python: str) -> frozenset[str]:
    """Engines of the environment that was named: vLLM's program, SGLang's package."""
    if not python:
        return frozenset()
    place = Path(python)
    found = {"vllm"} if (place.parent / "vllm").is_file() else set()
    libraries = place.parent.parent.glob("lib/python3*/site-packages/sglang")
    return frozenset(found | ({"sglang"} if any(libraries) else set()))
