"""A class of the user's own that fills what is new by its recipe, however it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel

from hf_init import schemes
from hf_init._architecture import InitialValues, buffers, describe_model, quiet_library, tied_names
from hf_init._architecture import find_tensor as tensor_of
from hf_init._errors import PlanError
from hf_init._fill import draw_slot
from hf_init._load.initialize_new import fill_by_function
from hf_init._load.known import guarded, keeping, known_names, loaded_names, remember, remember_loaded
from hf_init._load.load import HandedOn, load_class
from hf_init._options import LoadOptions
from hf_init._plan import Surroundings, choose_auto, settle
from hf_init._prepare import class_recipe
from hf_init._tensors import Box, Slot, TensorSpec
from hf_init._text import join_names
from hf_init.recipes import find_recipe
from hf_init.schemes import Scheme

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from typing_extensions import Self, TypedDict, Unpack

    from hf_init._checkpoint import Bases

    class _OwnKeywords(TypedDict, total=False, extra_items=Any):
        """What goes on to the class behind the mixin: besides a config, only that one knows what it takes."""

        config: PreTrainedConfig

    class _LoadOptions(TypedDict, total=False):
        """What torch's method takes, by name."""

        strict: bool
        assign: bool

    class _ResizeOptions(TypedDict, total=False):
        """What the library's method takes, by name."""

        new_num_tokens: int | None
        pad_to_multiple_of: int | None
        mean_resizing: bool

    _Model = PreTrainedModel
else:  # it is put before a class that is one
    _Model = object


class InitMixin(_Model):
    """Put before a ``PreTrainedModel`` class: what a checkpoint doesn't bring is filled by ``init_recipe``.

    ``from_pretrained`` takes the options of ``hf_init.from_pretrained``. Made from a config alone, everything is new
    and the recipe serves all of it, nested models included. ``_init_weights`` serves a module that the library hands
    over later, such as the new matrix of ``resize_token_embeddings``. What once has a value keeps it: neither
    ``init_weights``, ``post_init`` nor ``apply(model._init_weights)`` draws it anew.

    Attributes:
        init_recipe: a ``Recipe``, a mapping, the path of a YAML file, or a function of a module such as
            ``init_weights(m)``. That of a class with the mixin inside another one counts for its part.
        init_nested: whether the class's own ``_init_weights`` is for the modules of the models in it, too.

    Raises:
        PlanError: when a class is made, if the mixin stands behind its ``PreTrainedModel``, or before none.

    Example::

        class Classifier(InitMixin, BertForSequenceClassification):
            init_recipe = Recipe([Rule("normal(std=0.01)", name="classifier.weight")])
        model = Classifier.from_pretrained("base", num_labels=3)
    """

    init_recipe: ClassVar[Any] = None  # a RecipeLike; the library evaluates the annotations of its subclasses
    init_nested: ClassVar[bool] = False
    _hf_init_mixin: ClassVar[bool] = True  # what the library's own method must be looked for past

    def __init_subclass__(cls, **keywords: Unpack[_OwnKeywords]) -> None:
        super().__init_subclass__(**keywords)
        _check_place(cls)
        if "_init_weights" in cls.__dict__:
            cls._init_weights = guarded(cls.__dict__["_init_weights"])

    def __new__(cls, *args: Any, **keywords: Unpack[_OwnKeywords]) -> Self:
        """Make an object that knows what its constructor took, so that it can be recorded."""
        model = super().__new__(cls)
        vars(model)["_hf_init_made_with"] = (args[1:], {k: v for k, v in keywords.items() if k != "config" or args})
        return model

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Bases | None, *model_args: object, **options: Unpack[LoadOptions]
    ) -> Self:
        """Load a checkpoint into this class; see ``hf_init.from_pretrained``.

        Without one (``from_pretrained(None, config=config, state_dict=tensors)``) the library loads the tensors, and
        what they lack is filled as in a model that is made from the config.
        """
        library: Any = super().from_pretrained
        if pretrained_model_name_or_path is None:
            mine = sorted({"keep", "recipe", "rules", "seed"} & options.keys())
            if mine or "state_dict" not in options:
                raise PlanError(
                    f"{join_names(mine) or cls.__name__}: for a checkpoint: give a folder or a hub id. Tensors without "
                    "one (config=..., state_dict=...) are loaded by the library, and the init_recipe says the rest"
                )
            return library(None, *model_args, **options)
        if issubclass(cls, HandedOn):
            return library(pretrained_model_name_or_path, *model_args, **options)
        return load_class(cls, pretrained_model_name_or_path, *model_args, past=InitMixin, **options)

    def initialize_new(self: Any, init_weights: Callable[[torch.nn.Module], object], seed: int | None = None) -> None:
        """Run a function over every module as ``apply`` does, and keep what was loaded.

        What is new is the same whatever ran before: drawn under the seed and the tensor's name, by torch, numpy or
        Python. ``init_plan`` says so; it is what ``from_pretrained(..., recipe=init_weights)`` gives.

        Args:
            init_weights: a function of one module, such as tutorials hand to ``apply``.
            seed: by default the plan's, or the recipe's.

        Example::

            model.initialize_new(init_weights)  # not model.apply(init_weights), which overwrites what is pretrained
        """
        fill_by_function(
            self, init_weights, class_recipe(self).seed if seed is None else seed, *self._hf_init_made_with
        )
        remember(self)

    def initialize_weights(self: Any) -> None:
        """Give every tensor without a value its scheme, by full names, after the library's own pass."""
        known = known_names(self)
        with quiet_library(), keeping(self, known):
            super().initialize_weights()
        alias = tied_names(self) if hasattr(self, "all_tied_weights_keys") else {}
        held = [tensor for name, tensor in self.state_dict().items() if name not in alias]  # tied after a load
        if not any(tensor.device.type == "meta" or isinstance(tensor, FakeTensor) for tensor in held):
            _fill_missing(self, known, alias)
            remember(self)

    def resize_token_embeddings(self, *args: Any, **options: Unpack[_ResizeOptions]) -> torch.nn.Embedding:
        """Resize as the library does; the layers that it makes for it are known from then on."""
        library: Any = super().resize_token_embeddings  # a class of the user's own may take less, or more
        embeddings = library(*args, **options)
        remember(self, loaded=bool(loaded_names(self)))
        return embeddings

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Unpack[_LoadOptions]) -> Any:
        """Load as torch does; what was loaded is known from then on, of a model that was made on meta too."""
        library: Any = super().load_state_dict
        result = library(state_dict, *args, **options)
        remember_loaded(self, state_dict.keys())
        return result

    def apply(self: Any, fn: Callable[[torch.nn.Module], None]) -> Any:
        """Apply a function to every module, as torch does; the model's own ``_init_weights`` keeps what is known."""
        with keeping(self, known_names(self) if fn == self._init_weights else ()):
            return super().apply(fn)

    def _init_weights(self: Any, module: torch.nn.Module) -> None:
        """Give the library's own values, then those of the rules that know the module by its class or role."""
        with keeping(module):
            super()._init_weights(module)
        recipe, known = find_recipe(type(self).init_recipe), known_names(module)
        for name, spec in describe_model(module).items():
            choice = recipe.choose(spec)
            tensor = None if "." in name or choice is None or name in known else tensor_of(module, name)
            if tensor is None or choice is None or tensor.device.type == "meta":
                continue
            scheme = settle(choice, spec, Surroundings()).scheme
            if not isinstance(scheme, (schemes.Model, schemes.Declared, schemes.Skip)):
                _fill_tensor(tensor, scheme, spec, recipe.seed, name=f"{type(module).__name__}.{name}")


