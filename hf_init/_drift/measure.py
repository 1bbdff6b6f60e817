"""How far two regions are apart: bits first, and numbers where bits differ; a few megabytes at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hf_init._checkpoint import decode_values, is_decoded
from hf_init._progress import Progress
from hf_init._verify import (
    Piece,
    RegionPart,
    StoredTensor,
    TensorDiff,
    WorkerBuffers,
    cast_values,
    castable,
    region_pieces,
    with_nans_of,
)


@dataclass(frozen=True)
class TensorPair:
    """A region of a trained tensor, and how to get at what it was: that is asked when it is compared."""

    after: StoredTensor
    before: Callable[[], RegionPart]
    dtype_before: str

    @property
    def dtype(self) -> str:
        return self.after.entry.dtype


@dataclass(frozen=True)
class Movement:
    """How far a part of a tensor is from what it was.

    Attributes:
        elements, rows: how many differ in their bits; a row is a slice along the tensor's first dimension.
        first: the first difference: ``index``, ``row``, ``seen``, ``expected`` and their bits; empty where there is
            none.
        before: the Euclidean norm of what it was. NaN where the dtype has no numbers, and where nothing differs.
        change: the norm of after minus before, over elements that are finite in both.
        largest: the greatest absolute difference.
        not_finite: how many changed elements are NaN or infinite now.
        rounded: the dtype that every changed element is the exact rounding to and back of; None if there is none.
    """

    elements: int = 0
    rows: int = 0
    first: Mapping[str, object] = field(default_factory=dict[str, object])
    before: float = math.nan
    change: float = 0.0
    largest: float = 0.0
    not_finite: int = 0
    rounded: str | None = None

    @property
    def relative(self) -> float:
        """Return ``||after - before|| / ||before||``; infinite where it was all zeros."""
        if not self.change:
            return self.change
        return self.change / self.before if self.before else math.inf

    def to_json(self) -> dict[str, object]:
        return {
            "changed_elements": self.elements,
            "changed_rows": self.rows,
            "relative_change": self.relative,
            "largest_change": self.largest,
            "not_finite": self.not_finite,
            "first": self.first,
        }


@dataclass
class _ChangeSums:
    before: float = 0.0
    change: float = 0.0
    largest: float = 0.0
    not_finite: int = 0
    roundings: tuple[str, ...] = ("bfloat16", "float16")

    def add(self, seen: np.ndarray, expected: np.ndarray, dtype: str) -> None:
        after, before = decode_values(seen, dtype), decode_values(expected, dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            change = after - before
        finite = np.isfinite(change)
        change = np.abs(change[finite])
        self.not_finite += int(np.count_nonzero(~np.isfinite(after) & (seen != expected).reshape(after.shape)))
        self.largest = max(self.largest, float(change.max(initial=0.0)))
        self.change += float(change @ change)
        self.add_before(before)
        self.roundings = tuple(
            narrow
            for narrow in self.roundings
            if dtype != narrow
            and castable(dtype, narrow)
            and np.array_equal(seen, cast_values(cast_values(expected, dtype, narrow), narrow, dtype))
        )

    def add_before(self, values: np.ndarray) -> None:
        values = values[np.isfinite(values)]
        self.before += float(values @ values)


@dataclass(frozen=True)
class _Sides:
    """Two regions of one shape, cut alike."""

    after: RegionPart
    before: RegionPart
    pair: TensorPair

    @classmethod
    def of(cls, pair: TensorPair) -> _Sides:
        before = pair.before()
        flat = pair.after.flat(), before.flat()
        if flat[0] is None or flat[1] is None:
            return cls(pair.after, before, pair)
        return cls(flat[0], flat[1], pair)

    def cuts(self) -> list[Piece]:
        return list(region_pieces(self.after.shape, tuple(map(max, self.after.spans, self.before.spans))))

    def read(self, piece: Piece, buffers: WorkerBuffers) -> tuple[np.ndarray, np.ndarray]:
        """Return what is there, and what is expected there: what was, in today's dtype."""
        seen, expected = self.after.read(buffers.seen, piece), self.before.read(buffers.expected, piece)
        if self.pair.dtype == self.pair.dtype_before:
            return seen, expected
        expected = cast_values(expected, self.pair.dtype_before, self.pair.dtype)
        return seen, expected if np.array_equal(seen, expected) else with_nans_of(seen, expected, self.pair.dtype)


def measure_part(pairs: Sequence[TensorPair], buffers: WorkerBuffers, progress: Progress) -> Movement:
    """Compare every region of a part of one tensor with what it was, in the dtype that it has now."""
    dtype = pairs[0].dtype
    diff, sums, equal = TensorDiff.of(pairs[0].after.whole, dtype), _ChangeSums(), []
    for number, pair in enumerate(pairs):
        sides = _Sides.of(pair)
        for piece in sides.cuts():
            seen, expected = sides.read(piece, buffers)
            progress(seen.nbytes)
            if np.array_equal(seen, expected):
                equal.append((sides, piece))
                continue
            diff.add_piece(pair.after.region, sides.after.shape, piece, seen, expected, number)
            if is_decoded(dtype):
                sums.add(seen.reshape(-1), expected.reshape(-1), dtype)
    if not diff.elements:
        return Movement()
    if not is_decoded(dtype):
        return _movement(diff, before=math.nan, change=math.nan, largest=math.nan)
    for sides, piece in equal:  # what it was is what it is
        sums.add_before(decode_values(sides.after.read(buffers.seen, piece), dtype).reshape(-1))
    return _movement(
        diff,
        before=math.sqrt(sums.before),
        change=math.sqrt(sums.change),
        largest=sums.largest,
        not_finite=sums.not_finite,
        rounded=next(iter(sums.roundings), None),
    )


def _movement(
    diff: TensorDiff, *, before: float, change: float, largest: float, not_finite: int = 0, rounded: str | None = None
) -> Movement:
    first = {key: value for key, value in diff.first.items() if key != "region"}
    return Movement(diff.elements, int(diff.rows.sum()), first, before, change, largest, not_finite, rounded)
