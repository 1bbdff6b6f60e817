"""Where a checkpoint is: a folder, or a hub id through huggingface_hub, its cache and its offline switch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, SafetensorsParsingError
from huggingface_hub.hf_api import RepoFile

from hf_init._checkpoint.checkpoint import Checkpoint, assembled
from hf_init._checkpoint.header import Header, header_from
from hf_init._checkpoint.kinds import Listing, no_weights
from hf_init._checkpoint.strict import AGAIN
from hf_init._checkpoint.weights import INDEX, SINGLE, is_index, named_weights, read_index
from hf_init._errors import CheckpointError, PlanError
from hf_init._text import one_line

_GIVE_FOLDER = "give a folder that save_pretrained wrote, or a hub id"
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
_DOWNLOADED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py", "*.md", "*.yaml"]
_HEADERS_AT_ONCE = 8  # headers fetched at once, as the hub's own client does
_PATHS_A_REQUEST = 500  # asked for in one request
# What the hub's client raises when it can't have something: OSError, and the root of its HTTP library's errors.
_UNREACHABLE: tuple[type[Exception], ...] = HfHubHTTPError.__bases__
_MALFORMED = (SafetensorsParsingError, TypeError, ValueError, LookupError, AttributeError)  # raised of a hostile header


def folder_of(base: str | Path, subfolder: str = "", **hub: Any) -> Path:
    """Return the local folder of a checkpoint.

    Raises:
        CheckpointError: there is no such folder, and no such repository or no way to reach it.
    """
    if not str(base):
        raise CheckpointError(f"the base is an empty name; {_GIVE_FOLDER}")
    path = Path(os.path.expanduser(base))
    if path.is_file():
        raise CheckpointError(f"{base} is a file; give the folder that holds it")
    if not path.is_dir():
        with _reaching_hub(str(base)):
            path = Path(snapshot_download(str(base), allow_patterns=_DOWNLOADED, **hub))
    return path / subfolder if subfolder else path


def headers_of(base: str | Path, subfolder: str = "", **hub: Any) -> tuple[Path, Checkpoint]:
    """Return the folder of a checkpoint's small files, and its headers; the weights of a hub id aren't downloaded.

    Args:
        base: a folder or a hub id.
        hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Raises:
        CheckpointError: there is no such folder, no such repository or no way to reach it, or its headers aren't
            what they should be.
    """
    offline = hub.get("local_files_only") or constants.is_offline_mode()
    if not str(base) or offline or Path(os.path.expanduser(base)).exists():
        folder = folder_of(base, subfolder, **hub)
        return folder, Checkpoint.open(folder)
    name = str(base)
    with _reaching_hub(name):
        top = Path(snapshot_download(name, allow_patterns=_DOWNLOADED, ignore_patterns=["*.safetensors"], **hub))
        folder = top / subfolder if subfolder else top
        if os.path.isfile(folder / (named_weights(folder) or SINGLE)):
            return folder, Checkpoint.open(folder)
        return folder, _fetch_headers(_HubFolder(HfApi(token=hub.get("token")), name, top.name, subfolder), folder)


@dataclass(frozen=True)
class _HubFolder:
    """A folder of a repository at one commit."""

    api: HfApi
    name: str
    commit: str
    subfolder: str

    def path(self, file: str) -> str:
        return f"{self.subfolder.strip('/')}/{file}" if self.subfolder else file

    def sizes(self, files: Sequence[str]) -> dict[str, int]:
        """Return the bytes of those of the files that it has."""
        paths = {self.path(file): file for file in files}
        every = list(paths)
        infos = (
            info
            for start in range(0, len(every), _PATHS_A_REQUEST)
            for info in self.api.get_paths_info(
                self.name, every[start : start + _PATHS_A_REQUEST], revision=self.commit
            )
        )
        return {paths[info.path]: info.size for info in infos if isinstance(info, RepoFile) and info.path in paths}

    def header(self, file: str, size: int) -> Header:
        """Return one file's header, by the hub's client, which checks little of it."""
        try:
            found = self.api.parse_safetensors_file_metadata(self.name, self.path(file), revision=self.commit)
            document = {
                tensor: {"dtype": info.dtype, "shape": info.shape, "data_offsets": list(info.data_offsets)}
                for tensor, info in found.tensors.items()
            }
        except _MALFORMED as error:
            raise CheckpointError(f"{self.name}: the header of {file} can't be read: {one_line(error)}") from None
        return header_from(document, found.metadata, Path(self.name) / file, size, file)

    def listing(self, folder: Path) -> Listing:
        """Return the files of the repository's folder, whose small ones are in a folder here."""
        inside = self.path("")
        names = self.api.list_repo_files(self.name, revision=self.commit)
        return Listing(folder, tuple(sorted(file.removeprefix(inside) for file in names if file.startswith(inside))))


