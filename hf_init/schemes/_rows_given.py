"""Rows that something else computed: in a file, or in memory. Files are untrusted."""

# safetensors, numpy.load and Tensor.tolist have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from hf_init._errors import CheckpointError, RecipeError
from hf_init._paths import user_path
from hf_init._tensors import Slot, num_elements
from hf_init.schemes._row_base import RowScheme, mismatch, num_rows
from hf_init.schemes._settings import Anything, RowList, Text

if TYPE_CHECKING:
    import torch

__all__ = ["FromFile", "FromTensor"]

SUFFIXES = (".safetensors", ".npy")
UNREADABLE_ROWS = (CheckpointError, OSError, ValueError, EOFError, TypeError)


class GivenRow(RowScheme):
    """What the schemes share whose rows come from outside: they are finite and of the right width, or refused.

    Args:
        rows: which of them, one a new row in the region's order; empty: all in order.
    """

    # Not a dataclass, so that this isn't its field: the schemes declare it after their own settings.
    rows: RowList

    def unfit(self, slot: Slot) -> str:
        return mismatch(slot, rows=self.rows) if self.rows else ""

    def pick(self, slot: Slot, given: torch.Tensor, dim: int, wrong_number: str) -> torch.Tensor:
        """Return the rows that are meant, ``(n, width)`` in float32; ``wrong_number`` says what is wrong otherwise."""
        import torch

        from hf_init.schemes import _row_math

        if self.rows:
            self.check_row(slot, len(given), max(self.rows))
            given = given[_row_math.ids(self.rows)]
        elif len(given) != num_rows(slot):
            raise self.refusal(slot, wrong_number)
        width, expected = given[0].numel(), num_elements(slot.shape) // slot.shape[dim]
        if not given.is_floating_point() or width != expected:
            raise self.refusal(
                slot, f"its rows are {given.dtype} with {width} elements, expected {expected}, in floating point"
            )
        rows = given.detach().to("cpu", torch.float32, copy=True).reshape(len(given), -1)
        bad: list[int] = (~rows.isfinite().all(1)).nonzero().flatten().tolist()
        if bad:
            raise self.refusal(slot, f"{len(bad)} of its rows are not finite, the first is number {bad[0]}: mend them")
        return rows


@dataclass(frozen=True)
class FromFile(GivenRow):
    """Rows of a file that another tool wrote.

    Formula: w = the file's rows
    Use: FOCUS, WECHSEL, OFA, Token Distillation: what needs text or training, by its own tool.
    Source: Dobler and de Melo, FOCUS, 2023; Minixhofer et al., WECHSEL, 2022; Dobler et al., Token Distillation, 2025.

    Args:
        path: a .safetensors or .npy file with the rows along the first dimension.
        tensor: its name in the .safetensors file; empty where there is one.
        sha256: of the file; another one under that name is then refused. Bound by the plan.

    Raises:
        RecipeError: the file can't be read or isn't the one meant; a row isn't finite, or has another width.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.FromFile("rows.npy"))
        "from_file(path='rows.npy')"
    """

    name: ClassVar[str] = "from_file"
    bound: ClassVar[tuple[str, ...]] = ("rows", "sha256")
    path: Text
    tensor: Text = ""
    rows: RowList = ()
    sha256: Text = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path.endswith(SUFFIXES):
            raise RecipeError(f"{self.name}: path is {self.path!r}, expected a file ending in {' or '.join(SUFFIXES)}")

    def sealed(self) -> FromFile:
        """Return the same with the file's fingerprint, by which it is recognised later.

        Raises:
            RecipeError: the file can't be read.
        """
        try:
            with open(self._absolute, "rb") as file:
                return replace(self, path=str(self._absolute), sha256=digest_of(file))
        except OSError as error:
            raise RecipeError(
                f"{self.name}: {self.path} can't be read: {error.strerror}; give a file of rows"
            ) from None

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        if self.sha256 and self.sealed().sha256 != self.sha256:
            raise self.refusal(slot, f"{self.path} isn't the file it was when this was planned: plan again")
        try:
            rows = read_rows(self._absolute, self.tensor)
        except UNREADABLE_ROWS as error:
            why = " ".join(str(error).split())
            raise self.refusal(slot, f"{self.path} can't be read ({why}): give a file of rows") from None
        if not rows.ndim or not len(rows):
            raise self.refusal(slot, f"{self.path} holds no rows: give one for each new row")
        return self.pick(slot, rows, dim, f"{self.path} has {len(rows)} rows, expected {num_rows(slot)}")

    @property
    def _absolute(self) -> Path:
        return Path(os.path.abspath(user_path(self.path)))


