"""``diff_checkpoints``: any two checkpoints, tensor by tensor, byte by byte."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import Any

from hf_init._checkpoint import Checkpoint, TensorEntry, dtype_bits, open_tensors
from hf_init._globs import check_globs, fits_globs
from hf_init._progress import Progress
from hf_init._tensors import Box
from hf_init._verify.cast import CastComparison, castable
from hf_init._verify.compare import ByteComparison
from hf_init._verify.diff_report import DiffReport
from hf_init._verify.differences import Difference, TensorDiff
from hf_init._verify.pairs import pair_names
from hf_init._verify.ranges import compare_all
from hf_init._verify.regions import stored_tensor
from hf_init._verify.threads import VerifyMeter


def diff_checkpoints(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    only: Sequence[str] = (),
    by_layer: bool = False,
    progress: Progress | None = None,
    prefix: str = "",
    hub: Mapping[str, Any] = MappingProxyType({}),
) -> DiffReport:
    """Compare the tensors of two checkpoints by their bytes: NaN equals the same NaN, -0.0 is not 0.0.

    Metadata, the order of tensors and how they are spread over files don't count.

    Args:
        a, b: folders, hub ids, or single files.
        only: globs on names, in either of them; what fits none is left out.
        by_layer: the report prints a line a layer.
        progress: called with the bytes done since it was last called.
        prefix: what the names of ``a`` get before them.
        hub: of hub ids: ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Raises:
        CheckpointError: a file can't be read.
        PlanError: a glob fits no tensor.

    Example:
        >>> import tempfile, numpy, safetensors.numpy
        >>> folder = tempfile.TemporaryDirectory()
        >>> safetensors.numpy.save_file({"w": numpy.ones(3)}, f"{folder.name}/model.safetensors")
        >>> diff_checkpoints(folder.name, folder.name).identical
        True
        >>> folder.cleanup()
    """
    with open_tensors(a, prefix, **hub) as before, open_tensors(b, **hub) as after:
        check_globs("only", only, [*before.entries, *after.entries])
        names = pair_names(before, after, moved=True)
        couples = [_Couple(before.entries[was], after.entries[name]) for name, was in names.items()]
        couples = [each for each in couples if fits_globs(only, each.after.name, each.before.name)]
        meter = VerifyMeter(progress)
        comparisons = [each.comparison(before, after, meter) for each in couples]
        compare_all(
            [each for each in comparisons if isinstance(each, ByteComparison)],
            chain.from_iterable(each.jobs() for each in comparisons if isinstance(each, CastComparison)),
        )
    outcomes = {each.before.name: each.outcome(how) for each, how in zip(couples, comparisons, strict=True)}
    paired = {*names.values()}
    removed = [each for name, each in before.entries.items() if name not in paired]
    added = [each for name, each in after.entries.items() if name not in names]
    tensors = (
        *(outcomes[name] for name in before.entries if name in outcomes),
        *(_tensor_json(each, "removed") for each in removed if fits_globs(only, each.name)),
        *(_tensor_json(each, "added") for each in added if fits_globs(only, each.name)),
    )
    return DiffReport(str(a), str(b), tensors, by_layer)


@dataclass(frozen=True)
class _Couple:
    """A tensor as it was and as it is."""

    before: TensorEntry
    after: TensorEntry

    def comparison(self, a: Checkpoint, b: Checkpoint, meter: VerifyMeter) -> ByteComparison | CastComparison | None:
        """Return what to compare: all bytes or those of the common rows, or a cast; None where nothing can be."""
        expected, seen = stored_tensor(a, self.before.name), stored_tensor(b, self.after.name)
        diff = TensorDiff.of(seen.whole, self.after.dtype)
        if self.before.dtype != self.after.dtype:
            known = castable(self.before.dtype, self.after.dtype) and self.before.shape == self.after.shape
            pair = ByteComparison(seen, expected, Box.whole(seen.whole), diff, meter=meter)
            return CastComparison(pair, self.before.dtype, self.after.dtype) if known else None
        if self.before.shape != self.after.shape:  # in more than the number of rows, or of rows that share bytes
            whole_bytes = dtype_bits(self.before.dtype) >= 8 and min(len(expected.whole), len(seen.whole)) > 0
            if not whole_bytes or expected.whole[1:] != seen.whole[1:]:
                return None
        common = Box.whole((*map(min, expected.whole[:1], seen.whole[:1]), *seen.whole[1:]))
        left, right = replace(expected, region=common), replace(seen, region=common)
        return ByteComparison(right, left, common, diff, meter=meter)

    def outcome(self, comparison: ByteComparison | CastComparison | None) -> Difference:
        """Return the tensor's entry in the report."""
        if isinstance(comparison, CastComparison):
            diff, cast = comparison.pair.diff, comparison.meaning
        else:
            diff, cast = comparison.diff if comparison else None, ""
        renamed = {"name_before": self.before.name} if self.before.name != self.after.name else {}
        form = {"shape_before": list(self.before.shape), "dtype_before": self.before.dtype}
        if cast:
            return _tensor_json(self.after, "cast") | renamed | {"dtype_before": self.before.dtype, "cast": cast}
        change = self._change(diff)
        if self.before.dtype != self.after.dtype:
            return _tensor_json(self.after, "changed") | renamed | {"reason": "dtype", **form, **change}
        if self.before.shape != self.after.shape:
            return _tensor_json(self.after, "changed") | renamed | {"reason": "shape", **form, **change}
        if change:
            return _tensor_json(self.after, "changed") | renamed | {"reason": "bytes", **change}
        return _tensor_json(self.after, "renamed" if renamed else "identical") | renamed

    def _change(self, diff: TensorDiff | None) -> Difference:
        """Return where bytes differ, and how much; empty where they don't, or nothing could be compared."""
        if diff is None:
            return {}
        change: Difference = {}
        if self.before.shape != self.after.shape:
            rows = min(self.before.shape[0], self.after.shape[0])
            change |= {"common_rows": rows, "common_rows_identical": rows - int(diff.rows.sum())}
        if diff.first:
            change["first"] = {key: value for key, value in diff.first.items() if key != "region"}
            change |= {"changed_rows": int(diff.rows.sum()), "rows": diff.length, "changed_elements": diff.elements}
        return change


def _tensor_json(entry: TensorEntry, status: str) -> Difference:
    return {"name": entry.name, "status": status, "shape": list(entry.shape), "dtype": entry.dtype}
