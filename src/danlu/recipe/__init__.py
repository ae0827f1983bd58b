"""Everything a person decides: typed, frozen, strict sections. Imports nothing above `core`, and no torch."""

from danlu.recipe.recipe import InvalidRecipeError, Recipe

__all__ = ["InvalidRecipeError", "Recipe"]
