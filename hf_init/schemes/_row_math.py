"""Arithmetic on rows. What it gives a row depends on that row alone: not on how many are made with it, nor on threads.

So sums go element by element in a fixed order, and products of matrices have one fixed shape, padded with zeros: the
kernels of a matrix product, and with them the last bits, change with its shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from hf_init._tensors import Shape
from hf_init.schemes._sample import one_thread

# Elements of a block of a table that is read at once, 16 MiB in float32; and its rows, since as many are drawn for each
# new row.
BLOCK, MOST_ROWS = 1 << 22, 1 << 13
# Rows of one matrix product. Some are idle where fewer are wanted; a wider one is hardly faster.
TILE = 64
# The columns of a matrix product are a multiple of this: with few of them, a row's bits change with its place.
PRODUCT_COLUMNS = 16
# Weights are whole multiples of this, so that they add up to exactly 1 in any order and their products with float32
# values are exact in float64.
GRAIN = 1 << 24

Ranges = Sequence[tuple[int, int]]


def ids(numbers: Sequence[int]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def select_rows(table: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    return table.index_select(0, ids(rows))


def as_rows(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Return a tensor as ``(rows, width)``; a view where the rows lie along its first dimension."""
    return tensor.movedim(dim, 0).reshape(tensor.shape[dim], -1)


def from_rows(rows: torch.Tensor, shape: Shape, dim: int) -> torch.Tensor:
    """Return rows as a float32 tensor of this shape, in which they lie along a dimension."""
    others = (*shape[:dim], *shape[dim + 1 :])
    return rows.reshape(len(rows), *others).movedim(0, dim).to(torch.float32).contiguous()


def row_blocks(tables: Iterable[torch.Tensor], ranges: Ranges = ()) -> Iterator[torch.Tensor]:
    """Yield the rows of some tables in float32, a block at a time: of each, those in the ranges, or all."""
    for table in tables:
        step = _rows_at_once(table.shape[1])
        for start, stop in ranges or ((0, len(table)),):
            for first in range(start, stop, step):
                # A copy even of float32: its reader may change it.
                yield table[first : min(first + step, stop)].to(torch.float32, copy=True)


