"""Several named heads on one pretrained trunk. Needs torch and transformers only: this file travels with checkpoints.

A head is either transformers' own class for its kind (``BertForTokenClassification``...), in which what the shared
trunk gave stands for the trunk, so that it computes what that class computes; or, where a pooling, a depth or a
dropout is asked for or no such class fits, a small head of this file.
"""

from __future__ import annotations

import copy
import inspect
import keyword
import os
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import torch
import transformers
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import modeling_auto
from transformers.utils.generic import ModelOutput

NONE = -100  # the label of a row, or of a token, that has none; of numbers it is NaN


@dataclass(frozen=True)
class Kind:
    """What a head is for.

    Attributes:
        autos: the ``AutoModelFor*`` classes that know transformers' own class for it, the first that fits.
        inputs: what trunks may read: ``text``, ``vision``, ``audio``.
        losses: that it can have, the first if none is asked for.
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
ANY = ("text", "vision", "audio")
DISTANCES = ("mse", "l1", "huber")
NUMBERS = ("binary_cross_entropy", *DISTANCES, "preference")  # losses whose labels are numbers, and NaN for none
CHOICE, TEXT = "multiple-choice", "language-model"  # that only transformers' own classes are
KINDS: dict[str, Kind] = {
    "sequence-classification": Kind(CLASSIFIERS[:1], ("text",), problem=SINGLE),
    "image-classification": Kind(CLASSIFIERS[1:2], ("vision",), problem=SINGLE),
    "audio-classification": Kind(CLASSIFIERS[2:], ("audio",), problem=SINGLE),
    "multi-label": Kind(CLASSIFIERS, ANY, NUMBERS[:1], problem=MULTI),
    "regression": Kind(CLASSIFIERS, ANY, DISTANCES, problem=NUMBER),
    "token-classification": Kind(("AutoModelForTokenClassification",), ("text",), pooled=False),
    "frame-classification": Kind(("AutoModelForAudioFrameClassification",), ("audio",), pooled=False),
    "per-patch": Kind((), ("vision",), pooled=False),
    "question-answering": Kind(("AutoModelForQuestionAnswering",), ("text",), ("span",), pooled=False, outputs=2),
    CHOICE: Kind(("AutoModelForMultipleChoice",), ("text",), outputs=1),
    TEXT: Kind(("AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForImageTextToText"), ("text",),
               ("next_token", "cross_entropy"), pooled=False),
    "similarity": Kind((), ANY, ("contrastive",)),
    "reward": Kind(CLASSIFIERS[:1], ("text",), ("preference", *DISTANCES), problem=NUMBER, outputs=1),
    "value": Kind(("AutoModelForTokenClassification",), ("text",), DISTANCES, pooled=False, outputs=1),
}  # fmt: skip
LABELLED = ("sequence-classification", "image-classification", "audio-classification", "multi-label",
            "token-classification", "frame-classification", "per-patch")  # fmt: skip
INPUTS = {"input_ids": "text", "pixel_values": "vision", "input_values": "audio", "input_features": "audio"}
TRUNK, ENCODER = "trunk.", "trunk.encoder"  # what forwards take is kept by the head's name, or one of these
POOLINGS = ("first", "mean", "last", "attention")
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"tanh": torch.tanh, "gelu": F.gelu, "relu": F.relu}


@dataclass(frozen=True)
class HeadSpec:
    """One head, as the config holds it.

    Attributes:
        kind: one of ``KINDS``.
        labels: their names in order; None where an answer is no choice among names.
        outputs: numbers of an answer; None: as many as labels, else what the kind has, else 1.
        plain: transformers' class that it is; None: a head of this file; ``"auto"``: whichever fits.
        pooling: ``first`` (token that is no padding), ``mean`` (of those), ``last``, ``attention`` (learned).
        depth: 1 is a linear layer; 2 a dense layer, an activation and a linear layer.
        activation: ``tanh``, ``gelu``, ``relu``.
        dropout: of what is pooled, and of what the dense layer gives.
        loss: one of those of its kind. weight: of this head in the sum.
        config: values of the config of the plain class that the trunk's config hasn't.
    """

    kind: str
    labels: tuple[str, ...] | None = None
    outputs: int | None = None
    plain: str | None = "auto"
    pooling: str | None = None
    depth: int | None = None
    activation: str | None = None
    dropout: float | None = None
    loss: str | None = None
    weight: float = 1.0
    config: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, name: str, given: Any) -> HeadSpec:
        """A spec from what a user wrote: a kind, or a mapping of the attributes.

        Raises:
            ValueError: it says what is wrong, and what there is.
        """
        given = {"kind": given} if isinstance(given, str) else dict(given)
        if unknown := sorted(set(given) - {field.name for field in fields(cls)}):
            raise ValueError(f"head {name!r}: {', '.join(unknown)}: no property of a head; {_choices(_PROPERTIES)}")
        if given.get("kind") not in KINDS:
            raise ValueError(f"head {name!r}: {given.get('kind')!r} is no kind of head; {_choices(KINDS)}")
        labels = given.get("labels")
        if isinstance(labels, (str, bool)) or not isinstance(labels, (int, Sequence, type(None))):
            raise ValueError(f"head {name!r}: labels {labels!r}: give a list of names")
        names = [f"LABEL_{k}" for k in range(labels)] if isinstance(labels, int) else labels
        loss = given.get("loss") or KINDS[given["kind"]].losses[0]
        spec = cls(**{**given, "loss": loss, "labels": None if names is None else tuple(names)})
        if problems := list(spec._mistyped()) or list(spec._problems()):
            raise ValueError(f"head {name!r}: {'; '.join(problems)}")
        return spec

    @property
    def many(self) -> int:
        """How many numbers an answer has."""
        return len(self.labels) if self.labels else self.outputs or KINDS[self.kind].outputs or 1

    @property
    def custom(self) -> bool:
        """Whether it asks for what transformers' own classes don't offer."""
        return any(value is not None for value in (self.pooling, self.depth, self.activation))

    def values(self) -> dict[str, Any]:
        """What the config of the plain class is told."""
        kind = KINDS[self.kind]
        names = self.labels or tuple(f"LABEL_{k}" for k in range(self.many))
        told: dict[str, Any] = {"problem_type": kind.problem} if kind.problem else {}
        if self.kind not in (TEXT, "question-answering", CHOICE):
            told |= {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}
        if self.dropout is not None:
            told["classifier_dropout"] = self.dropout
        return {**(self.config or {}), **told}

    def to_dict(self) -> dict[str, Any]:
        """JSON, without what isn't said; ``plain`` is always said."""
        said = {key: value for key, value in asdict(self).items() if value is not None or key == "plain"}
        return said if self.labels is None else {**said, "labels": list(self.labels)}

    def _mistyped(self) -> Iterable[str]:
        for key, (types, word) in TYPES.items():
            value = getattr(self, key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, types)):
                yield f"{key} {value!r}: expected {word}"

    def _problems(self) -> Iterable[str]:
        kind, one = KINDS[self.kind], f"a {self.kind} head"
        if self.labels is not None and not (
            len(set(self.labels)) == len(self.labels) and self.labels and all(map(_is_name, self.labels))
        ):
            yield f"labels {list(self.labels)}: each needs a name of its own"
        if (self.labels is None) == (self.kind in LABELLED):
            yield f"{one} {'needs' if self.labels is None else 'has no'} labels"
        if self.outputs is not None and (kind.outputs or self.labels or self.outputs < 1):
            yield f"outputs {self.outputs}: {one} has {kind.outputs or 'labels, or at least one'}"
        known: dict[str, Iterable[Any]]
        known = {"pooling": POOLINGS, "activation": ACTIVATIONS, "loss": kind.losses, "depth": (1, 2)}
        for key, values in known.items():
            if (value := getattr(self, key)) is not None and value not in values:
                yield f"{key} {value!r}; {_choices(values)}"
        if self.plain not in ("auto", None) and not _is_model(getattr(transformers, self.plain, None)):
            yield f"plain {self.plain!r}: transformers has no such model class; a head's plain class is one, or none"
        if self.pooling and not kind.pooled:
            yield f"pooling: {one} answers for every token"
        if self.activation and self.depth != 2:
            yield "activation: it stands between two layers, so depth must be 2"
        if self.kind in (CHOICE, TEXT) and (self.custom or self.plain is None):
            yield f"{one} is transformers' own; leave out pooling and depth"
        if not 0 <= (self.dropout or 0) < 1 or self.weight < 0:
            yield f"dropout {self.dropout}, weight {self.weight}: out of range"


