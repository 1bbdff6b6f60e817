"""How far two regions are apart: bits first, and numbers where bits differ; a few megabytes at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_init._checkpoint import decode_values, is_decoded
from hf_init._drift.cast import agreed, cast_values, castable
from hf_init._progress import Progress
from hf_init._verify import Piece, RegionPart, StoredTensor, TensorDiff, WorkerBuffers, region_pieces


@dataclass(frozen=True)
class TensorPair:
    """A region of a trained tensor, and how to get at what it was: that is asked when it is compared."""

    after: StoredTensor
    before: Callable[[], RegionPart]
    dtype_before: str

    @property
    def dtype(self) -> str:
        return self.after.entry.dtype


_ROUNDINGS = ("bfloat16", "float16")


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
    first: dict[str, Any] = field(default_factory=dict)
    before: float = math.nan
    change: float = 0.0
    largest: float = 0.0
    not_finite: int = 0
    rounded: str | None = None

    @property
    def relative(self) -> float:
        """``||after - before|| / ||before||``; infinite where it was all zeros."""
        if not self.change:
            return self.change
        return self.change / self.before if self.before else math.inf


@dataclass
class _Numbers:
    before: float = 0.0
    change: float = 0.0
    largest: float = 0.0
    not_finite: int = 0
    roundings: tuple[str, ...] = _ROUNDINGS

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
        self.roundings = tuple(each for each in self.roundings if _is_rounded(seen, expected, dtype, each))

    def add_before(self, values: np.ndarray) -> None:
        values = values[np.isfinite(values)]
        self.before += float(values @ values)


@dataclass(frozen=True)
class _Sides:
    """Two regions of one shape, cut alike."""

    after: RegionPart
    before: RegionPart
    pair: TensorPair
    number: int

    def cuts(self) -> list[Piece]:
        return list(region_pieces(self.after.shape, tuple(map(max, self.after.spans, self.before.spans))))

    def read(self, piece: Piece, desk: WorkerBuffers) -> tuple[np.ndarray, np.ndarray]:
        """What is there, and what is due there: what was, in today's dtype."""
        seen, expected = self.after.read(desk.seen, piece), self.before.read(desk.expected, piece)
        if self.pair.dtype == self.pair.dtype_before:
            return seen, expected
        expected = cast_values(expected, self.pair.dtype_before, self.pair.dtype)
        return seen, expected if np.array_equal(seen, expected) else agreed(seen, expected, self.pair.dtype)


def measure_part(pairs: Sequence[TensorPair], desk: WorkerBuffers, done: Progress) -> Movement:
    """Compare every region of a part of one tensor with what it was, in the dtype that it has now."""
    whole, dtype = pairs[0].after.whole, pairs[0].dtype
    tally, numbers = TensorDiff.of(whole, dtype), _Numbers()
    quiet = [
        (sides, piece)
        for sides in (_sides(pair, number) for number, pair in enumerate(pairs))
        for piece in sides.cuts()
        if _same(sides, piece, desk, tally, numbers, done)
    ]
    if not tally.elements:
        return Movement()
    for sides, piece in quiet if is_decoded(dtype) else ():  # what it was is what it is
        numbers.add_before(decode_values(sides.after.read(desk.seen, piece), dtype).reshape(-1))
    return _change(tally, numbers, dtype)


def _sides(pair: TensorPair, number: int) -> _Sides:
    before = pair.before()
    flat = pair.after.flat(), before.flat()
    if flat[0] is None or flat[1] is None:
        return _Sides(pair.after, before, pair, number)
    return _Sides(flat[0], flat[1], pair, number)


def _same(
    sides: _Sides, piece: Piece, desk: WorkerBuffers, tally: TensorDiff, numbers: _Numbers, done: Progress
) -> bool:
    """Whether a piece is what it was; how it differs is noted."""
    seen, expected = sides.read(piece, desk)
    done(seen.nbytes)
    if np.array_equal(seen, expected):
        return True
    at = np.nonzero(np.atleast_1d(seen != expected))
    inner = [places + cut.start for places, cut in zip(at, piece, strict=False)]
    shape = sides.after.shape
    places = np.asarray(np.ravel_multi_index(inner, shape)) if shape else at[0]
    tally.add(sides.pair.after.region, places, np.atleast_1d(seen)[at], np.atleast_1d(expected)[at], sides.number)
    if is_decoded(sides.pair.dtype):
        numbers.add(seen.reshape(-1), expected.reshape(-1), sides.pair.dtype)
    return False


def _is_rounded(seen: np.ndarray, expected: np.ndarray, dtype: str, narrow: str) -> bool:
    if dtype == narrow or not castable(dtype, narrow):
        return False
    return np.array_equal(seen, cast_values(cast_values(expected, dtype, narrow), narrow, dtype))


def _change(tally: TensorDiff, numbers: _Numbers, dtype: str) -> Movement:
    known = is_decoded(dtype)
    return Movement(
        elements=tally.elements,
        rows=int(tally.rows.sum()),
        first={key: value for key, value in tally.first.items() if key != "region"},
        before=math.sqrt(numbers.before) if known else math.nan,
        change=math.sqrt(numbers.change) if known else math.nan,
        largest=numbers.largest if known else math.nan,
        not_finite=numbers.not_finite,
        rounded=next(iter(numbers.roundings), None) if known else None,
    )
