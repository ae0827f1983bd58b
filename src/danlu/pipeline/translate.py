"""translate: a configuration of LLaMA-Factory, ms-swift, Axolotl or TRL as a recipe of danlu's.

Each value stands with the name and value it came from; what has no counterpart is listed with the reason, so nothing
is dropped unseen. Only what a file says, or its suite would have taken without being told, is carried: nothing of the
other suite is imported or run.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from danlu.core.errors import DanluError, RecipeError
from danlu.core.messages import listed, say
from danlu.core.progress import Progress
from danlu.pipeline.other_datasets import Found, find_datasets
from danlu.pipeline.survey import CHARS_PER_TOKEN, survey
from danlu.pipeline.write_recipe import as_yaml
from danlu.planning.advice.numbers import Facts
from danlu.recipe import InvalidRecipeError, Recipe
from danlu.recipe.file import run_name, tree_of
from danlu.recipe.habit_values import (
    ALL_ROWS,
    DEFAULTS,
    FEWEST_ROWS,
    FLAGS,
    HANDLED_TOGETHER,
    NAMES,
    READ_FROM_BASE,
    SWITCHES,
    USUAL_ROWS,
    Suite,
    suite_of,
    value_of,
)
from danlu.recipe.habits import NEEDLESS
from danlu.recipe.overrides import apply_overrides

CHAPTERS = ("model", "adapter", "data", "method", "training", "evaluation", "tracking")
PLAIN_FOLDERS = ("saves", "output", "outputs", "data", "results", "checkpoints")
"""Folders that say nothing of what lies in them."""
ROUND_TOKENS = 256
"""A step's tokens are a multiple of it: rows' mean length is no exact number."""


@dataclass(frozen=True, slots=True)
class Carried:
    """One knob's value, and where it comes from in words."""

    knob: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Left:
    """One value that was not carried over, and why."""

    name: str
    given: Any
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "given": self.given, "why": self.why}


@dataclass(slots=True)
class Translation:
    """A recipe in the making: `carried` by knob, in the order of the chapters."""

    suite: Suite
    name: str
    carried: dict[str, Carried] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)
    sources: list[Found] = field(default_factory=list)

    def carry(self, knob: str, value: Any, origin: str) -> None:
        """The first word about a knob counts, as long as nothing nearer comes."""
        self.carried.setdefault(knob, Carried(knob, value, origin))

    def leave(self, name: str, given: Any, why: str) -> None:
        self.left.append(Left(name, given, why))

    def value(self, knob: str, default: Any) -> Any:
        return self.carried[knob].value if knob in self.carried else default


def translate(path: Path, *, progress: Progress | None = None) -> Translation:
    """What a file of another suite says, in danlu's words. RecipeError for a file that says nothing of the kind."""
    tree = _tree(path)
    suite = suite_of(tree)
    found = Translation(suite, run_name(_title(tree, path)))
    said = {key: value for key, value in tree.items() if value not in (None, "", [])}
    for name, given in said.items():
        _take(found, name, given)
    if not found.carried.keys() & {"model.base", "training.lr", "training.context"}:
        raise RecipeError("translate.nothing", where=str(path), given=listed(tree)[:200])
    _kinds(found, said)
    for name, given in DEFAULTS[suite].items():
        _take_default(found, name, given)
    facts, is_whole = _data(found, said, path, progress)
    _batch(found, said, facts)
    _steps(found, said, facts if is_whole else None)
    _drop_refused(found)
    return found


def _title(tree: Mapping[str, Any], path: Path) -> str:
    """`saves/llama3-8b/lora/sft` is llama3-8b-lora-sft; a file that names no such folder lends its own name."""
    parts = Path(str(tree.get("output_dir", ""))).parts
    return "-".join(part for part in parts if part.strip("./") and part not in PLAIN_FOLDERS) or path.stem


# ---- reading


