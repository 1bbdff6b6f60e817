"""What each kind of head is, and transformers' own class for it on a backbone.

Needs torch and transformers only: this file travels with checkpoints as remote code.
"""

from __future__ import annotations

import copy
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import transformers
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

Batch: TypeAlias = Mapping[str, Any]  # tensors, and flags such as output_hidden_states
IGNORE_INDEX = -100  # the label of a row, or of a token, that has none; where labels are numbers it is NaN


@dataclass(frozen=True)
class Kind:
    """What a head is for.

    Attributes:
        autos: the ``AutoModelFor*`` classes that know transformers' own class for it, the first that fits.
        inputs: what backbones may read: ``text``, ``vision``, ``audio``.
        losses: that it can have; the first is the default.
        pooled: one answer a row; else one a token, frame or patch.
        problem: the ``problem_type`` of transformers' own class.
        outputs: how many numbers an answer has, where that isn't the number of labels.
    """

    autos: tuple[str, ...]
    inputs: tuple[str, ...]
    losses: tuple[str, ...] = ("cross_entropy",)
    pooled: bool = True
    problem: str | None = None
    outputs: int | None = None


CLASSIFIERS = ("AutoModelForSequenceClassification", "AutoModelForImageClassification",
               "AutoModelForAudioClassification")  # fmt: skip
SINGLE, MULTI, NUMBER = "single_label_classification", "multi_label_classification", "regression"
ANY_INPUT = ("text", "vision", "audio")
DISTANCES = ("mse", "l1", "huber")
NUMBER_LOSSES = ("binary_cross_entropy", *DISTANCES, "preference")  # their labels are numbers
CHOICE, TEXT = "multiple-choice", "language-model"  # heads that only transformers' own classes are
KINDS: dict[str, Kind] = {
    "sequence-classification": Kind(CLASSIFIERS[:1], ("text",), problem=SINGLE),
    "image-classification": Kind(CLASSIFIERS[1:2], ("vision",), problem=SINGLE),
    "audio-classification": Kind(CLASSIFIERS[2:], ("audio",), problem=SINGLE),
    "multi-label": Kind(CLASSIFIERS, ANY_INPUT, NUMBER_LOSSES[:1], problem=MULTI),
    "regression": Kind(CLASSIFIERS, ANY_INPUT, DISTANCES, problem=NUMBER),
    "token-classification": Kind(("AutoModelForTokenClassification",), ("text",), pooled=False),
    "frame-classification": Kind(("AutoModelForAudioFrameClassification",), ("audio",), pooled=False),
    "per-patch": Kind((), ("vision",), pooled=False),
    "question-answering": Kind(("AutoModelForQuestionAnswering",), ("text",), ("span",), pooled=False, outputs=2),
    CHOICE: Kind(("AutoModelForMultipleChoice",), ("text",), outputs=1),
    TEXT: Kind(("AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForImageTextToText"), ("text",),
               ("next_token", "cross_entropy"), pooled=False),
    "similarity": Kind((), ANY_INPUT, ("contrastive",)),
    "reward": Kind(CLASSIFIERS[:1], ("text",), ("preference", *DISTANCES), problem=NUMBER, outputs=1),
    "value": Kind(("AutoModelForTokenClassification",), ("text",), DISTANCES, pooled=False, outputs=1),
}  # fmt: skip
LABELLED_KINDS = ("sequence-classification", "image-classification", "audio-classification", "multi-label",
                  "token-classification", "frame-classification", "per-patch")  # fmt: skip
MAIN_INPUTS = {"input_ids": "text", "pixel_values": "vision", "input_values": "audio", "input_features": "audio"}
# Whatever the code of a model raises about a config or an input that it can't use.
CODE_ERRORS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError,
               RuntimeError, TypeError, ValueError)  # fmt: skip


def list_choices(known: Iterable[object]) -> str:
    return f"there are: {', '.join(map(str, known))}"


