"""The whole plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_init import _html, _text
from hf_init._errors import CheckpointError
from hf_init._plan.manifest import MANIFEST_NAME, Manifest
from hf_init._plan.match import Unused
from hf_init._plan.table import Draw, fill_table, kept_table, tie_table, unused_table
from hf_init._plan.tensor_plan import TensorPlan
from hf_init._tensors import Status


@dataclass(frozen=True)
class Plan:
    """Everything that an extension will do, decided before any value is read.

    Attributes:
        architecture: the target's class name.
        seed: of the recipe.
        tensors: one entry for each target tensor, in the order of the target's files.
        unused: source tensors that the target has no place for.
        notes: sentences for whoever reads it.
        record: what a later extension of the result has to know, by topic: JSON.

    Example:
        >>> Plan("Tiny", 0, (TensorPlan("w", Status.NEW, (2,), "float32"),)).counts["new"]
        1
    """

    architecture: str
    seed: int
    tensors: tuple[TensorPlan, ...]
    unused: tuple[Unused, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def load(cls, folder: str | Path) -> Plan:
        """The plan that a result was made by, from its manifest.

        Raises:
            CheckpointError: the folder has no manifest, or one that can't be read.
        """
        document = Manifest.load(folder).plan
        try:
            return cls.from_json(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{folder}: the plan in its {MANIFEST_NAME} isn't one ({type(error).__name__}: "
                f"{error}); make the result again"
            ) from error

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors have each status."""
        found = Counter(tensor.status.value for tensor in self.tensors)
        return {**{status.value: found[status.value] for status in Status}, "unused": len(self.unused)}

    @property
    def stored(self) -> tuple[TensorPlan, ...]:
        """The tensors that the result's files hold."""
        return tuple(t for t in self.tensors if t.status is not Status.TIED and not t.left_out)

    def __getitem__(self, name: str) -> TensorPlan:
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "seed": self.seed,
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "unused": [unused.name for unused in self.unused],
            "unused_why": {unused.name: unused.reason for unused in self.unused},
            "counts": self.counts,
            "notes": list(self.notes),
            **({"record": dict(self.record)} if self.record else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``to_json`` wrote."""
        reasons = data.get("unused_why", {})
        return cls(
            architecture=data["architecture"],
            seed=data["seed"],
            tensors=tuple(TensorPlan.from_json(entry) for entry in data["tensors"]),
            unused=tuple(Unused(name, reasons.get(name, "")) for name in data["unused"]),
            notes=tuple(data.get("notes", ())),
            record=data.get("record", {}),
        )

    def __str__(self) -> str:
        return "\n\n".join(part for part in (self._headline(), *self._sections()) if part)

    def _repr_html_(self) -> str:
        return _html.html_document((self._headline(), *self._sections(_html.html_table)))

    def _headline(self) -> str:
        counts = ", ".join(f"{many} {status}" for status, many in self.counts.items() if many)
        return "\n".join((f"{self.architecture}: {counts} (seed {self.seed})", *self.notes))

    def _sections(self, draw: Draw = _text.text_table) -> Iterator[str]:
        for status in (Status.NEW, Status.RESIZED):
            yield fill_table(status, [t for t in self.tensors if t.status is status], draw)
        yield tie_table([t for t in self.tensors if t.status is Status.TIED], draw)
        yield unused_table(self.unused, draw)
        yield kept_table([t for t in self.tensors if t.status is Status.KEPT])
