"""The base that a user gives, opened: a folder, a hub id, or several checkpoints as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias, runtime_checkable

from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._checkpoint.hub import config_json
from hf_init._checkpoint.kinds import check_no_adapter
from hf_init._checkpoint.locate import open_checkpoint
from hf_init._checkpoint.packed import PackedWeights, plain_config
from hf_init._errors import PlanError

Bases: TypeAlias = "str | Path | Mapping[str, str | Path]"


@runtime_checkable
class WholeConfig(Protocol):
    """A config object, which the class of several checkpoints is built from."""

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class BaseCheckpoint:
    """A checkpoint before any change is asked of it.

    Attributes:
        name: as the user gave it.
        config: the raw ``config.json``, without what is left over in it.
        stale: what that is: it speaks of packed weights, and they are plain.
        packed: its packed weights, which can only be kept as they are; None where all are plain.
    """

    name: str
    folder: Path
    source: Checkpoint
    config: Mapping[str, Any]
    stale: tuple[str, ...] = ()
    packed: PackedWeights | None = None

    @classmethod
    def open(
        cls,
        base: Bases,
        config: object = None,
        *,
        headers_only: bool = False,
        subfolder: str = "",
        may_be_packed: bool = False,
        hub: Mapping[str, Any] = MappingProxyType({}),
    ) -> BaseCheckpoint:
        """Open what a user calls a base.

        Args:
            base: a folder or a hub id; or several, by the prefix that the names of each get.
            config: of several checkpoints, the config object of the whole, where it isn't made of theirs.
            headers_only: leave the weights of a hub id where they are: enough for a plan.
            may_be_packed: take a quantized one whose config says by what.
            hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

        Raises:
            CheckpointError: there is no such folder or repository, or its files aren't what they should be.
            PlanError: it is quantized, or there is none.
        """
        if isinstance(base, Mapping):
            return cls._merge(base, config, headers_only, hub)
        source = open_checkpoint(base, subfolder, headers_only=headers_only, **hub)
        check_no_adapter(source.root)
        plain = plain_config(source.root, config_json(source.root), source.entries, may_be_packed)
        return cls(str(base), source.root, source, *plain)

    @classmethod
    def _merge(
        cls, base: Mapping[str, str | Path], config: object, headers_only: bool, hub: Mapping[str, Any]
    ) -> BaseCheckpoint:
        """Open several checkpoints as one, in the order given; the config can be none of theirs."""
        if not base:
            raise PlanError("a base of several checkpoints is a mapping from the prefix of each to its folder")
        if isinstance(config, type):
            raise PlanError(f"config: expected the config object of the whole, not the class {config.__name__}")
        parts = {str(at): open_checkpoint(each, headers_only=headers_only, **hub) for at, each in base.items()}
        for part in parts.values():
            check_no_adapter(part.root)
            plain_config(part.root, config_json(part.root), part.entries)  # refuses a quantized one
        name = ", ".join(f"{prefix}={folder}" for prefix, folder in base.items())
        whole = config.to_dict() if isinstance(config, WholeConfig) else {}
        return cls(name, next(iter(parts.values())).root, Checkpoint.merged(parts), whole)

    @classmethod
    def of_part(cls, part: Checkpoint) -> BaseCheckpoint:
        """Return an open checkpoint, such as one of several, as a base of its own."""
        return cls(str(part.root), part.root, part, *plain_config(part.root, config_json(part.root), part.entries))

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Return each checkpoint that the base is made of."""
        return tuple(part for _, part in self.source.parts) or (self.source,)

    @property
    def location(self) -> Path | dict[str, Path]:
        """Return what opens the same base from this machine's disk: a folder, or several by prefix."""
        return {prefix: part.root for prefix, part in self.source.parts} or self.folder

    @property
    def class_name(self) -> str:
        """Return the class that the config names as the checkpoint's own; empty where it names none."""
        names = self.config.get("architectures")
        return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
