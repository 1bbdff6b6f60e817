"""The recipe that a class carries with it."""

from __future__ import annotations

from transformers import PreTrainedModel

from hf_init._plan import Recipe
from hf_init.recipes import find_recipe


def class_recipe(model: PreTrainedModel) -> Recipe:
    """Return the recipe of a model's class, with those of the models in it for their parts.

    A class has one by ``InitMixin``; its rules may be for what a checkpoint brings already.
    """
    own = find_recipe(_init_recipe(model)).as_standing() if _init_recipe(model) is not None else Recipe()
    parts = {
        f"{path}.": find_recipe(_init_recipe(module)).as_standing()
        for path, module in model.named_modules()
        if path and hasattr(module, "_hf_init_mixin")
    }
    return own.with_parts(parts) if parts else own


def _init_recipe(module: object) -> object:
    return getattr(type(module), "init_recipe", None) if hasattr(module, "_hf_init_mixin") else None