_PROPERTIES = tuple(field.name for field in fields(HeadSpec))
TYPES: dict[str, tuple[Any, str]] = {
    "outputs": (int, "a whole number"), "dropout": ((int, float), "a number"), "weight": ((int, float), "a number"),
    "config": (Mapping, "a mapping"), "plain": (str, "the name of a class"),
}  # fmt: skip


def _is_name(label: Any) -> bool:
    return isinstance(label, str) and bool(label)


def _is_model(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, PreTrainedModel)


class MultiHeadConfig(PreTrainedConfig):
    """The config of a trunk, and its heads by name.

    Attributes:
        trunk: the config of any ``AutoModel`` that gives states to read.
        heads: a ``HeadSpec`` as a dict for each name.
        left_out: modules that the trunk's class has and no head reads, such as a pooler.

    Raises:
        ValueError: a name that can't be one, a head that this trunk can't have.
    """

    model_type: ClassVar[str] = "multi_head"
    sub_configs_defaults: ClassVar[Any] = {"trunk": SubConfigSpec(config_class=AutoConfig, model_type="bert")}
    has_no_defaults_at_init: ClassVar[bool] = True
    keys_to_ignore_at_inference: ClassVar[Any] = ["losses", "last_hidden_state", "hidden_states", "attentions"]

    trunk: Any = None
    heads: Any = None
    left_out: Any = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.trunk is None or not self.heads:
            raise ValueError("a multi-head config needs a trunk's config and at least one head")
        if not isinstance(self.heads, Mapping):
            raise ValueError(f"heads {self.heads!r}: expected a mapping from each name to what the head is")
        if not isinstance(self.left_out or [], (list, tuple)):
            raise ValueError(f"left_out {self.left_out!r}: expected a list of modules of the trunk")
        super().__post_init__(**kwargs)
        self.heads = {name: self._head(name, given) for name, given in self.heads.items()}
        self.left_out = list(self.left_out or ())
        self.tie_word_embeddings = any(spec["kind"] == TEXT for spec in self.heads.values())

    def spec(self, name: str) -> HeadSpec:
        """Raises ValueError where there is no such head."""
        if name not in self.heads:
            raise ValueError(f"no head {name!r}; {_choices(self.heads)}")
        return HeadSpec.of(name, self.heads[name])

    def plain_config(self, name: str) -> PreTrainedConfig:
        """The config of transformers' own class for a head, of its own."""
        spec = self.spec(name)
        made = _told(self.trunk, spec)
        made.architectures = [spec.plain] if spec.plain else None
        return made

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        return self.trunk.get_text_config(decoder=decoder, encoder=encoder)

    def _head(self, name: str, given: Any) -> dict[str, Any]:
        _check_name(name)
        spec = HeadSpec.of(name, given)
        if spec.plain != "auto":
            return spec.to_dict()
        if spec.kind == TEXT and spec.loss == "next_token" and not is_causal(self.trunk):
            spec = replace(spec, loss="cross_entropy")
        reads, kind = modality(self.trunk), KINDS[spec.kind]
        if reads not in kind.inputs:
            fitting = [known for known, each in KINDS.items() if reads in each.inputs]
            raise ValueError(f"head {name!r}: {type(self.trunk).__name__} reads {reads}, and a {spec.kind} head "
                             f"{' or '.join(kind.inputs)}; {_choices(fitting)}")  # fmt: skip
        found, why = fitting_class(self.trunk, spec)
        if found is None and spec.kind in (CHOICE, TEXT):
            raise ValueError(f"head {name!r}: {why}")
        if found is None:
            _width(self.trunk)
        return {**spec.to_dict(), "plain": found}


