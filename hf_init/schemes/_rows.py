"""Rows made of other rows: pieces of a token, copies, points between two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_init._errors import RecipeError
from hf_init._tensors import Slot
from hf_init.schemes._row_base import RowScheme, check_beyond, mismatch, rows_in, table_of
from hf_init.schemes._row_settings import (
    LengthLists,
    NameSetting,
    NormSetting,
    PairsSetting,
    PieceLists,
    RangesSetting,
    RowList,
    TextsSetting,
    WaySetting,
    WeightsSetting,
)
from hf_init.schemes._settings import AtLeast0, Share

if TYPE_CHECKING:
    import torch

BY_LENGTH = ("characters", "characters_first")
UNBOUND = "say which rows it is made of: name tokens where the base has a tokenizer (add_tokens)"


@dataclass(frozen=True)
class SubTokens(RowScheme):
    """Each new row is a weighted mean of the rows of its token's pieces under the old tokenizer.

    The weights are at least 0 and add up to exactly 1, so a row lies in the convex hull of the old ones and its logit
    is at most the largest old logit: greedy decoding doesn't change. A row whose pieces are all one row is that row,
    bit for bit. With ``norm`` a row is scaled and leaves the hull. A mean of several rows is nearer to the mean of all
    rows than one row is; ``norm="centred"`` makes up for that and leaves what all rows have in common as it is, where
    scaling the whole row would scale that, too, and with it, on the output, every logit.

    Args:
        weights: of a token's pieces: ``uniform``; ``characters``, by their lengths; ``exp_first`` and ``exp_last``,
            ``exp(-alpha)`` from one piece to the next, largest at the first or the last; ``characters_first``, lengths
            times those of ``exp_first``, so that tokens of the same pieces in another order differ; ``first``,
            ``last``: it alone.
        alpha: of the exponential weights.
        norm: scale each row to the ``median`` or the ``mean`` length of the trained rows; ``centred``: scale its
            distance from their mean to the median of theirs.
        table: the tensor of the source whose rows are meant; empty until the plan binds it, as are the rest.
        pieces: for each new row, in the region's order, the rows of its pieces.
        lengths: of the pieces, in characters.
        trained: ranges ``(start, stop)`` of the table's trained rows; empty for all.

    Raises:
        RecipeError: the settings don't go together, no pieces are bound, or they aren't in the table.

    Example:
        >>> from hf_init import schemes
        >>> schemes.SubTokens(table="e", pieces=((0, 1, 2),), weights="exp_first").shares(0)
        [0.6652409434318542, 0.24472850561141968, 0.09003055095672607]

    Source: Gee et al., "Fast Vocabulary Transfer for Language Model Compression", 2022 (uniform); Kim et al., "EEVE",
    2024 (first); Nakash et al., "AdaptiVocab", 2025 (exponential); Mundra et al., "An Empirical Comparison of
    Vocabulary Expansion and Initialization Approaches for Language Models", 2024 (the hull).
    """

    name: ClassVar[str] = "subtokens"
    bound: ClassVar[tuple[str, ...]] = ("table", "pieces", "lengths", "trained")
    weights: WeightsSetting = "uniform"
    alpha: AtLeast0 = 1.0
    norm: NormSetting = None
    table: NameSetting = ""
    pieces: PieceLists = ()
    lengths: LengthLists = ()
    trained: RangesSetting = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = [at for at, (a, b) in enumerate(zip(self.pieces, self.lengths, strict=False)) if len(a) != len(b)]
        if wrong or (self.lengths and len(self.lengths) != len(self.pieces)):
            raise RecipeError(f"{self.name}: lengths don't belong to pieces: give each piece one length")

    def unfit(self, slot: Slot) -> str:
        if not self.table or not self.pieces:
            return f"{UNBOUND}, or use mean"
        if self.weights in BY_LENGTH and not self.lengths:
            return f"weights={self.weights} needs the lengths of the pieces: give lengths, or use weights=uniform"
        if self.norm and len(slot.whole) < 2:
            return "a bias has no rows to scale: use norm=None"
        return mismatch(slot, pieces=self.pieces)

    def shares(self, row: int) -> list[float]:
        """The weights of one new row's pieces."""
        from hf_init.schemes._row_math import whole_weights

        many = len(self.pieces[row])
        return whole_weights(_SHARES[self.weights](many, self.alpha, self.lengths[row] if self.lengths else ()))

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        table = table_of(self, slot, dim, self.table)
        check_beyond(self, slot, len(table), max(map(max, self.pieces)))
        made = _row_math.combined(table, self.pieces, [self.shares(row) for row in range(len(self.pieces))])
        if self.norm is None:
            return made
        return _row_math.lengthened(made, table, self.trained, self.norm)


