"""Weights in torch's own format, ``pytorch_model.bin``: which files they are in, and their tensors, mapped by name."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._checkpoint.header import DTYPES, GIT_LFS, PULL, Header, TensorEntry
from hf_init._checkpoint.hub import Repository, fetch_to_plan, find_repository
from hf_init._checkpoint.kinds import Listing, no_weights
from hf_init._checkpoint.locate import local_folder
from hf_init._checkpoint.strict import AGAIN, check_faults, short_name
from hf_init._checkpoint.weights import INDEX, SINGLE, named_weights, read_index
from hf_init._errors import CheckpointError
from hf_init._text import one_line

BIN = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"

_DTYPES = frozenset(name for name, _ in DTYPES.values())
_TRUSTED = (
    "Nothing of it was run. Look for the same model in safetensors; if you trust whoever made the file, load it with "
    "torch.load yourself, and save the tensors alone"
)
UNREADABLE = (RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What torch's reader raises of a file that is cut off, or of another format."""


@dataclass(frozen=True)
class TorchWeights:
    """A checkpoint whose values are in torch's own format.

    Attributes:
        checkpoint: what its files hold, as headers would say it; its values aren't to be had from it.
        tensors: the values by name, mapped from the files where those are zip archives.
    """

    checkpoint: Checkpoint
    tensors: Mapping[str, torch.Tensor]

    @classmethod
    def open(cls, base: str | Path, subfolder: str = "", **hub: Any) -> TorchWeights:
        """Open a folder or a hub id, of which the files that transformers would read are downloaded.

        Raises:
            CheckpointError: there are none, safetensors are there already, or a file holds more than tensors.
        """
        folder, repository = local_folder(base), None
        if folder is None:
            repository = find_repository(str(base), subfolder, **hub)
            fetch_to_plan(repository)
            listing = Listing(repository.folder, (*repository.sizes,))
        else:
            listing = Listing.of(folder / subfolder)
        files, places = _files_of(str(base), listing, repository)
        states = {file: _read_tensors(listing.folder / file) for file in files}
        check_faults(str(listing.folder), _misplaced(states, places), "Copy or download index and shards again.")
        headers: list[Header] = []
        for file, state in states.items():  # as a header would say it; where tensors start and stop is made up
            stored, start = list[TensorEntry](), 0
            for name, tensor in state.items():
                dtype, stop = str(tensor.dtype).removeprefix("torch."), start + tensor.nbytes
                stored.append(TensorEntry(name, dtype, tuple(tensor.shape), file, start, stop))
                start = stop
            headers.append(Header(file, start, "", tuple(stored), {}))
        entries = MappingProxyType({entry.name: entry for header in headers for entry in header.entries})
        remote = str(listing.folder)  # nothing reads values by the entries, which say where they will be
        checkpoint = Checkpoint(listing.folder, tuple(headers), entries, remote=remote, repository=repository)
        return cls(checkpoint, {name: tensor for state in states.values() for name, tensor in state.items()})


def _misplaced(states: Mapping[str, Mapping[str, torch.Tensor]], places: Mapping[str, str]) -> Iterator[str]:
    """Yield the tensors that two files hold, and those that aren't in the file that the index has them in."""
    file_of: dict[str, str] = {}
    for file, state in states.items():
        yield from (f"{short_name(name)} is in {file_of[name]} and in {file}" for name in state if name in file_of)
        file_of.update(dict.fromkeys(state, file))
    for name, file in places.items():
        if name not in states[file]:
            yield f"{short_name(name)} is not in {file}, where the index has it"


def _bring(files: Sequence[str], listing: Listing, repository: Repository | None) -> None:
    """Download files of a repository; of a folder, check that they are there."""
    if repository is not None:
        repository.fetch(files)
        return
    missing = [f"{file} is not there" for file in files if not (listing.folder / file).is_file()]
    check_faults(str(listing.folder), missing, "Copy or download the missing files.")


def _files_of(name: str, listing: Listing, repository: Repository | None) -> tuple[list[str], Mapping[str, str]]:
    """Return the files in torch's format, by transformers' order, once all are there; and what an index says."""
    present = set(listing.files)
    here = [file for file in (named_weights(listing.folder), SINGLE, INDEX) if file in present]
    if here:
        raise CheckpointError(f"{name} has {here[0]}, which goes before torch's format: there is nothing to convert")
    if BIN not in present and BIN_INDEX not in present:
        raise CheckpointError(no_weights(name, listing, named_weights(listing.folder)))
    if BIN in present:
        _bring([BIN], listing, repository)
        return [BIN], {}
    _bring([BIN_INDEX], listing, repository)
    places, _ = read_index(listing.folder / BIN_INDEX)
    files = sorted({*places.values()})
    _bring(files, listing, repository)
    return files, places


def load_data(path: Path) -> object:
    """Return what a file in torch's format holds, by the reader that runs nothing.

    Raises:
        CheckpointError: it isn't torch's format, or asks for code to be run.
    """
    with path.open("rb") as file:
        if file.read(len(GIT_LFS)) == GIT_LFS:
            raise CheckpointError(f"{path} is a git-lfs pointer, not the file itself. {PULL}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that it then refuses, or reads all the same
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise CheckpointError(f"{path} can't be read as torch's format: {one_line(error)}. {AGAIN}") from None
        raise CheckpointError(
            f"{path} holds more than tensors: it asks for {asked[1]} to be run when it is read, as a harmful file "
            f"would. {_TRUSTED}"
        ) from None
    except UNREADABLE as error:
        raise CheckpointError(f"{path} can't be read as torch's format: {one_line(error)}. {AGAIN}") from None


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of one file by name.

    Raises:
        CheckpointError: it isn't torch's format, or holds anything but tensors by name.
    """
    state = load_data(path)
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path} holds {short_name(type(state).__name__)}, expected tensors by their names")
    faults: list[str] = []
    for name, value in state.items():
        if not isinstance(name, str) or not name:
            faults.append(f"{short_name(name)} is no name of a tensor")
        elif not isinstance(value, torch.Tensor):
            faults.append(f"{short_name(name)} is {type(value).__name__}, expected a tensor")
        elif value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            seen = f"a tensor of layout {value.layout} and dtype {value.dtype} on {value.device}"
            faults.append(f"{short_name(name)} is {seen}, expected a plain one")
        elif str(value.dtype).removeprefix("torch.") not in _DTYPES:
            faults.append(f"{short_name(name)} is {value.dtype}, which safetensors can't hold")
    check_faults(
        str(path), faults, "Load it with torch.load, take the tensors by their names out, and save those alone."
    )
    return {name: tensor.detach() for name, tensor in state.items()}
