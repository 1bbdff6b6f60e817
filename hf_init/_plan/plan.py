"""The whole plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from hf_init._base_report import Draw, Report
from hf_init._checkpoint import FileLists, check_faults
from hf_init._plan.manifest_json import MANIFEST_NAME, PlanJson, read_manifest
from hf_init._plan.match import Unused
from hf_init._plan.table import carried_table, fill_table, kept_table, tie_table, unused_table
from hf_init._plan.tensor_plan import Fill, TensorPlan, UnknownScheme
from hf_init._tensors import Status
from hf_init._text import join_names
from hf_init.schemes import Omp


@dataclass(frozen=True, repr=False)
class Plan(Report):
    """Everything that an extension will do, decided before any value is read. A plan that exists is ``ok``.

    Attributes:
        architecture: the target's class name.
        seed: of the recipe.
        tensors: one entry for each target tensor, in the order of the target's files.
        unused: source tensors that the target has no place for.
        notes: sentences for whoever reads it.
        claim: what holds of old inputs, one of ``CLAIMS``; empty in a plan that nobody prepared.
        record: what a later extension of the result has to know, by topic: JSON.
        files: the base's files beside the weights: which go along, and which stay behind. Empty for a plan in memory.

    Example:
        >>> Plan("Tiny", 0, (TensorPlan("w", Status.NEW, (2,), "float32"),)).counts["new"]
        1
    """

    architecture: str
    seed: int
    tensors: tuple[TensorPlan, ...]
    unused: tuple[Unused, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    claim: str = field(default="", compare=False)
    record: Mapping[str, object] = field(default_factory=dict[str, object], compare=False)
    files: FileLists = field(default=FileLists(), compare=False)

    schema: ClassVar[str] = "hf_init.plan/1"

    @classmethod
    def load(cls, folder: str | Path) -> Plan:
        """Return the plan that a result was made by, from its manifest.

        Raises:
            CheckpointError: the folder has no manifest, one that can't be read, or one with an unknown scheme.
        """
        plan = cls.from_json(read_manifest(folder)["plan"])
        plan.check_schemes(folder)
        return plan

    def with_donors(self, spell: Callable[[str], str]) -> Plan:
        """Return the plan with another spelling of the checkpoints that its schemes read besides the base."""

        def spelled(fill: Fill) -> Fill:
            scheme = fill.scheme
            return replace(fill, scheme=replace(scheme, donor=spell(scheme.donor))) if isinstance(scheme, Omp) else fill

        return replace(
            self, tensors=tuple(replace(t, new=tuple(map(spelled, t.new))) if t.new else t for t in self.tensors)
        )

    def check_schemes(self, folder: str | Path) -> None:
        """Raise CheckpointError if a scheme of the plan in a folder's manifest is one that this version can't use."""
        schemes = ((tensor, fill.scheme) for tensor in self.tensors for fill in tensor.new)
        faults = [f"{tensor.name}: {each.reason}" for tensor, each in schemes if isinstance(each, UnknownScheme)]
        check_faults(str(Path(folder) / MANIFEST_NAME), faults, "Make the result again, or install a newer hf_init.")

    @property
    def counts(self) -> dict[str, int]:
        """Count the tensors of each status."""
        statuses = Counter(tensor.status for tensor in self.tensors)
        return {**{status.value: statuses[status] for status in Status}, "unused": len(self.unused)}

    @property
    def stored(self) -> tuple[TensorPlan, ...]:
        """Return the tensors that the result's files hold."""
        return tuple(tensor for tensor in self.tensors if tensor.stored)

    def __getitem__(self, name: str) -> TensorPlan:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def manifest_json(self) -> PlanJson:
        """Return the plan as a manifest holds it."""
        document: PlanJson = {
            "architecture": self.architecture,
            "seed": self.seed,
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "unused": [unused.name for unused in self.unused],
            "unused_why": {unused.name: unused.reason for unused in self.unused},
            "counts": self.counts,
            "notes": list(self.notes),
            "claim": self.claim,
            "files": self.files.to_json(),
        }
        if self.record:
            document["record"] = dict(self.record)
        return document

    def document(self) -> PlanJson:
        return self.manifest_json()

    @classmethod
    def from_json(cls, data: PlanJson) -> Plan:
        """Return the plan that ``to_json`` wrote."""
        reasons = data.get("unused_why", {})
        return cls(
            architecture=data["architecture"],
            seed=data["seed"],
            tensors=tuple(TensorPlan.from_json(entry) for entry in data["tensors"]),
            unused=tuple(Unused(name, reasons.get(name, "")) for name in data["unused"]),
            notes=tuple(data.get("notes", ())),
            claim=data.get("claim", ""),
            record=data.get("record", {}),
            files=FileLists.from_json(data.get("files", {})),
        )

    def summary(self) -> str:
        """Return the outcome in two lines: the tensors by status, and the claim."""
        return "\n".join((self.headline, *([f"old inputs: {self.claim}"] if self.claim else [])))

    @property
    def headline(self) -> str:
        counts = ", ".join(f"{number} {status}" for status, number in self.counts.items() if number)
        return f"{self.architecture}: {counts} (seed {self.seed})"

    def parts(self, draw: Draw) -> Iterator[str]:
        left = join_names(self.files.left_briefly, most=8)
        yield "\n".join((self.summary(), *self.notes, *([f"left behind: {left}"] if left else [])))
        for status in (Status.NEW, Status.RESIZED):
            yield fill_table(status, [t for t in self.tensors if t.status is status], draw)
        yield tie_table([t for t in self.tensors if t.status is Status.TIED], draw)
        yield carried_table([t for t in self.tensors if t.status is Status.CARRIED], draw)
        yield unused_table(self.unused, draw)
        yield kept_table([t for t in self.tensors if t.status is Status.KEPT])
