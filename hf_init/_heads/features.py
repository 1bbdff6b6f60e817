"""What a head's last layer sees: the features of examples, streamed through the frozen model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_init._errors import PlanError, option
from hf_init._heads.examples import IGNORED, ExampleBatch
from hf_init._heads.labelled import LabelledFeatures, TaskKind


def labelled_features(
    model: PreTrainedModel,
    layer: str,
    batches: Iterable[ExampleBatch],
    names: tuple[str, ...],
    kind: TaskKind = "softmax",
) -> LabelledFeatures:
    """Return the features at a layer, pooled as the head itself pools them, with their labels; float64.

    The layer is taken out for the time, so that the model's own logits are what would have gone into it: the pooling
    before or after it, its dense and activation are the head's own; dropout is off.

    Args:
        layer: the last layer's name in the model, ``"classifier"``.
        names: of the labels, in order; one name a number for regression.
        kind: of the outputs.

    Raises:
        PlanError: the model's logits aren't one vector an example, or one a token; or its labels aren't of that kind.
    """
    parts = []
    with _layer_removed(model, layer), torch.no_grad():
        for batch in batches:
            inputs = {key: value.to(model.device) for key, value in batch.items() if key != "labels"}
            features, labels = model(**inputs).logits, batch["labels"]
            if features.dim() == 3 and labels.shape == features.shape[:2]:
                wanted = labels != IGNORED
                parts.append((features[wanted.to(features.device)], labels[wanted]))
            elif features.dim() == 2 and len(labels) == len(features):
                parts.append((features, labels))
            else:
                raise PlanError(
                    f"examples: {layer} sees features of shape {tuple(features.shape)} for labels of shape "
                    f"{tuple(labels.shape)}; a head can be solved where each example, or each token, has one vector "
                    "and one label"
                )
    if not parts:
        raise PlanError("examples: there is none; give at least a few for each label")
    features = torch.cat([each for each, _ in parts]).double().cpu()
    return LabelledFeatures(features, TARGETS_BY_KIND[kind](torch.cat([each for _, each in parts]), names), names)


def _class_targets(targets: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    """Return one class an example."""
    if targets.is_floating_point() or targets.dim() != 1:
        raise PlanError(
            f"{option('examples')}: labels of {targets.dtype} and shape {tuple(targets.shape)}, where "
            "one class number each was "
            "expected; where an example may have several labels say "
            f"{option('config', {'problem_type': 'multi_label_classification'})}, for numbers 'regression'"
        )
    strange = sorted({int(n) for n in targets.unique() if not 0 <= n < len(names)})
    if strange:
        raise PlanError(f"examples: labels {strange} in the data; those of the config are 0 to {len(names) - 1}")
    return targets.long()


def _answer_targets(targets: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    """Return 0 or 1 for each label."""
    if targets.shape[1:] != (len(names),) or not ((targets == 0) | (targets == 1)).all():
        raise PlanError(
            f"examples: for several labels an example, expected 0 or 1 for each of {len(names)}, not labels of shape "
            f"{tuple(targets.shape)} between {float(targets.min()):g} and {float(targets.max()):g}"
        )
    return targets.bool()


def _number_targets(targets: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    """Return a number for each output."""
    numbers = targets.double().reshape(len(targets), -1)
    if numbers.shape[1] != len(names) or not numbers.isfinite().all():
        raise PlanError(
            f"examples: expected {len(names)} finite numbers each to regress on, not labels of shape "
            f"{tuple(targets.shape)}"
        )
    return numbers


TARGETS_BY_KIND: Mapping[TaskKind, Callable[[torch.Tensor, tuple[str, ...]], torch.Tensor]] = {
    "softmax": _class_targets,
    "sigmoid": _answer_targets,
    "regression": _number_targets,
}


@contextmanager
def _layer_removed(model: PreTrainedModel, layer: str) -> Iterator[None]:
    """Put the model in evaluation mode and replace the layer by the identity, for the time of the block."""
    owner, _, name = layer.rpartition(".")
    parent = model.get_submodule(owner)
    taken, training = getattr(parent, name), model.training
    parent.register_module(name, nn.Identity())
    model.eval()
    try:
        yield
    finally:
        parent.register_module(name, taken)
        model.train(training)