def trunk_class(trunk: PreTrainedConfig) -> type[PreTrainedModel]:
    mapping = modeling_auto.MODEL_MAPPING
    if type(trunk) not in mapping:
        raise ValueError(f"{type(trunk).__name__} has no AutoModel in transformers, and a trunk is one")
    found: Any = mapping[type(trunk)]
    return found[0] if isinstance(found, (list, tuple)) else found


def modality(trunk: PreTrainedConfig) -> str:
    """What a trunk reads: ``text``, ``vision`` or ``audio``.

    Raises:
        ValueError: it reads something else, or gives no states that heads could read.
    """
    cls = trunk_class(trunk)
    main = cls.main_input_name if isinstance(cls.main_input_name, str) else cls.main_input_name[0]
    if main not in INPUTS:
        raise ValueError(f"{cls.__name__} reads {main}, and heads go on a trunk that reads {', '.join(INPUTS)}")
    answer = typing.get_type_hints(inspect.unwrap(cls.forward)).get("return")
    answers = (answer, *typing.get_args(answer))
    if not any("last_hidden_state" in getattr(each, "__dataclass_fields__", ()) for each in answers):
        raise ValueError(f"{cls.__name__} gives no last_hidden_state, which heads read; take one of its parts as trunk")
    return INPUTS[main]


def fitting_class(trunk: PreTrainedConfig, spec: HeadSpec) -> tuple[str | None, str]:
    """The name of transformers' own class for a head on this trunk; else None, and why."""
    if spec.custom or (spec.dropout is not None and not hasattr(trunk, "classifier_dropout")):
        return None, "a pooling, a depth or a dropout of its own is in no class of transformers"
    if spec.kind == TEXT and trunk.is_encoder_decoder:
        return None, f"the language model of an encoder-decoder ({type(trunk).__name__}) decodes what its labels say, "\
                     "and a trunk runs once for all heads"  # fmt: skip
    why = f"transformers has no class for a {spec.kind} head on {type(trunk).__name__}"
    for cls in _candidates(trunk, spec.kind):
        try:
            with torch.device("meta"):
                plain, own = cls(_told(trunk, spec)), AutoModel.from_config(copy.deepcopy(trunk))
            why = _unshared(plain, own, spec.kind)
        except CODE_ERRORS as error:
            why = f"{cls.__name__} can't be made of this {type(trunk).__name__}: {type(error).__name__}: {error}"
        if not why:
            return cls.__name__, ""
    return None, why


# Whatever the code of a model says about a config or an input that it can't use.
CODE_ERRORS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError,
               RuntimeError, TypeError, ValueError)  # fmt: skip


def _candidates(trunk: PreTrainedConfig, kind: str) -> list[type[PreTrainedModel]]:
    autos = list(KINDS[kind].autos)
    if kind == TEXT and not getattr(trunk, "is_decoder", False):
        autos.reverse()  # an encoder has both
    maps = [getattr(transformers, name)._model_mapping for name in autos]
    found = [mapping[type(trunk)] for mapping in maps if type(trunk) in mapping]
    return [each[0] if isinstance(each, (list, tuple)) else each for each in found]


def _told(trunk: PreTrainedConfig, spec: HeadSpec) -> PreTrainedConfig:
    made = copy.deepcopy(trunk)
    for key, value in spec.values().items():
        setattr(made, key, value)
    return made


def _unshared(plain: Any, own: PreTrainedModel, kind: str) -> str:
    """Why the trunk can't stand in a plain class for its own; empty if it can."""
    inner, cls, trunk = getattr(plain, plain.base_model_prefix, None), type(plain).__name__, type(own).__name__
    if inner is None or type(inner) is not type(own):
        return f"{cls} doesn't hold its trunk as one {trunk}, so no head can be taken from it"
    names, held = own.state_dict().keys(), inner.state_dict().keys()
    lost = {name.partition(".")[0] for name in names - held}
    if held - names or lost & {name.partition(".")[0] for name in held}:
        return f"{cls} holds a {trunk} of other tensors"
    if across := [f"{key} = {of}" for key, of in plain.all_tied_weights_keys.items()
                  if _inner(plain, key) and not _inner(plain, of)]:  # fmt: skip
        return f"{cls} ties its trunk to its head ({across[0]})"
    return _computed(plain, own, kind)


def _inner(plain: Any, name: str) -> bool:
    return name.startswith(f"{plain.base_model_prefix}.")


class _Reached(Exception):
    """A forward has come to its trunk, and this is what it gives it."""


