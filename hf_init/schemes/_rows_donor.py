"""Rows carried over from another checkpoint: what a token is made of there, it is made of here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hf_init._errors import CheckpointError, RecipeError
from hf_init._tensors import Slot
from hf_init.schemes._row_base import RowScheme, check_beyond, mismatch, table_of
from hf_init.schemes._row_settings import NameSetting, PairsSetting, RowList
from hf_init.schemes._settings import Layers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Omp(RowScheme):
    """Each new row is to the base's rows of shared tokens what the same token's row in a donor is to the donor's.

    In the donor the token's row is approximated by at most ``k`` rows of tokens that both vocabularies have (orthogonal
    matching pursuit: the atom most correlated with what is left, then least squares on all atoms so far); the same
    coefficients on the base's rows of those tokens give the new row. Coefficients may be negative: the row may leave
    the convex hull. A donor decides what the rows mean: take one that you trust.

    Args:
        donor: the folder of the other checkpoint.
        k: how many rows at most.
        donor_table: the donor's tensor; bound by the plan, as are the rest.
        table: the tensor of the source whose rows are meant.
        rows: the donor's row of each new token, in the region's order.
        shared: pairs of the donor's row and the base's, one for each token that both have.
        sha256: of the donor's table; ``sealed`` takes it.

    Raises:
        RecipeError: the vocabularies share no token, the donor can't be read, or a row isn't in its table.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Omp("donor", k=32))
        'omp(donor=donor, k=32)'

    Source: Goddard and Fernandes Neto, "Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit",
    2025; Pati, Rezaiifar and Krishnaprasad, "Orthogonal matching pursuit", 1993.
    """

    name: ClassVar[str] = "omp"
    bound: ClassVar[tuple[str, ...]] = ("donor_table", "table", "rows", "shared", "sha256")
    donor: NameSetting
    k: Layers = 64
    donor_table: NameSetting = ""
    table: NameSetting = ""
    rows: RowList = ()
    shared: PairsSetting = ()
    sha256: NameSetting = ""

    def unfit(self, slot: Slot) -> str:
        if not self.table or not self.donor_table:
            return "the donor's tokens aren't known: name tokens where both have a tokenizer (add_tokens), or use mean"
        if not self.shared:
            return f"{self.donor} and the base share no token: take a donor whose vocabulary overlaps, or use subtokens"
        if len(slot.whole) < 2:
            return "a bias has no directions to pursue: use mean"
        return mismatch(slot, rows=self.rows)

    def sealed(self) -> Omp:
        """The same with the fingerprint of the donor's table, by which it is recognised later.

        Raises:
            RecipeError: the donor can't be read.
        """
        from hf_init.schemes import _row_files

        try:
            return replace(self, sha256=_row_files.fingerprint(self._donor_table()))
        except _row_files.UNREADABLE_ROWS as error:
            raise RecipeError(f"{self.name}: the donor {self.donor} can't be read: {error}") from None

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_files, _row_math, _row_pursuit

        base = table_of(self, slot, dim, self.table)
        try:
            donor = _row_math.as_rows(self._donor_table(), dim)
        except CheckpointError as error:
            raise self.refusal(slot, f"the donor can't be read: {error}") from None
        if self.sha256 and _row_files.fingerprint(donor) != self.sha256:
            raise self.refusal(slot, f"{self.donor} isn't the donor it was when this was planned: plan again")
        there, here = zip(*self.shared, strict=True)
        check_beyond(self, slot, len(donor), max(*there, *self.rows))
        check_beyond(self, slot, len(base), max(here))
        atoms = donor.index_select(0, _row_math.ids(there)).float()
        targets = donor.index_select(0, _row_math.ids(self.rows)).float()
        chosen, coefficients = _row_pursuit.pursue(atoms, targets, self.k)
        anchors = base.index_select(0, _row_math.ids(here))
        return _row_math.combined(anchors, chosen, coefficients)

    def _donor_table(self) -> torch.Tensor:
        from hf_init.schemes import _row_files

        return _row_files.row_table(Path(self.donor).expanduser(), self.donor_table)
