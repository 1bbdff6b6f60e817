"""The manifest: the file in a result folder that says how the result was made, so that it can be proved again later."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_init._checkpoint import check_faults, is_count, parse_object, read_object, short_name
from hf_init._errors import CheckpointError
from hf_init._plan.manifest_entries import entry_faults
from hf_init._plan.manifest_faults import digest_faults, document_faults, name_faults, record_faults

MANIFEST_NAME = "hf_init.json"
MANIFEST_VERSION = 1

_RECORDS = ("kept_digests", "tensor_digests")
_ADVICE = "The manifest was edited, or the result was not finished: make the result again with `hf-init extend`."


@dataclass(frozen=True)
class Manifest:
    """What a result was made of and by.

    Attributes:
        plan: the plan's JSON document; keys that this version doesn't know are kept as they are.
        base: the source, ``{"path": ..., "fingerprint": ...}`` and perhaps more: ``"sha256"``, file -> SHA-256 in
            hex of the whole file, where it was known.
        digests: tensor -> SHA-256 in hex of each of its new regions, in the plan's order, over the region's bytes
            in row-major order.
        made_by: the program, ``"hf_init 0.1.0"``.
        version: of this file's format.
        kept_digests: tensor -> SHA-256 of each of its kept regions, in the plan's order: with them the result can be
            proved without its base. None where none were asked for.
        tensor_digests: tensor -> SHA-256 of all of its bytes; None as before.
    """

    plan: dict[str, Any]
    base: dict[str, Any]
    digests: dict[str, list[str]]
    made_by: str
    version: int = MANIFEST_VERSION
    kept_digests: dict[str, list[str]] | None = None
    tensor_digests: dict[str, str] | None = None

    @property
    def tensors(self) -> list[dict[str, Any]]:
        """The plan's entries, one a target tensor."""
        return self.plan["tensors"]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Manifest:
        """The manifest of a result folder.

        Raises:
            CheckpointError: there is none, it is of a newer format, or it says what can't be.
        """
        path = Path(folder) / MANIFEST_NAME
        if not os.path.isfile(path):
            raise CheckpointError(
                f"{folder} has no {MANIFEST_NAME}, so it is not a result of hf_init that can be proved. "
                "Compare any two checkpoints with `hf-init diff` instead."
            )
        return cls.from_json(read_object(path), str(path))

    @classmethod
    def from_json(cls, data: Any, what: str = MANIFEST_NAME) -> Manifest:
        """The manifest that ``to_json`` wrote; ``what`` names it in errors.

        Raises:
            CheckpointError: a newer format, a wrong type, a region outside its tensor, a digest too few...
        """
        if not isinstance(data, dict):
            raise CheckpointError(f"{what} is {short_name(data)}, expected an object. {_ADVICE}")
        _check_version(data.get("version"), what)
        check_faults(what, document_faults(data), _ADVICE)
        tensors = data["plan"]["tensors"]
        check_faults(what, (fault for entry in tensors for fault in entry_faults(entry)), _ADVICE)
        check_faults(what, [*name_faults(tensors), *digest_faults(tensors, data["digests"])], _ADVICE)
        records = [data.get(key) for key in _RECORDS]
        check_faults(what, record_faults(tensors, *records), _ADVICE)
        return cls(data["plan"], data["base"], data["digests"], data["made_by"], data["version"], *records)

    def to_json(self) -> dict[str, Any]:
        document = {
            "version": self.version,
            "made_by": self.made_by,
            "base": self.base,
            "digests": self.digests,
            **{key: record for key in _RECORDS if (record := getattr(self, key)) is not None},
        }
        return {**document, "plan": self.plan}

    def save(self, folder: str | os.PathLike[str], flush: bool = True) -> None:
        """Write the manifest into a folder.

        Args:
            flush: bring it down to the disk, too. A filesystem may then bring down first what else was just written.

        Raises:
            CheckpointError: the manifest is one that ``load`` would refuse; nothing is written then.
        """
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        Manifest.from_json(parse_object(text.encode(), MANIFEST_NAME))
        with open(Path(folder) / MANIFEST_NAME, "w", encoding="utf-8") as file:
            file.write(text)
            if flush:
                file.flush()
                os.fsync(file.fileno())


def _check_version(version: Any, what: str) -> None:
    if not is_count(version) or version < 1:
        raise CheckpointError(f"{what}: version is {short_name(version)}, expected an integer of at least 1. {_ADVICE}")
    if version > MANIFEST_VERSION:
        raise CheckpointError(
            f"{what} is of format {version}, newer than the {MANIFEST_VERSION} that this hf_init "
            "reads. Install a newer hf_init."
        )
