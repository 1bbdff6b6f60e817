"""What is fuzzed: for each kind of file a good one, and what reads it; and what must hold whatever it says."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_init._checkpoint.checkpoint import INDEX, SINGLE, Checkpoint
from hf_init._checkpoint.read import OpenFiles
from hf_init._errors import HfInitError
from hf_init._paths import user_cache
from hf_init._plan.manifest import MANIFEST_NAME, Manifest
from hf_init._verify.diff import diff_checkpoints
from hf_init._verify.verify import verify_result

importlib.import_module("numpy.ma")  # numpy brings it at its first need, and what is opened then is watched

LONGEST_MESSAGE = 20_000
ROOM, FACTOR = 1 << 20, 60  # bytes of memory: for what the interpreter itself needs, and for each byte of the files


class Wrong(Exception):
    """A file that was not refused by the one clear error, or that led to what it must not."""


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        file: its name.
        framed: it is a safetensors file.
        good: the bytes of one that is as it should be.
        others: the files beside it.
        read: reads it, in a folder; returns normally, or raises an HfInitError.
        inside: it opens no file but those of the folder, and this machine's notes of where bases are.
    """

    name: str
    file: str
    framed: bool
    good: bytes
    others: dict[str, bytes]
    read: Callable[[Path], object]
    inside: bool = True

    def prepare(self, folder: Path) -> None:
        for name, data in {**self.others, self.file: self.good}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


class Watch:
    """Notes the files that this process opens while it is told to; the interpreter never lets go of its hook."""

    def __init__(self) -> None:
        self._opened: list[str] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and self._opened is not None and isinstance(arguments[0], str | bytes | os.PathLike):
            self._opened.append(os.path.realpath(os.fsdecode(arguments[0])))

    @contextmanager
    def opened(self) -> Iterator[list[str]]:
        self._opened = found = []
        try:
            yield found
        finally:
            self._opened = None


def trial(target: Target, folder: Path, data: bytes, watch: Watch, measure: bool = False) -> str:
    """Read one damaged file; returns "read" or "refused".

    Args:
        measure: the memory, too; that takes three times as long.

    Raises:
        Wrong: another error than hf_init's own, a message that is empty or endless, a file opened outside the folder,
            or more memory taken than the files are large.
    """
    (folder / target.file).write_bytes(data)
    with watch.opened() as opened, _memory(measure, folder):
        outcome = _outcome(target, folder)
    places = tuple(f"{os.path.realpath(place)}{os.sep}" for place in (folder, user_cache() / "bases"))
    outside = [path for path in opened if target.inside and not path.startswith(places)]
    if outside:
        raise Wrong(f"opened {outside[0]}")
    return outcome


def _outcome(target: Target, folder: Path) -> str:
    try:
        target.read(folder)
    except HfInitError as error:
        if not 0 < len(str(error)) < LONGEST_MESSAGE:
            raise Wrong(f"a message of {len(str(error))} characters") from error
        return "refused"
    except Wrong:
        raise
    except Exception as error:
        raise Wrong(f"{type(error).__name__}: {error}"[:500]) from error
    return "read"


@contextmanager
def _memory(measure: bool, folder: Path) -> Iterator[None]:
    if not measure:
        yield
        return
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > ROOM + FACTOR * size:
        raise Wrong(f"{peak} bytes of memory for {size} bytes of files")


