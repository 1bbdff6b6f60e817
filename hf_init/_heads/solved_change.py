"""A head's last layer solved from labelled examples: planned from the data's fingerprint, made when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_init import schemes
from hf_init._architecture import Target
from hf_init._change import Change, ChangePlan, TargetContext
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError, option
from hf_init._heads.calibrate import calibrate
from hf_init._heads.examples import Examples
from hf_init._heads.features import labelled_features
from hf_init._heads.label_priors import is_last, rows_of
from hf_init._heads.label_rows import head_of
from hf_init._heads.labelled import TaskKind
from hf_init._heads.new_rows import solve_new_rows
from hf_init._heads.solutions import METHODS, SolvedLayer
from hf_init._options import LabelOptions
from hf_init._plan import Choice, Fill, Match, Plan, TensorPlan
from hf_init._tensors import Region, Rows, Status
from hf_init._text import closest, format_count, join_names

DEFAULT_METHOD = "ridge"
BESIDE = "logistic"
"""Beside trained rows of a softmax: the one method whose rows come on the scale of those."""


@dataclass(frozen=True)
class FittedHeadChange(Change):
    """The last layer of a head, or its new rows, from labelled examples.

    Attributes:
        method: a key of ``METHODS``; None: the default.
        examples: a file, pairs of text and label, or batches.
    """

    method: str | None
    examples: Examples

    OPTIONS = ("head", "examples", "label_counts", "target_mean")

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> FittedHeadChange | None:
        asked = cast("LabelOptions", options)
        method, given = asked.get("head"), asked.get("examples")
        if (method is None and given is None) or (method == "verbalizer" and given is None):
            return None
        if method is not None and method not in METHODS:
            known = (*METHODS, "verbalizer")
            near = f"{method!r}{closest(str(method), known)}"
            raise PlanError(f"{option('head')}: unknown method {near}; known: {', '.join(known)}")
        if given is None:
            raise PlanError(f"head: {method} solves the head from labelled examples; give them: examples=FILE")
        idle = [word for word in ("label_counts", "target_mean") if options.get(word) is not None]
        if idle:
            raise PlanError(
                f"{idle[0]}: the examples give the bias, so it would have no effect; leave out one of the two"
            )
        return cls(method, Examples.of(given))

    def plan(self, context: TargetContext) -> ChangePlan:
        target = context.target
        layer, kind = last_layer(target), kind_of(target.model.config)
        self.examples.numbers(_label2id(target.model.config), kind)  # refuses what the model can't take

        def fills(match: Match, choice: Choice) -> Sequence[Fill] | None:
            if match.target.name not in layer.names or not match.new:
                return None
            scheme = schemes.Fitted(method=self._method(match, kind), data=self.examples.fingerprint)
            return [Fill(region, scheme, self._why(match, scheme.method, kind)) for region in match.new]

        def values(plan: Plan, load: Callable[[], PreTrainedModel]) -> Mapping[str, torch.Tensor]:
            new = rows_new(plan[layer.weight])
            if new == ():  # the user's own keep took all
                return {}
            method = self.method or _default_method(kind, beside_kept=new is not None)
            return solve_last_layer(method, self.examples, target.base.folder, replace(layer, new=new), load())

        return ChangePlan(fills=fills, values=values)

    def _method(self, match: Match, kind: TaskKind) -> str:
        """Return the method for a tensor of the layer.

        Raises:
            PlanError: a part of each row is kept, or the rows would come on another scale than the kept ones.
        """
        beside_kept = match.status is not Status.NEW
        method = self.method or _default_method(kind, beside_kept)
        if beside_kept and not all(_is_whole_rows(region, match.target.shape) for region in match.new):
            raise PlanError(f"{match.target.name}: a part of each row is kept, and rows are solved as a whole")
        if beside_kept and kind == "softmax" and method != BESIDE:
            raise PlanError(
                f"{match.target.name}: some rows are kept, and those of {method} would come on a scale of their own; "
                f"head={BESIDE!r} solves the new ones while the kept rows stay fixed, and labels_keep='none' makes the "
                "whole head new"
            )
        return method

    def _why(self, match: Match, method: str, kind: TaskKind) -> str:
        why = f"{method} on {format_count(len(self.examples))} labelled examples"
        if kind == "regression":
            return why
        beside_kept = kind == "softmax" and match.status is not Status.NEW
        return f"{why}, while the kept rows stay fixed" if beside_kept else f"{why}, its scale calibrated"


def _default_method(kind: TaskKind, beside_kept: bool) -> str:
    return BESIDE if beside_kept and kind == "softmax" else DEFAULT_METHOD


def solve_last_layer(
    method: str, examples: Examples, folder: Path, layer: LastLayer, model: PreTrainedModel
) -> dict[str, torch.Tensor]:
    """Solve the last layer: its tensors by their names on disk, in float32.

    Args:
        folder: holds the tokenizer.
        layer: with the rows to solve.
        model: in memory; what those rows hold doesn't matter.

    Raises:
        PlanError: the examples can't be used.
    """
    names, kind = tuple(label_names(model.config)), kind_of(model.config)
    batches = examples.ready(folder, _label2id(model.config), kind)
    features = labelled_features(model, layer.module, batches, names, kind)
    if layer.new is None or kind != "softmax":
        solved = calibrate(method, features, bias=layer.bias is not None)
    else:
        state = {name: value.double().cpu() for name, value in model.get_submodule(layer.module).state_dict().items()}
        solved = solve_new_rows(SolvedLayer(state["weight"], state.get("bias")), layer.new, features)
    tensors = {layer.weight: solved.weight.float()}
    return tensors if layer.bias is None or solved.bias is None else {**tensors, layer.bias: solved.bias.float()}


@dataclass(frozen=True)
class LastLayer:
    """The linear layer that gives one output a label.

    Attributes:
        module: its name in the model. weight, bias: on disk; no bias where the class has none.
        new: the rows to solve, beside others that are kept; None: all of them.
    """

    module: str
    weight: str
    bias: str | None
    new: tuple[int, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def kind_of(config: PreTrainedConfig) -> TaskKind:
    """Return what an output of a classifier is by its config: without ``problem_type``, a single output is a number."""
    problem = getattr(config, "problem_type", None)
    if problem == "regression" or (problem is None and len(label_names(config)) == 1):
        return "regression"
    return "sigmoid" if problem == "multi_label_classification" else "softmax"


def label_names(config: PreTrainedConfig) -> list[str]:
    """Return the labels of a config, in the order of their numbers."""
    return [str(name) for _, name in sorted((config.id2label or {}).items())]


def _label2id(config: PreTrainedConfig) -> dict[str, int]:
    return {name: k for k, name in enumerate(label_names(config))}


def last_layer(target: Target) -> LastLayer:
    """Return the last layer of the target's head: the one whose outputs are the labels.

    Raises:
        PlanError: there is none, or more than one.
    """
    count, head = len(label_names(target.model.config)), head_of(target)
    candidates = [
        t
        for t in target.layout.tensors
        if t.name in head and t.shape[0] == count and len(t.shape) == 2 and is_last(t, head[t.name])
    ]
    if len(candidates) != 1:
        seen = join_names([t.name for t in candidates]) if candidates else "none"
        raise PlanError(
            f"head: {type(target.model).__name__} has no single linear layer with one output for each of its {count} "
            f"labels (found: {seen}), which is what examples can solve"
        )
    module = candidates[0].parameter.rpartition(".")[0]
    bias = next((t.name for t in target.layout.tensors if t.parameter == f"{module}.bias"), None)
    return LastLayer(module, candidates[0].name, bias)


def solved_layer(plan: Plan) -> LastLayer:
    """Return the last layer of a plan in which one is solved."""
    solved = {len(t.shape): t for t in plan.tensors if any(isinstance(f.scheme, schemes.Fitted) for f in t.new)}
    bias = solved[1].name if 1 in solved else None
    return LastLayer(solved[2].parameter.rpartition(".")[0], solved[2].name, bias, rows_new(solved[2]))


def rows_new(tensor: TensorPlan) -> tuple[int, ...] | None:
    """Return the new rows of a tensor of which others are kept; None where all are new."""
    if tensor.status is Status.NEW:
        return None
    return tuple(sorted(row for fill in tensor.new for row in rows_of(fill.region)))


def _is_whole_rows(region: Region, shape: Sequence[int]) -> bool:
    if isinstance(region, Rows):
        return region.dim == 0
    return not any(region.start[1:]) and tuple(region.stop[1:]) == tuple(shape[1:])
