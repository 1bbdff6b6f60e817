"""The config of several named heads on one pretrained backbone.

Needs torch and transformers only: this file travels with checkpoints as remote code.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import torch
import transformers
from torch.nn import functional as F
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec

from .kinds_multi_head import (
    CHOICE,
    KINDS,
    LABELLED_KINDS,
    TEXT,
    fitting_class,
    hidden_size,
    input_modality,
    is_causal,
    list_choices,
    with_values,
)

POOLINGS = ("first", "mean", "last", "attention")
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"tanh": torch.tanh, "gelu": F.gelu, "relu": F.relu}
# The parameters of MultiHead.forward, and the attribute that holds the backbone: no head can have such a name.
RESERVED = ("self", "input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "pixel_values",
            "input_values", "input_features", "labels", "heads", "return_loss", "kwargs", "trunk")  # fmt: skip


@dataclass(frozen=True)
class HeadSpec:
    """One head, as the config holds it.

    Attributes:
        kind: one of ``KINDS``.
        labels: their names in order; None where an answer is no choice among names.
        outputs: numbers of an answer; None: as many as labels, else what the kind has, else 1.
        plain: transformers' class that it is; None: a head of this package's own; ``"auto"``: whichever fits.
        pooling: ``first`` (token that is no padding), ``mean`` (of those), ``last``, ``attention`` (learned).
        depth: 1 is a linear layer; 2 a dense layer, an activation and a linear layer.
        activation: ``tanh``, ``gelu``, ``relu``.
        dropout: of what is pooled, and of what the dense layer gives.
        loss: one of those of its kind. weight: of this head in the sum.
        config: values of the config of the plain class that the backbone's config hasn't.
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
    config: Mapping[str, object] | None = None

    @classmethod
    def of(cls, name: str, given: str | Mapping[str, Any]) -> HeadSpec:
        """Return the spec that a user wrote: a kind, or a mapping of the attributes.

        Raises:
            ValueError: it names every problem, and what there is.
        """
        given = {"kind": given} if isinstance(given, str) else dict(given)
        properties = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(properties)):
            raise ValueError(f"head {name!r}: {', '.join(unknown)}: no property of a head; {list_choices(properties)}")
        if given.get("kind") not in KINDS:
            raise ValueError(f"head {name!r}: {given.get('kind')!r} is no kind of head; {list_choices(KINDS)}")
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
    def num_outputs(self) -> int:
        """Return how many numbers an answer has."""
        return len(self.labels) if self.labels else self.outputs or KINDS[self.kind].outputs or 1

    def plain_class(self, backbone: PreTrainedConfig) -> tuple[str | None, str]:
        """Return the name of transformers' own class for this head on a backbone; else None, and why."""
        if self._is_custom() or (self.dropout is not None and not hasattr(backbone, "classifier_dropout")):
            return None, "a pooling, a depth or a dropout of its own is in no class of transformers"
        return fitting_class(backbone, self.kind, self.config_values())

    def config_values(self) -> dict[str, object]:
        """Return what the config of the plain class is given."""
        kind = KINDS[self.kind]
        names = self.labels or tuple(f"LABEL_{k}" for k in range(self.num_outputs))
        values: dict[str, object] = {**(self.config or {})}
        if kind.problem:
            values["problem_type"] = kind.problem
        if self.kind not in (TEXT, "question-answering", CHOICE):
            values |= {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}
        if self.dropout is not None:
            values["classifier_dropout"] = self.dropout
        return values

    def to_dict(self) -> dict[str, object]:
        """Return JSON without the attributes that are None, except for ``plain``."""
        values: dict[str, object]
        values = {key: value for key, value in asdict(self).items() if value is not None or key == "plain"}
        return values if self.labels is None else {**values, "labels": list(self.labels)}

    def _is_custom(self) -> bool:
        return any(value is not None for value in (self.pooling, self.depth, self.activation))

    def _mistyped(self) -> Iterator[str]:
        numbers, words = (
            (int, float),
            {"outputs": "a whole number", "config": "a mapping", "plain": "the name of a class"},
        )
        types = {"outputs": int, "dropout": numbers, "weight": numbers, "config": Mapping, "plain": str}
        for key, expected in types.items():
            value = getattr(self, key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, expected)):
                yield f"{key} {value!r}: expected {words.get(key, 'a number')}"

    def _problems(self) -> Iterator[str]:
        kind, one = KINDS[self.kind], f"a {self.kind} head"
        names = {each for each in self.labels or () if isinstance(each, str) and each}
        if self.labels is not None and (not names or len(names) < len(self.labels)):
            yield f"labels {list(self.labels)}: each needs a name of its own"
        if (self.labels is None) == (self.kind in LABELLED_KINDS):
            yield f"{one} {'needs' if self.labels is None else 'has no'} labels"
        if self.outputs is not None and (kind.outputs or self.labels or self.outputs < 1):
            yield f"outputs {self.outputs}: {one} has {kind.outputs or 'labels, or at least one'}"
        known: dict[str, Iterable[object]]
        known = {"pooling": POOLINGS, "activation": ACTIVATIONS, "loss": kind.losses, "depth": (1, 2)}
        for key, values in known.items():
            if (value := getattr(self, key)) is not None and value not in values:
                yield f"{key} {value!r}; {list_choices(values)}"
        if self.plain not in ("auto", None):
            cls = getattr(transformers, self.plain, None)
            if not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
                yield (
                    f"plain {self.plain!r}: transformers has no such model class; a head's plain class is one, or none"
                )
        if self.pooling and not kind.pooled:
            yield f"pooling: {one} answers for every token"
        if self.activation and self.depth != 2:
            yield "activation: it stands between two layers, so depth must be 2"
        if self.kind in (CHOICE, TEXT) and (self._is_custom() or self.plain is None):
            yield f"{one} is transformers' own; leave out pooling and depth"
        if not 0 <= (self.dropout or 0) < 1 or self.weight < 0:
            yield f"dropout {self.dropout}, weight {self.weight}: out of range"


