"""What schemes that make whole rows of a table share: where the rows lie, and where they read others."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_init._tensors import Rows, Slot, num_elements
from hf_init.schemes._base import Scheme

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RowScheme(Scheme):
    """A scheme whose unit is a row: what one index along the vocabulary's (or the positions') dimension holds.

    A row is a vector of a table ``(V, d)``, a number of a bias ``(V,)`` or of a ``(1, V)`` one.

    Args:
        table: the tensor of the source whose rows are meant; bound by the plan.
    """

    group: ClassVar[str] = "rows of a table"

    @property
    def is_mixture(self) -> bool:
        """Return whether every new row is a mean of old ones, in shares that depend on no value of a table."""
        return False

    def unsupported_reason(self, slot: Slot) -> str:
        if not num_elements(slot.shape):
            return ""
        if row_dim(slot) is None:
            return "its new region isn't made of whole rows: use matched_normal"
        return self.unfit(slot)

    def unfit(self, slot: Slot) -> str:
        """Return why the settings don't fit these rows; empty when they do."""
        return ""

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _row_math, _sample

        if not num_elements(slot.shape):
            return _sample.empty_values(slot.shape)
        dim = row_dim(slot) or 0
        return _row_math.from_rows(self.rows_of(slot, dim), slot.shape, dim)

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        """Return the new rows, ``(n, width)``, in the order of the region."""
        raise NotImplementedError(f"{type(self).__name__} has no rows_of()")

    def table_rows(self, slot: Slot, dim: int, name: str) -> torch.Tensor:
        """Return a tensor of the source as rows, ``(V, width)``, mapped: not to be written to.

        Raises:
            RecipeError: it isn't at hand, or its rows have another width.
        """
        from hf_init.schemes import _row_math

        if slot.source is None:
            raise self.refusal(slot, f"the source, whose {name!r} it reads, isn't at hand: plan an extension")
        try:
            tensor = slot.source(name)
        except KeyError:
            raise self.refusal(slot, f"the source has no tensor {name!r}: name the table it reads") from None
        if tensor.ndim != len(slot.whole):
            raise self.refusal(slot, f"{name!r} has {tensor.ndim} dimensions, expected {len(slot.whole)}")
        rows = _row_math.as_rows(tensor, dim)
        width = num_elements(slot.shape) // num_rows(slot)
        if rows.shape[1] != width:
            raise self.refusal(slot, f"the rows of {name!r} have {rows.shape[1]} elements, expected {width}")
        return rows

    def check_row(self, slot: Slot, rows: int, last: int) -> None:
        """Raise RecipeError if the table with this many rows doesn't have the last one that is read."""
        if last >= rows:
            raise self.refusal(slot, f"row {last} is asked for, and the table has {rows}: name rows below that")


def row_dim(slot: Slot) -> int | None:
    """Return the dimension along which the slot's rows follow each other; None where it holds parts of rows.

    Example:
        >>> row_dim(Slot("bias", Rows(1, (7, 8), (1, 9)), (1, 9)))
        1
    """
    if isinstance(slot.region, Rows):
        return slot.region.dim
    cut = [dim for dim, size in enumerate(slot.whole) if slot.shape[dim] != size]
    if not slot.whole or len(cut) > 1:
        return None
    return cut[0] if cut else 0


def num_rows(slot: Slot) -> int:
    return slot.shape[row_dim(slot) or 0]


def mismatch(slot: Slot, **settings: Sized) -> str:
    """Return which of some settings hasn't an entry for each new row; empty when all have."""
    rows = num_rows(slot)
    wrong = [f"{name} has {len(value)}" for name, value in settings.items() if len(value) != rows]
    return f"it has {rows} new rows, and {', '.join(wrong)}: give one entry a row" if wrong else ""