def backbone_class(backbone: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the ``AutoModel`` class of a config.

    Raises:
        ValueError: transformers has none.
    """
    if type(backbone) not in modeling_auto.MODEL_MAPPING:
        raise ValueError(f"{type(backbone).__name__} has no AutoModel in transformers, and a backbone is one")
    return _class_in(modeling_auto.MODEL_MAPPING[type(backbone)])


def input_modality(backbone: PreTrainedConfig) -> str:
    """Return what a backbone reads: ``text``, ``vision`` or ``audio``.

    Raises:
        ValueError: it reads something else, or gives no states that heads could read.
    """
    cls = backbone_class(backbone)
    main = cls.main_input_name if isinstance(cls.main_input_name, str) else cls.main_input_name[0]
    if main not in MAIN_INPUTS:
        raise ValueError(f"{cls.__name__} reads {main}, and heads go on a backbone that reads {', '.join(MAIN_INPUTS)}")
    output = typing.get_type_hints(inspect.unwrap(cls.forward)).get("return")
    if not any("last_hidden_state" in getattr(each, "__dataclass_fields__", ())
               for each in (output, *typing.get_args(output))):  # fmt: skip
        raise ValueError(
            f"{cls.__name__} gives no last_hidden_state, which heads read; take one of its parts as backbone"
        )
    return MAIN_INPUTS[main]


def is_causal(backbone: PreTrainedConfig) -> bool:
    """Return whether no token of a backbone attends to those after it."""
    known = {name: type(backbone) in getattr(transformers, name)._model_mapping for name in KINDS[TEXT].autos}
    only_causal = any(known.values()) and not known["AutoModelForMaskedLM"]
    return only_causal or bool(getattr(backbone, "is_decoder", False))


def hidden_size(backbone: PreTrainedConfig) -> int:
    """Return the width of the last hidden states.

    Raises:
        ValueError: the config doesn't say it.
    """
    config = backbone.get_text_config()
    size = getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [None])[-1]
    if hasattr(config, "hidden_size_per_layer_input"):  # Gemma 3n and its kind: embedding models project their states
        size = getattr(config, "embedding_dim", size)
    if not isinstance(size, int):
        raise ValueError(f"{type(backbone).__name__} doesn't say how wide its last states are (hidden_size)")
    return size


def with_values(backbone: PreTrainedConfig, values: Mapping[str, object]) -> PreTrainedConfig:
    """Return a copy of a config with other values."""
    config = copy.deepcopy(backbone)
    for key, value in values.items():
        setattr(config, key, value)
    return config


def fitting_class(backbone: PreTrainedConfig, kind: str, values: Mapping[str, object]) -> tuple[str | None, str]:
    """Return the name of transformers' own class for a kind of head on this backbone; else None, and why.

    Args:
        values: of the class's config.
    """
    if kind == TEXT and backbone.is_encoder_decoder:
        return None, (f"the language model of an encoder-decoder ({type(backbone).__name__}) decodes what its labels "
                      "say, and a backbone runs once for all heads")  # fmt: skip
    why = f"transformers has no class for a {kind} head on {type(backbone).__name__}"
    for cls in _candidate_classes(backbone, kind):
        try:
            with torch.device("meta"):
                plain, alone = cls(with_values(backbone, values)), AutoModel.from_config(copy.deepcopy(backbone))
            why = _why_not_shared(plain, alone, kind)
        except CODE_ERRORS as error:
            why = f"{cls.__name__} can't be made of this {type(backbone).__name__}: {type(error).__name__}: {error}"
        if not why:
            return cls.__name__, ""
    return None, why


def _class_in(known: Any) -> type[PreTrainedModel]:
    """Return the class that the library maps a config to; it keeps several for some."""
    return known[0] if isinstance(known, (list, tuple)) else known


def _candidate_classes(backbone: PreTrainedConfig, kind: str) -> list[type[PreTrainedModel]]:
    autos = list(KINDS[kind].autos)
    if kind == TEXT and not getattr(backbone, "is_decoder", False):
        autos.reverse()  # an encoder has both
    maps = [getattr(transformers, name)._model_mapping for name in autos]
    return [_class_in(mapping[type(backbone)]) for mapping in maps if type(backbone) in mapping]


def is_in_backbone(plain: PreTrainedModel, name: str) -> bool:
    return name.startswith(f"{plain.base_model_prefix}.")


def _why_not_shared(plain: PreTrainedModel, alone: PreTrainedModel, kind: str) -> str:
    """Return why a shared backbone can't stand in a plain class for that class's own; empty if it can."""
    inner, cls, name = getattr(plain, plain.base_model_prefix, None), type(plain).__name__, type(alone).__name__
    if inner is None or type(inner) is not type(alone):
        return f"{cls} doesn't hold its backbone as one {name}, so no head can be taken from it"
    expected, present = alone.state_dict().keys(), inner.state_dict().keys()
    lost = {name.partition(".")[0] for name in expected - present}
    if present - expected or lost & {name.partition(".")[0] for name in present}:
        return f"{cls} holds a {name} of other tensors"
    if across := [f"{key} = {of}" for key, of in plain.all_tied_weights_keys.items()
                  if is_in_backbone(plain, key) and not is_in_backbone(plain, of)]:  # fmt: skip
        return f"{cls} ties its backbone to its head ({across[0]})"
    return _computed_inputs(plain, alone, kind)


class _BackboneReached(Exception):
    """A forward has come to its backbone, and this is what it gives it."""


def _computed_inputs(plain: PreTrainedModel, alone: PreTrainedModel, kind: str) -> str:
    """Return what a plain class gives its backbone beyond the user's input, as a sentence; empty if nothing.

    Its forward ends at the backbone, so no parameter needs a value.
    """

    def reached(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        raise _BackboneReached({**dict(enumerate(args)), **kwargs})

    cls, given = type(plain).__name__, _sample_input(alone.main_input_name, kind)
    getattr(plain, plain.base_model_prefix).register_forward_pre_hook(reached, with_kwargs=True)
    try:
        plain.eval()(**accepted(forward_arguments(plain.forward), given))
    except _BackboneReached as stop:
        flat = flatten_choices(given) if kind == CHOICE else given
        known = [*flat.values(), *decoder_inputs(alone, flat).values()]
        new = [str(key) for key, value in stop.args[0].items() if isinstance(value, torch.Tensor)
               and not any(value.dtype == each.dtype and torch.equal(value, each) for each in known)]  # fmt: skip
        return f"{cls} computes {', '.join(new)} for its backbone, and others don't" if new else ""
    except CODE_ERRORS as error:
        return f"{cls} computes what its backbone reads ({type(error).__name__}: {error})"
    return f"{cls} doesn't run its backbone as a whole"


def _sample_input(main: str, kind: str) -> dict[str, torch.Tensor]:
    """Return any input: rows that no code would make of others."""
    if MAIN_INPUTS[main] != "text":
        return {main: torch.arange(1 * 3 * 8 * 8).view((1, 192) if main == "input_values" else (1, 3, 8, 8)) / 192}
    rows = (1, 2, 4) if kind == CHOICE else (1, 4)
    ids = torch.tensor([[7, 9, 8, 5], [5, 6, 9, 7]])[: rows[-2]].view(rows)
    return {"input_ids": ids, "attention_mask": torch.tensor([1, 1, 1, 0]).expand(rows)}


def decoder_inputs(backbone: Any, given: Batch) -> dict[str, torch.Tensor]:
    """Return what the decoder in a backbone reads, as T5's classes make it: T5's backbone doesn't, and BART's does."""
    if not backbone.config.is_encoder_decoder or "decoder_input_ids" in given or not hasattr(backbone, "_shift_right"):
        return {}
    return {"decoder_input_ids": backbone._shift_right(given["input_ids"])}


def has_choices(given: Batch) -> bool:
    """Return whether each row holds several choices."""
    ids = given.get("input_ids")
    return ids is not None and ids.dim() == 3


def flatten_choices(given: Batch) -> dict[str, object]:
    """Return rows of several choices as one row for each choice."""
    return {key: value.flatten(0, 1) if isinstance(value, torch.Tensor) else value for key, value in given.items()}


def forward_arguments(forward: Callable[..., object]) -> frozenset[str] | None:
    """Return the names that a forward accepts; None: any name."""
    parameters = inspect.signature(forward).parameters
    accepts_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return None if accepts_any else frozenset(parameters)


def accepted(names: frozenset[str] | None, given: Batch) -> dict[str, object]:
    return {key: value for key, value in given.items() if names is None or key in names}