class MultiHeadConfig(PreTrainedConfig):
    """The config of a backbone, and its heads by name.

    Attributes:
        trunk: the config of the backbone: of any ``AutoModel`` that gives states to read.
        heads: a ``HeadSpec`` as a dict for each name.
        left_out: modules that the backbone's class has and no head reads, such as a pooler.

    Raises:
        ValueError: a name that can't be one, a head that this backbone can't have.
    """

    model_type: ClassVar[str] = "multi_head"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "trunk": SubConfigSpec(config_class=AutoConfig, model_type="bert")
    }
    has_no_defaults_at_init: ClassVar[bool] = True
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["losses", "last_hidden_state", "hidden_states", "attentions"]

    trunk: Any = None
    heads: Any = None
    left_out: Any = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: object) -> None:
        if self.trunk is None or not self.heads:
            raise ValueError("a multi-head config needs a backbone's config (trunk) and at least one head")
        if not isinstance(self.heads, Mapping):
            raise ValueError(f"heads {self.heads!r}: expected a mapping from each name to what the head is")
        if not isinstance(self.left_out or [], (list, tuple)):
            raise ValueError(f"left_out {self.left_out!r}: expected a list of modules of the backbone")
        super().__post_init__(**kwargs)
        self.heads = {name: self._resolved(name, given) for name, given in self.heads.items()}
        self.left_out = list(self.left_out or ())
        self.tie_word_embeddings = any(spec["kind"] == TEXT for spec in self.heads.values())

    def spec(self, name: str) -> HeadSpec:
        """Return a head's spec.

        Raises:
            ValueError: there is no such head.
        """
        if name not in self.heads:
            raise ValueError(f"no head {name!r}; {list_choices(self.heads)}")
        return HeadSpec.of(name, self.heads[name])

    def plain_config(self, name: str) -> PreTrainedConfig:
        """Return a new config of transformers' own class for a head."""
        spec = self.spec(name)
        config = with_values(self.trunk, spec.config_values())
        config.architectures = [spec.plain] if spec.plain else None
        return config

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        return self.trunk.get_text_config(decoder=decoder, encoder=encoder)

    def _resolved(self, name: str, given: str | Mapping[str, object]) -> dict[str, object]:
        """Return a spec as JSON in which ``plain`` is a class or None, and no longer ``"auto"``."""
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"head name {name!r}: it must be an identifier; choose another")
        if name in (*RESERVED, *dir(torch.nn.ModuleDict())):
            raise ValueError(f"head name {name!r}: it is a parameter's, or one that a module has; choose another")
        spec = HeadSpec.of(name, given)
        if spec.plain != "auto":
            return spec.to_dict()
        if spec.kind == TEXT and spec.loss == "next_token" and not is_causal(self.trunk):
            spec = replace(spec, loss="cross_entropy")
        reads, kind = input_modality(self.trunk), KINDS[spec.kind]
        if reads not in kind.inputs:
            fitting = [known for known, each in KINDS.items() if reads in each.inputs]
            raise ValueError(f"head {name!r}: {type(self.trunk).__name__} reads {reads}, and a {spec.kind} head "
                             f"{' or '.join(kind.inputs)}; {list_choices(fitting)}")  # fmt: skip
        plain, why = spec.plain_class(self.trunk)
        if plain is None and spec.kind in (CHOICE, TEXT):
            raise ValueError(f"head {name!r}: {why}")
        if plain is None:
            hidden_size(self.trunk)  # raises where no width is known
        return {**spec.to_dict(), "plain": plain}


MultiHeadConfig.register_for_auto_class()
