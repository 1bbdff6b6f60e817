"""What a user wants of an extension besides an architecture: labels, tokens. Each speaks at every stage of planning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_init._checkpoint import Checkpoint
from hf_init._plan import Choice, Fill, Match, RowMapping, Rule
from hf_init._tensors import Layout, SourceTensor

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BaseCheckpoint:
    """A checkpoint before anything is asked of it.

    Attributes:
        name: as the user gave it.
        config: the raw ``config.json``.
    """

    name: str
    folder: Path
    source: Checkpoint
    config: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The class that the config names as the checkpoint's own; empty where it names none."""
        names = self.config.get("architectures")
        return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


@dataclass(frozen=True)
class TargetContext:
    """The base and the target side by side, before they are compared: names, shapes and addresses.

    Attributes:
        model: the target's, on meta.
        layout: the target's tensors. source: those of the base, addressed by the target's loader.
        twin: the target's model on meta under another config.
        explicit: globs of the user's own ``keep``, which go before what a wish says.
        arguments: positional and named, that the class takes besides its config.
    """

    base: BaseCheckpoint
    cls: type[PreTrainedModel]
    config: PreTrainedConfig
    model: PreTrainedModel
    layout: Layout
    source: tuple[SourceTensor, ...]
    twin: Callable[[PreTrainedConfig], PreTrainedModel]
    explicit: tuple[str, ...] = ()
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), MappingProxyType({}))


def _nothing(match: Match, choice: Choice) -> Sequence[Fill] | None:
    """Leaves the recipe's choice as it is."""
    return None


def _no_files(out: Path) -> None:
    """Has no files."""


def _as_loaded(model: PreTrainedModel) -> None:
    """Leaves a loaded model as it is."""


@dataclass(frozen=True)
class ChangePlan:
    """What a wish comes to in a scene.

    Attributes:
        keep: correspondences by the target tensor's name on disk.
        fills: the new regions of a matched tensor with their schemes, given the recipe's choice for it (whose ``why``
            is ``"default"`` where no rule names the tensor); None where the wish has no word in it.
        notes: sentences for the plan.
        new: names of tensors that it wants new, so that nobody misses them in the source.
        allowed: globs of all that may be new; None: no such list was given.
        write: its files into a result's folder, after the base's own files were carried over.
        values: makes tensors (float32, whole, by name on disk) from data and the model with zeros in their places; the
            schemes that hold the data's fingerprint fetch them. None where there are none to make.
        finish: gives a model that was loaded into memory what isn't in its tensors.
        record: JSON for the plan in the manifest, by the wish's name.
    """

    keep: Mapping[str, RowMapping] = field(default_factory=dict)
    fills: Callable[[Match, Choice], Sequence[Fill] | None] = _nothing
    notes: tuple[str, ...] = ()
    new: frozenset[str] = frozenset()
    allowed: tuple[str, ...] | None = None
    write: Callable[[Path], None] = _no_files
    values: Callable[[PreTrainedModel], Mapping[str, torch.Tensor]] | None = None
    finish: Callable[[PreTrainedModel], None] = _as_loaded
    record: Mapping[str, Any] = field(default_factory=dict)


class Change:
    """One such wish; made by ``of`` from the user's words, it knows the base.

    Attributes:
        WORDS: the keyword arguments that are its own.
    """

    WORDS: tuple[str, ...] = ()

    @classmethod
    def of(cls, base: BaseCheckpoint, words: Mapping[str, Any]) -> Change | None:
        """The wish that these words spell; None where nothing is wished.

        Raises:
            PlanError: the words contradict each other, or the base.
        """
        raise NotImplementedError(f"{cls.__name__} has no of()")

    def values(self) -> Mapping[str, Any]:
        """Config values that it sets; dots reach nested configs."""
        return {}

    def rules(self) -> Sequence[Rule]:
        """Rules that go before those of the recipe."""
        return ()

    def terms(self, scene: TargetContext) -> ChangePlan:
        """What it comes to, once the target is known.

        Raises:
            PlanError: it can't be had.
        """
        return ChangePlan()
