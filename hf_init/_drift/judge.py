"""What became of one part of a tensor: a status, from bits alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from hf_init._block_names import name_pattern, stack_blocks
from hf_init._drift.measure import Movement, measure_part
from hf_init._drift.parts import NEW, TensorPart
from hf_init._progress import Progress
from hf_init._verify import VerifyMeter, WorkerBuffers, bytes_digest, run_jobs

STATUSES = ("identical", "moved", "trained", "unchanged", "new", "untrained", "unproved", "missing")
FAILURES = ("moved", "unproved", "missing")


@dataclass(frozen=True)
class TensorDrift:
    """What became of a tensor, or of its kept or its new elements.

    Attributes:
        name: in the trained checkpoint.
        status: ``identical`` (meant to stay, and did), ``moved`` (meant to stay, and didn't), ``trained`` (free to
            move, and did), ``unchanged`` (free to move, and didn't), ``new`` (no base has it), ``untrained`` (new, and
            still as it was made), ``unproved`` (meant to stay, and nothing says what it was), ``missing``.
        origin: ``kept``, from the pretrained checkpoint, or ``new``.
        portion: ``all`` of the tensor, or its ``kept`` or ``new`` elements.
        frozen: meant to stay.
        shape, dtype: of the tensor, now.
        dtype_before: of what it was; the comparison is with its exact cast to ``dtype``. None where there is none.
        elements: in the portion.
        change: how far it moved; None where nothing was compared.
        reason: why it couldn't be compared, or what else is worth saying.
        failed: it is not as it was meant to be.
    """

    name: str
    status: str
    origin: str
    portion: str
    frozen: bool
    shape: tuple[int, ...]
    dtype: str
    dtype_before: str | None
    elements: int
    change: Movement | None = field(default=None)
    reason: str = ""
    failed: bool = False

    @property
    def layer(self) -> tuple[str, int | None, str]:
        """Return the stack of layers that it is in, its layer's index there, and the rest of its name without numbers.

        Example:
            >>> TensorDrift("h.11.mlp.w", "new", "new", "all", False, (), "float32", None, 1).layer
            ('h', 11, 'mlp.w')
        """
        blocks = stack_blocks(self.name)
        if not blocks:
            return "", None, self.name
        stack, _, index = blocks[0].rstrip(".").rpartition(".")
        return stack, int(index), name_pattern(self.name[len(blocks[0]) :])

    def to_json(self) -> dict[str, object]:
        entry: dict[str, object] = {
            "name": self.name,
            "status": self.status,
            "origin": self.origin,
            "portion": self.portion,
            "frozen": self.frozen,
            "failed": self.failed,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "elements": self.elements,
        }
        if self.dtype_before not in (None, self.dtype):
            entry["dtype_before"] = self.dtype_before
        if self.reason:
            entry["reason"] = self.reason
        if self.change is not None and self.change.elements:
            entry |= self.change.to_json()
        return entry


def judge_parts(parts: Sequence[TensorPart], progress: Progress | None) -> tuple[TensorDrift, ...]:
    """Return what became of each part; as many at a time as there are cores, the largest first."""
    drifts: dict[int, TensorDrift] = {}
    compared = VerifyMeter(progress).counting("compared")

    def job(number: int, buffers: WorkerBuffers) -> bool:
        drifts[number] = judge_tensor(parts[number], buffers, compared)
        return drifts[number].failed

    order = sorted(range(len(parts)), key=lambda number: -parts[number].elements)
    run_jobs(partial(job, number) for number in order)
    return tuple(drifts[number] for number in range(len(parts)))


def judge_tensor(part: TensorPart, buffers: WorkerBuffers, progress: Progress) -> TensorDrift:
    """Compare a part with what it was."""
    change, same = None, None
    if part.pairs:
        change = measure_part(part.pairs, buffers, progress)
        same = not change.elements
    elif part.stored and part.made:
        same = all(bytes_digest(region, buffers.seen, progress) == digest for region, digest in part.made)
    status = _drift_status(part, same)
    rounding = ""
    if change is not None and change.rounded is not None and change.elements:  # a way to move that isn't training
        rounded = change.rounded
        rounding = f"each changed element is what was there rounded to {rounded}: it was loaded in {rounded}"
    return TensorDrift(
        name=part.name,
        status=status,
        origin=part.origin,
        portion=part.portion,
        frozen=part.frozen,
        shape=part.shape,
        dtype=part.dtype,
        dtype_before=part.dtype_before,
        elements=part.elements,
        change=change,
        reason="; ".join(filter(None, (part.fault, part.remark, rounding))),
        failed=status in FAILURES and part.frozen and not (status == "missing" and part.ignored),
    )


def _drift_status(part: TensorPart, same: bool | None) -> str:
    """Return a part's status; ``same`` is None where there is nothing to compare with."""
    if not part.stored:
        return "missing"
    if part.fault:
        return "moved" if part.frozen else "new" if part.origin == NEW else "trained"
    if same is None:
        return "unproved" if part.frozen else "new"
    if part.frozen:
        return "identical" if same else "moved"
    if part.origin == NEW:
        return "untrained" if same else "new"
    return "unchanged" if same else "trained"
