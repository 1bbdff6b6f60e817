"""A vocabulary before and after: which row of a table is which token's, and which rows are new. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from hf_init._plan import RowMap, RowMapping, format_shape
from hf_init._tensors import Copy, Region, Rows, Shape


@dataclass(frozen=True)
class Vocabulary:
    """Where the rows of a vocabulary's tables come from. A row's number is its token's id.

    Attributes:
        before, after: rows of the base's tables and of the target's, tokens or not.
        new_ids: ids whose rows are new, wherever they lie: behind the base's rows, in its padding, or on rows that the
            user gives up.
        moved: for another tokenizer, the base's id of each new id whose token is the same; None where ids stay.
        tokens_behind: rows that a table has behind those of the vocabulary are tokens', by their ids, and stay there.

    Example:
        >>> Vocabulary(4, 6, frozenset({3, 4})).sources(4, 6)
        (0, 1, 2, None, None, None)
    """

    before: int
    after: int
    new_ids: frozenset[int] = frozenset()
    moved: Mapping[int, int] | None = None
    tokens_behind: bool = False

    def sources(self, before: int, after: int) -> tuple[int | None, ...]:
        """Return for each row of a target table of ``after`` rows the source row that it is; None where it is new.

        A table may have rows behind those of the vocabulary (a start token of its own): they stay behind.

        Raises:
            ValueError: the two tables don't stand to the vocabulary in the same way.
        """
        behind = after - self.after
        if before - self.before != behind or behind < 0:
            raise ValueError(
                f"has {before} rows for a vocabulary of {self.before} and would have {after} for one of {self.after}: "
                "which row is which token's isn't known"
            )
        if behind and self.tokens_behind:
            rows = (row if row >= self.before and row not in self.new_ids else self.source(row) for row in range(after))
            return tuple(None if row is None or row >= before else row for row in rows)
        return (*map(self.source, range(self.after)), *range(self.before, before))

    def new_rows(self, region: Rows) -> tuple[int, ...]:
        """Return the rows that are new in the table that a region is of."""
        after = region.of[region.dim]
        return tuple(
            row for row, source in enumerate(self.sources(after - self.after + self.before, after)) if source is None
        )

    @property
    def changes(self) -> bool:
        """Return whether anything moves, comes or goes."""
        return self.sources(self.before, self.after) != tuple(range(self.before))

    def padding(self, tokens: Collection[int]) -> tuple[int, ...]:
        """Return the rows that are new though no token has them."""
        return tuple(row for row in range(self.after) if self.source(row) is None and row not in tokens)

    def dropped(self) -> tuple[int, ...]:
        """Return the base's rows that the target doesn't have."""
        if self.moved is not None:
            return tuple(sorted(set(range(self.before)) - set(self.moved.values())))
        return tuple(range(self.after, self.before))

    def source(self, row: int) -> int | None:
        """Return the base's row that a row of the vocabulary is; None where it is new."""
        if row in self.new_ids:
            return None
        if self.moved is not None:
            return self.moved.get(row)
        return row if row < self.before else None


@dataclass(frozen=True)
class VocabularyRows(RowMapping):
    """The rows of one of a vocabulary's tables, along ``dim``."""

    vocabulary: Vocabulary
    dim: int = 0

    def regions(self, source: str, before: Shape, after: Shape) -> tuple[tuple[Copy, ...], tuple[Region, ...]]:
        if len(before) != len(after):
            raise ValueError(f"{format_shape(before)} doesn't fit into {format_shape(after)}")
        index = self.vocabulary.sources(before[self.dim], after[self.dim])
        return RowMap(index, self.dim, drop=True).regions(source, before, after)


def rows_needed(tokens: int, before: int, multiple: int | None = None, shrink: bool = False) -> int:
    """Return how many rows serve ids below ``tokens``, where there were ``before``: never fewer, unless ``shrink``.

    Example:
        >>> rows_needed(151_671, 151_936), rows_needed(151_671, 151_936, 64, shrink=True), rows_needed(1001, 1000, 64)
        (151936, 151680, 1024)
    """
    least = tokens if shrink else max(tokens, before)
    return least if multiple is None else -(-least // multiple) * multiple


def id_ranges(rows: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Return numbers as ranges ``(start, stop)``, in order.

    Example:
        >>> id_ranges([7, 3, 4])
        ((3, 5), (7, 8))
    """
    ranges: list[tuple[int, int]] = []
    for row in sorted(set(rows)):
        if ranges and ranges[-1][1] == row:
            ranges[-1] = (ranges[-1][0], row + 1)
        else:
            ranges.append((row, row + 1))
    return tuple(ranges)


RANGES = 4
"""The most ranges of row numbers that are written out."""


def format_ids(rows: Collection[int]) -> str:
    """Format row numbers as a person writes them.

    Example:
        >>> format_ids([5, 6, 7, 9])
        '5 to 7, 9'
    """
    parts = [f"{start}" if stop - start == 1 else f"{start} to {stop - 1}" for start, stop in id_ranges(rows)]
    more = f" and {len(parts) - RANGES} more ranges" if len(parts) > RANGES else ""
    return ", ".join(parts[:RANGES]) + more
