"""What is pretrained stands still, what is new trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from hf_init._errors import PlanError
from hf_init._tensors import Box, Region, Status
from hf_init._text import join_names
from hf_init.finetune import _norms
from hf_init.finetune._guard import Guard, GuardReport, element_counts
from hf_init.finetune._manifest import manifest_of, save_manifest
from hf_init.finetune._model import ModelTensor, PlanLike, PlanOrigin, model_tensors, origin_of, unwrapped
from hf_init.finetune._rows import CHILD, NewParts

Resized = Literal["new", "whole", "none"]
RESIZED = ("new", "whole", "none")


class Frozen:
    """What is frozen in a model, and the proof that it stands still.

    Attributes:
        model: the model, unwrapped.
        plan: that it was frozen by.
        places: every tensor of the model with what the plan says of it.
    """

    def __init__(self, model: nn.Module, origin: PlanOrigin, found: tuple[ModelTensor, ...], guard: Guard) -> None:
        self.model, self.plan, self.places = model, origin.plan, found
        self._manifest, self._guard = manifest_of(origin, found), guard
        self._norms: dict[str, tuple[nn.Module, RemovableHandle]] = {}
        self._resume_norms()

    @property
    def names(self) -> tuple[str, ...]:
        """Of every tensor, stored statistics of norms included, that is frozen as a whole or in part."""
        return tuple(self._guard.held)

    @property
    def new_parts(self) -> NewParts | None:
        """What trains of the resized tensors."""
        return getattr(self.model, CHILD, None)

    def verify(self) -> GuardReport:
        """Compares every frozen byte with what it was when it was frozen."""
        return self._guard.verify()

    def raise_if_moved(self) -> None:
        """Raise ProofError, naming tensor, row and both values, unless every frozen byte is what it was.

        Without copies (see ``freeze``) and without the files that the model came from, the tensor alone is named.
        """
        self.verify().raise_if_moved()

    def thaw(self, names: Iterable[str] | None = None) -> tuple[str, ...]:
        """Lets tensors train from here on; None: all of them. Returns the names of those that were frozen.

        Raises:
            PlanError: a name that isn't frozen, or a resized tensor without the others of its kind.
        """
        wanted = self.names if names is None else tuple(dict.fromkeys(names))
        unknown = [name for name in wanted if name not in self._guard.held]
        if unknown:
            raise PlanError(f"{join_names(unknown)}: not frozen, so there is nothing to thaw; see Frozen.names")
        parts = {part.place.name for part, _ in self.new_parts.parts} if self.new_parts else set()
        if self.new_parts and parts & set(wanted):
            if not parts <= set(wanted):
                raise PlanError(f"thaw the resized tensors together: {join_names(sorted(parts))}")
            self.new_parts.remove(self.model)
        self._guard.release(wanted)
        for place in self.places:
            if place.name in wanted and place.is_parameter:
                place.tensor.requires_grad_(True)
        self._resume_norms()
        return wanted

    def save_manifest(self, folder: str | Path) -> Path | None:
        """Puts the plan beside saved weights, as ``hf_init.json``, so that what was frozen can be proved from files.

        Returns its path; None where the model came from no result folder and its manifest can't be made again.
        """
        return save_manifest(self._manifest, Path(folder))

    def _resume_norms(self) -> None:
        """Holds the norms whose statistics are frozen, and no others."""
        held = {place.name: place.owner for place in self.places if _is_statistic(place) and place.name in self.names}
        for name in [name for name in self._norms if name not in held]:
            module, handle = self._norms.pop(name)
            handle.remove()
            module.training = self.model.training
        for name in held.keys() - self._norms.keys():
            (handle,) = _norms.hold_statistics([held[name]])
            self._norms[name] = (held[name], handle)

    def __str__(self) -> str:
        whole = [place.name for place in self.places if place.is_parameter and place.tensor.requires_grad]
        parts = [_spelled(part.place.name, part.region) for part, _ in self.new_parts.parts] if self.new_parts else []
        return (
            f"frozen: {element_counts(self._guard.held.values())}\ntrained: {join_names([*parts, *whole]) or 'nothing'}"
        )


def freeze(
    model: nn.Module,
    plan: PlanLike = None,
    *,
    resized: Resized | None = None,
    copies: bool = False,
    check: bool = True,
    dtype: torch.dtype | None = None,
) -> Frozen:
    """Makes everything pretrained stand still: no gradients, and norms whose running statistics don't move.

    A tied tensor is one tensor. Dropout stays as ``model.train()`` sets it.

    Args:
        plan: a plan, the folder of a result, or None: the model's ``init_plan``, or the folder it was loaded from.
        resized: what becomes of tensors of which a part is kept. ``"new"``: only their new rows train, see
            ``train_only_new``; ``"whole"``: they train as a whole, kept rows too; ``"none"``: they are frozen as a
            whole. It must be said where there are any.
        copies: keep a copy of all that is frozen, so that the proof can name row and both values even where the
            files are gone. Without it the proof holds digests, which cost no memory.
        check: compare what is frozen with the files that the model came from, where they are at hand.
        dtype: of the new rows under ``"new"``, such as ``torch.float32`` beside a bfloat16 tensor, whose small steps
            would be lost otherwise; the tensor itself, and what is saved, keeps its own.

    Returns:
        What is frozen; ``raise_if_moved`` proves it.

    Raises:
        PlanError: the plan is of another model, the model was changed since, it is quantized or offloaded, or
            ``resized`` isn't said. Nothing is changed then.
        CheckpointError: there is no plan.

    Example::

        frozen = freeze(model, "sentiment")
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        ...
        frozen.raise_if_moved()
    """
    model, origin = unwrapped(model), origin_of(model, plan)
    found = model_tensors(model, origin.plan)
    split = [place for place in found if place.status is Status.RESIZED and place.is_parameter]
    _refuse(model, found, split, resized)
    guard = Guard(_still(found, resized), origin, copies)
    if check:
        guard.refuse_changed()
    if split and resized == "new":
        NewParts(model, split, dtype)
    for place in found:
        if place.is_parameter and place.tensor.is_floating_point():
            place.tensor.requires_grad_(place.name not in guard.held)
            place.tensor.grad = None  # one left from before would be a step of momentum
    return Frozen(model, origin, found, guard)


def train_only_new(
    model: nn.Module,
    plan: PlanLike = None,
    *,
    copies: bool = False,
    check: bool = True,
    dtype: torch.dtype | None = None,
) -> Frozen:
    """Freezes everything pretrained, and of resized tensors everything but their new rows: exactly.

    A gradient mask is not exact: weight decay and momentum move what has no gradient. PEFT's trainable tokens are, for
    the rows of an embedding, and save an adapter. Here each new region is a parameter of its own, whose memory is that
    region of the whole tensor, and the whole tensor is in no optimizer: nothing is copied or put together at a step,
    any kind of tensor and region will do, a tied head sees the same tensor, optimizer states are as large as what is
    new, and ``state_dict``, ``save_pretrained`` and loading work all the time with plain names and shapes.

    Not for sharded parameters (FSDP, ZeRO-3), where rows can't be told apart: use ``peft_arguments`` there. Data
    parallelism works: freeze first, then wrap.

    The arguments and errors are those of ``freeze``. ``Frozen.thaw()`` ends it.

    Example::

        frozen = train_only_new(model, "with-tokens")
        optimizer = torch.optim.AdamW(parameter_groups(model, "with-tokens", lr=0, new_lr=1e-3))
    """
    return freeze(model, plan, resized="new", copies=copies, check=check, dtype=dtype)


def _still(found: Iterable[ModelTensor], resized: Resized | None) -> Iterator[tuple[ModelTensor, tuple[Region, ...]]]:
    """Every tensor that is to stand still, with the regions of it that are."""
    for place in found:
        if place.status is Status.KEPT or (place.status is Status.RESIZED and resized == "none"):
            yield place, (Box.whole(tuple(place.tensor.shape)),)
        elif place.status is Status.RESIZED and resized == "new":
            yield place, place.kept


def _refuse(
    model: nn.Module, found: tuple[ModelTensor, ...], split: list[ModelTensor], resized: Resized | None
) -> None:
    if resized is not None and resized not in RESIZED:
        raise PlanError(f"resized is {resized!r}, expected one of {', '.join(map(repr, RESIZED))}")
    if hasattr(model, CHILD):
        raise PlanError("the model's new rows are trained apart already; Frozen.thaw() first")
    if split and resized is None:
        raise PlanError(
            f"{join_names([place.name for place in split])}: kept in part, new in part. Say what trains: resized='new' "
            "(new rows only, as train_only_new does), 'whole' (all of it, kept rows too) or 'none' (nothing of it)"
        )
    norming = [p.name for p in found if getattr(p.owner, "max_norm", None) is not None and p.status is not Status.NEW]
    if norming:
        raise PlanError(
            f"{join_names(norming)}: max_norm rescales rows at every forward pass, whether frozen or not; set the "
            "module's max_norm to None first"
        )


def _is_statistic(place: ModelTensor) -> bool:
    return place.attribute in _norms.STATISTICS and not place.is_parameter


def _spelled(name: str, region: Region) -> str:
    if not isinstance(region, Box):
        return f"{name}[{len(region.index)} rows of dim {region.dim}]"
    return f"{name}[{', '.join(f'{a}:{b}' for a, b in zip(region.start, region.stop, strict=True))}]"
