"""Torch's own format becomes safetensors: the same tensors, byte for byte, in a folder that appears whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hf_init import _verify
from hf_init._architecture import Target
from hf_init._checkpoint import (
    INDEX,
    BaseCheckpoint,
    Checkpoint,
    Origin,
    Reader,
    TorchWeights,
    as_bytes,
    check_no_adapter,
    config_json,
    equal_bytes,
    opened,
)
from hf_init._errors import HfInitError, ProofError
from hf_init._plan import BaseRecord, Manifest, Plan, TensorPlan, match_tensors, sources_of
from hf_init._progress import Progress
from hf_init._tensors import Copy, Status
from hf_init._verify import VerifyReport
from hf_init._version import __version__
from hf_init._write.extension import result_place
from hf_init._write.files import OutputFile, index_text, plan_files
from hf_init._write.other_files import (
    FilesByFolder,
    carried_bytes,
    carry_files,
    fetch_files,
    files_beside,
    joined_files,
)
from hf_init._write.source_watch import check_changed, files_state
from hf_init._write.stage import StagingDir, stage_result


@dataclass(frozen=True)
class Conversion:
    """A conversion that is planned and checked, and hasn't written anything yet."""

    base: BaseCheckpoint
    weights: TorchWeights
    plan: Plan
    beside: FilesByFolder
    out: Path

    @property
    def nbytes(self) -> int:
        """Return what ``run`` reports to ``progress``: every byte is written, compared and digested, twice over."""
        return 4 * self._stored

    @property
    def _stored(self) -> int:
        return sum(self.weights.tensors[tensor.name].nbytes for tensor in self.plan.stored)

    def run(self, progress: Progress, log: Callable[[str], object] = lambda message: None) -> VerifyReport:
        """Write the result and prove it; see ``convert``."""
        files, source = plan_files(self.plan, self.base.source), self.base.source
        room = sum(file.form.size for file in files) + carried_bytes(self.beside)
        with stage_result(self.out, room) as stage:
            state = files_state(source.root / shard for shard in source.shards)
            for file in files:
                self._write_file(file, stage, progress)
            if len(files) > 1:
                (stage.folder / INDEX).write_text(index_text(files), encoding="utf-8")
            carry_files(self.beside, stage.folder)
            self._write_config(stage.folder / "config.json")
            self._prove(stage, progress)
            digests = _verify.result_digests(stage.folder, self.plan.tensors, progress)
            manifest = Manifest(
                self.plan, BaseRecord(Origin.of(source.root), ""), {}, f"hf_init {__version__}", **digests
            )
            manifest.save(stage.folder, flush=False, home=self.out)
            check_changed(state)
            report = _verify.verify_result(stage.folder, False, progress=progress)
        return replace(report, bytes_compared=self._stored, base=str(source.root), notes=())

    def _write_file(self, file: OutputFile, stage: StagingDir, progress: Progress) -> None:
        """Write one file, tensor by tensor."""
        with opened(stage.folder / file.name, os.O_RDWR | os.O_CREAT | os.O_EXCL) as new:
            new.write(file.form.header, 0)
            for tensor in file.tensors:
                data = as_bytes(self.weights.tensors[tensor.name]).numpy()
                new.write(data, file.form.starts[tensor.name])
                progress(data.nbytes)
        stage.flush(stage.folder / file.name)

    def _write_config(self, path: Path) -> None:
        """Copy the config as it is, unless something had to be added."""
        own = self.base.folder / "config.json"
        if dict(self.base.config) == config_json(self.base.folder):
            path.write_bytes(own.read_bytes())
        else:
            path.write_text(json.dumps(dict(self.base.config), indent=2) + "\n", encoding="utf-8")

    def _prove(self, stage: StagingDir, progress: Progress) -> None:
        """Compare what was written with the source once more, from the files."""
        with Checkpoint.open(stage.folder) as result, Reader(result) as reader:
            for tensor in self.plan.stored:
                want = self.weights.tensors[tensor.name]
                if not equal_bytes(reader.tensor(tensor.name), want):
                    raise ProofError(f"{tensor.name}: the file doesn't hold what was written; don't trust this disk")
                progress(want.nbytes)


def prepare_conversion(base: str | Path, out: str | Path, **hub: Any) -> Conversion:
    """Plan and check a conversion, with the arguments of ``convert``: what can be refused is refused here."""
    result_place(out, [base])  # before anything is downloaded
    weights = TorchWeights.open(base, **hub)
    source = weights.checkpoint
    place = result_place(out, [source.root])
    check_no_adapter(source.root)
    config = config_json(source.root)
    first = [entry.dtype for entry in source.headers[0].entries if weights.tensors[entry.name].is_floating_point()]
    if not (config.get("dtype") or config.get("torch_dtype")) and len(set(first)) > 1:
        # The library takes the dtype of the first floating tensor, and the order of the tensors changes.
        config = {**config, "dtype": first[0]}
    opened_base = BaseCheckpoint(str(base), source.root, source, config)
    tied = dict(_repeated_tensors(opened_base, weights.tensors))
    beside = files_beside(opened_base)
    fetch_files(opened_base, beside)
    tensors: list[TensorPlan] = []
    for name in source.entries:
        shape, dtype = tuple(weights.tensors[name].shape), str(weights.tensors[name].dtype).removeprefix("torch.")
        if name in tied:
            tensors.append(TensorPlan(name, Status.TIED, shape, dtype, source=name, tied_to=tied[name]))
        else:
            tensors.append(TensorPlan(name, Status.KEPT, shape, dtype, (Copy.whole(name, shape),), source=name))
    plan = Plan(opened_base.class_name or "no class named", 0, tuple(tensors), files=joined_files(beside))
    return Conversion(opened_base, weights, plan, beside, place)


def _repeated_tensors(base: BaseCheckpoint, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str]]:
    """Yield the tensors that the base's own class ties and the files repeat, each with the one that is written.

    Without a class that can be built here nothing is left out: what shares memory is written once for each name.
    """
    try:
        target = Target.of(base, None, values={}, changed={})
        match, first = match_tensors(target.source, target.layout), sources_of(target.source, target.layout)
    except HfInitError:
        return
    for alias in match.aliases:
        written, repeated = first[alias.tie.of], alias.source
        if written is None or repeated is None or repeated == written.name:
            continue
        if equal_bytes(tensors[repeated], tensors[written.name]):
            yield repeated, written.name
