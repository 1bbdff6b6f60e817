"""Rows made of other rows: pieces of a token, copies, points between two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_init._errors import RecipeError
from hf_init._tensors import Slot
from hf_init.schemes._row_base import RowScheme, mismatch, num_rows
from hf_init.schemes._settings import (
    AtLeast0,
    LengthLists,
    Norm,
    PieceLists,
    PieceWeights,
    RowList,
    RowPairs,
    RowRanges,
    Share,
    Text,
    Texts,
    Way,
)

if TYPE_CHECKING:
    import torch

__all__ = ["CopyRow", "Description", "Interpolate", "SubTokens"]

UNBOUND = "say which rows it is made of: name tokens where the base has a tokenizer (add_tokens)"


@dataclass(frozen=True)
class SubTokens(RowScheme):
    """A weighted mean of the rows of the token's old pieces.

    The weights are at least 0 and add up to exactly 1, so a row lies in the convex hull of the old ones and its logit
    is at most the largest old logit: greedy decoding doesn't change. A row whose pieces are all one row is that row,
    bit for bit. With ``norm`` a row is scaled and leaves the hull. A mean of several rows is nearer to the mean of all
    rows than one row is; ``norm="centred"`` makes up for that and leaves what all rows have in common as it is, where
    scaling the whole row would scale that, too, and with it, on the output, every logit.

    Formula: w = sum_i a_i e_i, a_i >= 0, sum a_i = 1 exactly; with norm: w * median(|e|) / |w|; centred, m the mean of
        the e: m + (w - m) * median(|e - m|) / |w - m|
    Use: New words. Input rows: uniform, with norm=median. Output rows: exp_first or characters, without norm, so that
        no old greedy choice changes. Tied: characters_first.
    Source: Gee et al., Fast Vocabulary Transfer for Language Model Compression, 2022; Kim et al., EEVE, 2024; Nakash et
        al., AdaptiVocab, 2025; Mundra et al., An Empirical Comparison of Vocabulary Expansion and Initialization
        Approaches for Language Models, 2024.

    Args:
        weights: uniform; characters, by length; exp_first, exp_last: exp(-alpha) from piece to piece, largest at the
            first or the last; characters_first, both, so that tokens of the same pieces in another order differ;
            first, last: it alone.
        alpha: of the exponential weights.
        norm: scale each row to the median or the mean length of the trained rows, or (centred) its distance from their
            mean to the median of theirs; leaves the hull.
        pieces: the rows of each new row's pieces; bound by the plan.
        lengths: of the pieces, in characters; bound by the plan.
        trained: ranges (start, stop) of the table's trained rows; empty: all. Bound by the plan.

    Example:
        >>> from hf_init import schemes
        >>> schemes.SubTokens(table="e", pieces=((0, 1, 2),), weights="exp_first").shares(0)
        [0.6652409434318542, 0.24472850561141968, 0.09003055095672607]
    """

    name: ClassVar[str] = "subtokens"
    bound: ClassVar[tuple[str, ...]] = ("table", "pieces", "lengths", "trained")
    weights: PieceWeights = "uniform"
    alpha: AtLeast0 = 1.0
    norm: Norm = None
    table: Text = ""
    pieces: PieceLists = ()
    lengths: LengthLists = ()
    trained: RowRanges = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = any(len(rows) != len(each) for rows, each in zip(self.pieces, self.lengths, strict=False))
        if wrong or (self.lengths and len(self.lengths) != len(self.pieces)):
            raise RecipeError(f"{self.name}: lengths don't belong to pieces: give each piece one length")

    @property
    def is_mixture(self) -> bool:
        return self.norm is None

    @property
    def needs_lengths(self) -> bool:
        return self.weights in ("characters", "characters_first")

    def unfit(self, slot: Slot) -> str:
        if not self.table or not self.pieces:
            return f"{UNBOUND}, or use mean"
        if self.needs_lengths and not self.lengths:
            return f"weights={self.weights} needs the lengths of the pieces: give lengths, or use weights=uniform"
        if self.norm and len(slot.whole) < 2:
            return "a bias has no rows to scale: use norm=None"
        return mismatch(slot, pieces=self.pieces)

    def shares(self, row: int) -> list[float]:
        """Return the weights of one new row's pieces."""
        from hf_init.schemes._row_math import whole_weights

        n = len(self.pieces[row])
        falling = [math.exp(-self.alpha * at) for at in range(n)]
        lengths = [float(length) for length in (self.lengths[row] if self.lengths else ())]
        by_length = lengths if any(lengths) else [1.0] * n
        both = [length * share for length, share in zip(by_length, falling, strict=True)]
        shares = {
            "uniform": [1.0] * n,
            "characters": by_length,
            "characters_first": both if any(both) else falling,
            "exp_first": falling,
            "exp_last": falling[::-1],
            "first": [1.0] + [0.0] * (n - 1),
            "last": [0.0] * (n - 1) + [1.0],
        }
        return whole_weights(shares[self.weights])

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        table = self.table_rows(slot, dim, self.table)
        self.check_row(slot, len(table), max(map(max, self.pieces)))
        rows = _row_math.combine_rows(table, self.pieces, [self.shares(row) for row in range(len(self.pieces))])
        return rows if self.norm is None else _row_math.lengthen_rows(rows, table, self.trained, self.norm)


