"""check: is this recipe sound, are its files there, what will it need? No GPU, no torch, well under a second."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import DanluError, HubError, RecipeError
from danlu.core.files import read_json
from danlu.core.messages import listed, say
from danlu.core.progress import Silent
from danlu.core.shelf import nearest
from danlu.data.augment import AUGMENTERS
from danlu.data.columns import PARTS
from danlu.data.formats import FORMATS
from danlu.data.privacy.finding import KINDS
from danlu.data.privacy.policy import Policy
from danlu.data.sources import READERS
from danlu.data.templates import TEMPLATES
from danlu.model.hub import find_base
from danlu.pipeline.check_exports import servable
from danlu.pipeline.encoders import unfit
from danlu.pipeline.plan import card_here, with_cards_counted
from danlu.pipeline.remarks import remarks
from danlu.planning.bases import known_base
from danlu.planning.plan import Plan, plan
from danlu.planning.shapes import Shapes
from danlu.planning.what_if import smallest_card
from danlu.planning.why import summary
from danlu.planning.work import leaves_micro_tokens
from danlu.recipe import Recipe
from danlu.recipe.complaints import Complaint
from danlu.recipe.method import GRPOSection, StageSection
from danlu.recipe.privacy import PrivacySection


def check(recipe: Recipe) -> dict[str, Any]:
    """`{"ok", "errors": [{"key", "given", "expected", "nearest"}], "warnings": [...], "plan": {...}}`."""
    complaints = [*_missing_files(recipe), *_missing_sources(recipe), *_unknown_names(recipe), *_teachers(recipe)]
    complaints += [*_privacy(recipe.data.privacy), *_judges(recipe)]
    warnings = []
    shapes: Shapes | None = None
    plans: list[Plan] = []
    try:
        shapes = Shapes.read(read_json(_local_folder(recipe) / "config.json"))
        complaints += unfit(recipe, shapes.reach if shapes is not None and shapes.is_encoder else None)
    except HubError as error:  # offline: a model that is not here yet is a remark, not a fault
        if error.key != "model.not_here":
            complaints.append(Complaint("model.base", recipe.model.base, error.text.removeprefix("model.base: ")))
        else:
            warnings.append(error.to_json())
            shapes = known_base(recipe.model.base)
    except DanluError as error:
        complaints.append(Complaint("model.base", recipe.model.base, error.text.removeprefix("model.base: ")))
    except (FileNotFoundError, orjson.JSONDecodeError):
        complaints.append(Complaint("model.base", recipe.model.base, say("pipeline.checkpoint_folder")))
    try:
        plans = _plans(recipe, shapes)
    except RecipeError as error:
        if error.key != "recipe.no_such_layer":
            raise
        complaints.append(Complaint(error.where, error.values["given"], say("recipe.layers_here", **error.values)))
    unservable, costs = servable(recipe, _folder_here(recipe))
    complaints += unservable
    warnings += [*costs, *remarks(recipe, plans[0].num_params if plans else None)]
    stages = recipe.plan_stages()
    return {
        "ok": not complaints,
        "errors": [complaint.to_json() for complaint in complaints],
        "warnings": warnings,
        "plan": {
            "stages": [
                {"method": stage.method.kind, "lr": stage.training.lr, "epochs": stage.training.epochs}
                | (_told(recipe, index, plans[index]) if plans else {})
                for index, stage in enumerate(stages)
            ],
            "is_estimate": True,
        },
    }


def _plans(recipe: Recipe, shapes: Shapes | None) -> list[Plan]:
    """On what this machine would train on; else with every layer keeping everything, for no card in particular."""
    return plan(with_cards_counted(recipe), shapes, card_here(recipe, shapes)) if shapes else []


def _told(recipe: Recipe, index: int, stage: Plan) -> dict[str, Any]:
    """A plan as JSON with its one line for people."""
    smallest = None
    if stage.card is None:
        smallest = smallest_card(stage.work, may_choose_tokens=leaves_micro_tokens(recipe, index))
    name = recipe.plan_stages()[index].method.kind
    return stage.to_json() | {"summary": summary(name, stage, smallest.name if smallest else None)}


def _local_folder(recipe: Recipe) -> Path:
    section = recipe.model
    return find_base(
        section.base, revision=section.revision, hub=section.hub, mirror=section.mirror, needs_weights=False,
        progress=Silent(), is_offline=True,
    )  # fmt: skip


def _folder_here(recipe: Recipe) -> Path | None:
    """The base's folder where it can be looked into; what is wrong with it otherwise is said above."""
    try:
        folder = _local_folder(recipe)
        return folder if isinstance(read_json(folder / "config.json"), dict) else None
    except (DanluError, FileNotFoundError, orjson.JSONDecodeError):
        return None


def _missing_sources(recipe: Recipe) -> list[Complaint]:
    if recipe.data.sources:
        return []
    return [Complaint("data.sources", [], say("pipeline.some_source"))]


