"""What the tests of writing share: small checkpoints and plans, and the whole way of a result, without transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hf_init import schemes
from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._checkpoint.tensor_reader import Reader
from hf_init._fill import make_tensors
from hf_init._plan.manifest import BaseRecord, Manifest
from hf_init._plan.plan import Plan
from hf_init._plan.tensor_plan import Fill, TensorPlan
from hf_init._tensors import Box, Copy, Region, Status
from hf_init._verify.verify import verify_result
from hf_init._write.files import bytes_written, plan_files
from hf_init._write.stage import stage_result
from hf_init._write.writing import write

NORMAL = schemes.Normal(std=0.02)


def save_base(folder: Path, *files: Mapping[str, torch.Tensor]) -> Checkpoint:
    """A checkpoint of so many files."""
    folder.mkdir()
    many = len(files)
    names = (
        [f"model-{k:05d}-of-{many:05d}.safetensors" for k in range(1, many + 1)] if many > 1 else ["model.safetensors"]
    )
    for name, tensors in zip(names, files, strict=True):
        save_file(dict(tensors), folder / name, metadata={"format": "pt"})
    if many > 1:
        places = {tensor: name for name, tensors in zip(names, files, strict=True) for tensor in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return Checkpoint.open(folder)


def values(*shape: int, dtype: str = "float32", seed: int = 0) -> torch.Tensor:
    """Random bytes: every bit pattern is as good as another."""
    generator = torch.Generator().manual_seed(seed)
    width = getattr(torch, dtype).itemsize
    data = torch.randint(0, 256, (max(torch.Size(shape).numel(), 0) * width,), generator=generator, dtype=torch.uint8)
    return data.view(getattr(torch, dtype)).reshape(shape)


def kept(source: Checkpoint, name: str, was: str | None = None) -> TensorPlan:
    entry = source.entries[was or name]
    whole = Box.whole(entry.shape)
    copies = (Copy(whole, entry.name, whole),)
    return TensorPlan(name, Status.KEPT, entry.shape, entry.dtype, copies, source=entry.name, parameter=name)


def new(name: str, *shape: int, dtype: str = "float32") -> TensorPlan:
    return TensorPlan(name, Status.NEW, shape, dtype, new=(Fill(Box.whole(shape), NORMAL),), parameter=name)


def resized(
    name: str,
    shape: Sequence[int],
    dtype: str,
    copies: Sequence[Copy],
    fills: Sequence[Region],
    scheme: schemes.Scheme = NORMAL,
) -> TensorPlan:
    new = tuple(Fill(region, scheme) for region in fills)
    return TensorPlan(name, Status.RESIZED, tuple(shape), dtype, tuple(copies), new, parameter=name)


def grown(source: Checkpoint, name: str, rows: int) -> TensorPlan:
    """A tensor with some more rows."""
    entry = source.entries[name]
    old = Box.whole(entry.shape)
    shape = (entry.shape[0] + rows, *entry.shape[1:])
    return resized(name, shape, entry.dtype, [Copy(old, name, old)], [Box((old.stop[0], *old.start[1:]), shape)])


def plan_of(*tensors: TensorPlan) -> Plan:
    return Plan("Tiny", 0, tensors)


def extend(
    source: Checkpoint,
    out: Path,
    plan: Plan,
    link: Any = "copy",
    max_bytes: int | None = None,
    resume: bool = False,
    rename: bool = True,
    log: Callable[[str], object] = lambda message: None,
) -> None:
    """A plan becomes a proved folder, as ``hf_init.extend`` does it."""
    needed = bytes_written(plan_files(plan, source, link=link, max_bytes=max_bytes), source, link)
    with stage_result(out, needed, resume=resume, rename=rename) as stage:
        digests = write(plan, source, stage, link=link, max_bytes=max_bytes, log=log).digests
        (stage.folder / "config.json").write_text("{}")
        base = BaseRecord(str(source.root), source.fingerprint(), link=link)
        Manifest(plan, base, digests, "a test").save(stage.folder)
        verify_result(stage.folder).raise_if_failed()


def read(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder, by safetensors."""
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def expected(source: Checkpoint, plan: Plan) -> dict[str, torch.Tensor]:
    """Every tensor of a plan, as the memory executor makes it."""
    with Reader(source) as reader:
        return {name: tensor.clone() for name, tensor in make_tensors(plan.stored, reader, plan.seed).items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))
