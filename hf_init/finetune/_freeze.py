"""What is pretrained stands still, what is new trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import assert_never

from hf_init._errors import PlanError
from hf_init._shards import whole_shape
from hf_init._tensors import Region, Status, num_elements
from hf_init._text import format_count, join_names
from hf_init.finetune._guard import Guard, GuardReport
from hf_init.finetune._manifest import manifest_of, save_manifest
from hf_init.finetune._model import ModelTensor, PlanLike, PlanOrigin, model_tensors, origin_of, unwrapped
from hf_init.finetune._rows import CHILD, NewParts, needs_copy
from hf_init.finetune._zero3 import check_not_started

Resized = Literal["new", "whole", "none"]
RESIZED = ("new", "whole", "none")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Frozen:
    """What is frozen in a model, and the proof that it stands still.

    Attributes:
        model: the model, unwrapped.
        plan: that it was frozen by.
        tensors: every tensor of the model with what the plan says of it.
    """

    def __init__(self, model: nn.Module, origin: PlanOrigin, tensors: tuple[ModelTensor, ...], guard: Guard) -> None:
        self.model, self.plan, self.tensors = model, origin.plan, tensors
        self._manifest, self._guard = manifest_of(origin, tensors), guard
        self._norms: dict[str, tuple[nn.Module, RemovableHandle]] = {}
        self._update_norms()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all tensors, stored statistics of norms included, that are frozen whole or in part."""
        return tuple(self._guard.digests)

    @property
    def new_parts(self) -> NewParts | None:
        """Return what trains of resized tensors, and of new ones in 16 bits."""
        return getattr(self.model, CHILD, None)

    @property
    def num_trainable(self) -> tuple[int, int]:
        """Return how many parameters train, and how many the model has; a resized tensor by its new rows."""
        parameters = [each.tensor for each in self.tensors if each.is_parameter]
        parts = [parameter for _, parameter in self.new_parts.parts] if self.new_parts else []
        trained = sum(num_elements(whole_shape(each)) for each in (*parameters, *parts) if each.requires_grad)
        return trained, sum(num_elements(whole_shape(each)) for each in parameters)

    def print_trainable_parameters(self) -> None:
        """Print how many parameters train, of how many; as models of PEFT do."""
        trained, number = self.num_trainable
        share = 100 * trained / max(number, 1)
        digits = f"{share:.2f}" if share >= 0.01 or not trained else f"{share:.1g}"
        print(f"training {format_count(trained)} of {format_count(number)} parameters ({digits} %)")

    def verify(self) -> GuardReport:
        """Compare every frozen byte with what it was when it was frozen."""
        return self._guard.verify()

    def raise_if_moved(self) -> None:
        """Raise ProofError, naming tensor, row and both values, unless every frozen byte is what it was.

        Without copies (see ``freeze``) and without the files that the model came from, the tensor alone is named.
        """
        self.verify().raise_if_failed()

    def thaw(self, names: Iterable[str] | None = None) -> tuple[str, ...]:
        """Let tensors train from here on; None: all of them, in their own dtype. Return those that were frozen.

        Raises:
            PlanError: a name that isn't frozen, or a resized tensor without the others of its kind.
        """
        wanted = self.names if names is None else tuple(dict.fromkeys(names))
        unknown = [name for name in wanted if name not in self._guard.digests]
        if unknown:
            raise PlanError(f"{join_names(unknown)}: not frozen, so there is nothing to thaw; see Frozen.names")
        apart = {part.origin.name for part, _ in self.new_parts.parts} if self.new_parts else set()
        resized = apart & self._guard.digests.keys()
        if self.new_parts and (names is None or resized & set(wanted)):
            if not resized <= set(wanted):
                raise PlanError(f"thaw the resized tensors together: {join_names(sorted(resized))}")
            self.new_parts.remove(self.model)
        self._guard.release(wanted)
        trains = {*wanted} if self.new_parts else {*wanted, *apart}
        for each in self.tensors:
            if each.name in trains and each.is_parameter:
                each.tensor.requires_grad_(True)
        self._update_norms()
        return wanted

    def save_manifest(self, folder: str | Path) -> Path | None:
        """Put the plan beside saved weights, as ``hf_init.json``, so that what was frozen can be proved from files.

        Return its path; None where the model came from no result folder and its manifest can't be made again.
        """
        return save_manifest(self._manifest, Path(folder))

    def _update_norms(self) -> None:
        """Keep norms in evaluation mode at every pass as long as their statistics are frozen."""
        frozen = {
            each.name: each.owner
            for each in self.tensors
            if each.attribute in STATISTICS and not each.is_parameter and each.name in self.names
        }
        for name in [name for name in self._norms if name not in frozen]:
            module, handle = self._norms.pop(name)
            handle.remove()
            module.training = self.model.training
        for name in frozen.keys() - self._norms.keys():
            self._norms[name] = (frozen[name], frozen[name].register_forward_pre_hook(_switch_to_evaluation))

    def __str__(self) -> str:
        whole = [each.name for each in self.tensors if each.is_parameter and each.tensor.requires_grad]
        parts = [str(part) for part, _ in self.new_parts.parts] if self.new_parts else []
        return f"frozen: {self._guard.amount}\ntrained: {join_names([*parts, *whole]) or 'nothing'}"


