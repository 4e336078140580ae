"""Moved to lbtrain.recipe.files."""

from lbtrain.recipe.files import contract_field, load_recipe

__all__ = ["contract_field", "load_recipe"]
