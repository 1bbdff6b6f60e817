"""A class of the user's own that fills what is new by its recipe, however it is made."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import PreTrainedModel

from hf_init import schemes
from hf_init._architecture import InitialValues, describe_model, is_loaded, mark_loaded, quiet_library, tied_names
from hf_init._architecture import find_tensor as tensor_of
from hf_init._fill import draw_slot
from hf_init._load.load import HandedOn, load_class
from hf_init._options import LoadOptions
from hf_init._plan import Surroundings, choose_auto, settle
from hf_init._tensors import Box, Slot, TensorSpec
from hf_init.recipes import find_recipe
from hf_init.schemes import Scheme

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from hf_init._checkpoint import Bases

    _Model = PreTrainedModel
else:  # it is put before a class that is one
    _Model = object


class InitMixin(_Model):
    """Put before a ``PreTrainedModel`` class: what a checkpoint doesn't bring is filled by ``init_recipe``.

    ``from_pretrained`` takes the options of ``hf_init.from_pretrained``. Made from a config alone, everything is new
    and the recipe serves all of it, nested models included. ``_init_weights`` serves a module that the library hands
    over later, such as the new matrix of ``resize_token_embeddings``.

    Attributes:
        init_recipe: a ``Recipe``, a mapping, or the path of a YAML file.

    Example::

        class Classifier(InitMixin, BertForSequenceClassification):
            init_recipe = Recipe([Rule("normal(std=0.01)", name="classifier.weight")])
        model = Classifier.from_pretrained("base", num_labels=3)
    """

    init_recipe: ClassVar[Any] = None  # a RecipeLike; the library evaluates the annotations of its subclasses
    _hf_init_mixin: ClassVar[bool] = True  # what the library's own method must be looked for past

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Bases, *model_args: object, **options: Unpack[LoadOptions]
    ) -> Self:
        """Load a checkpoint into this class; see ``hf_init.from_pretrained``."""
        options.setdefault("recipe", find_recipe(cls.init_recipe).as_standing())
        if issubclass(cls, HandedOn):
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **options)
        return load_class(cls, pretrained_model_name_or_path, *model_args, past=InitMixin, **options)

    def initialize_weights(self: Any) -> None:
        """Give every unloaded tensor its scheme, by full names, after the library's own pass."""
        alias = tied_names(self) if hasattr(self, "all_tied_weights_keys") else {}
        missing = {name for name in self.state_dict() if name not in alias and not is_loaded(tensor_of(self, name))}
        with quiet_library():
            super().initialize_weights()  # type: ignore[misc]  # the next class in the order is a PreTrainedModel
        _fill_missing(self, missing)

    def _init_weights(self: Any, module: torch.nn.Module) -> None:
        """Give the library's own values, then those of the rules that know the module by its class or role."""
        super()._init_weights(module)  # type: ignore[misc]  # as above
        recipe = find_recipe(type(self).init_recipe)
        for name, spec in describe_model(module).items():
            choice = recipe.choose(spec)
            if "." in name or choice is None:
                continue
            tensor = tensor_of(module, name)
            if tensor.device.type == "meta" or is_loaded(tensor):
                continue
            scheme = settle(choice, spec, Surroundings()).scheme
            if not isinstance(scheme, (schemes.Model, schemes.Declared, schemes.Skip)):
                named = replace(spec, name=f"{type(module).__name__}.{name}")
                _fill_tensor(tensor, scheme, named, recipe.seed)


def _fill_missing(model: PreTrainedModel, missing: set[str]) -> None:
    """Fill the missing tensors of a model on a real device by its class's recipe."""
    specs = {name: spec for name, spec in describe_model(model).items() if name in missing}
    if not specs or any(tensor_of(model, name).device.type == "meta" for name in specs):
        return
    recipe = find_recipe(type(model).init_recipe).as_standing()  # type: ignore[attr-defined]  # only models with the mixin come here
    rest = [spec for name, spec in describe_model(model).items() if name not in missing]
    choices = choose_auto(recipe, list(specs.values()), rest)
    context = None
    for name, spec in specs.items():
        scheme = choices[name].scheme
        if isinstance(scheme, schemes.Skip):
            continue
        if context is None and scheme.needs_model:
            context = InitialValues(partial(_rebuild_on_meta, model))
        _fill_tensor(tensor_of(model, name), scheme, spec, recipe.seed, context)


def _rebuild_on_meta(model: PreTrainedModel) -> PreTrainedModel:
    """Build the same architecture on meta."""
    with quiet_library(), torch.device("meta"):
        return type(model)(model.config)


def _fill_tensor(
    tensor: torch.Tensor, scheme: Scheme, spec: TensorSpec, seed: int, context: InitialValues | None = None
) -> None:
    slot = Slot(
        name=spec.name,
        region=Box.whole(spec.shape),
        whole=spec.shape,
        dtype=spec.dtype,
        seed=seed,
        parameter=spec.parameter,
        role=spec.role,
        geometry=spec.geometry,
        context=context,
    )
    scheme.check(slot)
    with torch.no_grad():
        tensor.copy_(draw_slot(scheme, slot))
    mark_loaded(tensor)
