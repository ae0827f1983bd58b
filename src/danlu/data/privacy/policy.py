"""What to do with each kind of finding: the recipe's own word, else the pack's, else only report.

A pack is a YAML file: title, notice, min_score, levels, actions (see packs/). Unknown kinds and actions are errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from danlu.core.errors import RecipeError
from danlu.core.messages import listed
from danlu.core.shelf import nearest
from danlu.data.privacy.finding import KINDS, SECRETS, kind_named
from danlu.data.privacy.level import LEVELS, Level

if TYPE_CHECKING:  # workers are sent a policy and need no recipe
    from danlu.recipe.privacy import Action, PrivacySection

PACKS = ("minimal", "finance", "medical", "legal")
ACTIONS: tuple[Action, ...] = ("keep", "mask", "token", "pseudonym", "drop")
_KEYS = {"title", "notice", "min_score", "levels", "actions"}


@dataclass(frozen=True, slots=True)
class Policy:
    """`actions` has an entry for every kind. `residual`: what a row is at least once its findings are masked."""

    name: str
    actions: dict[str, Action]
    min_score: float
    level: Level
    notice: dict[str, str]

    @classmethod
    def of(cls, section: PrivacySection) -> Policy:
        """RecipeError for a pack that does not exist, an unknown kind, or a secret to be masked or pseudonymised."""
        pack = load_pack(section.pack)
        for name in section.actions:
            kind_named(name, where="data.privacy.actions")
        actions = {
            name: section.actions.get(name)
            or section.levels.get(kind.level)
            or pack.get("actions", {}).get(name)
            or pack.get("levels", {}).get(kind.level)
            or "keep"
            for name, kind in KINDS.items()
        }
        for name in SECRETS & set(section.actions):
            if actions[name] in ("mask", "pseudonym"):
                raise RecipeError(
                    "privacy.secret_action", where=f"data.privacy.actions.{name}", given=actions[name],
                    known="token, drop, keep",
                )  # fmt: skip
        # a level's action for secrets: what cannot be done to them becomes the type token
        actions |= {name: "token" for name in SECRETS if actions[name] in ("mask", "pseudonym")}
        score = section.min_score if section.min_score is not None else float(pack.get("min_score", 0.5))
        return cls(section.pack, actions, score, section.level, dict(pack.get("notice", {})))

    def to_json(self) -> dict[str, Any]:
        return {"pack": self.name, "actions": self.actions, "min_score": self.min_score, "level": self.level}


def load_pack(name: str) -> dict[str, Any]:
    """A pack by its name or path, checked."""
    if name == "off":
        return {}
    if name in PACKS:
        text = (resources.files("danlu.data.privacy.packs") / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).expanduser().is_file():
        text = Path(name).expanduser().read_text(encoding="utf-8")
    else:
        guess = nearest(name, (*PACKS, "off"))
        raise RecipeError("privacy.no_pack", where="data.privacy.pack", given=name, nearest=guess, known=listed(PACKS))
    try:
        pack = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RecipeError("privacy.bad_pack", where=name, given=str(error).splitlines()[0], expected="YAML") from error
    _check_pack(pack, name)
    return dict(pack)


def _check_pack(pack: Any, where: str) -> None:
    if not isinstance(pack, dict) or set(pack) - _KEYS:
        given = listed(sorted(set(pack) - _KEYS)) if isinstance(pack, dict) else type(pack).__name__
        raise RecipeError("privacy.bad_pack", where=where, given=given, expected=listed(sorted(_KEYS)))
    for name, action in (pack.get("actions") or {}).items():
        kind_named(name, where=where)
        _check_word(action, ACTIONS, where)
    for level, action in (pack.get("levels") or {}).items():
        _check_word(level, LEVELS, where)
        _check_word(action, ACTIONS, where)


def _check_word(given: Any, known: tuple[str, ...], where: str) -> None:
    if given not in known:
        raise RecipeError("privacy.bad_pack", where=where, given=given, expected=listed(known))