@dataclass(frozen=True)
class Description(SubTokens):
    """Subtokens of a description of the token.

    Formula: as subtokens, with the pieces of the description
    Use: Control tokens, whose name means nothing to the model: give each a few words.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Description(norm="median"))
        'description(norm=median)'
    """

    name: ClassVar[str] = "description"


@dataclass(frozen=True)
class CopyRow(RowScheme):
    """An old row, bit for bit.

    Formula: w = e_j
    Use: A token that should mean what another one means.

    Args:
        token: whose row it is, where the base has a tokenizer.
        rows: one a new row, or one for all; bound by the plan.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.CopyRow(token="word"))
        'copy(token=word)'
    """

    name: ClassVar[str] = "copy"
    bound: ClassVar[tuple[str, ...]] = ("table", "rows")
    token: Text = ""
    table: Text = ""
    rows: RowList = ()

    @property
    def is_mixture(self) -> bool:
        return True

    def unfit(self, slot: Slot) -> str:
        if not self.table or not self.rows:
            return UNBOUND
        return "" if len(self.rows) == 1 else mismatch(slot, rows=self.rows)

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        table = self.table_rows(slot, dim, self.table)
        self.check_row(slot, len(table), max(self.rows))
        rows = self.rows if len(self.rows) > 1 else self.rows * num_rows(slot)
        return _row_math.select_rows(table, rows)


@dataclass(frozen=True)
class Interpolate(RowScheme):
    """A point between two old rows.

    Formula: linear: (1 - t) a + t b; slerp: (sin((1 - t) o) a + sin(t o) b) / sin o, o the angle between a and b
    Use: A token between two others; rows of positions between two trained ones.
    Source: Shoemake, Animating rotation with quaternion curves, 1985, for slerp.

    Args:
        t: how far from the first to the second.
        way: linear, in the convex hull, or slerp along the arc, where lengths don't shrink in between.
        tokens: the two whose rows they are, where the base has a tokenizer.
        pairs: of rows, one a new row, or one for all; bound by the plan.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Interpolate(0.25, "slerp"))
        'interpolate(t=0.25, way=slerp)'
    """

    name: ClassVar[str] = "interpolate"
    bound: ClassVar[tuple[str, ...]] = ("table", "pairs")
    t: Share = 0.5
    way: Way = "linear"
    tokens: Texts = ()
    table: Text = ""
    pairs: RowPairs = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.tokens) not in (0, 2):
            raise RecipeError(f"{self.name}: tokens are {self.tokens!r}, expected two")

    @property
    def is_mixture(self) -> bool:
        return self.way == "linear"

    def unfit(self, slot: Slot) -> str:
        if not self.table or not self.pairs:
            return UNBOUND
        return "" if len(self.pairs) == 1 else mismatch(slot, pairs=self.pairs)

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        table = self.table_rows(slot, dim, self.table)
        self.check_row(slot, len(table), max(map(max, self.pairs)))
        pairs = self.pairs if len(self.pairs) > 1 else self.pairs * num_rows(slot)
        first, second = (_row_math.select_rows(table, side) for side in zip(*pairs, strict=True))
        return _row_math.between(first, second, self.t, self.way)
