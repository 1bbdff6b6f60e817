"""A target's head: the tensors with a slice for each label, and how their trained slices follow the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedModel

from hf_init import _labels as pure
from hf_init._diff import named, sources
from hf_init._errors import PlanError
from hf_init._keep import How
from hf_init._roles import matches
from hf_init._spec import Shape, SourceTensor, TensorSpec
from hf_init._text import several
from hf_init.hf._kin import kin
from hf_init.hf._wish import Scene

Head = Mapping[str, tuple[pure.Axis, ...]]
"""The tensors that grow with the labels, by name on disk, with the dimensions in which they do."""


def head_of(scene: Scene) -> Head:
    """The tensors of the target that have a slice for each label: those whose shapes grow with one label more.

    Exact for every class, whatever its tensors are called; nothing is built but a second model on meta.

    Raises:
        PlanError: the class can't be built with one label more.
    """
    many = scene.config.num_labels or 0
    return _growing(scene, lambda config: setattr(config, "num_labels", many + 1), many)


def vocabulary_of(scene: Scene) -> tuple[str, ...]:
    """The tensors that have an output for each token, as the head of a CTC model has."""
    many = getattr(scene.config, "vocab_size", None)
    if not isinstance(many, int):
        return ()
    found = _growing(scene, lambda config: setattr(config, "vocab_size", many + 1), many)
    return tuple(t.name for t in scene.layout.tensors if t.name in found and not matches(t.role, "embedding"))


def _growing(scene: Scene, grow: Callable[[PreTrainedConfig], None], many: int) -> Head:
    config = deepcopy(scene.config)
    grow(config)
    here, there = _shapes(scene.model), _shapes(scene.twin(config))
    found = {
        tensor.name: pure.axes(tensor.shape, there.get(tensor.parameter, ()), many)
        for tensor in scene.layout.tensors
        if here.get(tensor.parameter) == tensor.shape  # a piece of a tensor in memory isn't measured by it
    }
    return {name: axes for name, axes in found.items() if axes}


def _shapes(model: PreTrainedModel) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class Trained:
    """The tensors of a head that the checkpoint has, each with its source, less those that the user's ``keep`` names.

    Attributes:
        kind: the class that the checkpoint names as its own, where its head is another than the target's.
    """

    tensors: tuple[tuple[TensorSpec, SourceTensor], ...]
    kind: str

    @classmethod
    def of(cls, scene: Scene, head: Head) -> Trained:
        found = sources(scene.source, scene.layout)
        pairs = ((t, found[t.name]) for t in scene.layout.tensors if t.name in head)
        kept = tuple((t, s) for t, s in pairs if s is not None and not any(named(t, g) for g in scene.explicit))
        return cls(kept, "" if kin(scene.cls, scene.base.kind) else scene.base.kind)

    def __bool__(self) -> bool:
        return bool(self.tensors)

    def __str__(self) -> str:
        return several([tensor.name for tensor, _ in self.tensors])

    def index(self, before: pure.Names, after: pure.Names, mode: str | None) -> pure.Index:
        """The trained row of every label.

        Raises:
            PlanError: the names don't say it.
        """
        try:
            return pure.follow(before, after, mode)
        except ValueError as error:
            raise PlanError(f"the checkpoint's head ({self}){self._kind} {error}") from None

    def keep(self, head: Head, index: pure.Index, labels: int) -> dict[str, How]:
        """How each tensor's slices follow; nothing for those that stay as they are.

        Raises:
            PlanError: what the checkpoint has there is no head of so many labels.
        """
        found: dict[str, How] = {}
        problems = []
        for target, source in self.tensors:
            try:
                how = pure.correspondence(index, head[target.name], source.shape, target.shape, labels)
            except ValueError as error:
                problems.append(f"{target.name}: {error}")
                continue
            if how is not None:
                found[target.name] = how
        if problems:
            raise PlanError(
                f"the checkpoint has a head of another kind{self._kind.rstrip(',')}:\n  "
                + "\n  ".join(problems)
                + "\nSay "
                "labels_keep='none' (--labels-keep none) for a new head, or which elements are kept with keep (--map)"
            )
        return found

    @property
    def _kind(self) -> str:
        return f", that of {self.kind}," if self.kind else ""
