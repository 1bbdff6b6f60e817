"""Rows that something else computed: in a file, or in memory."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, ClassVar

from hf_init._errors import RecipeError
from hf_init._tensors import Slot, num_elements
from hf_init.schemes._row_base import RowScheme, check_beyond, mismatch, row_dim, rows_in
from hf_init.schemes._row_settings import NameSetting, RowList

if TYPE_CHECKING:
    import torch

KINDS = (".safetensors", ".npy")


def _any(value: Any) -> Any:
    """A tensor, which is looked at when its fingerprint is taken."""
    return value


@dataclass(frozen=True)
class GivenRow(RowScheme):
    """What the schemes share whose rows come from outside: they are finite and of the right width, or refused."""

    def checked(self, slot: Slot, rows: torch.Tensor, dim: int) -> torch.Tensor:
        """The rows, ``(n, width)`` in float32."""
        import torch

        width, expected = rows[0].numel(), num_elements(slot.shape) // slot.shape[dim]
        if not rows.is_floating_point() or width != expected:
            raise self.refusal(
                slot, f"its rows are {rows.dtype} with {width} elements, expected {expected}, in floating point"
            )
        rows = rows.detach().to("cpu", torch.float32, copy=True).reshape(len(rows), -1)
        bad = (~rows.isfinite().all(1)).nonzero().flatten().tolist()
        if bad:
            raise self.refusal(slot, f"{len(bad)} of its rows are not finite, the first is number {bad[0]}: mend them")
        return rows


@dataclass(frozen=True)
class FromFile(GivenRow):
    """Each new row is a row of a file that another tool wrote (FOCUS, WECHSEL, a training run of yours).

    Args:
        path: a ``.safetensors`` or ``.npy`` file whose tensor holds the rows along its first dimension.
        tensor: its name in the ``.safetensors`` file; empty where that holds one tensor.
        rows: which of its rows, one for each new row in the region's order; empty for all of them in order.
        sha256: of the file; ``sealed`` takes it. Another file under that name is then refused.

    Raises:
        RecipeError: the file can't be read or isn't the one meant; a row isn't finite, or has another width.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.FromFile("rows.npy"))
        "from_file(path='rows.npy')"

    Source: made for the rows of Dobler and de Melo, "FOCUS", 2023; Minixhofer et al., "WECHSEL", 2022; and others.
    """

    name: ClassVar[str] = "from_file"
    bound: ClassVar[tuple[str, ...]] = ("rows", "sha256")
    path: NameSetting
    tensor: NameSetting = ""
    rows: RowList = ()
    sha256: NameSetting = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path.endswith(KINDS):
            raise RecipeError(f"{self.name}: path is {self.path!r}, expected a file ending in {' or '.join(KINDS)}")

    def unfit(self, slot: Slot) -> str:
        return mismatch(slot, rows=self.rows) if self.rows else ""

    def sealed(self) -> FromFile:
        """The same with the file's fingerprint, by which it is recognised later.

        Raises:
            RecipeError: the file can't be read.
        """
        try:
            with open(self._place, "rb") as file:
                return replace(self, path=str(self._place), sha256=digest_of(file))
        except OSError as error:
            raise RecipeError(
                f"{self.name}: {self.path} can't be read: {error.strerror}; give a file of rows"
            ) from None

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        if self.sha256 and self.sealed().sha256 != self.sha256:
            raise self.refusal(slot, f"{self.path} isn't the file it was when this was planned: plan again")
        found = self._read(slot)
        if not self.rows:
            if len(found) != rows_in(slot):
                raise self.refusal(slot, f"{self.path} has {len(found)} rows, expected {rows_in(slot)}")
            return self.checked(slot, found, dim)
        check_beyond(self, slot, len(found), max(self.rows))
        return self.checked(slot, found.index_select(0, _row_math.ids(self.rows)), dim)

    @property
    def _place(self) -> Path:
        return Path(os.path.abspath(os.path.expanduser(self.path)))

    def _read(self, slot: Slot) -> torch.Tensor:
        """The file's tensor, mapped."""
        from hf_init.schemes import _row_files

        try:
            found = _row_files.read_rows(self._place, self.tensor)
        except _row_files.UNREADABLE_ROWS as error:
            why = " ".join(str(error).split())
            raise self.refusal(slot, f"{self.path} can't be read ({why}): give a file of rows") from None
        if not found.ndim or not len(found):
            raise self.refusal(slot, f"{self.path} holds no rows: give one for each new row")
        return found


@dataclass(frozen=True)
class FromTensor(GivenRow):
    """Each new row is a row of a tensor that is handed over in Python; a plan records its fingerprint, not its values.

    ``FromTensor(values)`` takes the fingerprint itself. Read from a plan again, it has the fingerprint alone, and
    needs the tensor to make its rows.

    Args:
        sha256: of the values as float32, and of their shape.
        rows: which of its rows, one for each new row in the region's order; empty for all of them in order.
        values: a tensor that holds the rows along its first dimension.

    Raises:
        RecipeError: the tensor isn't at hand, or was changed; a row isn't finite, or has another width.

    Example:
        >>> import torch
        >>> from hf_init import schemes
        >>> schemes.FromTensor(values=torch.zeros(2, 3)).sha256[:8]
        '910238ea'
    """

    name: ClassVar[str] = "from_tensor"
    bound: ClassVar[tuple[str, ...]] = ("rows", "values")
    sha256: NameSetting = ""
    rows: RowList = ()
    values: Annotated[Any, _any] = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.values is None:
            return
        found = _fingerprint(self.values)
        if self.sha256 not in ("", found):
            raise RecipeError(
                f"{self.name}: the values' fingerprint is {found}, expected {self.sha256}: another tensor"
            )
        object.__setattr__(self, "sha256", found)

    def unfit(self, slot: Slot) -> str:
        if not self.sha256:
            return "it has no values: hand a tensor over in Python, or name a file with from_file"
        return mismatch(slot, rows=self.rows) if self.rows else ""

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        from hf_init.schemes import _row_math

        if self.values is None:
            raise self.refusal(slot, "its values were handed over in memory and aren't at hand: write them to a file")
        if _fingerprint(self.values) != self.sha256:
            raise self.refusal(slot, "its values were changed after they were handed over: hand over a copy")
        if self.rows:
            check_beyond(self, slot, len(self.values), max(self.rows))
            return self.checked(slot, self.values[_row_math.ids(self.rows)], dim)
        if len(self.values) != slot.shape[row_dim(slot) or 0]:
            raise self.refusal(slot, f"it has {len(self.values)} rows, expected {rows_in(slot)}: give one a new row")
        return self.checked(slot, self.values, dim)

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in super().to_json().items() if key != "values"}


def digest_of(file: BinaryIO) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    while data := file.read(1 << 20):
        digest.update(data)
    return digest.hexdigest()


def _fingerprint(values: Any) -> str:
    """SHA-256 of a tensor's values as float32, and of its shape."""
    import torch

    if not isinstance(values, torch.Tensor) or not values.ndim:
        raise RecipeError(f"{FromTensor.name}: values are {type(values).__name__}, expected a tensor of rows")
    plain = values.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(f"{tuple(plain.shape)}".encode() + plain.numpy().tobytes()).hexdigest()