def _exponential(many: int, alpha: float) -> Iterator[float]:
    return (math.exp(-alpha * place) for place in range(many))


def _by_length(many: int, lengths: Sequence[int]) -> list[float]:
    return [float(length) for length in lengths] if any(lengths) else [1.0] * many


def _both(lengths: Sequence[float], shares: Sequence[float]) -> list[float]:
    found = [length * share for length, share in zip(lengths, shares, strict=True)]
    return found if any(found) else [*shares]


_SHARES = {
    "uniform": lambda many, alpha, lengths: [1.0] * many,
    "characters": lambda many, alpha, lengths: _by_length(many, lengths),
    "characters_first": lambda many, alpha, lengths: _both(_by_length(many, lengths), [*_exponential(many, alpha)]),
    "exp_first": lambda many, alpha, lengths: [*_exponential(many, alpha)],
    "exp_last": lambda many, alpha, lengths: [*_exponential(many, alpha)][::-1],
    "first": lambda many, alpha, lengths: [1.0] + [0.0] * (many - 1),
    "last": lambda many, alpha, lengths: [0.0] * (many - 1) + [1.0],
}


@dataclass(frozen=True)
class Description(SubTokens):
    """``subtokens`` of a description of the token instead of the token itself: a control token's name says nothing.

    Raises:
        RecipeError: as ``SubTokens``; a token has no description.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Description(norm="median"))
        'description(norm=median)'
    """

    name: ClassVar[str] = "description"


@dataclass(frozen=True)
class CopyRow(RowScheme):
    """Each new row is an old row, bit for bit.

    Args:
        token: the token whose row it is, where the base has a tokenizer.
        table: the tensor of the source whose rows are meant; bound by the plan, as are the rows.
        rows: an old row for each new row, or one for all of them.

    Raises:
        RecipeError: no row is bound, or it isn't in the table.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.CopyRow(token="word"))
        'copy(token=word)'
    """

    name: ClassVar[str] = "copy"
    bound: ClassVar[tuple[str, ...]] = ("table", "rows")
    token: NameSetting = ""
    table: NameSetting = ""
    rows: RowList = ()

    def unfit(self, slot: Slot) -> str:
        if not self.table or not self.rows:
            return UNBOUND
        return "" if len(self.rows) == 1 else mismatch(slot, rows=self.rows)

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        table = table_of(self, slot, dim, self.table)
        check_beyond(self, slot, len(table), max(self.rows))
        rows = self.rows if len(self.rows) > 1 else self.rows * rows_in(slot)
        return table.index_select(0, _row_math.ids(rows))


@dataclass(frozen=True)
class Interpolate(RowScheme):
    """Each new row lies between two old ones.

    Args:
        t: how far from the first to the second.
        way: ``linear``, in the convex hull; ``slerp``, along the arc, where lengths don't shrink in between.
        tokens: the two tokens whose rows they are, where the base has a tokenizer.
        table: the tensor of the source whose rows are meant; bound by the plan, as are the pairs.
        pairs: two old rows for each new row, or for all of them.

    Raises:
        RecipeError: no pair is bound, or a row isn't in the table.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Interpolate(0.25, "slerp"))
        'interpolate(t=0.25, way=slerp)'

    Source: Shoemake, "Animating rotation with quaternion curves", 1985, for slerp.
    """

    name: ClassVar[str] = "interpolate"
    bound: ClassVar[tuple[str, ...]] = ("table", "pairs")
    t: Share = 0.5
    way: WaySetting = "linear"
    tokens: TextsSetting = ()
    table: NameSetting = ""
    pairs: PairsSetting = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.tokens) not in (0, 2):
            raise RecipeError(f"{self.name}: tokens are {self.tokens!r}, expected two")

    def unfit(self, slot: Slot) -> str:
        if not self.table or not self.pairs:
            return UNBOUND
        return "" if len(self.pairs) == 1 else mismatch(slot, pairs=self.pairs)

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        table = table_of(self, slot, dim, self.table)
        check_beyond(self, slot, len(table), max(map(max, self.pairs)))
        pairs = self.pairs if len(self.pairs) > 1 else self.pairs * rows_in(slot)
        first, second = (table.index_select(0, _row_math.ids(side)) for side in zip(*pairs, strict=True))
        return _row_math.between(first, second, self.t, self.way)
