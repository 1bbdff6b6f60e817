"""``diff``: any two checkpoints, tensor by tensor, byte by byte."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_init import _html
from hf_init._checkpoint import Checkpoint, Entry
from hf_init._spec import Box
from hf_init._verify._bytes import Meter, Tally, compare
from hf_init._verify._report import described, jsonable

_STATUSES = ("identical", "changed", "added", "removed")


@dataclass(frozen=True)
class DiffReport:
    """How one checkpoint differs from another.

    Attributes:
        a, b: the folders.
        tensors: one dict each, in the order of ``a``, then what only ``b`` has: ``name``, ``status`` (identical,
            changed, added, removed), ``shape`` and ``dtype`` (in ``b``, unless removed). A changed one has a
            ``reason`` (bytes, shape, dtype). Changed bytes have ``first`` (where, ``seen`` in b, ``expected`` as in
            a), ``rows``, ``changed_rows`` and ``changed_elements``; another shape or dtype, ``shape_before`` and
            ``dtype_before``; another number of rows, ``common_rows`` and ``common_rows_identical`` too.
        counts: tensors by status.
    """

    a: str
    b: str
    tensors: tuple[dict[str, Any], ...]
    counts: dict[str, int]

    @property
    def identical(self) -> bool:
        """Whether both have the same tensors, of the same shapes and dtypes, with the same bytes."""
        return self.counts["identical"] == len(self.tensors)

    def to_json(self) -> dict[str, Any]:
        return {"identical": self.identical, "tensors": jsonable(self.tensors), "counts": self.counts}

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {status}" for status, number in self.counts.items())
        return "\n".join([f"{self.a} -> {self.b}: {counts}", *(line for _, line in self._lines())])

    def _repr_html_(self) -> str:
        rows = [(tensor["name"], line.strip()) for tensor, line in self._lines()]
        counts = _html.table(f"{self.a} -> {self.b}", [*self.counts], [[*self.counts.values()]])
        return _html.document((counts, _html.table("", ("tensor", "difference"), rows) if rows else ""))

    def _lines(self) -> list[tuple[dict[str, Any], str]]:
        return [(tensor, _line(tensor)) for tensor in self.tensors if tensor["status"] != "identical"]


def diff(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    progress: Callable[[int], object] | None = None,
) -> DiffReport:
    """Compare the tensors of two checkpoints by their bytes: NaN equals the same NaN, -0.0 is not 0.0.

    Metadata, the order of tensors and how they are spread over files don't count.

    Args:
        a, b: folders.
        progress: called with the bytes done since it was last called.

    Raises:
        CheckpointError: a folder or a file can't be read.

    Example:
        >>> import tempfile, numpy, safetensors.numpy
        >>> folder = tempfile.TemporaryDirectory()
        >>> safetensors.numpy.save_file({"w": numpy.ones(3)}, f"{folder.name}/model.safetensors")
        >>> diff(folder.name, folder.name).identical
        True
        >>> folder.cleanup()
    """
    with Checkpoint.open(a) as before, Checkpoint.open(b) as after:
        tensors = tuple(_tensors(before, after, Meter(progress)))
    found = Counter(tensor["status"] for tensor in tensors)
    return DiffReport(str(a), str(b), tensors, {status: found[status] for status in _STATUSES})


def _tensors(a: Checkpoint, b: Checkpoint, meter: Meter) -> Iterator[dict[str, Any]]:
    for name, entry in a.entries.items():
        other = b.entries.get(name)
        if other is None:
            yield _tensor(entry, "removed")
        else:
            change = _change(a, b, entry, other, meter)
            yield _tensor(other, "changed" if change else "identical", **change)
    yield from (_tensor(entry, "added") for name, entry in b.entries.items() if name not in a.entries)


def _tensor(entry: Entry, status: str, **more: Any) -> dict[str, Any]:
    return {"name": entry.name, "status": status, "shape": list(entry.shape), "dtype": entry.dtype, **more}


def _change(a: Checkpoint, b: Checkpoint, before: Entry, after: Entry, meter: Meter) -> dict[str, Any]:
    """What changed in a tensor that both have; empty when nothing did."""
    was = {"shape_before": list(before.shape), "dtype_before": before.dtype}
    if before.dtype != after.dtype:
        return {"reason": "dtype", **was}
    left, right = a.array(before.name), b.array(after.name)
    if before.shape != after.shape:
        return {"reason": "shape", **was, **_common(left, right, before, after, meter)}
    tally = _tally(left, right, before.dtype, meter)
    return {"reason": "bytes", **_found(tally)} if tally.first else {}


def _common(left: np.ndarray, right: np.ndarray, before: Entry, after: Entry, meter: Meter) -> dict[str, Any]:
    """The leading rows that both have, where only the number of rows differs."""
    if not before.shape or not after.shape or before.shape[1:] != after.shape[1:] or left.shape != before.shape:
        return {}
    rows = min(len(left), len(right))
    tally = _tally(left[:rows], right[:rows], before.dtype, meter)
    found = _found(tally) if tally.first else {}
    return {"common_rows": rows, "common_rows_identical": rows - int(tally.rows[:rows].sum()), **found}


def _tally(left: np.ndarray, right: np.ndarray, dtype: str, meter: Meter) -> Tally:
    tally, whole = Tally.of(right, dtype), Box.whole(right.shape)
    compare(right, whole, left, whole, tally, meter.compare)
    return tally


def _found(tally: Tally) -> dict[str, Any]:
    first = {key: value for key, value in tally.first.items() if key != "region"}
    numbers = {"changed_rows": int(tally.rows.sum()), "rows": len(tally.rows), "changed_elements": tally.elements}
    return {"first": first, **numbers}


def _line(tensor: dict[str, Any]) -> str:
    """A tensor that isn't identical, in a line."""
    if tensor["status"] != "changed":
        return f"  {tensor['name']}: {tensor['status']}, {tensor['dtype']} {tensor['shape']}"
    text = described({**tensor, **tensor.get("first", {})})
    if "shape_before" in tensor:
        text += f", {tensor['dtype_before']} {tensor['shape_before']} -> {tensor['dtype']} {tensor['shape']}"
    if "common_rows" in tensor:
        text += f"; {tensor['common_rows_identical']} of {tensor['common_rows']} common rows identical"
    return f"  {text}"
