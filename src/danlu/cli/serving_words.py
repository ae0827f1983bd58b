"""What a command line wants served: artefacts, runs, recipes, versions and URLs in any order, overrides among them, and
the chapter `serving` of the file that was named. `danlu serve` and `danlu bundle` take the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from danlu.cli.targets import RECIPE_SUFFIXES, open_target
from danlu.core.errors import RunError
from danlu.pipeline.serve_targets import Wanted, read_targets
from danlu.recipe import Recipe
from danlu.recipe.overrides import apply_overrides
from danlu.recipe.serving import ServingSection
from danlu.run.run import Run

PREFIX = "serving."


@dataclass(frozen=True, slots=True)
class ServingWords:
    """`source`: the file that holds the chapter, where one was named."""

    targets: tuple[str, ...]
    overrides: tuple[str, ...]
    source: Path | None

    @classmethod
    def of(cls, words: Sequence[str], config: Path | None) -> ServingWords:
        """RunError where two files are named."""
        overrides = tuple(word for word in words if word.startswith(PREFIX) and "=" in word)
        targets = tuple(word for word in words if word not in overrides)
        recipe = next((target for target in targets if _is_recipe(target)), None)
        if config is not None and recipe is not None:
            raise RunError("serve.two_recipes", where=recipe, given=str(config), other=recipe)
        return cls(targets, overrides, config or (Path(recipe) if recipe else None))

    def read(self, runs: Path) -> tuple[list[Wanted], ServingSection]:
        """What the files say now; the command line says what it said. RunError where a target is nothing."""
        section = self._section()
        return read_targets(self.targets, section, runs, lambda target: _run(target, runs)), section

    def _section(self) -> ServingSection:
        """The chapter of the file that was named, else of the one run that is served, with overrides."""
        if self.source is not None:
            return Recipe.load(self.source, self.overrides).serving
        kept: ServingSection | None = None
        if len(self.targets) == 1 and (Path(self.targets[0]) / "run.json").is_file():
            kept = Run.open(Path(self.targets[0])).recipe.serving
        tree = {"serving": kept.model_dump(mode="json", exclude_defaults=True)} if kept is not None else {}
        return Recipe.from_tree(apply_overrides(tree, self.overrides)).serving


def _is_recipe(target: str) -> bool:
    return Path(target).suffix in RECIPE_SUFFIXES and not Path(target).is_dir()


def _run(target: str, runs: Path) -> Run:
    """A run that is there; nothing is started to be served."""
    if _is_recipe(target):
        recipe = Recipe.load(target)
        folder = runs / f"{recipe.name}-{recipe.digest[:8]}"
        if not (folder / "run.json").is_file():
            raise RunError("serve.not_run_yet", where=target, given=target)
        return Run.open(folder)
    return open_target(target, (), runs)
