"""The manifest: the file in a result folder that says how the result was made, so that it can be proved again later."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hf_init._checkpoint import check_faults, parse_object
from hf_init._plan.manifest_json import (
    ADVICE,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    BaseJson,
    ManifestHeadJson,
    ManifestJson,
    checked_manifest,
    digest_faults,
    read_manifest,
)
from hf_init._plan.plan import Plan
from hf_init._plan.tensor_plan import TensorPlan


@dataclass(frozen=True)
class BaseRecord:
    """What a manifest says of the checkpoint that a result was made from.

    Attributes:
        path: the folder that it was in.
        fingerprint: of its headers.
        name: as the user named it: a folder, or a hub id.
        parts: of a result of several checkpoints, prefix -> folder.
        sha256: file -> SHA-256 in hex of the whole file, where it was known.
        link: how files were taken over, where they weren't copied.
    """

    path: str
    fingerprint: str
    name: str = ""
    parts: Mapping[str, str] = field(default_factory=dict[str, str])
    sha256: Mapping[str, str] = field(default_factory=dict[str, str])
    link: str = ""

    @classmethod
    def from_json(cls, data: BaseJson) -> BaseRecord:
        return cls(
            path=data["path"],
            fingerprint=data["fingerprint"],
            name=data.get("name", ""),
            parts=data.get("parts", {}),
            sha256=data.get("sha256", {}),
            link=data.get("link", ""),
        )

    def to_json(self) -> BaseJson:
        data: BaseJson = {"path": self.path, "name": self.name, "fingerprint": self.fingerprint}
        if not self.name:
            del data["name"]
        if self.parts:
            data["parts"] = dict(self.parts)
        if self.sha256:
            data["sha256"] = dict(self.sha256)
        if self.link:
            data["link"] = self.link
        return data


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
    """

    plan: Plan
    base: BaseRecord
    digests: Mapping[str, list[str]]
    made_by: str
    version: int = MANIFEST_VERSION
    kept_digests: Mapping[str, list[str]] | None = None
    tensor_digests: Mapping[str, str] | None = None
    function: Mapping[str, object] | None = None

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        """Return the plan's entries, one a target tensor."""
        return self.plan.tensors

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Manifest:
        """Return the manifest of a result folder.

        Raises:
            CheckpointError: there is none, it is of a newer format, or it says what can't be.
        """
        return cls._from_checked(read_manifest(folder), str(Path(folder) / MANIFEST_NAME))

    @classmethod
    def from_json(cls, data: object, what: str = MANIFEST_NAME) -> Manifest:
        """Return the manifest that ``to_json`` wrote; ``what`` names it in errors.

        Raises:
            CheckpointError: a newer format, a wrong type, a region outside its tensor, a digest too few...
        """
        return cls._from_checked(checked_manifest(data, what), what)

    @classmethod
    def _from_checked(cls, document: ManifestJson, what: str) -> Manifest:
        plan = Plan.from_json(document["plan"])
        check_faults(what, digest_faults(plan.tensors, document), ADVICE)
        return cls(
            plan,
            BaseRecord.from_json(document["base"]),
            document["digests"],
            document["made_by"],
            document["version"],
            document.get("kept_digests"),
            document.get("tensor_digests"),
            document.get("function"),
        )

    def to_json(self) -> ManifestJson:
        head: ManifestHeadJson = {
            "version": self.version,
            "made_by": self.made_by,
            "base": self.base.to_json(),
            "digests": dict(self.digests),
        }
        if self.kept_digests is not None:
            head["kept_digests"] = dict(self.kept_digests)
        if self.tensor_digests is not None:
            head["tensor_digests"] = dict(self.tensor_digests)
        if self.function is not None:
            head["function"] = dict(self.function)
        return {**head, "plan": self.plan.manifest_json()}

    def save(self, folder: str | os.PathLike[str], flush: bool = True) -> None:
        """Write the manifest into a folder.

        Args:
            flush: bring it down to the disk, too. A filesystem may then bring down first what else was just written.

        Raises:
            CheckpointError: the manifest is one that ``load`` would refuse; nothing is written then.
        """
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        data = text.encode("utf-8", "backslashreplace")  # a file's name that isn't UTF-8, as JSON escapes it
        Manifest.from_json(parse_object(data, MANIFEST_NAME))
        with open(Path(folder) / MANIFEST_NAME, "wb") as file:
            file.write(data)
            if flush:
                file.flush()
                os.fsync(file.fileno())