def _rows_at_once(width: int) -> int:
    return min(MOST_ROWS, max(1, BLOCK // max(1, width)))


def tree_sum(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of each row, by halves: ``(n, d)`` to ``(n,)``."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        left, right, odd = values[:, :half], values[:, half : 2 * half], values[:, 2 * half :]
        values = torch.cat([left + right, odd], 1)
    return values[:, 0]


def norms(rows: torch.Tensor) -> torch.Tensor:
    """Return the length of each row, in float64."""
    values = rows.to(torch.float64)
    return tree_sum(values * values).sqrt()


# --- combinations ---


def whole_weights(weights: Sequence[float]) -> list[float]:
    """Return weights in proportion to these, of at least 0, that add up to exactly 1: by largest remainders.

    Example:
        >>> sum(whole_weights([1, 1, 1])), whole_weights([3, 1])
        (1.0, [0.75, 0.25])
    """
    total = sum(weights)
    exact = [weight / total * GRAIN for weight in weights]
    whole = [int(share) for share in exact]
    nearest = sorted(range(len(exact)), key=lambda at: (whole[at] - exact[at], at))
    for at in nearest[: GRAIN - sum(whole)]:
        whole[at] += 1
    return [share / GRAIN for share in whole]


def combine_rows(
    table: torch.Tensor, rows: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]
) -> torch.Tensor:
    """Return the weighted sum of each list of rows, ``(n, width)``, made in float64 and rounded to float32."""
    # Terms of weight 0 are left out, and the first term is the start: adding to 0 would turn -0.0 into 0.0.
    terms = [
        [(row, weight) for row, weight in zip(each, shares, strict=True) if weight] or [(each[0], 0.0)]
        for each, shares in zip(rows, weights, strict=True)
    ]
    result = torch.empty(len(rows), table.shape[1], dtype=torch.float32, device="cpu")
    step = _rows_at_once(table.shape[1])
    for start in range(0, len(rows), step):
        some = terms[start : start + step]
        total = _weigh_rows(table, [each[0] for each in some])
        for nth in range(1, max(map(len, some))):
            at = [index for index, each in enumerate(some) if len(each) > nth]
            total[ids(at)] += _weigh_rows(table, [some[index][nth] for index in at])
        result[start : start + step] = total
    return result


def _weigh_rows(table: torch.Tensor, terms: Sequence[tuple[int, float]]) -> torch.Tensor:
    rows = table.index_select(0, ids([row for row, _ in terms])).to(torch.float64)
    weights = torch.tensor([weight for _, weight in terms], dtype=torch.float64, device="cpu")
    return rows * weights[:, None]


def scale_rows(rows: torch.Tensor, length: float) -> torch.Tensor:
    """Return each row with this length; a row of zeros stays one."""
    lengths = norms(rows)
    factors = torch.where(lengths > 0, length / lengths, torch.ones_like(lengths))
    return (rows.to(torch.float64) * factors[:, None]).to(torch.float32)


def lengthen_rows(rows: torch.Tensor, table: torch.Tensor, ranges: Ranges, which: str) -> torch.Tensor:
    """Return rows as long as a table's trained ones; ``centred``: as far from their mean as those, by the median."""
    if which != "centred":
        return scale_rows(rows, typical_norm([table], ranges, which))
    sums = row_moments([table], ranges, spread=False)
    assert sums is not None, "a piece of a token is a row of the table"
    distances = (block - sums.mean for block in row_blocks([table], ranges))
    centred = scale_rows(rows - sums.mean, typical_norm(distances, (), "median"))
    return (centred + sums.mean).to(torch.float32)


def typical_norm(tables: Iterable[torch.Tensor], ranges: Ranges, which: str) -> float:
    """Return the median or the mean length of the rows of some tables."""
    lengths = torch.cat([norms(block) for block in row_blocks(tables, ranges)])
    return float(lengths.median() if which == "median" else lengths.mean())


def between(first: torch.Tensor, second: torch.Tensor, t: float, way: str) -> torch.Tensor:
    """Return the points between rows, at the share ``t``: along a line, or along an arc where they have an angle."""
    a, b = first.to(torch.float64), second.to(torch.float64)
    line = a * (1 - t) + b * t
    if way == "linear":
        return line.to(torch.float32)
    lengths = norms(a) * norms(b)
    cosine = (tree_sum(a * b) / torch.where(lengths > 0, lengths, torch.ones_like(lengths))).clamp(-1, 1)
    angle = torch.arccos(cosine)
    sine = torch.sin(angle)
    arc = a * (torch.sin((1 - t) * angle) / sine)[:, None] + b * (torch.sin(t * angle) / sine)[:, None]
    return torch.where(((sine > 1e-6) & (lengths > 0))[:, None], arc, line).to(torch.float32)


# --- the distribution of rows ---


class Sums:
    """Sums over the rows of a table, about a pivot near their mean so that no digits are lost."""

    def __init__(self, first: torch.Tensor) -> None:
        self.rows = 0
        self.pivot = first.mean(0)
        self.total = torch.zeros_like(self.pivot, dtype=torch.float64)
        self.squares = torch.zeros_like(self.total)

    def add(self, block: torch.Tensor) -> None:
        """Count a block in; afterwards it holds its rows less the pivot."""
        block -= self.pivot
        self.rows += len(block)
        self.total += block.sum(0)

    @property
    def shift(self) -> torch.Tensor:
        """Return the mean, less the pivot."""
        return self.total / self.rows

    @property
    def mean(self) -> torch.Tensor:
        return self.pivot.to(torch.float64) + self.shift

    @property
    def std(self) -> torch.Tensor:
        """Return the standard deviation of each column."""
        return (self.squares / self.rows - self.shift.square()).clamp(min=0).sqrt()


def row_moments(tables: Iterable[torch.Tensor], ranges: Ranges, spread: bool = True) -> Sums | None:
    """Return what gives the columns' mean and, with ``spread``, their std, in one pass; None where there is no row."""
    sums: Sums | None = None
    with one_thread():
        for block in row_blocks(tables, ranges):
            sums = sums or Sums(block)
            sums.add(block)
            if spread:
                sums.squares += block.square_().sum(0)
    return sums


def gaussian(tables: Iterable[torch.Tensor], ranges: Ranges, keys: Sequence[int], scale: float) -> torch.Tensor | None:
    """Draw rows with the mean of a table's and ``scale^2`` times their covariance, one a key; None where it has no row.

    ``mean + scale z^T Xc / sqrt(V)`` with ``z ~ N(0, I_V)`` and ``Xc`` the V centred rows has exactly the covariance
    ``scale^2 Xc^T Xc / V``; the d x d matrix is never made. One pass over the table, in float32.
    """
    sums: Sums | None = None
    products, draws = torch.empty(0), torch.zeros(len(keys), dtype=torch.float64, device="cpu")
    generators = [torch.Generator(device="cpu").manual_seed(key) for key in keys]
    with one_thread():
        for block in row_blocks(tables, ranges):
            if sums is None:
                sums, products = Sums(block), block.new_zeros(len(keys), block.shape[1])
            sums.add(block)
            wide = even(block)
            for start in range(0, len(keys), TILE):
                some = slice(start, start + TILE)
                keyed = len(generators[some])
                # A tile of standard normals, a row for each generator; the rest of it is 0.
                z = torch.zeros(TILE, len(block), dtype=torch.float32, device="cpu")
                for row, generator in zip(z, generators[some], strict=False):
                    row.normal_(generator=generator)
                products[some] += (z @ wide)[:keyed, : block.shape[1]]
                draws[some] += z.sum(1, dtype=torch.float64)[:keyed]
    if sums is None:
        return None
    spread = products.to(torch.float64) - draws[:, None] * sums.shift
    return (sums.mean + spread * (scale / sums.rows**0.5)).to(torch.float32)


def even(columns: torch.Tensor) -> torch.Tensor:
    """Return a matrix with columns of zeros behind it, so that they are a multiple of ``PRODUCT_COLUMNS``."""
    short = -columns.shape[1] % PRODUCT_COLUMNS
    return torch.nn.functional.pad(columns, (0, short)) if short else columns


def equal_rows(rows: torch.Tensor, dtype: str) -> tuple[int, int] | None:
    """Return the first two rows that are the same once rounded; None where all differ."""
    seen: dict[bytes, int] = {}
    stored = rows.to(getattr(torch, dtype)).contiguous()
    for at, row in enumerate(stored.view(torch.uint8).reshape(len(stored), -1).numpy()):
        before = seen.setdefault(row.tobytes(), at)
        if before != at:
            return before, at
    return None


def normal_rows(keys: Sequence[int], width: int) -> torch.Tensor:
    """Draw standard normal rows, each from the generator of its own key."""
    rows = torch.empty(len(keys), width, dtype=torch.float32, device="cpu")
    for row, key in zip(rows, keys, strict=True):
        row.normal_(generator=torch.Generator(device="cpu").manual_seed(key))
    return rows
