"""A checkpoint folder: headers are read and checked, values are mapped, and every file is treated as untrusted."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np

from hf_init._checkpoint.header import Header, TensorEntry, dtype_bits, read_header
from hf_init._checkpoint.kinds import Listing, check_distributed, no_weights
from hf_init._checkpoint.strict import AGAIN, check_faults, short_name
from hf_init._checkpoint.weights import INDEX, SINGLE, dead_link, is_index, read_index, weights_file
from hf_init._errors import CheckpointError
from hf_init._paths import user_path

_MOST_LINKS = 40  # that the system follows, too
_MOST_MAPS = 256  # a mapped file keeps a descriptor, of which a process has about a thousand


class FileSource(Protocol):
    """Where the files of a folder come from that aren't all in it yet: a repository of the hub."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return the bytes of all of its files, by name."""
        ...

    @property
    def listed(self) -> bool:
        """Return whether these are all that there are, and not those that happen to be here."""
        ...

    def fetch(self, files: Iterable[str]) -> None:
        """Bring files into the folder, or raise CheckpointError."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a folder in the HuggingFace layout, known from the headers of its files.

    Values are mapped read-only when first asked for; ``close`` (or a ``with`` block) lets go of the maps.

    Attributes:
        root: the folder.
        headers: one a file; the files in the order of their names, which is that of transformers.
        entries: name -> where and what the tensor is, in the order of the files.
        strays: files that the library would not read, because another one goes before them.
        unmapped: tensors that lie in a file of the index without being assigned to it there, as ``(file, name)``.
            They are no part of the checkpoint; beware that transformers does load them.
        remote: the hub repository that holds the values, where only headers are here; empty for a folder.
        parts: the checkpoints that this one was merged from, with the prefix of each; empty for a folder.
        index: the file that says where each tensor is; empty for a single file.
        dtype: the one that the index's metadata names; empty where it names none.
        repository: where it is from, of a hub id.
        in_pieces: of tensors that no file holds as they are, by the name that stands for their file: what reads one.
    """

    root: Path
    headers: tuple[Header, ...] = field(repr=False)
    entries: Mapping[str, TensorEntry] = field(repr=False)
    strays: tuple[str, ...] = ()
    unmapped: tuple[tuple[str, str], ...] = ()
    remote: str = ""
    parts: tuple[tuple[str, Checkpoint], ...] = field(default=(), repr=False)
    index: str = ""
    dtype: str = ""
    repository: FileSource | None = field(default=None, repr=False, compare=False)
    in_pieces: Mapping[str, Callable[[], np.ndarray]] = field(default_factory=dict, repr=False, compare=False)
    _maps: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Read the headers of the files that transformers would read: those that the config names, or the usual ones.

        Raises:
            CheckpointError: no such folder, no safetensors in it, or a file that isn't what it says.

        Example:
            >>> import tempfile, numpy, safetensors.numpy
            >>> folder = tempfile.TemporaryDirectory()
            >>> safetensors.numpy.save_file({"w": numpy.ones((2, 3), "float32")}, f"{folder.name}/model.safetensors")
            >>> checkpoint = Checkpoint.open(folder.name)
            >>> checkpoint.entries["w"].dtype, checkpoint.entries["w"].shape, checkpoint.nbytes
            ('float32', (2, 3), 24)
            >>> folder.cleanup()
        """
        root = user_path(path)
        if not root.is_dir():
            raise CheckpointError(f"{root} is not a folder. Give the folder that holds {SINGLE} or {INDEX}.")
        check_distributed(root)
        name = weights_file(root, lambda file: os.path.isfile(root / file))
        if not os.path.isfile(root / (name or SINGLE)):
            files = dict.fromkeys(filter(None, (name, SINGLE, INDEX)))
            faults = (f"{file} {fault}" for file in files if (fault := dead_link(root / file)))
            check_faults(str(root), faults)
            raise CheckpointError(no_weights(str(root), Listing.of(root), name))
        strays = tuple(file for file in (SINGLE, INDEX) if file != name and os.path.lexists(root / file))
        if is_index(name):
            shards, dtype = read_index(root / name)
            files = sorted(set(shards.values()))
            missing = (
                f"the shard {file} {dead_link(root / file) or 'is not there'}"
                for file in files
                if not os.path.isfile(root / file)
            )
            check_faults(str(root), missing, "Copy or download the missing files.")
            headers = tuple(read_header(root / file, file) for file in files)
            return replace(assembled(root, headers, shards), strays=strays, index=name, dtype=dtype)
        header = read_header(root / name, name)
        return cls(root, (header,), MappingProxyType({entry.name: entry for entry in header.entries}), strays)

    @classmethod
    def of_file(cls, path: Path) -> Checkpoint:
        """Return the tensors of one file, whatever its name.

        Raises:
            CheckpointError: it is no safetensors file, or isn't what it says.
        """
        header = read_header(path)
        return cls(path.parent, (header,), MappingProxyType({entry.name: entry for entry in header.entries}))

    @classmethod
    def merged(cls, parts: Mapping[str, Checkpoint]) -> Checkpoint:
        """Return several checkpoints as one: every tensor's name has its part's prefix before it.

        Raises:
            CheckpointError: two parts hold a tensor of the same name.
        """
        headers, entries, claims, in_pieces = [], {}, [], {}
        for prefix, part in parts.items():
            in_pieces |= {os.path.abspath(part.root / name): read for name, read in part.in_pieces.items()}
            headers += [replace(header, shard=os.path.abspath(part.root / header.shard)) for header in part.headers]
            for entry in part.entries.values():
                name, shard = prefix + entry.name, os.path.abspath(part.root / entry.shard)
                if name in entries:
                    claims.append(f"{short_name(name)} is in {entries[name].shard} and in {shard}")
                entries[name] = replace(entry, name=name, shard=shard, stored=entry.key)
        check_faults("the base", claims, "Give each checkpoint a prefix of its own.")
        first, remote = next(iter(parts.values())), ", ".join(part.remote for part in parts.values() if part.remote)
        form = tuple(headers), MappingProxyType(entries)
        return cls(first.root, *form, remote=remote, parts=tuple(parts.items()), in_pieces=in_pieces)

    @property
    def shards(self) -> tuple[str, ...]:
        """Return the names of the files that hold the tensors."""
        return tuple(header.shard for header in self.headers)

    @cached_property
    def by_shard(self) -> Mapping[str, Header]:
        """Return the headers by the names of their files."""
        return {header.shard: header for header in self.headers}

    @property
    def metadata(self) -> dict[str, dict[str, str]]:
        """Return the ``__metadata__`` of each file; an empty dict where there is none."""
        return {header.shard: dict(header.metadata) for header in self.headers}

    @property
    def nbytes(self) -> int:
        """Return the bytes of all tensors together, headers not counted."""
        return sum(entry.nbytes for entry in self.entries.values())

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, over the name, size and header of each file: cheap, and blind to the values."""
        self._check_local()
        lines = (
            [f"{prefix}\0{part.fingerprint()}\n" for prefix, part in self.parts]
            if self.parts
            else [f"{header.shard}\0{header.size}\0{header.sha256}\n" for header in self.headers]
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def blobs(self) -> dict[str, str]:
        """Return the SHA-256, in hex, of the files in a cache of huggingface_hub, which names a file by it."""
        names = {shard: _blob_name(self.root / shard) for shard in self.shards}
        return {shard: name for shard, name in names.items() if name}

    def local(self, shard: str) -> Path:
        """Return the path of a file whose values are to be read.

        Raises:
            CheckpointError: only its header is known here, or no file holds its tensors as they are.
        """
        self._check_local()
        if shard in self.in_pieces:
            raise CheckpointError(
                f"{self.root} is in pieces of every rank, which only proofs read (verify, drift, diff): put them "
                "together first, with `accelerate merge-weights DIR OUT`, or load and save_pretrained(OUT)"
            )
        return self.root / shard

    def raw(self, name: str) -> np.ndarray:
        """Return the bytes of a tensor: one-dimensional, uint8, mapped read-only, not copied.

        Raises:
            CheckpointError: no such tensor, or its file has another size than when it was opened.
        """
        if name not in self.entries:
            raise CheckpointError(
                f"{self.root} has no tensor {short_name(name)}; it has {short_name(list(self.entries))}."
            )
        entry = self.entries[name]
        if entry.shard not in self._maps:
            if len(self._maps) >= _MOST_MAPS:
                self._maps.pop(next(iter(self._maps)))
            self._maps[entry.shard] = self._map(entry.shard)
        return self._maps[entry.shard][entry.start : entry.stop]

    def array(self, name: str) -> np.ndarray:
        """Return a tensor in its shape, its elements as unsigned integers of their width, so that bytes are compared.

        Elements smaller than a byte share bytes: such a tensor comes as ``raw`` gives it.
        """
        entry, raw = self.entries.get(name), self.raw(name)
        if entry is None or dtype_bits(entry.dtype) < 8:
            return raw
        return raw.view(f"<u{dtype_bits(entry.dtype) // 8}").reshape(entry.shape)

    def close(self) -> None:
        """Let go of the mapped files; each is unmapped once no array of it is left. Reading again maps again."""
        self._maps.clear()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _map(self, shard: str) -> np.ndarray:
        path = self.local(shard)
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: a file that has become empty
            raise CheckpointError(f"{path} can't be mapped: {error}. {AGAIN}") from None
        expected = self.by_shard[shard].size
        if len(mapped) != expected:
            raise CheckpointError(f"{path} has changed since it was opened: {len(mapped)} bytes, expected {expected}.")
        return np.frombuffer(mapped, np.uint8)

    def _check_local(self) -> None:
        if self.remote:
            raise CheckpointError(
                f"{self.remote}: only its headers were read, its values are not here. "
                f"Download it first: `hf download {self.remote}`."
            )


def assembled(root: Path, headers: tuple[Header, ...], shards: Mapping[str, str], remote: str = "") -> Checkpoint:
    """Return the checkpoint that headers and a map of tensor -> file make.

    Raises:
        CheckpointError: a tensor is not in the file that the map has it in.
    """
    stored = [entry for header in headers for entry in header.entries]
    entries = {entry.name: entry for entry in stored if shards.get(entry.name) == entry.shard}
    absent = (
        f"{short_name(name)} is not in {file}, where the index has it"
        for name, file in shards.items()
        if name not in entries
    )
    check_faults(str(root / INDEX), absent, "Copy or download index and shards again, all of one version.")
    unmapped = tuple((entry.shard, entry.name) for entry in stored if shards.get(entry.name) != entry.shard)
    return Checkpoint(root, headers, MappingProxyType(entries), (), unmapped, remote)


def _blob_name(path: Path) -> str | None:
    """Return the SHA-256 that the hub's cache has named a file by, from the links that lead there; read no value."""
    for _ in range(_MOST_LINKS):
        if not os.path.islink(path):
            return None
        path = path.parent / os.readlink(path)
        if path.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", path.name):
            return path.name
    return None
