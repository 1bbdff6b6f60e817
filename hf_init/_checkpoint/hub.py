"""A checkpoint in a repository of the hub, at one commit: through huggingface_hub, its cache and its offline switch."""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    RevisionResolutionError,
    SafetensorsParsingError,
)
from huggingface_hub.hf_api import RepoFile

from hf_init._checkpoint.checkpoint import Checkpoint, assembled
from hf_init._checkpoint.header import Header, header_from
from hf_init._checkpoint.kinds import ADAPTER_CONFIG, Listing, no_weights
from hf_init._checkpoint.strict import AGAIN, GIVE_FOLDER
from hf_init._checkpoint.travel import files_in, needed_to_plan
from hf_init._checkpoint.weights import dead_link, is_index, is_inside, read_index, weights_file
from hf_init._errors import CheckpointError
from hf_init._paths import user_path
from hf_init._text import closest, join_names, one_line

_HEADERS_AT_ONCE = 8  # headers fetched at once, as the hub's own client does
_NAMED_FILES = 5  # that a command for the user names; of more, it fetches the repository
# What the hub's client raises when it can't have something: OSError, and the root of its HTTP library's errors.
UNREACHABLE: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, RevisionResolutionError)
_URL = re.compile(
    r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)|hf:/)/([^/?#]+/[^/?#]+)(?:/(?:tree|blob|resolve|raw)/([^/?#]+))?"
)
_TELLING = ("config.json", ADAPTER_CONFIG)  # which weights are read, and whether they are all
_MALFORMED = (SafetensorsParsingError, TypeError, ValueError, LookupError, AttributeError)  # raised of a hostile header


@dataclass(frozen=True)
class Repository:
    """A repository at one commit, or a folder in it. Whatever is fetched later is of the same commit.

    Attributes:
        top: the repository's folder in the cache.
        sizes: the bytes of its files, by their names in ``folder``.
        listed: whether the hub has said so; else these are the files in the cache.
        options: ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.
    """

    name: str
    commit: str
    top: Path
    subfolder: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict[str, int], repr=False)
    listed: bool = True
    options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    _fetched: set[str] = field(default_factory=set[str], repr=False, compare=False)

    @property
    def folder(self) -> Path:
        return self.top / self.subfolder

    def path(self, file: str) -> str:
        """Return a file's name in the repository."""
        return f"{self.subfolder}/{file}" if self.subfolder else file

    def fetch(self, files: Iterable[str]) -> None:
        """Download what isn't in the cache yet.

        Raises:
            CheckpointError: it can't be had; the message has the command that fetches it elsewhere.
        """
        forced = self.options.get("force_download")
        wanted = [path for path in map(self.path, files) if not (path in self._fetched if forced else self._has(path))]
        if not wanted:
            return
        self._fetched.update(wanted)
        why = "offline, nothing is fetched"
        if not _is_offline(self.options):
            patterns = [glob.escape(path) for path in wanted]
            try:
                snapshot_download(self.name, revision=self.commit, allow_patterns=patterns, **self.options)
                why = "not in the repository"
            except UNREACHABLE as error:
                why = one_line(error)
        if missing := [path for path in wanted if not self._has(path)]:
            files_named = shlex.join(missing) + " " if len(missing) <= _NAMED_FILES else ""
            raise CheckpointError(
                f"{self.name}: {join_names(missing)} can't be fetched: {why}. Fetch it where there is a network: "
                f"`hf download {self.name} {files_named}--revision {self.commit}`"
            )

    def header(self, file: str) -> Header:
        """Return one file's header, by the hub's client, which checks little of it."""
        try:
            api = HfApi(token=self.options.get("token"))
            found = api.parse_safetensors_file_metadata(self.name, self.path(file), revision=self.commit)
            document = {
                tensor: {"dtype": info.dtype, "shape": info.shape, "data_offsets": list(info.data_offsets)}
                for tensor, info in found.tensors.items()
            }
        except _MALFORMED as error:
            raise CheckpointError(f"{self.name}: the header of {file} can't be read: {one_line(error)}") from None
        return header_from(document, found.metadata, Path(self.name) / file, self.sizes[file], file)

    def _has(self, path: str) -> bool:
        return os.path.isfile(self.top / path)


def find_repository(name: str, subfolder: str = "", revision: str | None = None, **options: Any) -> Repository:
    """Return a repository at the commit that a revision is now: its listing is known, and none of its files fetched.

    Args:
        name: the hub id; a revision may follow, ``ID@REV``.

    Raises:
        CheckpointError: there is no such repository, or no way to reach it, or a revision is given twice.
    """
    name, at, own = name.partition("@")
    if at and revision is not None:
        raise CheckpointError(f"{name}: given with two revisions, {own!r} and {revision!r}; give one")
    cache, offline, inner = options.get("cache_dir"), _is_offline(options), subfolder.strip("/")
    revision, api = own or revision or constants.DEFAULT_REVISION, HfApi(token=options.get("token"))
    with _reaching_hub(name, revision):
        commit = api.resolve_revision(name, revision=revision, cache_dir=cache, local_files_only=offline).resolved
        first = [] if offline else [f"{inner}/config.json" if inner else "config.json"]  # with it comes the listing
        top = Path(snapshot_download(name, revision=commit, allow_patterns=first, **options))
    repository = Repository(name, commit, top, inner, options=options)
    try:
        listing: Iterable[object] = get_cached_repo_tree(name, revision=commit, cache_dir=cache)
    except CachedRepoTreeNotFoundError:
        if offline:
            files = (file for file, fault in files_in(repository.folder).items() if not fault)
            sizes = {file: os.stat(repository.folder / file).st_size for file in files}
            return replace(repository, sizes=sizes, listed=False)
        with _reaching_hub(name, commit):
            listing = list(api.list_repo_tree(name, revision=commit, recursive=True))
    before = f"{inner}/" if inner else ""
    files = [entry for entry in listing if isinstance(entry, RepoFile) and entry.path.startswith(before)]
    files = [file for file in files if is_inside(file.path)]  # else it would lead out of the cache, and of a result
    return replace(repository, sizes={file.path.removeprefix(before): file.size for file in files})


