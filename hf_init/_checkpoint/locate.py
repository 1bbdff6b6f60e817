"""What a user calls a checkpoint, opened: a folder, or a hub id, ``org/name`` or ``org/name@revision``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._checkpoint.strict import GIVE_FOLDER
from hf_init._errors import CheckpointError, option
from hf_init._paths import user_path

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
_SNAPSHOT = re.compile(r"models--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})(?:/(?P<subfolder>.+))?$")


def open_checkpoint(
    base: str | os.PathLike[str], subfolder: str = "", *, headers_only: bool = False, beside: bool = True, **hub: Any
) -> Checkpoint:
    """Open a folder or a hub id, of which no more is downloaded than what is asked for.

    Args:
        headers_only: leave the weights of a hub id where they are: enough for a plan.
        beside: download what is read beside the weights as well: config, tokenizer, code.
        hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Raises:
        CheckpointError: there is no such folder, no such repository or no way to reach it, or its files aren't what
            they should be.
    """
    folder = local_folder(base)
    if folder is not None:
        return Checkpoint.open(folder / subfolder if subfolder else folder)
    from hf_init._checkpoint.hub import fetch_to_plan, find_repository, open_in_repository

    repository = find_repository(str(base), subfolder, **hub)
    if beside:
        fetch_to_plan(repository)
    return open_in_repository(repository, headers_only)


def folder_of(base: str | os.PathLike[str], subfolder: str = "", **hub: Any) -> Path:
    """Return the local folder of a checkpoint, of a hub id with its weights and what a program loads with them.

    Raises:
        CheckpointError: as ``open_checkpoint``.
    """
    folder = local_folder(base)
    if folder is None:
        return open_checkpoint(base, subfolder, **hub).root
    return folder / subfolder if subfolder else folder


def local_folder(base: str | os.PathLike[str]) -> Path | None:
    """Return the folder of that name; None where there is none, and the name may be a hub id.

    Raises:
        CheckpointError: the name is empty, a file's, or none.
    """
    if not isinstance(base, (str, os.PathLike)):
        raise CheckpointError(f"the base is {base!r}; {GIVE_FOLDER}")
    if not str(base):
        raise CheckpointError(f"the base is an empty name; {GIVE_FOLDER}")
    path = user_path(base)
    if path.is_file():
        raise CheckpointError(f"{base} is a file; give the folder that holds it")
    return path if path.is_dir() else None


class OriginJson(TypedDict, total=False):
    """An origin in a manifest; its path begins at the manifest's folder."""

    name: str
    path: str
    commit: str
    subfolder: str


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint was when something was made of it: what finds it again, here or on another machine.

    Attributes:
        name: the hub id, or the folder's own name.
        path: of the folder here; empty where it isn't known.
        commit: of the hub's repository; empty for a folder.
        subfolder: in the repository.
    """

    name: str
    path: str = ""
    commit: str = ""
    subfolder: str = ""

    @classmethod
    def of(cls, folder: str | os.PathLike[str]) -> Origin:
        """Return the origin of a folder; one in the hub's cache says what repository it is of."""
        path = Path(folder).resolve()
        found = _SNAPSHOT.search(path.as_posix())
        if found is None:
            return cls(path.name, str(path))
        return cls(found["name"].replace("--", "/"), str(path), found["commit"], found["subfolder"] or "")

    @property
    def folder(self) -> Path | None:
        """Return the folder, if it is here."""
        return Path(self.path) if self.path and Path(self.path).is_dir() else None

    def open(self, **hub: Any) -> Checkpoint:
        """Open it where it was, or in the hub's cache; nothing is downloaded.

        Raises:
            CheckpointError: it isn't here; the message has the command that fetches it.
        """
        if self.folder is not None:
            return Checkpoint.open(self.folder)
        given = option("base", "FOLDER")
        if not self.commit:
            where = f" ({self.path})" if self.path else ""
            raise CheckpointError(f"The base, {self.name}{where}, is not there. Say where it is now: {given}.")
        place = {"revision": self.commit, "subfolder": self.subfolder, "local_files_only": True}
        try:
            return open_checkpoint(self.name, beside=False, **{**hub, **place})
        except CheckpointError:
            raise CheckpointError(
                f"The base, {self.name} at commit {self.commit}, is not in the hub's cache here. Fetch it: "
                f"`hf download {self.name} --revision {self.commit}`. Or say where it is: {given}."
            ) from None

    def find(self) -> Path | None:
        """Return its folder here, or in the hub's cache; None where it isn't, or can't be read."""
        try:
            return self.open().root
        except CheckpointError:
            return None

    def pinned(self, base: str | os.PathLike[str], hub: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options to open what a user gives: its own commit of the same repository, unless one is named."""
        same = str(base) == self.name and self.commit and hub.get("revision") is None
        return {"subfolder": self.subfolder, **hub, "revision": self.commit} if same else dict(hub)

    def to_json(self, home: Path | None) -> OriginJson:
        """Return what a file may say of it: no path of this machine, but one that begins at the file's folder.

        Args:
            home: that folder; None where there is none yet.
        """
        found: OriginJson = {"name": self.name}
        if self.path and not self.commit and home is not None:
            start = home.resolve()
            common = PurePosixPath(os.path.commonpath([start, self.path])).as_posix()
            if common not in ("/", "/home", "/Users"):  # else it would spell this machine's own folders
                found["path"] = Path(os.path.relpath(self.path, start)).as_posix()
        if self.commit:
            found["commit"] = self.commit
        if self.subfolder:
            found["subfolder"] = self.subfolder
        return found

    @classmethod
    def from_json(cls, data: OriginJson, home: Path | None = None) -> Origin:
        """Return the origin that ``to_json`` wrote into a file of the folder ``home``."""
        path = data.get("path", "")
        path = os.path.normpath(home.resolve() / path) if path and home is not None else ""
        return cls(data.get("name", ""), path, data.get("commit", ""), data.get("subfolder", ""))


def place_anywhere(place: str, home: Path | None) -> str:
    """Return the name of a checkpoint that a file may hold: a hub id with its commit, or a path from the file's folder.

    A folder to which there is no such path is named alone.
    """
    if not Path(place).expanduser().is_dir():
        return place
    origin = Origin.of(Path(place).expanduser())
    return f"{origin.name}@{origin.commit}" if origin.commit else origin.to_json(home).get("path", origin.name)


def place_here(place: str, home: Path | None) -> str:
    """Return what opens a checkpoint that ``place_anywhere`` has named in a file of the folder ``home``."""
    path = Path(os.path.normpath(home.resolve() / place)) if home is not None else Path(place)
    return str(path) if path.is_dir() else place
