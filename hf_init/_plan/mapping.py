"""A declared correspondence between a source tensor and a target tensor of another shape or order. Pure.

Whatever is said is said exactly: where each kept element comes from, what is new, and whether anything is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from hf_init._errors import PlanError
from hf_init._tensors import Box, Copy, Region, Rows, Shape, num_elements, subtract_boxes

RUN = 32
"""From so many neighbouring rows on, a row map copies a box."""

RowMappingLike: TypeAlias = "str | Sequence[int | None] | Mapping[str, Any] | RowMapping"
FORMS = (
    "'leading', 'none', a list with a source row or None for each target row, {'dim': 1, 'index': [...]}, or "
    "{'boxes': [(TARGET, SOURCE), ...]} with (start, stop) pairs; the last two take 'drop': True"
)


class RowMapping:
    """How the elements of a source tensor stand in a target tensor; one of the classes below."""

    def regions(self, source: str, before: Shape, after: Shape) -> tuple[tuple[Copy, ...], tuple[Region, ...]]:
        """Return the kept and the new regions of a tensor of shape ``after``, from one of shape ``before``.

        Raises:
            ValueError: the correspondence doesn't fit the shapes; it says why, without the tensor's name.
        """
        raise NotImplementedError(f"{type(self).__name__} has no regions()")


@dataclass(frozen=True)
class Leading(RowMapping):
    """Every element keeps its indices; what lies beyond them is new."""

    def regions(self, source: str, before: Shape, after: Shape) -> tuple[tuple[Copy, ...], tuple[Region, ...]]:
        if len(before) != len(after) or any(a > b for a, b in zip(before, after, strict=True)):
            raise ValueError(f"'leading' would lose elements of {format_shape(before)} in {format_shape(after)}")
        whole = Box.whole(before)
        return (Copy(whole, source, whole),), tuple(subtract_boxes(after, [whole]))


@dataclass(frozen=True)
class Nothing(RowMapping):
    """Nothing is kept: the whole tensor is new."""

    def regions(self, source: str, before: Shape, after: Shape) -> tuple[tuple[Copy, ...], tuple[Region, ...]]:
        return (), (Box.whole(after),)


@dataclass(frozen=True)
class RowMap(RowMapping):
    """For each target row along ``dim``, the source row that it is, or None where it is new.

    Attributes:
        drop: whether source rows without a place are dropped; otherwise they are an error.
    """

    index: tuple[int | None, ...]
    dim: int = 0
    drop: bool = False

    def regions(self, source: str, before: Shape, after: Shape) -> tuple[tuple[Copy, ...], tuple[Region, ...]]:
        self._check_fits(before, after)
        new = tuple(row for row, at in enumerate(self.index) if at is None)
        return tuple(self._copies(source, before, after)), ((Rows(self.dim, new, after),) if new else ())

    def _copies(self, source: str, before: Shape, after: Shape) -> Iterator[Copy]:
        """Yield a box for each long run of neighbours, and one set of rows for all others."""
        scattered: list[tuple[int, int]] = []
        for row, at, length in neighbour_runs(self.index):
            if length >= RUN:
                region, origin = _row_band(after, self.dim, row, length), _row_band(before, self.dim, at, length)
                yield Copy(region, source, origin)
            else:
                scattered += [(row + k, at + k) for k in range(length)]
        if scattered:
            rows, places = zip(*scattered, strict=True)
            yield Copy(Rows(self.dim, rows, after), source, Rows(self.dim, places, before))

    def _check_fits(self, before: Shape, after: Shape) -> None:
        dim = self.dim
        if len(before) != len(after) or dim >= len(after) or _other_dims(before, dim) != _other_dims(after, dim):
            raise ValueError(
                f"rows of {format_shape(before)} along dimension {dim} don't fit into {format_shape(after)}"
            )
        if len(self.index) != after[dim]:
            raise ValueError(f"the map has {len(self.index)} rows, the target {after[dim]} along dimension {dim}")
        outside = sorted({at for at in self.index if at is not None and not 0 <= at < before[dim]})
        if outside:
            raise ValueError(f"the map reads rows {outside}, the source has rows 0 to {before[dim] - 1}")
        lost = sorted(set(range(before[dim])) - set(self.index))
        if lost and not self.drop:
            first = ", ".join(map(str, lost[:8])) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
            raise ValueError(f"source rows {first} would have no place: place them, or say drop")


@dataclass(frozen=True)
class Boxes(RowMapping):
    """Boxes of the target, each with the box of the source that it is; what no box covers is new.

    Attributes:
        drop: whether source elements without a place are dropped; otherwise they are an error.
    """

    pairs: tuple[tuple[Box, Box], ...]
    drop: bool = False

    def regions(self, source: str, before: Shape, after: Shape) -> tuple[tuple[Copy, ...], tuple[Region, ...]]:
        for target, origin in self.pairs:
            _check_inside(target, after, "the target")
            _check_inside(origin, before, "the source")
            if target.shape != origin.shape:
                raise ValueError(
                    f"a box of {format_shape(origin.shape)} doesn't fit into one of {format_shape(target.shape)}"
                )
        targets = [target for target, _ in self.pairs]
        new = tuple(box for box in subtract_boxes(after, targets) if num_elements(box.shape))
        if sum(num_elements(box.shape) for box in (*targets, *new)) != num_elements(after):
            raise ValueError("boxes of the target overlap")
        lost = sum(num_elements(box.shape) for box in subtract_boxes(before, [origin for _, origin in self.pairs]))
        if lost and not self.drop:
            raise ValueError(f"{lost} source elements would have no place: place them, or say drop")
        return tuple(Copy(target, source, origin) for target, origin in self.pairs), new


def parse_mapping(how: RowMappingLike, what: str = "a tensor") -> RowMapping:
    """Return a correspondence from any of its spellings; ``what`` it is for is named where it is none.

    Raises:
        PlanError: it is none of them.

    Example:
        >>> parse_mapping([2, 0, None])
        RowMap(index=(2, 0, None), dim=0, drop=False)
    """
    if isinstance(how, RowMapping):
        return how
    known = {"leading": Leading(), "none": Nothing()}
    if isinstance(how, str) and how in known:
        return known[how]
    try:
        if isinstance(how, Mapping) and set(how) <= {"boxes", "drop"} and "boxes" in how:
            return Boxes(tuple((_parsed_box(a), _parsed_box(b)) for a, b in how["boxes"]), _drop_flag(how))
        if isinstance(how, Mapping) and set(how) <= {"dim", "index", "drop"} and "index" in how:
            return RowMap(_parsed_rows(how["index"]), _whole_number(how.get("dim", 0)), _drop_flag(how))
        if not isinstance(how, (str, Mapping)):
            return RowMap(_parsed_rows(how))
    except (TypeError, ValueError):
        pass  # what it is instead is said below, whatever it was
    raise PlanError(f"keep: unknown correspondence for {what}: {how!r}; known: {FORMS}")


def neighbour_runs(index: Sequence[int | None]) -> Iterator[tuple[int, int, int]]:
    """Yield maximal runs of neighbours that stay neighbours: the first target row, the first source row, how many.

    Example:
        >>> list(neighbour_runs((4, 5, None, 0)))
        [(0, 4, 2), (3, 0, 1)]
    """
    start = 0
    for row in range(1, len(index) + 1):
        first, here = index[start], index[row] if row < len(index) else None
        if first is not None and here == first + row - start:
            continue
        if first is not None:
            yield start, first, row - start
        start = row


def _row_band(shape: Shape, dim: int, start: int, length: int) -> Box:
    """Return neighbouring rows along one dimension, as a box."""
    whole = Box.whole(shape)
    return Box(
        (*whole.start[:dim], start, *whole.start[dim + 1 :]),
        (*whole.stop[:dim], start + length, *whole.stop[dim + 1 :]),
    )


def _parsed_rows(rows: Iterable[object]) -> tuple[int | None, ...]:
    return tuple(None if row is None else _whole_number(row) for row in rows)


def _whole_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"expected a whole number of at least 0, not {value!r}")
    return value


def _parsed_box(pairs: Sequence[Sequence[int]]) -> Box:
    starts, stops = zip(*((_whole_number(a), _whole_number(b)) for a, b in pairs), strict=True)
    return Box(starts, stops)


def _drop_flag(how: Mapping[str, object]) -> bool:
    drop = how.get("drop", False)
    if not isinstance(drop, bool):
        raise TypeError(f"drop is true or false, not {drop!r}")
    return drop


def _check_inside(box: Box, shape: Shape, what: str) -> None:
    fits = len(box.start) == len(shape) and all(a <= b <= n for a, b, n in zip(box.start, box.stop, shape, strict=True))
    if not fits:
        pairs = ", ".join(f"{a}:{b}" for a, b in zip(box.start, box.stop, strict=True))
        raise ValueError(f"the box [{pairs}] lies outside {what}, {format_shape(shape)}")


def _other_dims(shape: Shape, dim: int) -> Shape:
    return (*shape[:dim], *shape[dim + 1 :])


def format_shape(shape: Sequence[int]) -> str:
    """Return a shape as a person writes it.

    Example:
        >>> format_shape((3, 384)), format_shape(())
        ('3x384', 'scalar')
    """
    return "x".join(map(str, shape)) or "scalar"
