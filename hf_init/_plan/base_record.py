"""What a manifest says of the checkpoint that a result was made from, and how that is found again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from hf_init._checkpoint import Checkpoint, Origin, OriginJson, open_tensors
from hf_init._errors import CheckpointError
from hf_init._plan.manifest_json import BaseJson
from hf_init._plan.remembered import recall_base, remember_base

BaseFolders: TypeAlias = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]


@dataclass(frozen=True)
class BaseRecord:
    """What a manifest says of the checkpoint that a result was made from.

    Attributes:
        origin: where it was.
        fingerprint: of its headers.
        parts: of a result of several checkpoints, prefix -> where each was.
        sha256: file -> SHA-256 in hex of the whole file, where it was known.
        link: how files were taken over, where they weren't copied.
    """

    origin: Origin
    fingerprint: str
    parts: Mapping[str, Origin] = field(default_factory=dict[str, Origin])
    sha256: Mapping[str, str] = field(default_factory=dict[str, str])
    link: str = ""

    @classmethod
    def of(cls, source: Checkpoint, link: str = "") -> BaseRecord:
        """Return the record of a checkpoint, whose files are here."""
        parts = {prefix: Origin.of(part.root) for prefix, part in source.parts}
        name = ", ".join(f"{prefix}={part.name}" for prefix, part in parts.items())
        origin = Origin(name) if parts else Origin.of(source.root)
        return cls(origin, source.fingerprint(), parts, source.blobs(), link)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Return where each checkpoint was that the base was made of."""
        return tuple(self.parts.values()) or (self.origin,)

    def open(self, base: BaseFolders | None = None, **hub: Any) -> Checkpoint:
        """Open what is given as the base; by default, what is recorded, if it is here.

        Args:
            base: a folder or a hub id; of several checkpoints, each by its prefix.
            hub: ``revision``, ``subfolder``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

        Raises:
            CheckpointError: it isn't there, or can't be read.
        """
        if base is None:
            return Checkpoint.merged(self._recorded_parts(hub)) if self.parts else self.origin.open(**hub)
        if not isinstance(base, Mapping):
            return open_tensors(base, **self.origin.pinned(base, hub))
        origins = {prefix: self.parts.get(prefix, Origin("")) for prefix in base}
        return Checkpoint.merged({at: open_tensors(each, **origins[at].pinned(each, hub)) for at, each in base.items()})

    def _recorded_parts(self, hub: Mapping[str, Any]) -> dict[str, Checkpoint]:
        parts: dict[str, Checkpoint] = {}
        absent: list[str] = []
        for prefix, origin in self.parts.items():
            try:
                parts[prefix] = origin.open(**hub)
            except CheckpointError as error:
                absent.append(str(error.args[0]))
        if absent:
            raise CheckpointError("\n".join(absent))
        return parts

    @classmethod
    def from_json(cls, data: BaseJson, home: Path | None = None) -> BaseRecord:
        def found(prefix: str, recorded: OriginJson) -> Origin:
            origin = Origin.from_json(recorded, home)
            known = origin.path or home is None
            return origin if known else replace(origin, path=recall_base(data["fingerprint"], prefix))

        parts = {prefix: found(prefix, part) for prefix, part in data.get("parts", {}).items()}
        origin = Origin.from_json(data) if parts else found("", data)
        return cls(origin, data["fingerprint"], parts, data.get("sha256", {}), data.get("link", ""))

    def remember(self, home: Path) -> None:
        """Note on this machine where the base is, as far as a manifest in this folder doesn't say it.

        Of a hub id, too: its cache may be another than the one that a later proof looks in.
        """
        for prefix, origin in self.parts.items() or [("", self.origin)]:
            if self.fingerprint and origin.path and "path" not in origin.to_json(home):
                remember_base(self.fingerprint, prefix, origin.path)

    def to_json(self, home: Path | None = None) -> BaseJson:
        data: BaseJson = {**self.origin.to_json(home), "fingerprint": self.fingerprint}
        if self.parts:
            data["parts"] = {prefix: part.to_json(home) for prefix, part in self.parts.items()}
        if self.sha256:
            data["sha256"] = dict(self.sha256)
        if self.link:
            data["link"] = self.link
        return data