def _tree(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML or JSON file, or of the command of a shell script (`swift sft --lora_rank 8 ...`)."""
    if not path.is_file():
        raise RecipeError("recipe.no_file", where=str(path), given=str(path))
    return _arguments(path) if path.suffix == ".sh" else tree_of(path)


def _arguments(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8-sig", errors="replace").replace("\\\n", " ")
    line = next((line for line in text.splitlines() if " --" in line and not line.lstrip().startswith("#")), "")
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:  # a quote that is never closed
        raise RecipeError("translate.nothing", where=str(path), given=str(error)) from error
    said: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            said[name] = _scalar(value) if equals else True
        elif name:
            value, known = _scalar(word), said[name]
            said[name] = value if known is True else [*(known if isinstance(known, list) else [known]), value]
    return said


def _scalar(word: str) -> Any:
    """A number or a truth value; anything else is text, also where YAML would see more (`Note: be brief`)."""
    try:
        value = yaml.safe_load(word)
    except yaml.YAMLError:
        return word
    return value if isinstance(value, bool | int | float | None) else word


# ---- single values


def _take(found: Translation, name: str, given: Any) -> None:
    """One key of the file; those that mean something only beside others wait."""
    if name in HANDLED_TOGETHER:
        return
    if name in READ_FROM_BASE:
        found.leave(name, given, say("translate.template"))
    elif name in ALL_ROWS:
        found.leave(name, given, say("translate.all_rows"))
    elif name in NEEDLESS:
        found.leave(name, given, say(f"recipe.needless_{NEEDLESS[name]}"))
    elif (knob := NAMES.get(name)) is None:
        found.leave(name, given, say("translate.unknown"))
    elif (given is False and (name in FLAGS or knob in SWITCHES)) or (name == "max_steps" and given == -1):
        return  # off, as it is here unless somebody asks
    elif (value := value_of(knob, name, given)) is None:
        is_by_hand = knob.startswith(("evaluation.", "exports.", "tracking."))
        found.leave(name, given, say("translate.by_hand" if is_by_hand else "translate.no_value", knob=knob))
    elif knob in found.carried and found.carried[knob].value != value and name not in ("load_in_4bit", "load_in_8bit"):
        found.leave(name, given, say("translate.said_already", knob=knob, origin=found.carried[knob].origin))
    else:
        found.carry(knob, value, _origin(name, given))


def _take_default(found: Translation, name: str, given: Any) -> None:
    """What the suite takes without being told, where danlu would take something else."""
    knob = NAMES[name]
    if any(NAMES.get(one.name) == knob for one in found.left):  # told, and left behind with its reason
        return
    if knob == "training.epochs" and "training.max_steps" in found.carried:
        return
    if knob.startswith("adapter.") and found.value("adapter.kind", "lora") != "lora":
        return
    if name == "learning_rate" and found.suite == "ms-swift" and found.value("adapter.kind", "lora") != "lora":
        given = 1e-5
    if name == "learning_rate" and found.suite == "TRL" and found.value("method.kind", "sft") == "dpo":
        given = 1e-6
    found.carry(knob, given, say("translate.default", suite=found.suite, name=name, given=as_yaml(given)))


def _origin(name: str, given: Any) -> str:
    text = given if isinstance(given, str) else as_yaml(given)
    return f"{name}: {text}"


def _kinds(found: Translation, said: Mapping[str, Any]) -> None:
    """Adapter and method where the suite tells them by silence."""
    if said.get("finetuning_type") == "freeze":
        found.carry(
            "adapter.layers", 2, say("translate.default", suite=found.suite, name="freeze_trainable_layers", given=2)
        )
    if said.get("adapter") == "qlora":
        found.carry("model.quantize", "nf4", "adapter: qlora")
    if "adapter.kind" not in found.carried and found.suite in ("Axolotl", "TRL"):
        names_lora = any(knob in found.carried for knob in ("adapter.rank", "adapter.targets"))
        kind = "lora" if names_lora and found.suite == "TRL" and said.get("use_peft") is not False else "full"
        found.carry("adapter.kind", kind, say(f"translate.silent_{kind}", suite=found.suite))
    if "method.kind" not in found.carried and "method.beta" in found.carried:
        found.carry("method.kind", "dpo", found.carried["method.beta"].origin)
    kind, adapter = found.value("method.kind", "sft"), found.value("adapter.kind", "lora")
    for knob in [knob for knob in found.carried if _is_of_another(knob, kind, adapter)]:
        carried = found.carried.pop(knob)
        name, _, given = carried.origin.partition(": ")
        found.leave(name, given, say("translate.other_kind", kind=adapter if knob.startswith("adapter") else kind))


def _is_of_another(knob: str, method: str, adapter: str) -> bool:
    of = {"method.beta": "dpo", "method.label_smoothing": "dpo", "method.train_on": "sft"}
    is_of_lora = knob.startswith("adapter.") and knob not in ("adapter.kind", "adapter.layers")
    return of.get(knob, method) != method or (is_of_lora and adapter == "full")


# ---- values that stand together


def _data(
    found: Translation, said: Mapping[str, Any], path: Path, progress: Progress | None
) -> tuple[Facts | None, bool]:
    """Files of the datasets that are named: what is known of the rows of those that are there; whether all are."""
    sources, missing, questions = find_datasets(found.suite, said, path)
    found.sources = sources
    for source in sources:
        if source.num_rows:
            found.leave(source.origin, source.num_rows, say("translate.all_rows"))
    for name, given, key in missing:
        found.leave(name, given, say(f"translate.{key}"))
    if questions is not None:
        found.carry("evaluation.questions", str(questions.path), questions.origin)
    if found.suite == "ms-swift" and not said.get("use_hf") and not Path(str(found.value("model.base", ""))).is_dir():
        found.carry("model.hub", "modelscope", say("translate.modelscope"))
    try:
        return (survey_of(sources, progress) if sources else None), not missing
    except DanluError as error:  # check will say it of the recipe; here only a mean length is wanted
        found.leave("dataset", sources[0].origin, error.text)
        return None, False


def survey_of(sources: Sequence[Found], progress: Progress | None) -> Facts:
    seen = survey([source.path for source in sources], progress=progress)
    return seen.facts(CHARS_PER_TOKEN[seen.language])


def _rows_per_step(found: Translation, said: Mapping[str, Any]) -> tuple[int, str]:
    """(rows, from which words)."""
    name = next((key for key in ("per_device_train_batch_size", "micro_batch_size") if key in said), "")
    rows = _whole(said.get(name), USUAL_ROWS[found.suite])
    usual = -(-FEWEST_ROWS.get(found.suite, 1) // max(1, rows))
    times = _whole(said.get("gradient_accumulation_steps"), usual)
    return rows * times, f"{name or say('translate.rows')}: {rows} × gradient_accumulation_steps: {times}"


def _batch(found: Translation, said: Mapping[str, Any], facts: Facts | None) -> None:
    """rows × accumulation × length: of packed rows the context, else the rows' own mean length."""
    rows, origin = _rows_per_step(found, said)
    context = int(found.value("training.context", 2048))
    is_packed = any(said.get(name) is True for name in ("packing", "neat_packing", "sample_packing"))
    if is_packed:
        length, why = context, say("translate.packed", tokens=f"{context:,}")
    elif facts is not None and facts.num_rows:
        length = min(context, -(-facts.num_tokens // facts.num_rows))
        why = say("translate.mean_length", tokens=f"{length:,}")
    else:
        length, why = context, say("translate.full_length", tokens=f"{context:,}")
    tokens = -(-rows * length // ROUND_TOKENS) * ROUND_TOKENS
    found.carry("training.batch_tokens", max(tokens, min(context, 2048)), f"{origin} × {why}")


def _steps(found: Translation, said: Mapping[str, Any], facts: Facts | None) -> None:
    """Counts of steps that danlu takes as shares: warm-up of all steps, validation of an epoch."""
    rows, _ = _rows_per_step(found, said)
    an_epoch = facts.num_rows / rows if facts is not None and facts.num_rows else None
    if "evals_per_epoch" in said:
        times = _whole(said["evals_per_epoch"], 1)
        found.carry("training.eval_every", round(1 / times, 4), _origin("evals_per_epoch", times))
    for name, knob in (("warmup_steps", "training.warmup_ratio"), ("eval_steps", "training.eval_every")):
        if name not in said or (steps := _whole(said[name], 0)) == 0:
            continue
        whole = None if an_epoch is None else max(1.0, an_epoch)
        if whole is not None and name == "warmup_steps":
            whole *= float(found.value("training.epochs", 3.0))
        if whole is None:
            found.leave(name, said[name], say("translate.no_steps", knob=knob))
            continue
        share = min(0.5, steps / whole) if name == "warmup_steps" else steps / whole
        found.carried.pop(knob, None)
        found.carry(knob, round(share, 4), _origin(name, steps) + " / " + say("translate.of_steps", steps=round(whole)))


def _whole(given: Any, default: int) -> int:
    try:
        return max(0, int(given))
    except (TypeError, ValueError):
        return default


def _drop_refused(found: Translation) -> None:
    """Values that a recipe does not allow are left behind with the reason, so that what is written can be run."""
    try:
        Recipe.from_tree(tree_of_carried(found))
    except InvalidRecipeError as error:
        for complaint in error.complaints:
            carried = found.carried.pop(complaint.key, None)
            if carried is not None:
                name, _, given = carried.origin.partition(": ")
                found.leave(name, given, say("translate.refused", knob=carried.knob, expected=complaint.expected))


def tree_of_carried(found: Translation) -> dict[str, Any]:
    """As a recipe has it, nested."""
    flat = [f"{one.knob}={as_yaml(one.value)}" for one in found.carried.values()]
    return apply_overrides({"name": found.name}, flat)


# ---- writing


def translated_text(found: Translation, path: Path) -> str:
    """The recipe's text: behind each value its origin, at the end what was not carried over."""
    lines = [f"# {say('translate.head', file=path.name, suite=found.suite)}", f"name: {as_yaml(found.name)}"]
    for chapter in CHAPTERS:
        own = [one for one in found.carried.values() if one.knob.startswith(f"{chapter}.")]
        if own or chapter == "data":
            lines += ["", f"{chapter}:", *(_sources(found) if chapter == "data" else []), *_chapter(own)]
    if found.left:
        lines += ["", f"# {say('translate.left')}"]
        lines += [f"# {one.name}: {_shown(one.given)} – {one.why}" for one in found.left]
    return "\n".join(lines) + "\n"


def _chapter(own: Sequence[Carried]) -> list[str]:
    """Knobs of a chapter, `kind` first; a section in it (`data.split.validation`) on one line."""
    first = sorted(own, key=lambda one: not one.knob.endswith(".kind"))
    lines = []
    for one in first:
        key = one.knob.partition(".")[2]
        value = as_yaml(one.value)
        if "." in key:
            section, _, key = key.partition(".")
            key, value = section, f"{{{key}: {value}}}"
        lines.append(f"  {key}: {value}   # {_shown(one.origin)}")
    return lines


def _sources(found: Translation) -> list[str]:
    if not found.sources:
        return ["  sources:", f"    - data/   # {say('translate.no_data')}"]
    lines = ["  sources:"]
    for source in found.sources:
        entry: dict[str, Any] = {"path": str(source.path)}
        entry |= {"format": source.format} if source.format else {}
        entry |= {"columns": source.columns} if source.columns else {}
        plain = as_yaml(entry if len(entry) > 1 else entry["path"])
        lines.append(f"    - {plain}   # {_shown(source.origin)}")
    return lines


def _shown(value: Any) -> str:
    """On one line of a comment."""
    text = value if isinstance(value, str) else as_yaml(value)
    return " ".join(text.split())[:160]