def _computed(plain: Any, own: PreTrainedModel, kind: str) -> str:
    """What a plain class gives its trunk that isn't the user's; its forward ends there, so no value is needed."""

    def reached(module: Any, args: Any, kwargs: Any) -> None:
        raise _Reached({**dict(enumerate(args)), **kwargs})

    cls, given = type(plain).__name__, _sample(own.main_input_name, kind)
    getattr(plain, plain.base_model_prefix).register_forward_pre_hook(reached, with_kwargs=True)
    try:
        plain.eval()(**_taken(_names(plain.forward), given))
    except _Reached as found:
        flat = _flat(given) if kind == CHOICE else given
        known = [*flat.values(), *_decoded(own, flat).values()]
        new = [str(key) for key, value in found.args[0].items() if isinstance(value, torch.Tensor)
               and not any(value.dtype == each.dtype and torch.equal(value, each) for each in known)]  # fmt: skip
        return f"{cls} computes {', '.join(new)} for its trunk, and others don't" if new else ""
    except CODE_ERRORS as error:
        return f"{cls} computes what its trunk reads ({type(error).__name__}: {error})"
    return f"{cls} doesn't run its trunk as a whole"


def _sample(main: str, kind: str) -> dict[str, torch.Tensor]:
    """Any input: rows that no code would make of others."""
    if INPUTS[main] != "text":
        return {main: torch.arange(1 * 3 * 8 * 8).view((1, 192) if main == "input_values" else (1, 3, 8, 8)) / 192}
    rows = (1, 2, 4) if kind == CHOICE else (1, 4)
    ids = torch.tensor([[7, 9, 8, 5], [5, 6, 9, 7]])[: rows[-2]].view(rows)
    return {"input_ids": ids, "attention_mask": torch.tensor([1, 1, 1, 0]).expand(rows)}


def _decoded(trunk: Any, given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What a decoder in the trunk reads: as T5's classes, whose trunk doesn't make it of its input as BART's does."""
    if not trunk.config.is_encoder_decoder or "decoder_input_ids" in given or not hasattr(trunk, "_shift_right"):
        return {}
    return {"decoder_input_ids": trunk._shift_right(given["input_ids"])}


class Ready(torch.nn.Module):
    """In the place of a plain class's trunk: it gives what the shared trunk gave. Else it is asked as the trunk is."""

    def __init__(self, trunk: torch.nn.Module) -> None:
        super().__init__()
        self.__dict__["trunk"] = trunk  # no child: its parameters aren't the head's
        self.outputs: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.outputs

    def __deepcopy__(self, memo: dict[int, Any]) -> Ready:
        """Of a head that is copied alone, the trunk stays the same."""
        trunk = self.__dict__["trunk"]
        return Ready(memo.get(id(trunk), trunk))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "trunk" not in self.__dict__:  # while it is unpickled
                raise
            return getattr(self.__dict__["trunk"], name)


class Attention(torch.nn.Module):
    """A mean of tokens under learned weights (Yang et al. 2016, without their dense layer)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = torch.nn.Linear(width, 1, bias=False)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = self.score(hidden).squeeze(-1).masked_fill(~mask, torch.finfo(hidden.dtype).min)
        return (scores.softmax(-1).unsqueeze(-1) * hidden).sum(1)


class Head(torch.nn.Module):
    """Pooling, a dense layer if it is two deep, and a linear layer; of similarity the vector alone, of length 1."""

    def __init__(self, spec: HeadSpec, width: int, pooling: str) -> None:
        super().__init__()
        self.width = width
        self.pooling = pooling if KINDS[spec.kind].pooled else ""
        self.similarity = spec.kind == "similarity"
        self.activation = ACTIVATIONS[spec.activation or "tanh"]
        if self.pooling == "attention":
            self.attention = Attention(width)
        self.dropout = torch.nn.Dropout(spec.dropout or 0.0)
        self.dense = torch.nn.Linear(width, width) if spec.depth == 2 else None
        wide = spec.outputs if self.similarity else spec.many
        self.out_proj = torch.nn.Linear(width, wide) if wide else None

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Of ``(rows, tokens, width)`` and which tokens count, ``(rows, outputs)`` or ``(rows, tokens, outputs)``."""
        if hidden.shape[-1] != self.width and self.out_proj is not None:
            raise ValueError(f"the trunk's states are {hidden.shape[-1]} wide, and its config says {self.width}")
        found = self.dropout(self._pooled(hidden, mask))
        if self.dense is not None:
            found = self.dropout(self.activation(self.dense(found)))
        if self.out_proj is not None:
            found = self.out_proj(found)
        return F.normalize(found, dim=-1) if self.similarity else found

    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.pooling == "attention":
            return self.attention(hidden, mask)
        if self.pooling == "mean":
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        if not self.pooling:
            return hidden
        places = torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask
        at = places.argmax(1) if self.pooling == "last" else mask.int().argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), at]


