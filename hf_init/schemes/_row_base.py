"""What schemes that make whole rows of a table share: where the rows lie, and where they read others."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from hf_init._tensors import Rows, Slot, num_elements
from hf_init.schemes._base import Scheme, format_scheme

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RowScheme(Scheme):
    """A scheme whose unit is a row: what one index along the vocabulary's (or the positions') dimension holds.

    A row is a vector of a table ``(V, d)``, a number of a bias ``(V,)`` or of a ``(1, V)`` one. Some settings are bound
    by whoever knows the tokenizer (``bound``); a recipe leaves them out, and ``str`` does.
    """

    bound: ClassVar[tuple[str, ...]] = ()

    def unsupported_reason(self, slot: Slot) -> str:
        if not num_elements(slot.shape):
            return ""
        if row_dim(slot) is None:
            return "its new region isn't made of whole rows: use matched_normal"
        return self.unfit(slot)

    def unfit(self, slot: Slot) -> str:
        """Why the settings don't fit these rows; empty when they do."""
        return ""

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _row_math, _sample

        if not num_elements(slot.shape):
            return _sample.empty_values(slot.shape)
        dim = row_dim(slot) or 0
        return _row_math.placed(self.rows_of(slot, dim), slot.shape, dim)

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        """The new rows, ``(n, width)``, in the order of the region."""
        raise NotImplementedError(f"{type(self).__name__} has no rows_of()")

    def to_json(self) -> dict[str, Any]:
        return {key: _plain(value) for key, value in super().to_json().items()}

    def __str__(self) -> str:
        mine = [field for field in fields(self) if field.name not in self.bound]
        shown = [
            f"{field.name}={_literal(getattr(self, field.name))}"
            for field in mine
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(shown)})" if shown else self.name


def row_dim(slot: Slot) -> int | None:
    """The dimension along which the slot's rows follow each other; None where it holds parts of rows.

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


def rows_in(slot: Slot) -> int:
    """How many rows the slot has."""
    return slot.shape[row_dim(slot) or 0]


def mismatch(slot: Slot, **settings: tuple[Any, ...]) -> str:
    """Which of some settings hasn't an entry a row; empty when all have."""
    wrong = [f"{name} has {len(value)}" for name, value in settings.items() if len(value) != rows_in(slot)]
    return f"it has {rows_in(slot)} new rows, and {', '.join(wrong)}: give one entry a row" if wrong else ""


def table_of(scheme: Scheme, slot: Slot, dim: int, name: str) -> torch.Tensor:
    """A tensor of the source as rows, ``(V, width)``, mapped: not to be written to.

    Raises:
        RecipeError: it isn't at hand, or its rows have another width.
    """
    from hf_init.schemes import _row_math

    if slot.source is None:
        raise scheme.refusal(slot, f"the source, whose {name!r} it reads, isn't at hand: plan an extension")
    try:
        tensor = slot.source(name)
    except KeyError:
        raise scheme.refusal(slot, f"the source has no tensor {name!r}: name the table it reads") from None
    if tensor.ndim != len(slot.whole):
        raise scheme.refusal(slot, f"{name!r} has {tensor.ndim} dimensions, expected {len(slot.whole)}")
    rows = _row_math.as_rows(tensor, dim)
    width = num_elements(slot.shape) // rows_in(slot)
    if rows.shape[1] != width:
        raise scheme.refusal(slot, f"the rows of {name!r} have {rows.shape[1]} elements, expected {width}")
    return rows


def check_beyond(scheme: Scheme, slot: Slot, rows: int, last: int) -> None:
    """Raise RecipeError if a row is asked for that the table hasn't."""
    if last >= rows:
        raise scheme.refusal(slot, f"row {last} is asked for, and the table has {rows}: name rows below that")


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _literal(value: Any) -> str:
    """A setting as a recipe spells it: a word bare, any other text in quotes."""
    return repr(value) if isinstance(value, str) and not value.isidentifier() else format_scheme(value)
