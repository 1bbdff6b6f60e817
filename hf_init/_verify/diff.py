"""``diff_checkpoints``: any two checkpoints, tensor by tensor, byte by byte."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hf_init import _html
from hf_init._checkpoint import Checkpoint, TensorEntry, dtype_bits
from hf_init._tensors import Box
from hf_init._verify.compare import ByteComparison
from hf_init._verify.differences import TensorDiff
from hf_init._verify.ranges import compare_all
from hf_init._verify.regions import StoredTensor, stored_tensor
from hf_init._verify.report import describe_proof, jsonable
from hf_init._verify.threads import VerifyMeter

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
        counts = _html.html_table(f"{self.a} -> {self.b}", [*self.counts], [[*self.counts.values()]])
        return _html.html_document((counts, _html.html_table("", ("tensor", "difference"), rows) if rows else ""))

    def _lines(self) -> list[tuple[dict[str, Any], str]]:
        return [(tensor, _line(tensor)) for tensor in self.tensors if tensor["status"] != "identical"]


def diff_checkpoints(
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
        >>> diff_checkpoints(folder.name, folder.name).identical
        True
        >>> folder.cleanup()
    """
    with Checkpoint.open(a) as before, Checkpoint.open(b) as after:
        tallies = _compared(before, after, VerifyMeter(progress))
        tensors = tuple(_tensors(before, after, tallies))
    found = Counter(tensor["status"] for tensor in tensors)
    return DiffReport(str(a), str(b), tensors, {status: found[status] for status in _STATUSES})


def _compared(a: Checkpoint, b: Checkpoint, meter: VerifyMeter) -> dict[str, TensorDiff]:
    """How the bytes differ, of every tensor that has comparable ones in both: all of them, or the common rows."""
    tallies: dict[str, TensorDiff] = {}
    both = [name for name in a.entries if name in b.entries]
    compare_all(comparison for name in both for comparison in _comparisons(a, b, name, tallies, meter))
    return tallies


def _comparisons(
    a: Checkpoint, b: Checkpoint, name: str, tallies: dict[str, TensorDiff], meter: VerifyMeter
) -> Iterator[ByteComparison]:
    before, after = stored_tensor(a, name), stored_tensor(b, name)
    if before.entry.dtype == after.entry.dtype and _comparable(before, after):
        tallies[name] = TensorDiff.of(after.whole, after.entry.dtype)
        common = Box.whole((*map(min, before.whole[:1], after.whole[:1]), *after.whole[1:]))
        left, right = replace(before, region=common), replace(after, region=common)
        yield ByteComparison(right, left, common, tallies[name], meter=meter)


def _comparable(before: StoredTensor, after: StoredTensor) -> bool:
    """Whether both have the same shape, or, elements being whole bytes, all but the same number of rows."""
    if before.entry.shape == after.entry.shape:
        return True
    whole_bytes = dtype_bits(before.entry.dtype) >= 8
    return whole_bytes and min(map(len, (before.whole, after.whole))) > 0 and before.whole[1:] == after.whole[1:]


def _tensors(a: Checkpoint, b: Checkpoint, tallies: dict[str, TensorDiff]) -> Iterator[dict[str, Any]]:
    for name, entry in a.entries.items():
        other = b.entries.get(name)
        if other is None:
            yield _tensor(entry, "removed")
        else:
            change = _change(entry, other, tallies.get(name))
            yield _tensor(other, "changed" if change else "identical", **change)
    yield from (_tensor(entry, "added") for name, entry in b.entries.items() if name not in a.entries)


def _tensor(entry: TensorEntry, status: str, **more: Any) -> dict[str, Any]:
    return {"name": entry.name, "status": status, "shape": list(entry.shape), "dtype": entry.dtype, **more}


def _change(before: TensorEntry, after: TensorEntry, tally: TensorDiff | None) -> dict[str, Any]:
    """What changed in a tensor that both have; empty when nothing did."""
    was = {"shape_before": list(before.shape), "dtype_before": before.dtype}
    if before.dtype != after.dtype:
        return {"reason": "dtype", **was}
    found = _found(tally) if tally and tally.first else {}
    if before.shape != after.shape:
        return {"reason": "shape", **was, **(_common(before, after, tally) if tally else {}), **found}
    return {"reason": "bytes", **found} if found else {}


def _common(before: TensorEntry, after: TensorEntry, tally: TensorDiff) -> dict[str, Any]:
    rows = min(before.shape[0], after.shape[0])
    return {"common_rows": rows, "common_rows_identical": rows - int(tally.rows.sum())}


def _found(tally: TensorDiff) -> dict[str, Any]:
    first = {key: value for key, value in tally.first.items() if key != "region"}
    numbers = {"changed_rows": int(tally.rows.sum()), "rows": tally.length, "changed_elements": tally.elements}
    return {"first": first, **numbers}


def _line(tensor: dict[str, Any]) -> str:
    """A tensor that isn't identical, in a line."""
    if tensor["status"] != "changed":
        return f"  {tensor['name']}: {tensor['status']}, {tensor['dtype']} {tensor['shape']}"
    text = describe_proof({**tensor, **tensor.get("first", {})})
    if "shape_before" in tensor:
        text += f", {tensor['dtype_before']} {tensor['shape_before']} -> {tensor['dtype']} {tensor['shape']}"
    if "common_rows" in tensor:
        text += f"; {tensor['common_rows_identical']} of {tensor['common_rows']} common rows identical"
    return f"  {text}"
