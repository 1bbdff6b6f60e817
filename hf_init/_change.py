"""The interface of what a user changes besides the class: labels, tokens, heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedConfig, PreTrainedModel

from hf_init._architecture import Architecture, Target
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError
from hf_init._plan import Choice, Fill, Match, Plan, RowMapping, Rule

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TargetContext:
    """What a change sees of an extension, before source and target are compared: names, shapes and addresses.

    Attributes:
        keep: globs of the user's own ``keep``, which go before what a change says.
    """

    target: Target
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetRequest:
    """What a user wants a base to become, before the target's class and config are resolved.

    Attributes:
        architecture: a class, the name of one, or None for the base's own.
        config: an object to copy; None: the base's own config.
        values: of the config; what has no field there is for the class's constructor.
        key_mapping: patterns of the base's names and what they become, in order.
        open_other: opens another checkpoint as the base was opened.
        trust: whether code that the checkpoint brings may run.
    """

    base: BaseCheckpoint
    architecture: Architecture
    config: PreTrainedConfig | None
    values: Mapping[str, object]
    open_other: Callable[[str], BaseCheckpoint]
    key_mapping: Mapping[str, str] = field(default_factory=dict)
    trust: bool | None = None

    def with_values(self, values: Mapping[str, object]) -> TargetRequest:
        """Return the request with these values of the config, which what the user gives by name goes before.

        Raises:
            PlanError: the user gives another value of one.
        """
        if twice := [path for path, value in values.items() if self.values.get(path, value) != value]:
            raise PlanError(
                f"given twice: {twice[0]} ({self.values[twice[0]]!r} and {values[twice[0]]!r}); give it once"
            )
        return replace(self, values={**values, **self.values})


def _nothing(*given: object) -> None:
    """Do nothing, and say nothing."""


def _no_notes(plan: Plan) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class ChangePlan:
    """What a change means for one target.

    Attributes:
        keep: correspondences by the target tensor's name on disk.
        fills: the new regions of a matched tensor with their schemes, given the recipe's choice for it (whose ``why``
            is ``"default"`` where no rule names the tensor); None where the change doesn't concern the tensor.
        notes: sentences for the plan. notes_on: those that the finished plan decides.
        new: names of tensors that the change wants new, so that they don't count as missing in the source.
        allowed: globs of all that may be new; None: no such list was given.
        drop: names of the source's tensors that go with the change, where the target has no place for them.
        claim: what the finished plan says of old inputs, of the tensors in ``keep``, ``new`` and ``drop``, and of
            the config values that the change sets (one of ``CLAIMS``); None: the change answers for none of them.
        config: further paths of the config that the claim answers for.
        write: writes the change's files into a result's folder, after the base's own files were carried over.
        values: computes tensors (float32, whole, by name on disk) from data, given the plan and what loads the model
            with zeros in their places; the schemes that hold the data's fingerprint fetch them. None where there are
            none to compute.
        finish: gives a model that was loaded into memory what isn't in its tensors.
        record: JSON for the plan in the manifest, by the change's name.
    """

    keep: Mapping[str, RowMapping] = field(default_factory=dict)
    fills: Callable[[Match, Choice], Sequence[Fill] | None] = _nothing
    notes: tuple[str, ...] = ()
    notes_on: Callable[[Plan], Sequence[str]] = _no_notes
    new: frozenset[str] = frozenset()
    drop: frozenset[str] = frozenset()
    allowed: tuple[str, ...] | None = None
    claim: Callable[[Plan], str | None] = _nothing
    config: frozenset[str] = frozenset()
    write: Callable[[Path], None] = _nothing
    values: Callable[[Plan, Callable[[], PreTrainedModel]], Mapping[str, torch.Tensor]] | None = None
    finish: Callable[[PreTrainedModel], None] = _nothing
    record: Mapping[str, object] = field(default_factory=dict)


class Change:
    """One change that a user asks for, such as labels or tokens; ``of`` makes it from options and the base.

    Planning calls the methods in this order: ``of``, ``retarget`` and ``config_values`` (then class and config are
    resolved), ``place``, ``rules``, and ``plan`` (once the target is built on meta).

    Attributes:
        OPTIONS: the keyword arguments that ``of`` reads.
        REPLACES: changes, later in the list of all, that take no part beside this one.
    """

    OPTIONS: tuple[str, ...] = ()
    REPLACES: tuple[type[Change], ...] = ()

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> Change | None:
        """Return the change that these options ask for, or None where they ask for none.

        Raises:
            PlanError: the options contradict each other, or the base.
        """
        raise NotImplementedError(f"{cls.__name__} has no of()")

    def retarget(self, request: TargetRequest) -> TargetRequest:
        """Return the request with the class, the config, the base or the names that the change sets.

        Raises:
            PlanError: the request can't be had with this change.
        """
        return request

    def config_values(self) -> Mapping[str, object]:
        """Return the config values that the change sets; dots reach nested configs."""
        return {}

    def place(self, target: Target) -> Target:
        """Return the target with what the change knows of where the base's tensors go in it.

        Raises:
            PlanError: they can't go there.
        """
        return target

    def rules(self) -> Sequence[Rule]:
        """Return the rules that go before those of the recipe."""
        return ()

    def plan(self, context: TargetContext) -> ChangePlan:
        """Return what the change means for this target.

        Raises:
            PlanError: the target can't have it.
        """
        return ChangePlan()
