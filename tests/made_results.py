"""Results made by hand, with every status of a tensor, and what is read and changed in them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hf_init

SINGLE, INDEX, MANIFEST = "model.safetensors", "model.safetensors.index.json", "hf_init.json"
CODES = {"f": "F32", "H": "BF16", "l": "I64"}  # numpy's letter: bfloat16 is held as its bits
Tensors = dict[str, np.ndarray]


def write(folder: Path, tensors: Tensors, name: str = SINGLE) -> Path:
    folder.mkdir(exist_ok=True)
    header, at = {}, 0
    for key, array in tensors.items():
        offsets = [at, at + array.nbytes]
        header[key] = {"dtype": CODES[array.dtype.char], "shape": list(array.shape), "data_offsets": offsets}
        at += array.nbytes
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for array in tensors.values())
    (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def places(folder: Path, name: str = SINGLE) -> dict[str, range]:
    """The bytes of a file that each tensor has."""
    data = (folder / name).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = {key: each for key, each in json.loads(data[8:start]).items() if key != "__metadata__"}
    return {key: range(*(start + at for at in each["data_offsets"])) for key, each in header.items()}


def floats(*shape: int, start: float = 0.0) -> np.ndarray:
    return (np.arange(math.prod(shape), dtype="float32") + start).reshape(shape)


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def box(start: Any, stop: Any) -> dict[str, Any]:
    return {"start": list(start), "stop": list(stop)}


def rows(dim: int, *index: int) -> dict[str, Any]:
    return {"dim": dim, "index": list(index)}


def new(*regions: dict[str, Any], scheme: str = "normal") -> list[dict[str, Any]]:
    return [{"region": region, "scheme": {"name": scheme}, "why": "a test"} for region in regions]


def region_of(region: dict[str, Any]) -> Any:
    """What to index an array with."""
    if "index" in region:
        return (*(slice(None),) * region["dim"], region["index"])
    return tuple(map(slice, region["start"], region["stop"]))


def base_tensors() -> Tensors:
    return {
        "embed": floats(4, 3),
        "head": floats(3, 3, start=100),
        "positions": floats(3, 2, start=200),
        "half": np.array([[0x3F80, 0x8000], [0x7FC0, 0xFF80]], "uint16"),
        "step": np.array(7, "int64"),
        "lm_head": floats(4, 3),
        "pooler": floats(2, start=300),
    }


def result_tensors(base: Tensors) -> Tensors:
    head, positions = floats(5, 4, start=-50), floats(6, 2, start=-90)
    head[:3, :3] = base["head"]
    positions[[4, 0, 2]] = base["positions"][[0, 2, 1]]
    return {
        "model.embed": base["embed"],
        "head": head,
        "positions": positions,
        "half": base["half"],
        "step": base["step"],
        "fresh": floats(2, 3, start=-9),
        "empty": floats(0, 3),
    }


F, HEAD = {"dtype": "float32"}, box([0, 0], [3, 3])
PLANNED = [
    {"name": "model.embed", "status": "kept", "shape": [4, 3], "source": "embed", **F},
    {
        "name": "head", "status": "resized", "shape": [5, 4], **F,
        "kept": [{"region": HEAD, "source": "head", "source_region": HEAD}],
        "new": new(box([3, 0], [5, 4]), box([0, 3], [3, 4])),
    },
    {
        "name": "positions", "status": "resized", "shape": [6, 2], **F,
        "kept": [{"region": rows(0, 4, 0, 2), "source": "positions", "source_region": rows(0, 0, 2, 1)}],
        "new": new(rows(0, 1, 5, 3)),
    },
    {"name": "half", "status": "kept", "shape": [2, 2], "dtype": "bfloat16", "source": "half"},
    {"name": "step", "status": "kept", "shape": [], "dtype": "int64", "source": "step"},
    {"name": "fresh", "status": "new", "shape": [2, 3], **F, "new": new(box([0, 0], [2, 3]))},
    {"name": "empty", "status": "new", "shape": [0, 3], **F, "new": new(box([0, 0], [0, 3]))},
    {"name": "later", "status": "new", "shape": [2], **F, "new": new(box([0], [2]), scheme="skip")},
    {"name": "out", "status": "tied", "shape": [4, 3], **F, "tied_to": "model.embed", "source": "lm_head"},
]  # fmt: skip


def manifest_of(base: Path, out: Path, entries: list[dict[str, Any]], tensors: Tensors, digest: bool = False) -> None:
    """Write the manifest of a result, by hand; a digest of what is kept, too, where that is asked for."""

    def digests(which: str) -> dict[str, list[str]]:
        found = {
            entry["name"]: [sha256(tensors[entry["name"]][region_of(part["region"])]) for part in entry.get(which, ())]
            for entry in entries
            if entry["name"] in tensors
        }
        return {name: each for name, each in found.items() if each}

    data = (base / SINGLE).read_bytes() if (base / SINGLE).is_file() else b"\0" * 8
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    line = f"{SINGLE}\0{len(data)}\0{hashlib.sha256(header).hexdigest()}\n"
    record = {"path": str(base), "name": "org/base", "fingerprint": hashlib.sha256(line.encode()).hexdigest()}
    unused = ["pooler"] if entries is PLANNED else []
    plan = {"architecture": "Tiny", "seed": 0, "tensors": entries, "unused": unused}
    document = {"version": 1, "plan": plan, "base": record, "digests": digests("new"), "made_by": "a test"}
    if digest:
        kept = {entry["name"]: [sha256(tensors[entry["name"]])] for entry in entries if entry["status"] == "kept"}
        document["kept_digests"] = {**kept, **digests("kept")}
        document["tensor_digests"] = {name: sha256(array) for name, array in tensors.items()}
    (out / MANIFEST).write_text(json.dumps(document))


def make(folder: Path, digest: bool = False) -> tuple[Path, Path]:
    """A base, and a result of it with every status."""
    base, tensors = write(folder / "base", base_tensors()), result_tensors(base_tensors())
    out = write(folder / "out", tensors)
    manifest_of(base, out, PLANNED, tensors, digest)
    return base, out


def edit(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as by hand."""
    document = json.loads((out / MANIFEST).read_text())
    change(document)
    (out / MANIFEST).write_text(json.dumps(document))


