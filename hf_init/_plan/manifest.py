"""The manifest: the file in a result folder that says how the result was made, so that it can be proved again later."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hf_init._checkpoint import check_faults, parse_object, place_anywhere, place_here
from hf_init._plan.base_record import BaseRecord
from hf_init._plan.manifest_json import (
    ADVICE,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    ManifestHeadJson,
    ManifestJson,
    checked_manifest,
    digest_faults,
    read_manifest,
)
from hf_init._plan.plan import Plan
from hf_init._plan.tensor_plan import TensorPlan


@dataclass(frozen=True)
class Manifest:
    """What a result was made of and by.

    Attributes:
        plan: what was done. A scheme that this version doesn't know is an ``UnknownScheme`` in it.
        base: what it was made from.
        digests: tensor -> SHA-256 in hex of each of its new regions, in the plan's order, over the region's bytes
            in row-major order.
        made_by: the program, ``"hf_init 0.1.0"``.
        version: of this file's format.
        kept_digests: tensor -> SHA-256 of each of its kept regions, in the plan's order: with them the result can be
            proved without its base. None where none were asked for.
        tensor_digests: tensor -> SHA-256 of all of its bytes; None as before.
        function: what base and result gave for the same inputs, as JSON; None where they weren't run.
        earlier: of a base that is itself a result, what this one is to what that one was made from, and so on.
    """

    plan: Plan
    base: BaseRecord
    digests: Mapping[str, list[str]]
    made_by: str
    version: int = MANIFEST_VERSION
    kept_digests: Mapping[str, list[str]] | None = None
    tensor_digests: Mapping[str, str] | None = None
    function: Mapping[str, object] | None = None
    earlier: tuple[Manifest, ...] = ()

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        """Return the plan's entries, one a target tensor."""
        return self.plan.tensors

    @classmethod
    def load(cls, folder: str | os.PathLike[str], home: Path | None = None) -> Manifest:
        """Return the manifest of a result folder.

        Args:
            home: where that folder will be in the end, from where its paths begin.

        Raises:
            CheckpointError: there is none, it is of a newer format, or it says what can't be.
        """
        return cls._from_checked(read_manifest(folder), str(Path(folder) / MANIFEST_NAME), home or Path(folder))

    @classmethod
    def from_json(cls, data: object, what: str = MANIFEST_NAME) -> Manifest:
        """Return the manifest that ``to_json`` wrote; ``what`` names it in errors.

        Raises:
            CheckpointError: a newer format, a wrong type, a region outside its tensor, a digest too few...
        """
        return cls._from_checked(checked_manifest(data, what), what)

    @classmethod
    def _from_checked(cls, document: ManifestJson, what: str, home: Path | None = None) -> Manifest:
        plan = Plan.from_json(document["plan"]).with_donors(lambda donor: place_here(donor, home))
        check_faults(what, digest_faults(plan.tensors, document), ADVICE)
        return cls(
            plan,
            BaseRecord.from_json(document["base"], home),
            document["digests"],
            document["made_by"],
            document["version"],
            document.get("kept_digests"),
            document.get("tensor_digests"),
            document.get("function"),
            tuple(cls._from_checked(checked_manifest(each, what), what, home) for each in document.get("earlier", ())),
        )

    def to_json(self, home: Path | None = None) -> ManifestJson:
        """Return the manifest as a document without a path of this machine.

        Args:
            home: the folder that it is written into, from where paths begin; None: they are left out.
        """
        head: ManifestHeadJson = {
            "version": self.version,
            "made_by": self.made_by,
            "base": self.base.to_json(home),
            "digests": dict(self.digests),
        }
        if self.kept_digests is not None:
            head["kept_digests"] = dict(self.kept_digests)
        if self.tensor_digests is not None:
            head["tensor_digests"] = dict(self.tensor_digests)
        if self.function is not None:
            head["function"] = dict(self.function)
        if self.earlier:
            head["earlier"] = [dict(each.to_json(home)) for each in self.earlier]
        return {**head, "plan": self.plan.with_donors(lambda donor: place_anywhere(donor, home)).manifest_json()}

    def save(
        self, folder: str | os.PathLike[str], flush: bool = True, home: str | os.PathLike[str] | None = None
    ) -> None:
        """Write the manifest into a folder.

        Args:
            home: where that folder will be in the end, from where paths begin.
            flush: bring it down to the disk, too. A filesystem may then bring down first what else was just written.

        Raises:
            CheckpointError: the manifest is one that ``load`` would refuse; nothing is written then.
        """
        for manifest in (self, *self.earlier):
            manifest.base.remember(Path(home or folder))
        text = json.dumps(self.to_json(Path(home or folder)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        data = text.encode("utf-8", "backslashreplace")  # a file's name that isn't UTF-8, as JSON escapes it
        Manifest.from_json(parse_object(data, MANIFEST_NAME))
        with open(Path(folder) / MANIFEST_NAME, "wb") as file:
            file.write(data)
            if flush:
                file.flush()
                os.fsync(file.fileno())