def _check_place(cls: type) -> None:
    """Raise PlanError if the mixin has no effect in a class, with the line to write."""
    before = [base for base in cls.__mro__[: cls.__mro__.index(InitMixin)] if not issubclass(base, InitMixin)]
    behind = any(issubclass(base, PreTrainedModel) for base in before)
    if not behind and (issubclass(cls, PreTrainedModel) or not issubclass(cls, torch.nn.Module)):
        return  # a mixin of the user's own may stand before any class
    names = [base.__name__ for base in cls.__bases__ if base is not InitMixin]
    if behind:
        what = f"InitMixin stands behind {before[0].__name__}, where it has no effect"
    else:
        what = "InitMixin fills models of transformers, and this class is none"
        names = ["PreTrainedModel" if name == "Module" else name for name in names]
    raise PlanError(f"class {cls.__name__}: {what}. Write `class {cls.__name__}({', '.join(['InitMixin', *names])}):`")


def _fill_missing(model: Any, known: set[str], alias: Mapping[str, str]) -> None:
    """Fill what a model on a real device has no value for, and no other name of, by its class's recipe."""
    described = {name: spec for name, spec in describe_model(model).items() if name not in alias}
    specs = [spec for name, spec in described.items() if name not in known]
    recipe = class_recipe(model)
    rest = [spec for name, spec in described.items() if name in known]
    choices = choose_auto(recipe, specs, rest) if specs else {}
    args, kwargs = model._hf_init_made_with
    context = InitialValues(lambda: model, args, kwargs, recipe.function)
    for spec in specs:
        scheme = choices[spec.name].scheme
        # What can't be built once more, or was handed to the constructor, has the values that it was made with.
        if isinstance(scheme, schemes.Skip) or (
            scheme.as_given and not context.has(spec.name, spec.shape, recipe.seed)
        ):
            continue
        _fill_tensor(tensor_of(model, spec.name), scheme, spec, recipe.seed, context)
    for name in set(buffers(model)[1]) - known:
        held = tensor_of(model, name)
        if context.has(name, tuple(held.shape), recipe.seed):
            held.copy_(context.fresh(name, recipe.seed))


def _fill_tensor(
    tensor: torch.Tensor,
    scheme: Scheme,
    spec: TensorSpec,
    seed: int,
    context: InitialValues | None = None,
    name: str = "",
) -> None:
    slot = Slot(
        name=name or spec.name,
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
