"""What can be said against a result from headers and manifest alone, without reading a value."""

from __future__ import annotations

from collections.abc import Iterator

from hf_init._checkpoint import Checkpoint, dtype_bits
from hf_init._plan import Manifest, TensorPlan, region_fault
from hf_init._tensors import Copy, Status
from hf_init._verify.differences import Difference
from hf_init._verify.tiling import tiling_fault


def extra_tensors(result: Checkpoint, manifest: Manifest) -> Iterator[Difference]:
    """Yield the tensors in the result's files that the plan doesn't have."""
    planned = {tensor.name for tensor in manifest.tensors}
    for name in result.entries:
        if name not in planned:
            yield {"name": name, "reason": "extra: in the result, not in the plan"}
    for shard, name in result.unmapped:
        yield {"name": name, "reason": f"extra: in {shard}, where the index doesn't have it"}


def unaccounted(base: Checkpoint, manifest: Manifest) -> Iterator[Difference]:
    """Yield tensors of the base that are neither a source nor listed as unused, and listed ones that it lacks."""
    unused = dict.fromkeys(tensor.name for tensor in manifest.plan.unused)
    sources = {tensor.source for tensor in manifest.tensors}
    sources |= {copy.source for tensor in manifest.tensors for copy in tensor.kept}
    for name in base.entries:
        if name not in sources and name not in unused:
            yield {"name": name, "reason": "unaccounted: in the base, neither used nor listed as unused"}
    for name in unused:
        if name not in base.entries:
            yield {"name": name, "reason": "listed as unused, not in the base"}


def check_form(result: Checkpoint, tensor: TensorPlan) -> Difference | None:
    """Return what is wrong with a tensor's presence, dtype, shape or regions in the result; None if nothing is."""
    stored = result.entries.get(tensor.name)
    if not tensor.stored:
        why = f"tied to {tensor.tied_to}" if tensor.status is Status.TIED else "left out by its scheme"
        return None if stored is None else {"reason": f"{why}, and yet stored in the files"}
    if stored is None:
        return {"reason": "missing: in the plan, not in the result"}
    if stored.dtype != tensor.dtype:
        return {"reason": "dtype", "seen": stored.dtype, "expected": tensor.dtype}
    if stored.shape != tensor.shape:
        return {"reason": "shape", "seen": list(stored.shape), "expected": list(tensor.shape)}
    return tiling_fault(tensor.shape, [part.region for part in (*tensor.kept, *tensor.new)])


def source_fault(base: Checkpoint, tensor: TensorPlan, copy: Copy) -> Difference | None:
    """Return why the source can't be what was copied; None if it can."""
    source = base.entries.get(copy.source)
    if source is None:
        return {"reason": f"its source {copy.source} is not in the base"}
    if source.dtype != tensor.dtype:
        return {"reason": "dtype of its source in the base", "seen": source.dtype, "expected": tensor.dtype}
    if (tensor.status.is_whole or dtype_bits(source.dtype) < 8) and source.shape != tensor.shape:
        seen, expected = list(source.shape), list(tensor.shape)
        return {"reason": "shape of its source in the base", "seen": seen, "expected": expected}
    region = copy.source_region.within(source.shape)
    if fault := region_fault(region, source.shape):
        return {"reason": f"source {fault}"}
    if region.shape != copy.region.shape:
        return {"reason": "shape of the source region", "seen": list(region.shape), "expected": list(copy.region.shape)}
    return None
