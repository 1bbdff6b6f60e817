"""The recipe that a class carries with it."""

from __future__ import annotations

from transformers import PreTrainedModel

from hf_init._plan import Recipe
from hf_init.recipes import find_recipe


def class_recipe(model: PreTrainedModel) -> Recipe:
    """Return the recipe of a model's class, with those of the models in it for their parts.

    A class has one by ``InitMixin``; its rules may be for what a checkpoint brings already.
    """
    given = getattr(type(model), "init_recipe", None)
    own = Recipe() if given is None else find_recipe(given).as_standing()
    parts = {
        f"{path}.": find_recipe(getattr(type(module), "init_recipe", None)).as_standing()
        for path, module in model.named_modules()
        if path and hasattr(type(module), "init_recipe")
    }
    return own.with_parts(parts) if parts else own
