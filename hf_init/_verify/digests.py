"""The digests by which a result is proved later without its base."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias, TypedDict

from hf_init._checkpoint import Checkpoint
from hf_init._errors import CheckpointError
from hf_init._plan import entry_copies, stored_entries
from hf_init._tensors import Box
from hf_init._text import join_names
from hf_init._verify.compare import Progress, bytes_digest
from hf_init._verify.headers import check_form
from hf_init._verify.regions import StoredTensor
from hf_init._verify.regions import stored_tensor as part_of
from hf_init._verify.threads import VerifyMeter, WorkerBuffers, run_jobs

Key: TypeAlias = tuple[str, str]


class Digests(TypedDict):
    """As the manifest holds them."""

    kept_digests: dict[str, list[str]]
    tensor_digests: dict[str, str]


def result_digests(
    folder: str | os.PathLike[str],
    tensors: Iterable[dict[str, Any]],
    progress: Callable[[int], object] | None = None,
) -> Digests:
    """SHA-256, in hex, of every kept region and of every tensor in a result's files.

    Args:
        folder: whose tensors are written; its manifest may not be.
        tensors: the entries of the plan, in JSON.
        progress: called with the bytes done since it was last called, by one thread at a time.

    Returns:
        The keyword arguments of ``Manifest`` that hold them.

    Raises:
        CheckpointError: a file can't be read, or isn't what the plan says.

    Example:
        >>> import tempfile, numpy, safetensors.numpy
        >>> folder = tempfile.TemporaryDirectory()
        >>> safetensors.numpy.save_file({"w": numpy.zeros(2, "uint8")}, f"{folder.name}/model.safetensors")
        >>> entry = {"name": "w", "status": "kept", "shape": [2], "dtype": "uint8", "source": "w"}
        >>> result_digests(folder.name, [entry])["tensor_digests"]["w"][:8]
        '96a296d2'
        >>> folder.cleanup()
    """
    held = [entry for entry in tensors if stored_entries(entry)]
    with Checkpoint.open(folder) as result:
        wrong = [entry["name"] for entry in held if check_form(result, entry)]
        if wrong:
            raise CheckpointError(f"{folder}: {join_names(wrong)} are not what the plan says. Make the result again.")
        wanted = {_key(entry, region): region for entry in held for region in _regions(entry)}
        made: dict[Key, str] = {}
        meter = VerifyMeter(progress)
        run_jobs(partial(_digest, made, key, part_of(result, key[0], wanted[key]), meter.digest) for key in wanted)
    return Digests(
        kept_digests={
            entry["name"]: [made[_key(entry, copy["region"])] for copy in entry_copies(entry)]
            for entry in held
            if entry_copies(entry)
        },
        tensor_digests={entry["name"]: made[_key(entry, _whole(entry))] for entry in held},
    )


def _digest(made: dict[Key, str], key: Key, part: StoredTensor, done: Progress, desk: WorkerBuffers) -> bool:
    made[key] = bytes_digest(part, desk.seen, done)
    return False


def _key(entry: dict[str, Any], region: dict[str, Any]) -> Key:
    return entry["name"], json.dumps(region, sort_keys=True)


def _regions(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (copy["region"] for copy in entry_copies(entry))
    yield _whole(entry)


def _whole(entry: dict[str, Any]) -> dict[str, Any]:
    return Box.whole(tuple(entry["shape"])).to_json()