def _fetch_headers(hub: _HubFolder, folder: Path) -> Checkpoint:
    """Return the checkpoint whose small files are in a folder: opened where all are there, else by its headers."""
    named = named_weights(folder)
    single, index = (SINGLE, INDEX) if not named else ("", named) if is_index(named) else (named, "")
    shards, dtype = read_index(folder / index) if index and os.path.isfile(folder / index) else ({}, "")
    files = sorted(set(shards.values()))
    sizes = hub.sizes([*filter(None, [single]), *files])
    if single in sizes:  # goes before an index, as in transformers
        files, shards, index, dtype = [single], {}, "", ""
    elif not files:
        raise CheckpointError(no_weights(hub.name, hub.listing(folder), named))
    elif all(os.path.isfile(folder / file) for file in files):
        return Checkpoint.open(folder)
    absent = [file for file in files if file not in sizes]
    if absent:
        raise CheckpointError(f"{hub.name}: {', '.join(absent)}: in its index, and not in the repository")
    with ThreadPoolExecutor(_HEADERS_AT_ONCE) as pool:
        headers = tuple(pool.map(lambda file: hub.header(file, sizes[file]), files))
    shards = shards or {entry.name: single for entry in headers[0].entries}
    return replace(assembled(folder, headers, shards, hub.name), index=index, dtype=dtype)


@contextmanager
def _reaching_hub(name: str) -> Iterator[None]:
    """Refuse what can be no repository's name, and give the hub's own errors their context."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(f"no such folder: {name}; {_GIVE_FOLDER}")
    try:
        yield
    except HFValidationError:
        raise CheckpointError(
            f"no such folder: {name} (and no hub repository can have that name); {_GIVE_FOLDER}"
        ) from None
    except _UNREACHABLE as error:
        why = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"no such folder: {name}; {_GIVE_FOLDER}. As a hub repository it can't be had: {why}"
        ) from None


def config_json(folder: Path) -> dict[str, Any]:
    """Return the raw ``config.json`` of a checkpoint.

    Raises:
        CheckpointError: it is missing, isn't JSON, or isn't an object.
        PlanError: it describes a quantized checkpoint.
    """
    path = folder / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no config.json; give a folder that save_pretrained wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a JSON file that can be read: {error}. {AGAIN}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(data).__name__}. {AGAIN}")
    _check_unpacked(folder, data)
    return data


def _check_unpacked(folder: Path, data: Mapping[str, object]) -> None:
    """Raise PlanError if a config, or one nested in it (``text_config``), is of a quantized checkpoint."""
    settings = data.get("quantization_config") or data.get("compression_config")
    if settings:
        method = settings.get("quant_method", "unknown method") if isinstance(settings, dict) else settings
        raise PlanError(
            f"{folder} is quantized ({method}): new values can't be written into packed storage. Extend the "
            "unquantized base checkpoint, quantize the result, and list the new modules in the quantizer's "
            "modules_to_not_convert"
        )
    for value in data.values():
        if isinstance(value, dict):
            _check_unpacked(folder, value)