def entry_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in document["plan"]["tensors"] if entry["name"] == name)


def differences(out: Path, *base: Any, **options: Any) -> dict[str, list[str]]:
    """Name -> reasons; the report must not be ok."""
    report = hf_init.verify(out, *base, **{"everything": True, **options})
    assert not report.ok
    found: dict[str, list[str]] = {}
    for difference in report.differences:
        found.setdefault(difference["name"], []).append(difference["reason"])
    return found


def the_difference(out: Path, *base: Any, **options: Any) -> dict[str, Any]:
    (difference,) = hf_init.verify(out, *base, **{"everything": True, **options}).differences
    return difference


def rewrite(out: Path, change: Callable[[Tensors], object]) -> None:
    """Write the result's tensors again, changed."""
    tensors = {name: array.copy() for name, array in result_tensors(base_tensors()).items()}
    change(tensors)
    write(out, tensors)


# One bit, of anything.


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def set_entry(name: str, /, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: entry_of(document, name).update(values)


def in_plan(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["plan"].update(values)


@pytest.fixture
def made(tmp_path) -> tuple[Path, Path]:
    return make(tmp_path)


@pytest.fixture
def digested(tmp_path) -> tuple[Path, Path]:
    return make(tmp_path, digest=True)


@pytest.fixture(scope="module", params=[False, True], ids=["with the base", "without"])
def to_damage(request, tmp_path_factory) -> tuple[Path, bytes, Any]:
    _, out = make(tmp_path_factory.mktemp("damage"), digest=request.param)
    return out, (out / SINGLE).read_bytes(), False if request.param else None