def open_in_repository(repository: Repository, headers_only: bool = False) -> Checkpoint:
    """Return the checkpoint of a repository: downloaded, or known from its headers.

    Raises:
        CheckpointError: it has none, or what it has can't be had, or isn't what it should be.
    """
    repository.fetch(file for file in _TELLING if file in repository.sizes)
    name = weights_file(repository.folder, repository.sizes.__contains__)
    if name not in repository.sizes:
        raise CheckpointError(no_weights(repository.name, Listing(repository.folder, (*repository.sizes,)), name))
    shards, dtype, files = dict[str, str](), "", [name]
    if is_index(name):
        repository.fetch([name])
        shards, dtype = read_index(repository.folder / name)
        files = sorted({*shards.values()})
    if absent := [file for file in files if file not in repository.sizes] if repository.listed else []:
        raise CheckpointError(f"{repository.name}: {', '.join(absent)}: in its index, and not in the repository")
    here = all(os.path.isfile(repository.folder / file) for file in files)
    if headers_only and not here and not _is_offline(repository.options):
        with _reaching_hub(repository.name, repository.commit), ThreadPoolExecutor(_HEADERS_AT_ONCE) as pool:
            headers = tuple(pool.map(repository.header, files))
        shards = shards or {entry.name: name for entry in headers[0].entries}
        opened = assembled(repository.folder, headers, shards, repository.name)
        opened = replace(opened, index=name if is_index(name) else "", dtype=dtype)
    else:
        repository.fetch(files)
        opened = Checkpoint.open(repository.folder)
    return replace(opened, repository=repository)


def fetch_to_plan(repository: Repository) -> None:
    """Download what a plan reads beside the weights: config, tokenizer, code."""
    repository.fetch(needed_to_plan(repository.sizes))


def _is_offline(options: Mapping[str, Any]) -> bool:
    return bool(options.get("local_files_only")) or constants.is_offline_mode()


@contextmanager
def _reaching_hub(name: str, revision: str) -> Iterator[None]:
    """Refuse what can be no repository's name, and give the hub's own errors their context."""
    if at := _URL.match(name):
        of = f"{at[1]}@{at[2]}" if at[2] else at[1]
        raise CheckpointError(f"no such folder: {name}; it is a URL: give what it leads to by its hub id, {of}")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(f"no such folder: {name}{_closest_folder(name)}; {GIVE_FOLDER}")
    try:
        yield
    except HFValidationError:
        raise CheckpointError(
            f"no such folder: {name}{_closest_folder(name)}, and no hub id: it can't be one; {GIVE_FOLDER}"
        ) from None
    except UNREACHABLE as error:
        offline = "the hub is off (HF_HUB_OFFLINE), and its cache doesn't hold it"
        why = offline if constants.is_offline_mode() else str(error).strip().partition("\n")[0].rstrip(".")
        command = f"hf download {name}" + (f" --revision {revision}" if revision != constants.DEFAULT_REVISION else "")
        raise CheckpointError(
            f"no such folder: {name}{_closest_folder(name)}; {GIVE_FOLDER}. As a hub id it can't be fetched: {why}. "
            f"Where there is a network, `{command}` fetches it"
        ) from None


def _closest_folder(name: str) -> str:
    """Return the folder that may be meant, as a question, or nothing."""
    path = user_path(name)
    near = [str(each.relative_to(path.parent)) for each in path.parent.glob("*/")] if path.parent.is_dir() else []
    return closest(path.name, near)


def _tagged_float(values: dict[str, Any]) -> Any:
    """Return a number that JSON doesn't have (infinity, NaN), which transformers 5 writes as an object."""
    tagged = values.get("__float__") if len(values) == 1 else None
    return float(tagged) if tagged in ("Infinity", "-Infinity", "NaN") else values


def config_json(folder: Path) -> dict[str, Any]:
    """Return the raw ``config.json`` of a checkpoint.

    Raises:
        CheckpointError: it is missing, isn't JSON, or isn't an object.
    """
    path = folder / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_hook=_tagged_float)
    except FileNotFoundError:
        if fault := dead_link(path):
            raise CheckpointError(f"{path} {fault}. Copy the folder with its files") from None
        raise CheckpointError(f"{folder} has no config.json; give a folder that save_pretrained wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a JSON file that can be read: {error}. {AGAIN}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(data).__name__}. {AGAIN}")
    return data
