"""``diff_checkpoints``: any two checkpoints, tensor by tensor, byte by byte."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hf_init import _html
from hf_init._checkpoint import Checkpoint, TensorEntry, dtype_bits
from hf_init._errors import ProofError
from hf_init._progress import Progress
from hf_init._tensors import Box
from hf_init._verify.compare import ByteComparison
from hf_init._verify.differences import Difference, TensorDiff
from hf_init._verify.ranges import compare_all
from hf_init._verify.regions import stored_tensor
from hf_init._verify.report import describe_difference, jsonable
from hf_init._verify.threads import VerifyMeter

_STATUSES = ("identical", "changed", "added", "removed")
_SHOWN = 5


@dataclass(frozen=True, repr=False)
class DiffReport:
    """How one checkpoint differs from another; true if it doesn't.

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
    tensors: tuple[Difference, ...]
    counts: dict[str, int]

    @property
    def ok(self) -> bool:
        """Return whether both have the same tensors, of the same shapes and dtypes, with the same bytes."""
        return self.counts["identical"] == len(self.tensors)

    @property
    def identical(self) -> bool:
        """Return the same as ``ok``."""
        return self.ok

    def __bool__(self) -> bool:
        return self.ok

    def raise_if_failed(self) -> None:
        """Raise ProofError, naming the first tensors that differ, unless the checkpoints are identical."""
        lines = [line for _, line in self._lines()]
        if lines:
            more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
            raise ProofError("\n".join([f"{self._headline}; expected identical ones:", *lines[:_SHOWN], *more]))

    def to_json(self) -> dict[str, object]:
        return {"schema": "hf_init.diff/1", "ok": self.ok, "tensors": jsonable(self.tensors), "counts": self.counts}

    def __repr__(self) -> str:
        return f"<DiffReport: {self._headline}>"

    def __str__(self) -> str:
        return "\n".join([self._headline, *(line for _, line in self._lines())])

    def _repr_html_(self) -> str:
        rows = [(tensor["name"], line.strip()) for tensor, line in self._lines()]
        counts = _html.html_table(f"{self.a} -> {self.b}", [*self.counts], [[*self.counts.values()]])
        return _html.html_document((counts, _html.html_table("", ("tensor", "difference"), rows) if rows else ""))

    @property
    def _headline(self) -> str:
        counts = ", ".join(f"{number} {status}" for status, number in self.counts.items())
        return f"{self.a} -> {self.b}: {counts}"

    def _lines(self) -> list[tuple[Difference, str]]:
        return [(tensor, _diff_line(tensor)) for tensor in self.tensors if tensor["status"] != "identical"]


def diff_checkpoints(
    a: str | os.PathLike[str], b: str | os.PathLike[str], progress: Progress | None = None
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
        meter, diffs = VerifyMeter(progress), dict[str, TensorDiff]()
        both = [name for name in before.entries if name in after.entries]
        compare_all(one for name in both for one in _common_bytes(before, after, name, diffs, meter))
        tensors = tuple(_diff_entries(before, after, diffs))
    counts = Counter(tensor["status"] for tensor in tensors)
    return DiffReport(str(a), str(b), tensors, {status: counts[status] for status in _STATUSES})


def _common_bytes(
    a: Checkpoint, b: Checkpoint, name: str, diffs: dict[str, TensorDiff], meter: VerifyMeter
) -> Iterator[ByteComparison]:
    """Yield the comparison of a tensor's bytes, all or those of the common rows, where there are any to compare."""
    before, after = stored_tensor(a, name), stored_tensor(b, name)
    same = before.entry.shape == after.entry.shape
    whole_bytes = dtype_bits(before.entry.dtype) >= 8 and min(len(before.whole), len(after.whole)) > 0
    if before.entry.dtype == after.entry.dtype and (same or (whole_bytes and before.whole[1:] == after.whole[1:])):
        diffs[name] = TensorDiff.of(after.whole, after.entry.dtype)
        common = Box.whole((*map(min, before.whole[:1], after.whole[:1]), *after.whole[1:]))
        left, right = replace(before, region=common), replace(after, region=common)
        yield ByteComparison(right, left, common, diffs[name], meter=meter)


def _diff_entries(a: Checkpoint, b: Checkpoint, diffs: dict[str, TensorDiff]) -> Iterator[Difference]:
    for name, entry in a.entries.items():
        other = b.entries.get(name)
        if other is None:
            yield _diff_entry(entry, "removed")
        else:
            change = _change_of(entry, other, diffs.get(name))
            yield _diff_entry(other, "changed" if change else "identical") | change
    yield from (_diff_entry(entry, "added") for name, entry in b.entries.items() if name not in a.entries)


def _diff_entry(entry: TensorEntry, status: str) -> Difference:
    return {"name": entry.name, "status": status, "shape": list(entry.shape), "dtype": entry.dtype}


def _change_of(before: TensorEntry, after: TensorEntry, diff: TensorDiff | None) -> Difference:
    """Return what changed in a tensor that both have; empty when nothing did."""
    form = {"shape_before": list(before.shape), "dtype_before": before.dtype}
    if before.dtype != after.dtype:
        return {"reason": "dtype", **form}
    change: Difference = {}
    if diff and before.shape != after.shape:
        rows = min(before.shape[0], after.shape[0])
        change |= {"common_rows": rows, "common_rows_identical": rows - int(diff.rows.sum())}
    if diff and diff.first:
        change["first"] = {key: value for key, value in diff.first.items() if key != "region"}
        change |= {"changed_rows": int(diff.rows.sum()), "rows": diff.length, "changed_elements": diff.elements}
    if before.shape != after.shape:
        return {"reason": "shape", **form, **change}
    return {"reason": "bytes", **change} if change else {}


def _diff_line(tensor: Difference) -> str:
    """Return a line on a tensor that isn't identical."""
    if tensor["status"] != "changed":
        return f"  {tensor['name']}: {tensor['status']}, {tensor['dtype']} {tensor['shape']}"
    text = describe_difference({**tensor, **tensor.get("first", {})})
    if "shape_before" in tensor:
        text += f", {tensor['dtype_before']} {tensor['shape_before']} -> {tensor['dtype']} {tensor['shape']}"
    if "common_rows" in tensor:
        text += f"; {tensor['common_rows_identical']} of {tensor['common_rows']} common rows identical"
    return f"  {text}"