def safetensors(tensors: dict[str, tuple[str, list[int], int]]) -> bytes:
    """A good file: name -> dtype, shape, bytes."""
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, nbytes) in tensors.items():
        document[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text + bytes(k % 251 for k in range(at))


WEIGHTS = safetensors(
    {
        "embed": ("F32", [4, 3], 48),
        "layer.0.weight": ("BF16", [3, 5], 30),
        "scale": ("F64", [], 8),
        "empty": ("I64", [0, 7], 0),
        "packed": ("F4", [2, 2], 2),
        "flag": ("BOOL", [3], 3),
    }
)


def _read_all(folder: Path) -> None:
    """Every header and every byte; what is inside a file and what isn't is decided here once more."""
    with Checkpoint.open(folder) as checkpoint, OpenFiles() as files:
        for entry in checkpoint.entries.values():
            size = os.path.getsize(folder / entry.shard)
            if not 8 <= entry.start <= entry.stop <= size or len(checkpoint.raw(entry.name)) != entry.nbytes:
                raise Wrong(f"{entry} in a file of {size} bytes")
            buffer = np.empty(entry.nbytes, np.uint8)
            files.choose(checkpoint, entry.shard)
            files.fill(entry.start, buffer)
            if not np.array_equal(buffer, checkpoint.raw(entry.name)):
                raise Wrong(f"{entry.name}: read otherwise than mapped")
            checkpoint.array(entry.name)
        checkpoint.fingerprint()
    if not diff_checkpoints(folder, folder).identical:
        raise Wrong("it differs from itself")


def _header() -> Target:
    return Target("header", SINGLE, True, WEIGHTS, {}, _read_all)


def _index() -> Target:
    shards = {
        "model-00001-of-00002.safetensors": safetensors({"a": ("F32", [2], 8), "b": ("U8", [3], 3)}),
        "model-00002-of-00002.safetensors": safetensors({"c": ("F16", [2, 2], 8)}),
        "sub/other.safetensors": safetensors({"a": ("F32", [2], 8)}),
    }
    names = list(shards)
    places = {"a": names[0], "b": names[0], "c": names[1]}
    good = json.dumps({"metadata": {"total_size": 19}, "weight_map": places}).encode()
    return Target("index", INDEX, False, good, shards, _read_all)


def _manifest() -> Target:
    def read(folder: Path) -> None:
        Manifest.load(folder)
        for everything in (False, True):
            str(verify_result(folder, base=folder / "base", everything=everything))

    box, rows = {"start": [0, 0], "stop": [2, 3]}, {"dim": 0, "index": [2, 3]}
    digest = "0" * 64
    tensors = [
        {"name": "layer.0.weight", "status": "kept", "shape": [3, 5], "dtype": "bfloat16", "source": "layer.0.weight"},
        {"name": "embed", "status": "resized", "shape": [4, 3], "dtype": "float32", "source": "embed",
         "kept": [{"region": box, "source": "embed", "source_region": box}],
         "new": [{"region": rows, "scheme": {"name": "normal", "std": 0.02}, "why": "rule 1"}]},
        {"name": "scale", "status": "new", "shape": [], "dtype": "float64",
         "new": [{"region": {"start": [], "stop": []}, "scheme": {"name": "zeros"}}]},
        {"name": "head", "status": "tied", "shape": [4, 3], "dtype": "float32", "tied_to": "embed", "source": "embed"},
        {"name": "later", "status": "new", "shape": [2], "dtype": "float32",
         "new": [{"region": {"start": [0], "stop": [2]}, "scheme": {"name": "skip"}}]},
        {"name": "empty", "status": "kept", "shape": [0, 7], "dtype": "int64", "source": "empty"},
        {"name": "packed", "status": "kept", "shape": [2, 2], "dtype": "float4_e2m1fn_x2", "source": "packed"},
    ]  # fmt: skip
    kept = {name: [digest] for name in ("layer.0.weight", "embed", "empty", "packed")}
    good = {
        "version": 1,
        "made_by": "hf_init 0",
        "base": {"path": "base", "fingerprint": digest, "sha256": {SINGLE: digest}},
        "digests": {"embed": [digest], "scale": [digest]},
        "kept_digests": kept,
        "tensor_digests": dict.fromkeys(("layer.0.weight", "embed", "scale", "empty", "packed"), digest),
        "plan": {"architecture": "Tiny", "seed": 0, "tensors": tensors, "unused": ["flag"], "counts": {}},
    }
    return Target(
        "manifest", MANIFEST_NAME, False, json.dumps(good).encode(), {SINGLE: WEIGHTS, f"base/{SINGLE}": WEIGHTS}, read
    )


def _plan() -> Target:
    from hf_init._plan.plan import Plan

    def read(folder: Path) -> None:
        str(Plan.load(folder))

    manifest = _manifest()
    return Target("plan", MANIFEST_NAME, False, manifest.good, manifest.others, read)


def _recipe() -> Target:
    from hf_init._plan import Recipe

    def read(folder: Path) -> None:
        recipe = Recipe.load(folder / "recipe.yaml")
        if Recipe.from_dict(recipe.to_dict()) != recipe:
            raise Wrong("it isn't what it says of itself")

    good = {
        "seed": 3,
        "default": "model",
        "rules": [
            {"name": "classifier.weight", "scheme": {"normal": {"std": 0.02}}},
            {"module": "LSTM", "scheme": "orthogonal", "optional": True},
            {"role": "norm.weight", "scheme": "constant(val=1.0)"},
            {"name": "*.bias", "role": "linear.bias", "scheme": {"trunc_normal": {"std": 0.5, "a": -1, "b": 1}}},
        ],
    }
    return Target("recipe", "recipe.yaml", False, json.dumps(good, indent=1).encode(), {}, read)


def _config() -> Target:
    from hf_init._prepare.target import resolve_target

    def read(folder: Path) -> None:
        resolve_target(folder)

    good = {
        "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9, "dtype": "float32",
        "max_position_embeddings": 4, "id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1},
        "layer_norm_eps": 1e-12, "hidden_act": "gelu", "pad_token_id": 0, "tie_word_embeddings": True,
        "transformers_version": "5.0.0",
    }  # fmt: skip
    weights = safetensors({"bert.pooler.dense.bias": ("F32", [8], 32)})
    return Target("config", "config.json", False, json.dumps(good).encode(), {SINGLE: weights}, read, inside=False)


TARGETS: dict[str, Callable[[], Target]] = {
    "header": _header,
    "index": _index,
    "manifest": _manifest,
    "plan": _plan,
    "recipe": _recipe,
    "config": _config,
}
