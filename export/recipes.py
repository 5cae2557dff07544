"""Recipes that come with the package: what the search found for nano, one file a target."""

from __future__ import annotations

from sam_edge.model.checkpoints import NANO_WEIGHTS, checkpoint_path
from sam_edge.quantize.recipe import Recipe, read_recipe
from sam_edge.runtimes import ASSETS

__all__ = ["packaged_recipes"]

FOLDER = ASSETS / "recipes"


def packaged_recipes(model: str) -> dict[tuple[str, str], Recipe]:
    """By (target, precision), for the packaged weights of nano; none for others, whose layers may be as sensitive
    elsewhere. Raises ExportError for a file that is no recipe."""
    if checkpoint_path(model).resolve() != NANO_WEIGHTS.resolve():
        return {}
    recipes = (read_recipe(path) for path in sorted(FOLDER.glob("nano-*.json")))
    return {(recipe.target, recipe.precision): recipe for recipe in recipes}
