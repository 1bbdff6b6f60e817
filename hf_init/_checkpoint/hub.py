"""Where a checkpoint is: a folder, or a hub id through huggingface_hub, its cache and its offline switch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, SafetensorsParsingError
from huggingface_hub.hf_api import RepoFile

from hf_init._checkpoint.checkpoint import INDEX, SINGLE, Checkpoint, assembled, weight_map
from hf_init._checkpoint.header import Header, header_from
from hf_init._checkpoint.strict import AGAIN
from hf_init._errors import CheckpointError, PlanError
from hf_init._text import one_line

GIVE_FOLDER = "give a folder that save_pretrained wrote, or a hub id"
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py", "*.md", "*.yaml"]
AT_ONCE = 8  # headers fetched at once, as the hub's own client does
PATHS = 500  # asked for in one request
# What the hub's client raises when it can't have something: OSError, and the root of its HTTP library's errors.
UNREACHABLE: tuple[type[Exception], ...] = HfHubHTTPError.__bases__
MALFORMED = (SafetensorsParsingError, TypeError, ValueError, LookupError, AttributeError)  # raised of a hostile header


def folder_of(base: str | Path, subfolder: str = "", **hub: Any) -> Path:
    """The local folder of a checkpoint.

    Raises:
        CheckpointError: there is no such folder, and no such repository or no way to reach it.
    """
    if not str(base):
        raise CheckpointError(f"the base is an empty name; {GIVE_FOLDER}")
    path = Path(os.path.expanduser(base))
    if path.is_file():
        raise CheckpointError(f"{base} is a file; give the folder that holds it")
    if not path.is_dir():
        path = _downloaded(str(base), **hub)
    return path / subfolder if subfolder else path


def headers_of(base: str | Path, subfolder: str = "", **hub: Any) -> tuple[Path, Checkpoint]:
    """The local folder of a checkpoint's small files, and its headers; the weights of a hub id aren't downloaded.

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
    return remote_headers(str(base), subfolder, **hub)


def remote_headers(name: str, subfolder: str = "", **hub: Any) -> tuple[Path, Checkpoint]:
    """As ``headers_of``, of a hub id: the files are opened where all are in the cache, else their headers fetched."""
    _check_path(name)
    with _reached(name):
        top = Path(snapshot_download(name, allow_patterns=WANTED, ignore_patterns=["*.safetensors"], **hub))
        folder = top / subfolder if subfolder else top
        if os.path.isfile(folder / SINGLE):
            return folder, Checkpoint.open(folder)
        return folder, _fetched(name, top.name, folder, subfolder, hub.get("token"))


def _fetched(name: str, commit: str, folder: Path, subfolder: str, token: Any) -> Checkpoint:
    api = HfApi(token=token)
    places = weight_map(folder / INDEX) if os.path.isfile(folder / INDEX) else {}
    files = [SINGLE, *sorted(set(places.values()))]
    sizes = _sizes(api, name, commit, subfolder, files)
    if SINGLE in sizes:  # goes before an index, as in transformers
        files, places = [SINGLE], {}
    elif places and all(os.path.isfile(folder / file) for file in files[1:]):
        return Checkpoint.open(folder)
    else:
        files = files[1:]
    if not files:
        raise CheckpointError(f"{name} holds neither {SINGLE} nor {INDEX}; give a repository in safetensors")
    absent = [file for file in files if file not in sizes]
    if absent:
        raise CheckpointError(f"{name}: {', '.join(absent)}: in its index, and not in the repository")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        headers = tuple(pool.map(lambda file: _header(api, name, commit, subfolder, file, sizes[file]), files))
    places = places or {entry.name: SINGLE for entry in headers[0].entries}
    return assembled(folder, headers, places, name)


def _sizes(api: HfApi, name: str, commit: str, subfolder: str, files: Sequence[str]) -> dict[str, int]:
    """The bytes of those of the files that the repository has."""
    paths = {_inside(subfolder, file): file for file in files}
    asked = list(paths)
    infos = (
        info
        for start in range(0, len(asked), PATHS)
        for info in api.get_paths_info(name, asked[start : start + PATHS], revision=commit)
    )
    return {paths[info.path]: info.size for info in infos if isinstance(info, RepoFile) and info.path in paths}


def _header(api: HfApi, name: str, commit: str, subfolder: str, file: str, size: int) -> Header:
    """One file's header, by the hub's client, which checks little of it."""
    try:
        found = api.parse_safetensors_file_metadata(name, _inside(subfolder, file), revision=commit)
        document = {
            tensor: {"dtype": info.dtype, "shape": info.shape, "data_offsets": list(info.data_offsets)}
            for tensor, info in found.tensors.items()
        }
    except MALFORMED as error:
        raise CheckpointError(f"{name}: the header of {file} can't be read: {one_line(error)}") from None
    return header_from(document, found.metadata, Path(name) / file, size)


def _inside(subfolder: str, file: str) -> str:
    return f"{subfolder.strip('/')}/{file}" if subfolder else file


def _downloaded(name: str, **hub: Any) -> Path:
    _check_path(name)
    with _reached(name):
        return Path(snapshot_download(name, allow_patterns=WANTED, **hub))


def _check_path(name: str) -> None:
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(f"no such folder: {name}; {GIVE_FOLDER}")


@contextmanager
def _reached(name: str) -> Iterator[None]:
    """The hub's own errors with their context."""
    try:
        yield
    except HFValidationError:
        raise CheckpointError(
            f"no such folder: {name} (and no hub repository can have that name); {GIVE_FOLDER}"
        ) from None
    except UNREACHABLE as error:
        why = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"no such folder: {name}; {GIVE_FOLDER}. As a hub repository it can't be had: {why}"
        ) from None


def config_json(folder: Path) -> dict[str, Any]:
    """The raw ``config.json`` of a checkpoint.

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
    _check_quantized(folder, data)
    return data


def _check_quantized(folder: Path, data: dict[str, Any]) -> None:
    """Also where only a nested config (``text_config``) asks for it."""
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
            _check_quantized(folder, value)