@dataclass
class MultiHeadOutput(ModelOutput):
    """What a forward gives.

    Attributes:
        loss: the weighted sum over the heads that have labels; None without labels.
        logits: by the head's name, ``(rows, outputs)`` or ``(rows, tokens, outputs)``; of question answering the last
            dimension is start and end; of similarity they are vectors of length 1.
        losses: of each head with labels, unweighted.
    """

    loss: torch.Tensor | None = None
    logits: dict[str, torch.Tensor] | None = None
    losses: dict[str, torch.Tensor] | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class MultiHead(PreTrainedModel):
    """Named heads on one trunk: a forward runs the trunk once, whatever heads are asked.

    Tensors are named ``trunk.*`` as those of the trunk's own class, and ``heads.NAME.*`` as in transformers' class for
    the head. Of an encoder-decoder, heads of this file read the encoder, and the decoder runs only if another head is
    asked.

    Example::

        config = MultiHeadConfig(trunk=AutoConfig.from_pretrained("base"), heads={"topic": {...}})
        model = MultiHead(config)
        model(**batch, labels={"topic": topics}).loss
    """

    config_class = MultiHeadConfig
    base_model_prefix = "trunk"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # tasks differ in what a batch counts: the Trainer divides by its number of batches
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: MultiHeadConfig) -> None:
        super().__init__(config)
        self.specs = {name: config.spec(name) for name in config.heads}
        # Not the dtype that the trunk's config may say: the heads have the one that this model is made in.
        self.trunk: Any = AutoModel.from_config(config.trunk, dtype=torch.get_default_dtype())
        if unknown := [name for name in config.left_out if name not in self.trunk._modules]:
            raise ValueError(f"left_out: {type(self.trunk).__name__} has no module {', '.join(map(repr, unknown))}")
        for name in config.left_out:
            setattr(self.trunk, name, None)
        self.heads = torch.nn.ModuleDict()
        self.plains: dict[str, Plain] = {}
        self._takes = {TRUNK: _names(self.trunk.forward)}
        for name, spec in self.specs.items():
            self.heads[name] = self._plain_head(name) if spec.plain else self._own_head(spec)
            self._takes[name] = _names(self.heads[name].forward)
        self._tied_weights_keys = {key: of for plain in self.plains.values() for key, of in plain.ties.items()}
        self._reads = modality(config.trunk)
        encoder = self.trunk.get_encoder() if config.trunk.is_encoder_decoder else self.trunk
        self._takes[ENCODER] = _names(encoder.forward)
        # One that reads the feature maps of a backbone can't run alone.
        self._alone = encoder is not self.trunk and _reads(encoder, self.trunk.main_input_name)
        self.main_input_name = self.trunk.main_input_name
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        labels: Mapping[str, torch.Tensor] | None = None,
        heads: Sequence[str] | None = None,
        return_loss: bool | None = None,
        **kwargs: Any,
    ) -> MultiHeadOutput:
        """The trunk once, and then heads.

        Args:
            labels: by the head's name: class numbers (-100: none), for numbers and several labels floats (NaN: none),
                of question answering ``(rows, 2)`` start and end, of a language model the ``input_ids``, of similarity
                a group's number (rows of one group are alike), of a reward one number a row, of which rows 2k and 2k+1
                are a pair and the higher is preferred.
            heads: which to run; None: in training those that have labels, else all that can read the input.
            return_loss: False allows a training batch without labels.
            kwargs: what else the trunk or a head takes, such as ``output_hidden_states``.

        Raises:
            ValueError: no such head, or a training batch without any label.
        """
        named = {
            "input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids,
            "position_ids": position_ids, "inputs_embeds": inputs_embeds, "pixel_values": pixel_values,
            "input_values": input_values, "input_features": input_features,
        }  # fmt: skip
        given = {**{key: value for key, value in named.items() if value is not None}, **kwargs}
        chosen = self._chosen(labels, heads, return_loss, given)
        flat = _flat(given) if _by_choice(given) else given
        trunk = self._run(flat, chosen)
        logits = {
            name: self._logits(name, trunk, given if self.specs[name].kind == CHOICE else flat) for name in chosen
        }
        losses = {
            name: LOSSES[self.specs[name].loss or ""](logits[name], label) for name, label in (labels or {}).items()
        }
        total: Any = sum(self.specs[name].weight * loss for name, loss in losses.items())
        return MultiHeadOutput(
            loss=total if losses else None,
            logits=logits,
            losses=losses or None,
            last_hidden_state=trunk.last_hidden_state,
            hidden_states=trunk.get("hidden_states"),
            attentions=trunk.get("attentions"),
        )

    def freeze(self, *names: str) -> MultiHead:
        """Takes ``"trunk"`` or heads out of training; what a head shares with the trunk is the trunk's.

        The running statistics of a frozen trunk's norms stay as they are.
        """
        shared = {id(parameter) for parameter in self.trunk.parameters()}
        for name in names:
            if name != "trunk":
                self.config.spec(name)
        for name in names:
            for parameter in (self.trunk if name == "trunk" else self.heads[name]).parameters():
                if name == "trunk" or id(parameter) not in shared:
                    parameter.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> MultiHead:
        super().train(mode)
        if mode and not any(parameter.requires_grad for parameter in self.trunk.parameters()):
            for module in self.trunk.modules():
                module.training &= getattr(module, "running_mean", None) is None
        return self

    def export(self, head: str, out: str | os.PathLike[str] | None = None) -> PreTrainedModel:
        """A head as a model of transformers' own class, which shares this one's memory; saved to ``out`` if given.

        Raises:
            ValueError: no such head, or no class of transformers holds it.
        """
        spec = self.config.spec(head)
        if spec.plain is None:
            raise ValueError(f"head {head!r} can't be exported: {fitting_class(self.config.trunk, spec)[1]}")
        found, trunk = copy.copy(self.heads[head]), copy.copy(self.trunk)
        without = self.plains[head].without
        trunk._modules = {name: None if name in without else child for name, child in trunk._modules.items()}
        found._modules = {**found._modules, str(found.base_model_prefix): trunk}
        plain = _sharing(found)
        plain.__dict__.pop("_tied_weights_keys", None)
        plain.all_tied_weights_keys = self.plains[head].all_ties
        plain.config = self.config.plain_config(head)
        if plain.can_generate() and self.can_generate():
            plain.generation_config = copy.deepcopy(self.generation_config)
        if out is not None:
            plain.save_pretrained(out)
        return plain

    @torch.no_grad()
    def generate(self, *args: Any, head: str | None = None, **kwargs: Any) -> Any:
        """Text by a language-model head, the only one if none is named; as its plain class generates."""
        found = self._generating()
        if len(found) != 1 if head is None else head not in found:
            raise ValueError(f"generate: name one head that generates, head=...; {_choices(found)}")
        plain: Any = self.export(head or found[0])
        return plain.generate(*args, **kwargs)

    def can_generate(self) -> bool:  # the library asks a model, never its class
        return bool(self._generating())

    def adjust_generation_fn(self, *args: Any, **kwargs: Any) -> None:
        """The library calls it at the end of a load: the generation config is that of the folder, or the trunk's."""
        mixin: Any = GenerationMixin
        mixin.adjust_generation_fn(self, *args, **kwargs)
        if self.generation_config._from_model_config:  # of this config, which leaves tokens to the trunk's
            said = {key: value for key, value in self.generation_config.to_dict().items() if value is not None}
            self.generation_config = GenerationConfig.from_model_config(self.config.trunk)
            self.generation_config.update(**said)

    def collator(self, tokenizer: Any) -> Collator:
        """Makes batches of rows whose ``labels`` is a mapping from heads, each row to its own; for a Trainer."""
        return Collator(tokenizer, self.specs)

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """The library reads the names as patterns, and these are names: of a head, those that its class ties."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels)
        return dict(self._tied_weights_keys)

    def get_output_embeddings(self) -> Any:
        found = (head.get_output_embeddings() for head in self._text_heads())
        return next((each for each in found if each is not None), None)

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        heads = list(self._text_heads())
        if len(heads) > 1:
            raise ValueError(f"the vocabulary of {len(heads)} language models {self._texts()} can't be resized at once")
        heads[0].set_output_embeddings(new_embeddings)

    def _generating(self) -> list[str]:
        heads = self.config.heads
        return [name for name in self._texts() if getattr(transformers, heads[name]["plain"]).can_generate()]

    def _texts(self) -> list[str]:
        return [name for name, spec in self.config.heads.items() if spec["kind"] == TEXT]

    def _text_heads(self) -> Iterable[Any]:
        return (self.heads[name] for name in self._texts())

    def _own_head(self, spec: HeadSpec) -> Head:
        return Head(spec, _width(self.config.trunk), _pooling(self.config.trunk, spec))

    def _plain_head(self, name: str) -> torch.nn.Module:
        plain: Any = getattr(transformers, self.specs[name].plain or "")(self.config.plain_config(name))
        prefix, ties = plain.base_model_prefix, plain.all_tied_weights_keys
        inner = getattr(plain, prefix)._modules
        if read := [child for child in self.config.left_out if inner.get(child) is not None]:
            raise ValueError(f"head {name!r}: {type(plain).__name__} reads trunk.{read[0]}, which left_out names")

        def place(key: str) -> str:
            return f"trunk{key.removeprefix(prefix)}" if _inner(plain, key) else f"heads.{name}.{key}"

        placed = {place(key): place(of) for key, of in ties.items() if not _inner(plain, key)}
        without = frozenset(child for child in self.trunk._modules if inner.get(child) is None)
        self.plains[name] = Plain(placed, ties, without)
        setattr(plain, prefix, Ready(self.trunk))
        plain._tied_weights_keys, plain.all_tied_weights_keys = None, {}
        return plain

    def _chosen(self, labels: Any, heads: Any, return_loss: bool | None, given: Mapping[str, Any]) -> list[str]:
        if labels is not None and not isinstance(labels, Mapping):
            raise ValueError(f"labels of type {type(labels).__name__}; give {{HEAD: ...}}; {_choices(self.specs)}")
        asked = list(dict.fromkeys([*(heads or ()), *(labels or ())]))
        if unknown := [name for name in asked if name not in self.specs]:
            raise ValueError(f"no head {', '.join(map(repr, unknown))}; {_choices(self.specs)}")
        if self.training and not labels and return_loss is not False:
            raise ValueError(f"a training batch without any label; give labels={{HEAD: ...}}; {_choices(self.specs)}")
        by_choice = _by_choice(given)
        choice = [name for name, spec in self.specs.items() if spec.kind == CHOICE]
        if not by_choice and (wrong := [name for name in asked if name in choice]):
            raise ValueError(f"head {wrong[0]!r} reads (rows, choices, tokens), and these are {_shapes(given)}")
        if heads is not None or (self.training and labels):
            return asked
        return [name for name in self.specs if (name in choice) == by_choice or name in asked]

    def _run(self, given: Mapping[str, Any], chosen: Iterable[str]) -> Any:
        """The trunk; of an encoder-decoder no more than is read."""
        plain = [self.heads[name] for name in chosen if self.specs[name].plain]
        if self._alone and not plain:
            return self.trunk.get_encoder()(**_taken(self._takes[ENCODER], given))
        taken = {**_taken(self._takes[TRUNK], given), **_decoded(self.trunk, given)}
        if any(getattr(head.config, "use_weighted_layer_sum", False) for head in plain):
            taken["output_hidden_states"] = True
        return self.trunk(**taken)

    def _logits(self, name: str, trunk: Any, given: Mapping[str, Any]) -> torch.Tensor:
        head: Any = self.heads[name]
        if self.specs[name].plain is None:
            return head(*self._tokens(self.specs[name], trunk, given))
        ready = getattr(head, head.base_model_prefix)
        ready.outputs = trunk
        found = head(**_taken(self._takes[name], given))
        ready.outputs = None
        if self.specs[name].kind == "question-answering":
            return torch.stack([found.start_logits, found.end_logits], -1)
        return found.logits

    def _tokens(self, spec: HeadSpec, trunk: Any, given: Mapping[str, Any]) -> tuple[Any, Any]:
        """The last states ``(rows, tokens, width)``, and which of them count."""
        encoder = trunk.get("encoder_last_hidden_state") if self._alone else None
        hidden = trunk.last_hidden_state if encoder is None else encoder
        if hidden.dim() == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        if spec.kind == "per-patch":
            hidden = hidden[:, hidden.shape[1] - self._patches(given["pixel_values"], hidden) :]
        return hidden, self._mask(hidden, given.get("attention_mask")) if KINDS[spec.kind].pooled else None

    def _mask(self, hidden: torch.Tensor, mask: Any) -> torch.Tensor:
        many = hidden.shape[1]
        if mask is None or self._reads == "vision":
            return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        if self._reads == "audio" and mask.shape[1] > many:
            frames = getattr(self.trunk, "_get_feature_vector_attention_mask", None)
            mask = mask[:, :: mask.shape[1] // many][:, :many] if frames is None else frames(many, mask)
        if mask.shape != hidden.shape[:2]:
            raise ValueError(f"attention_mask {tuple(mask.shape)} for states {tuple(hidden.shape)}: pooling needs one "
                             "value a token")  # fmt: skip
        return mask.bool()

    def _patches(self, pixels: torch.Tensor, hidden: torch.Tensor) -> int:
        """How many of a trunk's tokens, the last, are patches; a class token and registers stand before them."""
        size = getattr(self.config.trunk, "patch_size", None)
        if size is None:
            return hidden.shape[1]
        tall, wide = (size, size) if isinstance(size, int) else size
        many = (pixels.shape[-2] // tall) * (pixels.shape[-1] // wide)
        return many if many <= hidden.shape[1] else hidden.shape[1]


@dataclass(frozen=True)
class Plain:
    """What is known of a plain head.

    Attributes:
        ties: what of it is tied, by the names here. all_ties: by those of its class.
        without: modules of the trunk that its class has none of.
    """

    ties: Mapping[str, str]
    all_ties: dict[str, str]
    without: frozenset[str]


class Collator:
    """Rows to a batch; a head that a row has no label for gets -100 there, or NaN where its labels are numbers.

    A row of several choices stays one for a multiple-choice head. For other heads each choice becomes a row, with a
    label each, and these stand first: so the pairs of a reward stay together in any order of the rows.
    """

    def __init__(self, tokenizer: Any, specs: Mapping[str, HeadSpec]) -> None:
        self.tokenizer, self.specs = tokenizer, specs

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        names = dict.fromkeys(name for row in rows for name, value in _labels(row).items() if value is not None)
        if unknown := [name for name in names if name not in self.specs]:
            raise ValueError(f"labels for no head: {', '.join(map(repr, unknown))}; {_choices(self.specs)}")
        choice = _nested(rows[0]) and any(self.specs[name].kind == CHOICE for name in names or self.specs)
        ordered = rows if choice else sorted(rows, key=lambda row: not _nested(row))
        single = [part for row in ordered for part in _parts(row, labels=not choice)]
        batch = self._padded([{key: value for key, value in row.items() if key != "labels"} for row in single])
        labelled, lengths = rows if choice else single, [len(row.get("input_ids", ())) for row in single]
        long = batch["input_ids"].shape[-1] if "input_ids" in batch else 0
        found = {
            name: self._column(name, [_labels(row).get(name) for row in labelled], lengths, long) for name in names
        }
        if choice:
            batch = {key: value.unflatten(0, (len(rows), -1)) for key, value in batch.items()}
        return {**batch, "labels": found} if found else batch

    def _padded(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if "pixel_values" in rows[0]:
            return {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}
        return dict(self.tokenizer.pad(rows, return_tensors="pt"))

    def _column(self, name: str, values: Sequence[Any], lengths: Sequence[int], long: int) -> torch.Tensor:
        """The labels of one head; ``long`` is the number of tokens after padding, 0 where rows have none."""
        spec = self.specs[name]
        span, left = spec.loss == "span", getattr(self.tokenizer, "padding_side", "right") == "left"
        made = [None if value is None else torch.as_tensor(value) for value in values]
        shape = next(tuple(value.shape) for value in made if value is not None)
        each = not KINDS[spec.kind].pooled and not span
        if each:
            shape = (long or max(len(value) for value in made if value is not None), *shape[1:])
        found = torch.full((len(made), *shape), float("nan") if spec.loss in NUMBERS else NONE)
        for row, value, length in zip(found, made, lengths, strict=False):
            if value is None:
                continue
            if each and long and len(value) != length:
                raise ValueError(f"head {name!r}: {len(value)} labels for {length} tokens")
            before = long - length if left else 0
            (row[before : before + len(value)] if each else row).copy_(value + before if span else value)
        return found


def _labels(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row.get("labels") or {}


def _nested(row: Mapping[str, Any]) -> bool:
    """Whether a row is of several choices."""
    ids = row.get("input_ids")
    return (
        ids is not None
        and len(ids) > 0
        and (ids[0].dim() > 0 if isinstance(ids[0], torch.Tensor) else hasattr(ids[0], "__len__"))
    )


def _parts(row: Mapping[str, Any], labels: bool) -> list[Mapping[str, Any]]:
    """A row, or of one of several choices a row for each."""
    if not _nested(row):
        return [row]
    many, rest = len(row["input_ids"]), {key: value for key, value in row.items() if key != "labels"}
    told = {name: value for name, value in _labels(row).items() if value is not None} if labels else {}
    if wrong := [name for name, value in told.items() if not hasattr(value, "__len__") or len(value) != many]:
        raise ValueError(f"a row of {many} choices needs a label for each of head {wrong[0]!r}")
    each = [{key: value[k] for key, value in rest.items()} for k in range(many)]
    return [{**part, "labels": {name: value[k] for name, value in told.items()}} for k, part in enumerate(each)]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean over labels that aren't -100; 0 where all are."""
    targets = labels.flatten()
    total = F.cross_entropy(logits.flatten(0, -2).float(), targets, ignore_index=NONE, reduction="sum")
    return total / (targets != NONE).sum().clamp(min=1)


def next_token(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each token from those before it: the labels are the ids themselves."""
    return cross_entropy(logits[:, :-1], labels[:, 1:])


def span(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Start and end ``(rows, 2)`` among the tokens; places beyond the text don't count."""
    known = labels.masked_fill((labels < 0) | (labels >= logits.shape[1]), NONE)
    return (cross_entropy(logits[..., 0], known[:, 0]) + cross_entropy(logits[..., 1], known[:, 1])) / 2


def _of_numbers(loss: Callable[..., torch.Tensor]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def mean(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        answers = (logits.squeeze(-1) if labels.dim() < logits.dim() else logits).float()
        known = ~labels.isnan()
        each = loss(answers, labels.nan_to_num().to(answers), reduction="none")
        return each.masked_fill(~known, 0).sum() / known.sum().clamp(min=1)

    return mean


def contrastive(vectors: torch.Tensor, labels: torch.Tensor, temperature: float = 0.05) -> torch.Tensor:
    """Rows of one group are alike, all others unlike (Khosla et al. 2020, their outer sum)."""
    known = labels != NONE
    other = known[None] & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    scores = vectors.float() @ vectors.float().T / temperature
    scores = scores.masked_fill(~other, torch.finfo(scores.dtype).min)  # finite, for the gradient of a row without any
    alike = other & known[:, None] & (labels[:, None] == labels[None])
    logs = (scores - scores.logsumexp(1, keepdim=True)).masked_fill(~alike, 0)
    return -(logs.sum(1) / alike.sum(1).clamp(min=1)).sum() / alike.any(1).sum().clamp(min=1)


def preference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of the rows 2k and 2k+1 the one with the higher label is preferred (Bradley and Terry 1952)."""
    answers, labels = logits.float().flatten(), labels.flatten()
    if len(labels) % 2 and not bool(labels[-1].isnan()):
        raise ValueError(f"a preference needs pairs of rows, and the batch has {len(labels)}")
    even = len(labels) // 2 * 2
    first, second = answers[:even].view(-1, 2).unbind(1)
    sign = torch.sign(labels[:even:2] - labels[1:even:2]).nan_to_num().to(first)
    return -(F.logsigmoid(sign * (first - second)) * sign.abs()).sum() / sign.abs().sum().clamp(min=1)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": _of_numbers(F.binary_cross_entropy_with_logits),
    "mse": _of_numbers(F.mse_loss),
    "l1": _of_numbers(F.l1_loss),
    "huber": _of_numbers(F.huber_loss),
    "next_token": next_token,
    "span": span,
    "contrastive": contrastive,
    "preference": preference,
}


def _check_name(name: Any) -> None:
    taken = {"trunk", *inspect.signature(MultiHead.forward).parameters, *dir(torch.nn.ModuleDict())}
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"head name {name!r}: it must be an identifier; choose another")
    if name in taken:
        raise ValueError(f"head name {name!r}: it is a parameter's, or one that a module has; choose another")


def _choices(known: Iterable[Any]) -> str:
    return f"there are: {', '.join(map(str, known))}"


def _shapes(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {tuple(value.shape)}" for key, value in given.items() if hasattr(value, "shape"))


def _sharing(module: Any) -> Any:
    """A copy of its own modules, so that no hook is on two models, and of the same tensors."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def _by_choice(given: Mapping[str, Any]) -> bool:
    """Whether the rows are of several choices each."""
    ids = given.get("input_ids")
    return ids is not None and ids.dim() == 3


def _flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of several choices as a row for each choice."""
    return {key: value.flatten(0, 1) if isinstance(value, torch.Tensor) else value for key, value in given.items()}


def _names(forward: Callable[..., Any]) -> frozenset[str] | None:
    """What a forward takes; None: anything."""
    parameters = inspect.signature(forward).parameters
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return None if anything else frozenset(parameters)


def _reads(module: torch.nn.Module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


def _taken(names: frozenset[str] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if names is None or key in names}


def is_causal(trunk: PreTrainedConfig) -> bool:
    """Whether a trunk sees no token after the one that it stands at."""
    known = {name: type(trunk) in getattr(transformers, name)._model_mapping for name in KINDS[TEXT].autos}
    only = any(known.values()) and not known["AutoModelForMaskedLM"]
    return only or bool(getattr(trunk, "is_decoder", False))


def _pooling(trunk: PreTrainedConfig, spec: HeadSpec) -> str:
    if spec.pooling is not None:
        return spec.pooling
    if spec.kind == "similarity" or modality(trunk) != "text":
        return "mean"
    return "last" if is_causal(trunk) else "first"


def _width(trunk: PreTrainedConfig) -> int:
    config = trunk.get_text_config()
    found = getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [None])[-1]
    if hasattr(config, "hidden_size_per_layer_input"):  # of Gemma's kin; its embedding models project what they give
        found = getattr(config, "embedding_dim", found)
    if not isinstance(found, int):
        raise ValueError(f"{type(trunk).__name__} doesn't say how wide its last states are (hidden_size)")
    return found


MultiHeadConfig.register_for_auto_class()
MultiHead.register_for_auto_class("AutoModel")
