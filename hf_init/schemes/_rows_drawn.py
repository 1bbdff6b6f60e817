"""Rows drawn from what the trained rows of the same table have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_init._errors import RecipeError
from hf_init._tensors import Slot, key_of, num_elements
from hf_init.schemes._matrices import coordinates
from hf_init.schemes._row_base import RowScheme, mismatch
from hf_init.schemes._settings import AtLeast0, RowRanges, Text, Texts

if TYPE_CHECKING:
    import torch

__all__ = ["Gaussian", "MeanRow"]


class DrawnRow(RowScheme):
    """What the schemes share that read all trained rows and draw each new one by its own key.

    Without a table they read the pretrained elements of the tensor itself, and a row's key is its number.

    Args:
        table: the tensor of the source whose rows are read; empty: the tensor's own pretrained rows.
        trained: ranges (start, stop) of the table's trained rows; empty: all. Bound by the plan.
        keys: the tokens' texts, each of which seeds its own row; bound by the plan.

    Raises:
        RecipeError: nothing is pretrained, or new rows that should differ are the same once rounded.
    """

    bound: ClassVar[tuple[str, ...]] = ("table", "trained", "keys")

    # Not a dataclass, so that these aren't its fields: the schemes declare them after their own settings.
    table: Text
    trained: RowRanges
    keys: Texts

    def unfit(self, slot: Slot) -> str:
        if not self.table and slot.shape == slot.whole:
            return "nothing of it is pretrained: use normal"
        return mismatch(slot, keys=self.keys) if self.keys else ""

    def tables(self, slot: Slot, dim: int) -> Iterator[torch.Tensor]:
        """Yield the rows to read, ``(V, width)``, piece by piece."""
        from hf_init.schemes import _row_math

        if self.table:
            yield self.table_rows(slot, dim, self.table)
            return
        if slot.trained is None:
            raise self.refusal(slot, "its pretrained elements aren't at hand: use normal")
        width = num_elements(slot.shape) // slot.shape[dim]
        for piece in slot.trained():
            rows = _row_math.as_rows(piece, dim)
            if rows.shape[1] != width:
                raise self.refusal(slot, "its pretrained rows have another width: use matched_normal")
            yield rows

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Return the trained rows of the table; the tensor's own pretrained rows are all trained."""
        return self.trained if self.table else ()

    def row_keys(self, slot: Slot, dim: int) -> list[int]:
        """Return the seed of each new row's own generator: of the token's text, or else of the row's number."""
        texts = self.keys or [f"row {row}" for row in coordinates(slot, dim)]
        return [key_of(slot.seed, slot.name, text) for text in texts]

    def check_distinct(self, slot: Slot, rows: torch.Tensor) -> None:
        """Raise RecipeError if two rows are the same once rounded; single numbers may be."""
        from hf_init.schemes import _row_math

        pair = _row_math.equal_rows(rows, slot.dtype) if rows.shape[1] > 1 else None
        if pair is not None:
            names = [repr(self.keys[at]) if self.keys else f"number {at}" for at in pair]
            raise self.refusal(
                slot, f"its new rows {' and '.join(names)} are the same in {slot.dtype}: make its settings larger"
            )

    def nothing_trained(self, slot: Slot) -> RecipeError:
        return self.refusal(slot, "it has no trained rows to read: use normal")


@dataclass(frozen=True)
class MeanRow(DrawnRow):
    """The mean of the trained rows, and noise if asked for.

    As output rows without noise, n of them take at most n / (V + n) of the probability: the mean of the logits is at
    most the logarithm of the mean of their exponentials. A row's noise depends on its own text and the seed, and on no
    other token.

    Formula: w = m + noise * s * z, z ~ N(0, I); m, s mean and standard deviation of the trained rows, column by column
    Use: Output rows that must hardly be seen: n of them take at most n / (V + n) of the probability. Control tokens.
        Longer tables of positions start better from other schemes.
    Source: Hewitt, Initializing New Word Embeddings for Pretrained Language Models, 2021.

    Args:
        noise: as a share of s; 0: equal rows, which training alone tells apart.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.MeanRow(noise=0.01))
        'mean(noise=0.01)'
    """

    name: ClassVar[str] = "mean"
    noise: AtLeast0 = 0.0
    table: Text = ""
    trained: RowRanges = ()
    keys: Texts = ()

    @property
    def is_mixture(self) -> bool:
        return not self.noise

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        sums = _row_math.row_moments(self.tables(slot, dim), self.ranges, spread=self.noise > 0)
        if sums is None:
            raise self.nothing_trained(slot)
        mean = sums.mean.expand(slot.shape[dim], -1)
        if not self.noise:
            return mean
        noise = _row_math.normal_rows(self.row_keys(slot, dim), mean.shape[1])
        rows = mean + noise * (sums.std * self.noise)
        self.check_distinct(slot, rows)
        return rows


@dataclass(frozen=True)
class Gaussian(DrawnRow):
    """Drawn with the mean and the covariance of the trained rows.

    Exactly their covariance, without making it: one pass over the table in blocks, in float32.

    Formula: w = m + scale * z' Xc / sqrt(V), z ~ N(0, I_V), Xc the V centred trained rows: covariance scale^2 Xc' Xc /
        V
    Use: Rows without any text to make them of, that should look like trained ones. As output rows they take
        probability from the old ones: subtokens or mean don't.
    Source: Hewitt, Initializing New Word Embeddings for Pretrained Language Models, 2021.

    Args:
        scale: factor on the spread.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Gaussian(scale=0.5))
        'gaussian(scale=0.5)'
    """

    name: ClassVar[str] = "gaussian"
    scale: AtLeast0 = 1.0
    table: Text = ""
    trained: RowRanges = ()
    keys: Texts = ()

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        rows = _row_math.gaussian(self.tables(slot, dim), self.ranges, self.row_keys(slot, dim), self.scale)
        if rows is None:
            raise self.nothing_trained(slot)
        self.check_distinct(slot, rows)
        return rows
