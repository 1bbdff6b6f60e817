"""Rows drawn from what the trained rows of the same table have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_init._tensors import Slot, key_of, num_elements
from hf_init.schemes._matrices import coordinates
from hf_init.schemes._row_base import RowScheme, mismatch, table_of
from hf_init.schemes._row_settings import NameSetting, RangesSetting, TextsSetting
from hf_init.schemes._settings import AtLeast0

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DrawnRow(RowScheme):
    """What the schemes share that read all trained rows and draw each new one by its own key.

    Without a table they read the pretrained elements of the tensor itself, and a row's key is its number.
    """

    bound: ClassVar[tuple[str, ...]] = ("table", "trained", "keys")

    # The annotations are those of the settings in the schemes themselves, after their own.
    if TYPE_CHECKING:
        table: NameSetting
        trained: RangesSetting
        keys: TextsSetting

    def unfit(self, slot: Slot) -> str:
        if not self.table and slot.shape == slot.whole:
            return "nothing of it is pretrained: use normal"
        return mismatch(slot, keys=self.keys) if self.keys else ""

    def tables(self, slot: Slot, dim: int) -> Iterator[torch.Tensor]:
        """The rows to read, ``(V, width)``, piece by piece."""
        from hf_init.schemes import _row_math

        if self.table:
            yield table_of(self, slot, dim, self.table)
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
        """The trained rows of the table; the tensor's own pretrained rows are all trained."""
        return self.trained if self.table else ()

    def row_keys(self, slot: Slot, dim: int) -> list[int]:
        """The seed of each new row's own generator: of the token's text, or else of the row's number."""
        texts = self.keys or [f"row {row}" for row in coordinates(slot, dim)]
        return [key_of(slot.seed, slot.name, text) for text in texts]

    def refuse_repeated(self, slot: Slot, rows: torch.Tensor) -> None:
        """Raise RecipeError if two rows are the same once rounded; single numbers may be."""
        from hf_init.schemes import _row_math

        pair = _row_math.repeated(rows, slot.dtype) if rows.shape[1] > 1 else None
        if pair is not None:
            names = [repr(self.keys[at]) if self.keys else f"number {at}" for at in pair]
            raise self.refusal(
                slot, f"its new rows {' and '.join(names)} are the same in {slot.dtype}: make its settings larger"
            )

    def nothing(self, slot: Slot) -> Exception:
        return self.refusal(slot, "it has no trained rows to read: use normal")


@dataclass(frozen=True)
class MeanRow(DrawnRow):
    """Each new row is the mean of the trained rows, plus noise by which the new rows differ.

    As output rows without noise, n of them take at most n / (V + n) of the probability: the mean of the logits is at
    most the logarithm of the mean of their exponentials.

    Args:
        noise: standard deviation of the normal noise, as a share of that of each column of the trained rows; 0: the
            new rows are equal, and training alone tells them apart.
        table: the tensor of the source whose rows are meant; empty for the tensor's own pretrained rows.
        trained: ranges ``(start, stop)`` of the table's trained rows; empty for all.
        keys: the tokens' texts: a row's noise depends on its own text and the seed, and on no other token.

    Raises:
        RecipeError: nothing is pretrained, or new rows with noise are the same once rounded.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.MeanRow(noise=0.01))
        'mean(noise=0.01)'

    Source: Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021.
    """

    name: ClassVar[str] = "mean"
    noise: AtLeast0 = 0.0
    table: NameSetting = ""
    trained: RangesSetting = ()
    keys: TextsSetting = ()

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        sums = _row_math.row_moments(self.tables(slot, dim), self.ranges, spread=self.noise > 0)
        if sums is None:
            raise self.nothing(slot)
        mean = sums.mean.expand(slot.shape[dim], -1)
        if not self.noise:
            return mean
        noise = _row_math.normal_rows(self.row_keys(slot, dim), mean.shape[1])
        rows = mean + noise * (sums.std * self.noise)
        self.refuse_repeated(slot, rows)
        return rows


@dataclass(frozen=True)
class Gaussian(DrawnRow):
    """Each new row is drawn from the normal distribution that has the trained rows' mean and covariance.

    It is ``mean + scale z^T Xc / sqrt(V)``, ``z ~ N(0, I_V)``, ``Xc`` the V centred trained rows: exactly their
    covariance, without making it. One pass over the table in blocks, in float32.

    Args:
        scale: factor on the spread.
        table, trained, keys: as in ``MeanRow``.

    Raises:
        RecipeError: nothing is pretrained, or new rows are the same once rounded: make ``scale`` larger.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Gaussian(scale=0.5))
        'gaussian(scale=0.5)'

    Source: Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021.
    """

    name: ClassVar[str] = "gaussian"
    scale: AtLeast0 = 1.0
    table: NameSetting = ""
    trained: RangesSetting = ()
    keys: TextsSetting = ()

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        rows = _row_math.gaussian(self.tables(slot, dim), self.ranges, self.row_keys(slot, dim), self.scale)
        if rows is None:
            raise self.nothing(slot)
        self.refuse_repeated(slot, rows)
        return rows