def _switch_to_evaluation(module: nn.Module, _: object) -> None:
    module.training = False


def freeze(
    model: nn.Module,
    plan: PlanLike = None,
    *,
    resized: Resized | None = None,
    copies: bool = False,
    check: bool = True,
    dtype: torch.dtype | None = None,
) -> Frozen:
    """Make everything pretrained stand still: no gradients, and norms whose running statistics don't move.

    A tied tensor is one tensor. Dropout stays as ``model.train()`` sets it.

    Args:
        plan: a plan, the folder of a result, or None: the model's ``init_plan``, or the folder it was loaded from.
        resized: what becomes of tensors of which a part is kept. ``"new"``: only their new rows train, see
            ``train_only_new``; ``"whole"``: they train as a whole, kept rows too; ``"none"``: they are frozen as a
            whole. It must be said where there are any.
        copies: keep a copy of all that is frozen, so that the proof can name row and both values even where the
            files are gone. Without it the proof holds digests, which cost no memory.
        check: compare what is frozen with the files that the model came from, where they are at hand.
        dtype: in which new rows under ``"new"``, and new tensors, train; None: their own, but float32 for those of
            bfloat16 or float16, whose small steps would be lost otherwise. The tensor in the model, and what is saved,
            keeps its own. Under ``"whole"`` nothing is trained apart.

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
    check_not_started(model)
    tensors = model_tensors(model, origin.plan)
    divided = [each for each in tensors if each.status is Status.RESIZED and each.is_parameter]
    _check_freezable(model, tensors, divided, resized)
    regions = ((each, _frozen_regions(each, resized)) for each in tensors)
    guard = Guard([pair for pair in regions if pair[1]], origin, copies)
    if check:
        guard.check_unchanged()
    copied = [each for each in tensors if each.is_parameter and needs_copy(each, dtype)] if resized != "whole" else []
    apart = [*divided, *copied] if resized == "new" else copied
    if apart:
        NewParts(model, apart, dtype)
    still = {*guard.digests, *(each.name for each in apart)}
    for each in tensors:
        if each.is_parameter and each.tensor.is_floating_point():
            each.tensor.requires_grad_(each.name not in still)
            each.tensor.grad = None  # one left from before would be a step of momentum
    return Frozen(model, origin, tensors, guard)


def train_only_new(
    model: nn.Module,
    plan: PlanLike = None,
    *,
    copies: bool = False,
    check: bool = True,
    dtype: torch.dtype | None = None,
) -> Frozen:
    """Freeze everything pretrained, and of resized tensors everything but their new rows: exactly.

    A gradient mask is not exact: weight decay and momentum move what has no gradient. PEFT's trainable tokens are, for
    the rows of an embedding, and save an adapter. Here each new region is a parameter of its own, whose memory is that
    region of the whole tensor (of what has 16 bits, whole new tensors too, a float32 copy: see ``dtype``), and the
    whole tensor is in no optimizer: any kind of tensor and region will do, a tied head sees the same tensor, optimizer
    states are as large as what is new, and ``state_dict``, ``save_pretrained`` and loading work all the time with plain
    names and shapes.

    Under FSDP2 (``fully_shard``) before or after dividing the model (after it for Adafactor, which takes no divided
    parameters); under data parallelism and DeepSpeed, ZeRO-3 too: freeze first, then wrap. Not under FSDP1 or tensor
    parallelism: use ``peft_arguments`` there.

    The arguments and errors are those of ``freeze``. ``Frozen.thaw()`` ends it.

    Example::

        frozen = train_only_new(model, "with-tokens")
        optimizer = torch.optim.AdamW(parameter_groups(model, "with-tokens", lr=0, new_lr=1e-3))
    """
    return freeze(model, plan, resized="new", copies=copies, check=check, dtype=dtype)


def _frozen_regions(tensor: ModelTensor, resized: Resized | None) -> tuple[Region, ...]:
    """Return the regions of a tensor that are to stand still; none where it trains."""
    match tensor.status:
        case Status.KEPT | Status.CARRIED:
            return tensor.kept
        case Status.RESIZED:
            return {"new": tensor.kept, "none": (tensor.box,)}.get(resized or "whole", ())
        case Status.NEW | Status.TIED:  # a tied one is there under its other name
            return ()
        case _:
            assert_never(tensor.status)


def _check_freezable(
    model: nn.Module, tensors: Sequence[ModelTensor], divided: Sequence[ModelTensor], resized: Resized | None
) -> None:
    if resized is not None and resized not in RESIZED:
        raise PlanError(f"resized is {resized!r}, expected one of {', '.join(map(repr, RESIZED))}")
    if hasattr(model, CHILD):
        raise PlanError("what is new in the model is trained apart already; Frozen.thaw() first")
    if divided and resized is None:
        raise PlanError(
            f"{join_names([each.name for each in divided])}: kept in part, new in part. Say what trains: resized='new' "
            "(new rows only, as train_only_new does), 'whole' (all of it, kept rows too) or 'none' (nothing of it)"
        )
    rescaled = [
        t.name for t in tensors if getattr(t.owner, "max_norm", None) is not None and t.status is not Status.NEW
    ]
    if rescaled:
        raise PlanError(
            f"{join_names(rescaled)}: max_norm rescales rows at every forward pass, whether frozen or not; set the "
            "module's max_norm to None first"
        )