def _unknown_names(recipe: Recipe) -> list[Complaint]:
    """Names of things on shelves, which the recipe's own types do not know."""
    asked = {"model.template": (recipe.model.template, ["auto", *TEMPLATES.names()])}
    for number, source in enumerate(recipe.data.sources):
        key = f"data.sources.{number}"
        asked[f"{key}.format"] = (source.format, ["auto", *FORMATS.names(), *READERS.names()])
        asked |= {f"{key}.columns.{part}": (part, list(PARTS)) for part in source.columns}
    if recipe.data.cleaning.rules:
        from danlu.data.cleaners import foreign_rules  # numpy, and a search through all packages: for few recipes

        asked |= {f"data.cleaning.rules.{name}": (name, foreign_rules()) for name in recipe.data.cleaning.rules}
    judges = {f"evaluation.beside.{i}": name for i, name in enumerate(recipe.evaluation.beside)}
    if recipe.evaluation.metric:
        judges["evaluation.metric"] = recipe.evaluation.metric
    for i, stage in enumerate(recipe.stages or (StageSection(method=recipe.method),)):
        if isinstance(stage.method, GRPOSection):
            chapter = f"stages.{i}.method" if recipe.stages else "method"
            judges |= {f"{chapter}.rewards.{name}": name for name in stage.method.rewards}
    if judges:
        from danlu.evaluation.metrics import METRICS  # numpy: for few recipes

        asked |= {key: (name, METRICS.names()) for key, name in judges.items()}
    if recipe.evaluation.suites:
        from danlu.evaluation.harnesses import HARNESSES  # numpy, too

        suites = enumerate(recipe.evaluation.suites)
        asked |= {f"evaluation.suites.{i}.harness": (suite.harness, HARNESSES.names()) for i, suite in suites}
    for i, name in enumerate(recipe.data.augment.methods):
        asked[f"data.augment.methods.{i}"] = (name, AUGMENTERS.names())
    return [
        Complaint(key, given, say("recipe.name_of", known=listed(known) or "-"), nearest(given, known))
        for key, (given, known) in asked.items()
        if given not in known
    ]


def _teachers(recipe: Recipe) -> list[Complaint]:
    """A teacher at a URL needs a model's name, and a cap in money needs prices; found before a document is read."""
    section = recipe.data.teacher
    complaints = []
    if section.url is not None and section.model is None:
        complaints.append(Complaint("data.teacher.model", None, say("synthesis.wants_model")))
    if section.max_cost is not None and section.prompt_price is None and section.answer_price is None:
        complaints.append(Complaint("data.teacher.max_cost", section.max_cost, say("synthesis.wants_prices")))
    return complaints


def _judges(recipe: Recipe) -> list[Complaint]:
    """A share of won answers needs somebody who says who won."""
    rate = recipe.gate.min_win_rate
    if rate is None or recipe.evaluation.judge is not None:
        return []
    return [Complaint("gate.min_win_rate", rate, say("pipeline.some_judge"))]


def _privacy(section: PrivacySection) -> list[Complaint]:
    """The policy, before a document is read: each unknown kind by itself, then whatever else is wrong with it."""
    shelf = "data.privacy.actions"
    complaints = []
    for name in section.actions:
        if name not in KINDS:
            close = nearest(name, KINDS)
            known = say("recipe.name_of", known=listed(KINDS))
            complaints.append(Complaint(f"{shelf}.{name}", name, known, f"{shelf}.{close}" if close else None))
    known_actions = {name: action for name, action in section.actions.items() if name in KINDS}
    try:
        Policy.of(section.model_copy(update={"actions": known_actions}))
    except RecipeError as error:
        complaints.append(_policy_fault(error))
    return complaints


def _policy_fault(error: RecipeError) -> Complaint:
    given, close = str(error.values["given"]), error.values.get("nearest")
    known = error.values.get("known")
    expected = say("recipe.name_of", known=known) if known else str(error.values["expected"])
    is_in_recipe = error.where.startswith("data.privacy")
    if not is_in_recipe:  # in a pack of one's own
        given = f"{error.where}: {given}"
    key = error.where if is_in_recipe else "data.privacy.pack"
    return Complaint(key, given, expected, close)


def _missing_files(recipe: Recipe) -> list[Complaint]:
    named = {f"data.sources.{i}.path": source.path for i, source in enumerate(recipe.data.sources)}
    named["data.validation"] = recipe.data.validation or ""
    named |= {
        "data.replay.path": recipe.data.replay.path or "",
        "evaluation.questions": recipe.evaluation.questions or "",
    }
    named |= {
        "data.replay.prompts": recipe.data.replay.prompts or "",
        "data.synthesis.seeds": recipe.data.synthesis.seeds or "",
        "data.teacher.key_file": recipe.data.teacher.key_file or "",
        "data.teacher.ca_file": recipe.data.teacher.ca_file or "",
    }
    named |= {"evaluation.edge": recipe.evaluation.edge or "", "evaluation.general": recipe.evaluation.general or ""}
    privacy = recipe.data.privacy
    named |= {
        "data.privacy.names": str(Path(privacy.names).expanduser()) if privacy.names else "",
        "data.privacy.forget": privacy.forget or "",
    }
    named |= {f"data.cleaning.evaluation_sets.{i}": path for i, path in enumerate(recipe.data.cleaning.evaluation_sets)}
    named |= {"evaluation.preference": recipe.evaluation.preference or ""}
    if (judge := recipe.evaluation.judge) is not None:
        named |= {"evaluation.judge.key_file": judge.key_file or "", "evaluation.judge.rubric": judge.rubric or ""}
    for i, suite in enumerate(recipe.evaluation.suites):
        named[f"evaluation.suites.{i}.python"] = str(Path(suite.python).expanduser())
    if recipe.adapter.kind == "lora" and recipe.adapter.start:
        named["adapter.start"] = recipe.adapter.start
    return [
        Complaint(key, path, say("pipeline.existing_path"), _nearest_file(path))
        for key, path in named.items()
        if path and not _exists(path)
    ]


def _exists(path: str) -> bool:
    if any(mark in path for mark in "*?["):
        parent = Path(path.split("*", 1)[0].split("?", 1)[0].split("[", 1)[0]).parent
        return parent.exists()
    return Path(path).exists()


def _nearest_file(path: str) -> str | None:
    folder = Path(path).parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    close = get_close_matches(Path(path).name, names, n=1)
    return str(folder / close[0]) if close else None