@dataclass(frozen=True)
class FromTensor(GivenRow):
    """Rows of a tensor that is handed over in Python.

    ``FromTensor(values=...)`` takes the fingerprint itself. Read from a plan again, it has the fingerprint alone, and
    needs the tensor to make its rows.

    Formula: w = the tensor's rows
    Use: As from_file, without a file. The plan holds a fingerprint: making the rows again needs the tensor again.

    Args:
        sha256: of the values as float32, and of their shape; taken from them.
        values: the tensor, with the rows along its first dimension; in Python only.

    Raises:
        RecipeError: the tensor isn't at hand, or was changed; a row isn't finite, or has another width.

    Example:
        >>> from hf_init import schemes
        >>> import torch
        >>> schemes.FromTensor(values=torch.zeros(2, 3)).sha256[:8]
        '910238ea'
    """

    name: ClassVar[str] = "from_tensor"
    bound: ClassVar[tuple[str, ...]] = ("rows", "values")
    sha256: Text = ""
    rows: RowList = ()
    values: Anything = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.values is None:
            return
        seen = _fingerprint(self.values)
        if self.sha256 not in ("", seen):
            raise RecipeError(f"{self.name}: the values' fingerprint is {seen}, expected {self.sha256}: another tensor")
        object.__setattr__(self, "sha256", seen)

    def unfit(self, slot: Slot) -> str:
        if not self.sha256:
            return "it has no values: hand a tensor over in Python, or name a file with from_file"
        return super().unfit(slot)

    def rows_of(self, slot: Slot, dim: int) -> torch.Tensor:
        if self.values is None:
            raise self.refusal(slot, "its values were handed over in memory and aren't at hand: write them to a file")
        if _fingerprint(self.values) != self.sha256:
            raise self.refusal(slot, "its values were changed after they were handed over: hand over a copy")
        wrong_number = f"it has {len(self.values)} rows, expected {num_rows(slot)}: give one a new row"
        return self.pick(slot, self.values, dim, wrong_number)


def digest_of(file: BinaryIO) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    while data := file.read(1 << 20):
        digest.update(data)
    return digest.hexdigest()


def _fingerprint(values: object) -> str:
    """Return the SHA-256 of a tensor's values as float32, and of its shape.

    Raises:
        RecipeError: it isn't a tensor of rows.
    """
    import torch

    if not isinstance(values, torch.Tensor) or not values.ndim:
        raise RecipeError(f"{FromTensor.name}: values are {type(values).__name__}, expected a tensor of rows")
    plain = values.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(f"{tuple(plain.shape)}".encode() + plain.numpy().tobytes()).hexdigest()


def read_rows(path: Path, tensor: str) -> torch.Tensor:
    """Return the tensor of a ``.npy`` file, or the named (or only) one of a ``.safetensors`` file, mapped where it can.

    Raises:
        UNREADABLE_ROWS: one of these, where it can't be read.
    """
    import numpy as np
    import torch
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".npy":
        # Not mapped: torch warns of memory that can't be written to.
        return torch.from_numpy(np.load(path, allow_pickle=False))
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            names: list[str] = [*file.keys()]
            if not tensor and len(names) != 1:
                raise ValueError(
                    f"it holds {len(names)} tensors, and none is named; name one of {', '.join(sorted(names))}"
                )
            if tensor and tensor not in names:
                raise ValueError(f"it has no tensor {tensor!r}, but {', '.join(sorted(names))}")
            return file.get_tensor(tensor or names[0])
    except SafetensorError as error:
        raise ValueError(str(error)) from error
