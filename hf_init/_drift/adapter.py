"""A PEFT adapter's folder: the base, which isn't in it, is proved; the full tensors that it carries are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hf_init._checkpoint import Checkpoint, TensorEntry, is_json_object, is_shape, read_object
from hf_init._drift.folders import ADAPTER, TrainedFolder
from hf_init._drift.frozen_globs import KEPT
from hf_init._drift.judge import TensorDrift, judge_parts
from hf_init._drift.measure import TensorPair
from hf_init._drift.parts import ALL, NEW, TensorPart
from hf_init._drift.report import DriftReport, untrained_warning
from hf_init._errors import CheckpointError, PlanError
from hf_init._paths import user_path
from hf_init._plan import MANIFEST_NAME, Manifest, Plan, TensorPlan
from hf_init._tensors import Box, Rows, num_elements
from hf_init._text import format_count, join_names
from hf_init._verify import castable, stored_tensor, verify_result

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TOKENS = ".token_adapter.trainable_tokens_delta"


@dataclass(frozen=True)
class _Adapter:
    """An adapter with its base; ``plan`` is the base's, where it has one."""

    folder: Path
    config: dict[str, object]
    files: Checkpoint
    base: Checkpoint
    plan: Plan | None

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        return () if self.plan is None else self.plan.tensors

    def replaced(self, name: str) -> str | None:
        """Return the base's tensor that one of the adapter's replaces, in part or whole; None if it adds to one."""
        inside = name.removeprefix(_PREFIX)
        if inside.endswith(_TOKENS):
            inside = f"{inside.removesuffix(_TOKENS)}.weight"
        names = {tensor.parameter or tensor.name: tensor.name for tensor in self.tensors}
        target = names.get(inside, inside)
        return target if target in self.base.entries else None

    def adds_to(self, tensor: TensorPlan) -> bool:
        """Return whether the adapter adds to the module of a tensor."""
        module = (tensor.parameter or tensor.name).rpartition(".")[0]
        return any(name.removeprefix(_PREFIX).startswith(f"{module}.") for name in self.files.entries)

    def part(self, entry: TensorEntry, target: str) -> TensorPart:
        """Return a tensor of the adapter with the base's tensor that it replaces."""
        before, tokens = self.base.entries[target], entry.name.endswith(_TOKENS)
        region = _token_rows(self.config, target, entry, before) if tokens else Box.whole(before.shape)
        fits = region is not None and region.shape == entry.shape
        comparable = fits and (before.dtype == entry.dtype or castable(before.dtype, entry.dtype))
        shapes = f"was {before.dtype} {list(before.shape)}, is {entry.dtype} {list(entry.shape)}"
        pair = TensorPair(
            stored_tensor(self.files, entry.name), lambda: stored_tensor(self.base, target, region), before.dtype
        )
        return TensorPart(
            target,
            NEW if any(tensor.name == target and tensor.new for tensor in self.tensors) else KEPT,
            False,
            entry.shape,
            entry.dtype,
            num_elements(entry.shape),
            f"{format_count(entry.shape[0])} rows" if tokens else ALL,
            before.dtype,
            (pair,) if comparable else (),
            fault="" if comparable else f"{shapes}: it can't be compared",
        )

    def notes(self) -> Iterator[str]:
        added = [name for name in self.files.entries if self.replaced(name) is None]
        yield (
            f"{self.folder} is an adapter of PEFT ({self.config.get('peft_type', 'of no type')}): the base isn't in "
            "it, and is proved in its own folder"
        )
        if added:
            many = format_count(len(added))
            yield f"{many} tensors of the adapter's own, which are added to the base when it is loaded"
        for key in ("modules_to_save", "trainable_token_indices"):
            if self.config.get(key):
                yield f"{key} of the adapter: {json.dumps(self.config[key])}"
        if self.plan is None:
            yield f"the base has no {MANIFEST_NAME}: whether it is what it was isn't known"

    def warnings(self, tensors: tuple[TensorDrift, ...]) -> Iterator[str]:
        carried = {tensor.name for tensor in tensors}
        bare = [each.name for each in self.tensors if each.new and each.name not in carried and not self.adds_to(each)]
        if bare:
            yield (
                f"new, and the adapter doesn't carry it: {join_names(bare)}. It stays as it was made: see what to paste"
            )
        yield from untrained_warning(tensors)

    def paste(self) -> str:
        """Return the arguments of a PEFT config that the plan of the base asks for; or why there are none."""
        from hf_init.finetune import peft_arguments  # brings torch, which only an adapter's report needs

        if self.plan is None:
            return ""
        try:
            arguments = peft_arguments(self.plan)
        except PlanError as error:
            return str(error)
        return ",\n".join(f"{key}={value!r}" for key, value in arguments.items())


def adapter_drift(
    base: TrainedFolder | None,
    folder: Path,
    notes: tuple[str, ...],
    must_prove: bool,
    progress: Callable[[int], object] | None,
) -> DriftReport:
    """Return the report on an adapter.

    Raises:
        CheckpointError: its base is not a folder here, or can't be proved and must be.
    """
    config = read_object(folder / ADAPTER)
    base_folder = _adapter_base(base, folder, config)
    planned = (base_folder / MANIFEST_NAME).is_file()
    if must_prove and not planned:
        raise CheckpointError(
            f"{folder} is an adapter, and its base, {base_folder}, has no {MANIFEST_NAME} that says what it "
            "should be: it can't be proved unchanged. Compare it with the checkpoint that you started from: "
            "`hf-init diff`."
        )
    proof = verify_result(base_folder, progress=progress) if planned else None
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} has {ADAPTER} and no {WEIGHTS}: save the adapter again with save_pretrained.")
    with Checkpoint.of_file(folder / WEIGHTS) as files, Checkpoint.open(base_folder) as source:
        adapter = _Adapter(folder, config, files, source, Manifest.load(base_folder).plan if planned else None)
        targets = {name: target for name in files.entries if (target := adapter.replaced(name)) is not None}
        parts = [adapter.part(files.entries[name], target) for name, target in targets.items()]
        tensors = judge_parts(parts, progress)
        return DriftReport(
            trained=str(folder),
            base=str(source.root),
            plan=str(source.root / MANIFEST_NAME) if planned else "none",
            frozen="the base, which an adapter doesn't hold",
            tensors=tensors,
            notes=(*notes, *adapter.notes()),
            warnings=tuple(adapter.warnings(tensors)),
            bytes_compared=sum(files.entries[name].nbytes for name in targets),
            proof=proof,
            paste=adapter.paste(),
        )


def _adapter_base(base: TrainedFolder | None, folder: Path, config: Mapping[str, object]) -> Path:
    named = base if base is not None else config.get("base_model_name_or_path")
    if isinstance(named, str | Path) and user_path(named).is_dir():
        return user_path(named)
    raise CheckpointError(
        f"{folder} is an adapter, which doesn't hold its base, and {named!r}, which "
        f"{'was given' if base is not None else 'its config names'}, is not a folder here. Give the base's folder."
    )


def _token_rows(config: Mapping[str, object], target: str, entry: TensorEntry, before: TensorEntry) -> Rows | None:
    """Return the rows of an embedding that trainable tokens stand for."""
    indices, module = config.get("trainable_token_indices"), target.removesuffix(".weight")
    by_module = indices if is_json_object(indices) else {}
    lists = [rows for name, rows in by_module.items() if module == name or module.endswith(f".{name}")]
    for rows in [indices, *lists]:
        if is_shape(rows) and len(rows) == entry.shape[0]:
            return Rows(0, tuple(rows), before.shape) if all(row < before.shape[0] for row in rows) else None
    return None
