"""What became of one part of a tensor: a status, from bits alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hf_init._block_names import pattern, stack_blocks
from hf_init._drift.measure import Movement, measure_part
from hf_init._drift.parts import NEW, TensorPart
from hf_init._progress import Progress
from hf_init._verify import VerifyMeter, WorkerBuffers, bytes_digest, jsonable, run_jobs

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
    def place(self) -> tuple[str, int | None, str]:
        """The stack of layers that it is in, its layer's index there, and the rest of its name without numbers.

        Example:
            >>> TensorDrift("h.11.mlp.w", "new", "new", "all", False, (), "float32", None, 1).place
            ('h', 11, 'mlp.w')
        """
        found = stack_blocks(self.name)
        if not found:
            return "", None, self.name
        stack, _, index = found[0].rstrip(".").rpartition(".")
        return stack, int(index), pattern(self.name[len(found[0]) :])

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
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
        return jsonable(entry | _numbers(self.change))


def _numbers(change: Movement | None) -> dict[str, Any]:
    if change is None or not change.elements:
        return {}
    return {
        "changed_elements": change.elements,
        "changed_rows": change.rows,
        "relative_change": change.relative,
        "largest_change": change.largest,
        "not_finite": change.not_finite,
        "first": change.first,
    }


def judge_parts(parts: Sequence[TensorPart], progress: Progress | None) -> tuple[TensorDrift, ...]:
    """Return what became of each part; as many at a time as there are cores, the largest first."""
    made: dict[int, TensorDrift] = {}
    compared = VerifyMeter(progress).counting("compared")

    def job(at: int, desk: WorkerBuffers) -> bool:
        made[at] = judge_tensor(parts[at], desk, compared)
        return made[at].failed

    order = sorted(range(len(parts)), key=lambda at: -parts[at].elements)
    run_jobs(partial(job, at) for at in order)
    return tuple(made[at] for at in range(len(parts)))


def judge_tensor(part: TensorPart, desk: WorkerBuffers, done: Progress) -> TensorDrift:
    """Compare a part with what it was."""
    change = measure_part(part.pairs, desk, done) if part.pairs else None
    status = _status(part, change, desk, done)
    failed = status in FAILURES and part.frozen and not (status == "missing" and part.ignored)
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
        reason="; ".join(text for text in (part.fault, part.remark, _rounding(part, change)) if text),
        failed=failed,
    )


def _status(part: TensorPart, change: Movement | None, desk: WorkerBuffers, done: Progress) -> str:
    if not part.stored:
        return "missing"
    same = not change.elements if change is not None else _as_made(part, desk, done)
    if part.fault or same is None:
        return _unknown(part)
    if part.frozen:
        return "identical" if same else "moved"
    if part.origin == NEW:
        return "untrained" if same else "new"
    return "unchanged" if same else "trained"


def _unknown(part: TensorPart) -> str:
    """Where there is nothing to compare with."""
    if part.fault:
        return "moved" if part.frozen else ("new" if part.origin == NEW else "trained")
    return "unproved" if part.frozen else "new"


def _as_made(part: TensorPart, desk: WorkerBuffers, done: Progress) -> bool | None:
    """Whether new regions still have the digests that they had when they were made; None where those aren't known."""
    if not part.made:
        return None
    return all(bytes_digest(region, desk.seen, done) == wanted for region, wanted in part.made)


def _rounding(part: TensorPart, change: Movement | None) -> str:
    """A way to move that isn't training."""
    if change is None or change.rounded is None or not change.elements:
        return ""
    return f"each changed element is what was there rounded to {change.rounded}: it was loaded in {change.rounded}"
