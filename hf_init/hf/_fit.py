"""A head's last layer solved from labelled examples: planned from the data's fingerprint, made when it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_init import schemes
from hf_init._diff import Match
from hf_init._errors import PlanError
from hf_init._heads import METHODS, calibrated
from hf_init._plan import Fill, Plan
from hf_init._recipe import Choice
from hf_init._spec import Status
from hf_init._text import number, several
from hf_init.hf._examples import Examples
from hf_init.hf._features import labelled
from hf_init.hf._label_rows import head_of
from hf_init.hf._label_starts import is_last
from hf_init.hf._wish import Base, Scene, Terms, Wish

DEFAULT = "ridge"


@dataclass(frozen=True)
class Fit(Wish):
    """The last layer of a new head from labelled examples.

    Attributes:
        method: a key of ``METHODS``.
        examples: a file, pairs of text and label, or batches.
    """

    method: str
    examples: Examples

    WORDS = ("head", "examples")

    @classmethod
    def of(cls, base: Base, words: Mapping[str, Any]) -> Fit | None:
        method, given = words.get("head"), words.get("examples")
        if (method is None and given is None) or (method == "verbalizer" and given is None):
            return None
        if method is not None and method not in METHODS:
            raise PlanError(f"head: unknown method {method!r}; known: {', '.join((*METHODS, 'verbalizer'))}")
        if given is None:
            raise PlanError(f"head: {method} solves the head from labelled examples; give them: examples=FILE")
        return cls(method or DEFAULT, Examples.of(given))

    def terms(self, scene: Scene) -> Terms:
        layer = last_layer(scene)
        scheme = schemes.Fitted(method=self.method, data=self.examples.fingerprint)
        why = f"{self.method} on {number(len(self.examples))} labelled examples, its scale calibrated"

        def fills(match: Match, choice: Choice) -> Sequence[Fill] | None:
            if match.target.name not in layer.names or not match.new:
                return None
            if match.status is not Status.NEW:
                raise PlanError(
                    f"{match.target.name}: a part of it is kept, and a head is solved as a whole; say "
                    "labels_keep='none' to make it new, or leave out the examples"
                )
            return [Fill(region, scheme, why) for region in match.new]

        def values(model: PreTrainedModel) -> Mapping[str, torch.Tensor]:
            return solved(self.method, self.examples, scene.base.folder, layer, model)

        return Terms(fills=fills, values=values)


def solved(
    method: str, examples: Examples, folder: Path, layer: LastLayer, model: PreTrainedModel
) -> dict[str, torch.Tensor]:
    """The last layer's tensors by their names on disk: float32.

    Args:
        folder: holds the tokenizer.
        model: in memory; what its last layer holds doesn't matter.

    Raises:
        PlanError: the examples can't be used.
    """
    names = tuple(label_names(model.config))
    regression = getattr(model.config, "problem_type", None) == "regression" or len(names) == 1
    label2id = {} if regression else {name: k for k, name in enumerate(names)}
    features = labelled(model, layer.module, examples.ready(folder, label2id), names)
    found = calibrated(method, features, bias=layer.bias is not None)
    made = {layer.weight: found.weight.float()}
    return made if layer.bias is None or found.bias is None else {**made, layer.bias: found.bias.float()}


@dataclass(frozen=True)
class LastLayer:
    """The linear layer that gives one output a label.

    Attributes:
        module: its name in the model. weight, bias: on disk; no bias where the class has none.
    """

    module: str
    weight: str
    bias: str | None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def label_names(config: Any) -> list[str]:
    """The labels of a config, in the order of their numbers."""
    names = dict(config.id2label or {})
    return [str(names[k]) for k in sorted(names)]


def last_layer(scene: Scene) -> LastLayer:
    """The last layer of the target's head: the one whose outputs are the labels.

    Raises:
        PlanError: there is none, or more than one.
    """
    count, head = len(label_names(scene.model.config)), head_of(scene)
    found = [
        t
        for t in scene.layout.tensors
        if t.name in head and t.shape[0] == count and len(t.shape) == 2 and is_last(t, head[t.name])
    ]
    if len(found) != 1:
        seen = several([t.name for t in found]) if found else "none"
        raise PlanError(
            f"head: {type(scene.model).__name__} has no single linear layer with one output for each of its {count} "
            f"labels (found: {seen}), which is what examples can solve"
        )
    module = found[0].parameter.rpartition(".")[0]
    bias = next((t.name for t in scene.layout.tensors if t.parameter == f"{module}.bias"), None)
    return LastLayer(module, found[0].name, bias)


def solved_layer(plan: Plan) -> LastLayer:
    """The last layer of a plan in which one is solved."""
    mine = {len(t.shape): t for t in plan.tensors if any(isinstance(f.scheme, schemes.Fitted) for f in t.new)}
    return LastLayer(mine[2].parameter.rpartition(".")[0], mine[2].name, mine[1].name if 1 in mine else None)
