"""Rows carried over from another checkpoint: what a token is made of there, it is made of here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from hf_init._errors import CheckpointError, RecipeError
from hf_init._tensors import Slot
from hf_init.schemes._row_base import RowScheme, mismatch
from hf_init.schemes._rows_given import UNREADABLE_ROWS, read_rows
from hf_init.schemes._settings import AtLeast1, RowList, RowPairs, Text

if TYPE_CHECKING:
    import torch

__all__ = ["Omp"]


@dataclass(frozen=True)
class Omp(RowScheme):
    """Of the same tokens as in another model.

    In the donor the token's row is approximated by at most ``k`` rows of tokens that both vocabularies have (orthogonal
    matching pursuit: the atom most correlated with what is left, then least squares on all atoms so far); the same
    coefficients on the base's rows of those tokens give the new row. A donor decides what the rows mean.

    Formula: donor row ~ sum of at most k c_i d_i over shared tokens; w = sum c_i e_i, e_i their rows in the base
    Use: Another tokenizer whose model is at hand, with many tokens in common. Where digits are split otherwise,
        arithmetic suffers. Coefficients have signs: rows leave the hull.
    Source: Goddard and Fernandes Neto, Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit, 2025;
        Pati, Rezaiifar and Krishnaprasad, Orthogonal matching pursuit, 1993.

    Args:
        donor: the other checkpoint, a folder or a hub id; take one that you trust.
        k: how many shared tokens at most.
        donor_table: the donor's tensor; bound by the plan.
        rows: the donor's row of each new token; bound by the plan.
        shared: pairs of rows, the donor's and the base's, of tokens that both have; bound by the plan.
        sha256: of the donor's table; bound by the plan.

    Raises:
        RecipeError: the vocabularies share no token, the donor can't be read, or a row isn't in its table.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Omp("donor", k=32))
        'omp(donor=donor, k=32)'
    """

    name: ClassVar[str] = "omp"
    bound: ClassVar[tuple[str, ...]] = ("donor_table", "table", "rows", "shared", "sha256")
    donor: Text
    k: AtLeast1 = 64
    donor_table: Text = ""
    table: Text = ""
    rows: RowList = ()
    shared: RowPairs = ()
    sha256: Text = ""

    def unfit(self, slot: Slot) -> str:
        if not self.table or not self.donor_table:
            return "the donor's tokens aren't known: name tokens where both have a tokenizer (add_tokens), or use mean"
        if not self.shared:
            return f"{self.donor} and the base share no token: take a donor whose vocabulary overlaps, or use subtokens"
        if len(slot.whole) < 2:
            return "a bias has no directions to pursue: use mean"
        return mismatch(slot, rows=self.rows)

    def sealed(self) -> Omp:
        """Return the same with the fingerprint of the donor's table, by which it is recognised later.

        Raises:
            RecipeError: the donor can't be read.
        """
        from hf_init._checkpoint import Origin, folder_of, tensor_digest

        try:
            place = Origin.of(folder_of(self.donor))  # a hub id is pinned to the commit that it is now
            donor = f"{place.name}@{place.commit}" if place.commit else self.donor
            return replace(self, donor=donor, sha256=tensor_digest(self._read_donor()))
        except UNREADABLE_ROWS as error:
            raise RecipeError(f"{self.name}: the donor {self.donor} can't be read: {error}") from None

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init._checkpoint import tensor_digest
        from hf_init.schemes import _row_math, _row_pursuit

        base = self.table_rows(slot, dim, self.table)
        try:
            donor = _row_math.as_rows(self._read_donor(), dim)
        except CheckpointError as error:
            raise self.refusal(slot, f"the donor can't be read: {error}") from None
        if self.sha256 and tensor_digest(donor) != self.sha256:
            raise self.refusal(slot, f"{self.donor} isn't the donor it was when this was planned: plan again")
        there, here = zip(*self.shared, strict=True)
        self.check_row(slot, len(donor), max(*there, *self.rows))
        self.check_row(slot, len(base), max(here))
        atoms, targets = (_row_math.select_rows(donor, rows).float() for rows in (there, self.rows))
        chosen, coefficients = _row_pursuit.pursue(atoms, targets, self.k)
        return _row_math.combine_rows(_row_math.select_rows(base, here), chosen, coefficients)

    def _read_donor(self) -> torch.Tensor:
        """Return the donor's table, mapped.

        Raises:
            CheckpointError: the folder is no checkpoint, or has no tensor of that name.
        """
        from hf_init._checkpoint import open_checkpoint

        with open_checkpoint(self.donor) as checkpoint:
            if self.donor_table not in checkpoint.entries:
                raise CheckpointError(f"{self.donor} has no tensor {self.donor_table!r}")
            shard = checkpoint.root / checkpoint.entries[self.donor_table].shard
        return read_rows(shard, self.donor_table)
