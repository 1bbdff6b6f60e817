"""The files of a result: which are written, how little of them, and that they are what safetensors would write."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_model import FILES, contents, extend_small, failing, names, once_at, save_base, small_base

import hf_init
from hf_init import HfInitError

NORMAL = {"default": "normal(std=0.02)"}
FICLONE = 0x40049409


class ShapesConfig(transformers.PreTrainedConfig):
    model_type = "shapes_of_tests"
    shapes: dict[str, Any] | None = None


class Shapes(transformers.PreTrainedModel):
    """Tensors of any names, shapes and dtypes."""

    config_class, base_model_prefix = ShapesConfig, "shapes"

    def __init__(self, config):
        super().__init__(config)
        for name, (shape, dtype) in (config.shapes or {}).items():
            tensor = torch.zeros(shape, dtype=getattr(torch, dtype))
            if tensor.is_floating_point():
                self.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(name, tensor)
        self.post_init()


def values(*shape: int, dtype: str = "float32") -> torch.Tensor:
    """Random bytes: every bit pattern is as good as another."""
    generator, kind = torch.Generator().manual_seed(0), getattr(torch, dtype)
    nbytes = torch.Size(shape).numel() * kind.itemsize
    high = 2 if kind == torch.bool else 256
    data = torch.randint(0, high, (nbytes,), generator=generator, dtype=torch.uint8)
    return data.view(kind).reshape(shape)


def shapes_of(tensors: dict[str, torch.Tensor], **others: Any) -> dict[str, Any]:
    own = {name: (list(each.shape), str(each.dtype).removeprefix("torch.")) for name, each in tensors.items()}
    return {**own, **others}


def base_of(folder: Path, *files: dict[str, torch.Tensor]) -> Path:
    shapes = {name: each for tensors in files for name, each in shapes_of(tensors).items()}
    return save_base(folder, ShapesConfig(shapes=shapes), *files)


def extend(base: Path, out: Path, shapes: dict[str, Any], **options: Any) -> dict[str, list[str]]:
    """Extend to these shapes; give the tensors in each file of the result."""
    config = ShapesConfig(shapes=shapes)
    hf_init.extend(base, out, Shapes, config=config, **{"recipe": NORMAL, **options}).raise_if_failed()
    return {path.name: sorted(load_file(path)) for path in sorted(out.glob("*.safetensors"))}


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def bits(tensor: torch.Tensor) -> np.ndarray:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat.view(f"u{tensor.element_size()}").reshape(tensor.shape)


# The format.

SAVED = [
    "bool", "uint8", "int8", "int16", "uint16", "float16", "bfloat16", "int32", "uint32", "float32", "complex64",
    "float64", "int64", "uint64",
]  # fmt: skip
"""Not eight bits of a float: such weights are packed, and refused."""


@pytest.mark.parametrize("link", ["copy", "hard", "symbolic"])
def test_a_file_is_what_safetensors_writes(tmp_path, link):
    """Every dtype, names with all kinds of letters, a scalar, an empty tensor; one that grows beside them."""
    tensors = {f"{k}_{dtype}": values(2, k, dtype=dtype) for dtype in SAVED for k in (1, 3)}
    tensors |= {'é\n\x01\x7f"\\/ü\u2028': values(3), "scalar": values(), "empty": values(0, 3), "grows": values(5, 3)}
    base = base_of(tmp_path / "base", tensors)
    extend(base, tmp_path / "out", shapes_of(tensors, grows=([9, 3], "float32")), keep={"grows": "leading"}, link=link)
    file = tmp_path / "out" / "model.safetensors"
    save_file(load_file(file), tmp_path / "theirs", {"format": "pt"})
    assert file.read_bytes() == (tmp_path / "theirs").read_bytes()
    assert all(
        np.array_equal(bits(load_file(file)[name]), bits(each)) for name, each in tensors.items() if name != "grows"
    )


# Regions.


@st.composite
def moves(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], Any, np.ndarray]:
    """The shapes of a source and a target, what is kept, and for each element of the target its place or -1."""
    before = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    source, dims = np.arange(int(np.prod(before))).reshape(before), len(before)
    if draw(st.booleans()):
        dim = draw(st.integers(0, dims - 1))
        taken = draw(st.lists(st.integers(0, before[dim] - 1), min_size=1, unique=True))
        index = draw(st.permutations([*taken, *[None] * draw(st.integers(0, 4))]))
        origins = np.take(source, [0 if at is None else at for at in index], dim)
        origins[(*(slice(None),) * dim, [at is None for at in index])] = -1
        return before, origins.shape, {"dim": dim, "index": index, "drop": True}, origins
    after = tuple(draw(st.integers(1, 6)) for _ in before)
    size = [draw(st.integers(0, min(a, b))) for a, b in zip(before, after, strict=True)]
    here, there = ([draw(st.integers(0, n - k)) for n, k in zip(whole, size, strict=True)] for whole in (after, before))
    cut, was = (tuple(slice(a, a + k) for a, k in zip(start, size, strict=True)) for start in (here, there))
    origins = np.full(after, -1)
    origins[cut] = source[was]
    pair = tuple([[each.start, each.stop] for each in side] for side in (cut, was))
    return before, after, {"boxes": [pair] if 0 not in size else [], "drop": True}, origins


@settings(max_examples=40)
@given(moves(), st.sampled_from(["float32", "bfloat16", "int8", "bool"]), st.sampled_from([64, 1 << 20]))
def test_what_is_kept_goes_to_its_places(tmp_path_factory, move, dtype, block):
    """Rows and boxes of any dimension, in pieces and as a whole; what they leave is new, and all of it is proved."""
    before, after, how, origins = move
    folder = tmp_path_factory.mktemp("move")
    tensors = {"a": values(3, dtype="float32"), "w": values(*before, dtype=dtype)}
    base = base_of(folder / "base", tensors)
    recipe = {"default": "zeros" if dtype in ("bool", "int8") else "normal(std=0.02)"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_init._checkpoint.runs.BLOCK", block)
        patch.setattr("hf_init._checkpoint.runs._SPAN", 2 * block)
        patch.setattr("hf_init._write.writing._FILL_BYTES", 10)  # a larger region waits, and has it all
        shapes = shapes_of(tensors, w=(list(after), dtype))
        extend(base, folder / "out", shapes, keep={"w": how if after != before or how.get("boxes") != [] else "none"},
               recipe=recipe)  # fmt: skip
    found, kept = bits(read(folder / "out")["w"]), origins >= 0
    assert found.shape == after
    assert np.array_equal(found[kept], bits(tensors["w"]).reshape(-1)[origins[kept]])
    shutil.rmtree(folder)


@pytest.mark.parametrize("block", [1, 7, 40])
def test_what_a_scheme_is_given_of_pretrained_rows_comes_in_pieces(tmp_path, monkeypatch, block):
    base = base_of(tmp_path / "base", tensors := {"w": torch.randn(9, 5)})
    for k, out in ((block, "pieces"), (1 << 20, "whole")):
        monkeypatch.setattr("hf_init._checkpoint.tensor_reader._CACHED", k)
        shapes = shapes_of(tensors, w=([12, 5], "float32"))
        extend(base, tmp_path / out, shapes, keep={"w": "leading"}, recipe={"default": "matched_normal"})
    assert contents(tmp_path / "pieces") == contents(tmp_path / "whole")


# What is written at all.

THREE = {"a": values(4, 4), "b": values(5, 4), "c": values(3), "d": values(9)}


@pytest.fixture
def three(tmp_path) -> Path:
    return base_of(tmp_path / "base", {"a": THREE["a"]}, {"b": THREE["b"], "c": THREE["c"]}, {"d": THREE["d"]})


GROWN, HEAD = {"b": ([7, 4], "float32")}, {"head": ([2], "float32")}


@pytest.mark.parametrize(
    ("shapes", "options", "files", "linked"),
    [
        (GROWN, {}, [["a"], ["b", "c"], ["d"]], [0, 2]),
        ({"a": ([6, 4], "float32"), **HEAD}, {"keep": {"a": "leading"}}, [["a", "head"], ["b", "c"], ["d"]], [1, 2]),
        (HEAD, {}, [["a"], ["b", "c"], ["d"], ["head"]], [0, 1, 2]),
        (HEAD, {"link": "copy"}, [["a"], ["b", "c"], ["d", "head"]], []),
        ({"c": None}, {"drop": ["c"]}, [["a"], ["b"], ["d"]], [0, 2]),
        (
            {"a": None, "other": ([4, 4], "float32")},
            {"key_mapping": {"^a$": "other"}},
            [["other"], ["b", "c"], ["d"]],
            [1, 2],
        ),
        ({"d": None}, {"drop": ["d"]}, [["a"], ["b", "c"]], [0, 1]),
        ({"a": None, "b": None, "c": None}, {"drop": ["a", "b", "c"]}, [["d"]], [0]),
        ({}, {"max_shard_size": 80}, [["a"], ["b"], ["c", "d"]], [0]),
    ],
)
def test_only_files_of_changed_tensors_are_written(three, tmp_path, shapes, options, files, linked):
    """The others are links to the base's; new tensors go where anything is written, or into a file of their own."""
    wanted = {name: shape for name, shape in shapes_of(THREE, **shapes).items() if shape is not None}
    options = {"link": "hard", "keep": {"b": "leading"} if shapes.get("b") else {}, **options}
    found = extend(three, tmp_path / "out", wanted, **options)
    many = len(files)
    theirs = (
        [f"model-{k:05}-of-{many:05}.safetensors" for k in range(1, many + 1)] if many > 1 else ["model.safetensors"]
    )
    assert found == dict(zip(theirs, files, strict=True))
    own = {os.stat(path).st_ino for path in three.iterdir()}
    assert [k for k, name in enumerate(theirs) if os.stat(tmp_path / "out" / name).st_ino in own] == linked
    if many > 1:
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == {tensor: name for name, held in found.items() for tensor in held}
        assert index["metadata"]["total_size"] == sum(each.nbytes for each in read(tmp_path / "out").values())


def test_a_single_file_gets_an_index_beside_it_with_links_alone(tmp_path):
    base = base_of(tmp_path / "base", tensors := {"a": values(2), "b": values(3)})
    assert list(extend(base, tmp_path / "copy", shapes_of(tensors, **HEAD))) == ["model.safetensors"]
    assert names(tmp_path / "copy") == ["README.md", "config.json", "hf_init.json", "model.safetensors"]
    assert len(extend(base, tmp_path / "links", shapes_of(tensors, **HEAD), link="symbolic")) == 2


def test_a_file_that_isn_t_marked_as_torch_s_is_not_carried(tmp_path):
    base = base_of(tmp_path / "base", tensors := {"a": values(2)})
    save_file(tensors, base / "model.safetensors")
    extend(base, tmp_path / "out", shapes_of(tensors), link="hard")
    assert not os.path.samefile(tmp_path / "out" / "model.safetensors", base / "model.safetensors")


def test_an_unknown_way_of_linking_is_refused(three, tmp_path):
    with pytest.raises(HfInitError, match="link: expected one of copy, hard, symbolic, not 'soft'"):
        extend(three, tmp_path / "out", shapes_of(THREE), link="soft")


def test_links_are_links_also_to_a_hub_s_blobs_and_the_bytes_are_the_same(tmp_path):
    base, found = small_base(tmp_path / "base"), {}
    blob = tmp_path / "blob"
    (base / FILES[0]).rename(blob)
    (base / FILES[0]).symlink_to("../blob")
    for link in ("copy", "hard", "symbolic"):
        extend_small(base, tmp_path / link, link=link)
        found[link] = {name: data for name, data in contents(tmp_path / link).items() if name != "hf_init.json"}
    assert found["copy"] == found["hard"] == found["symbolic"]
    assert os.readlink(tmp_path / "symbolic" / FILES[0]) == str(blob)
    assert os.path.samefile(tmp_path / "hard" / FILES[0], blob) and not (tmp_path / "hard" / FILES[0]).is_symlink()
    assert not os.path.samefile(tmp_path / "copy" / FILES[0], blob)
    assert not (tmp_path / "symbolic" / FILES[1]).is_symlink()


# Clones.


@pytest.fixture
def cloned(monkeypatch) -> list[str]:
    """A filesystem with reflinks, played: a new file has the old one's bytes at one call. Gives the new files."""
    files: list[str] = []

    def ioctl(new: int, request: int, old: int) -> None:
        assert request == FICLONE
        if "(deleted)" not in (path := os.readlink(f"/proc/self/fd/{new}")):  # the trial
            files.append(Path(path).name)
        os.pwrite(new, os.pread(old, 1 << 30, 0), 0)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return files


KEPT, NBYTES = 4 * 1600, 4 * (1600 + 28 + 3 + 9 + 12)


def test_a_cloned_file_is_counted_apart_and_verify_reads_it(tmp_path, cloned):
    base, done = small_base(tmp_path / "base"), list[int]()
    report = extend_small(base, tmp_path / "out", progress=done.append)
    assert cloned == [FILES[0]] and sum(done) == 2 * NBYTES
    assert report.to_json()["bytes_cloned"] == report.bytes_cloned == KEPT and report.bytes_linked == 0
    assert "in files that the filesystem has just cloned from it" in str(report)
    again = hf_init.verify(tmp_path / "out")
    assert again and (again.bytes_cloned, again.bytes_compared) == (0, report.bytes_compared + KEPT)


def test_what_the_filesystem_does_not_clone_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "ioctl", failing(OSError(errno.EOPNOTSUPP, "Operation not supported")))
    report = extend_small(small_base(tmp_path / "base"), tmp_path / "out")
    assert report.bytes_cloned == 0 and report.bytes_compared > KEPT


def flip(path: Path) -> None:
    time.sleep(0.05)  # a tick of the clock by which filesystems note changes
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([data[-1] ^ 1]))


def flip_in_the_past(path: Path) -> None:
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_a_copy(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("where", ["copy", "source"])
@pytest.mark.parametrize("change", [flip, flip_in_the_past, replace_by_a_copy, lambda path: os.utime(path, ns=(1, 1))])
def test_a_clone_in_another_state_is_read(tmp_path, cloned, change, where):
    """Between the writing and the proof: the bytes may be the same, nothing but reading them tells."""
    base = small_base(tmp_path / "base")
    file = (base if where == "source" else tmp_path / ".out.hf_init" / "result") / FILES[0]
    progress = once_at(NBYTES, lambda: change(file))
    if where == "source":
        with pytest.raises(HfInitError, match=r"changed while|a: kept bytes differ from the base"):
            extend_small(base, tmp_path / "out", progress=progress)
    elif change in (flip, flip_in_the_past):
        with pytest.raises(HfInitError, match="a: kept bytes differ from the base"):
            extend_small(base, tmp_path / "out", progress=progress)
    else:
        report = extend_small(base, tmp_path / "out", progress=progress)
        assert report.bytes_cloned == 0 and report.bytes_compared > KEPT
        return
    assert names(tmp_path) == ["base"]


def test_a_copy_that_shares_its_blocks_needs_no_room(tmp_path, cloned, monkeypatch):
    """By one trial, which leaves nothing; where no file without a name can be made, there is none."""
    base = small_base(tmp_path / "base")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 3000))
    extend_small(base, tmp_path / "out")
    extend_small(base, tmp_path / "links", link="hard")
    before = names(tmp_path)
    monkeypatch.delattr(os, "O_TMPFILE")
    with pytest.raises(HfInitError, match="no space for"):
        extend_small(base, tmp_path / "other")
    assert names(tmp_path) == before


# Files beside the weights.

OTHERS = ("tokenizer.json", "vocab.txt", "README.md", "1_Pooling/config.json")
STALE = ("adapter_model.safetensors", "consolidated.00.pth", "model.gguf", "pytorch_model.bin", "tf_model.h5")


def put(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(file)


def stale(base: Path) -> list[str]:
    """The files that the plan leaves behind."""
    return [*hf_init.plan(base, Shapes).files.left]


def test_everything_but_weights_comes_along_and_weights_that_nobody_reads_stay(three, tmp_path):
    put(three, *OTHERS)
    assert stale(three) == []
    put(three, *STALE, "hf_init.json", ".cache/lock")
    put(tmp_path, "blob")
    (three / "link.json").symlink_to("../blob")
    assert stale(three) == list(STALE)
    extend(three, tmp_path / "out", shapes_of(THREE))
    found = contents(tmp_path / "out")
    found["README.md"] = found.pop("BASE_README.md")  # the base's card has another name beside the result's own
    assert {name: found.pop(name) for name in OTHERS} == {name: name.encode() for name in OTHERS}
    assert found.pop("link.json") == b"blob" and not (tmp_path / "out" / "link.json").is_symlink()
    assert {name for name in found if not name.startswith("model")} == {"config.json", "hf_init.json"}


def test_files_of_another_layout_are_stale(three):
    """One file beside shards goes before their index, so the shards and the index are the ones that nobody reads."""
    put(three, "model-00001-of-00004.safetensors")
    assert stale(three) == ["model-00001-of-00004.safetensors"]
    save_file(THREE, three / "model.safetensors", {"format": "pt"})
    shards = [f"model-0000{k}-of-0000{n}.safetensors" for k, n in ((1, 3), (1, 4), (2, 3), (3, 3))]
    assert stale(three) == [*shards, "model.safetensors.index.json"]


# Memory.

CHILD = """
import json, sys, threading, time
from pathlib import Path
import torch
from safetensors.torch import load_file
from small_model import save_base
from test_write import Shapes, ShapesConfig, extend, shapes_of

torch.set_num_threads(1)
folder = Path(sys.argv[1])
extend(save_base(folder / "small", ShapesConfig(), {"w": torch.zeros(3)}), folder / "first", {"w": ([3], "float32")})
shape = [64 << 10, 1 << 10]
header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 256 << 20]},
                     "__metadata__": {"format": "pt"}}).encode()
ShapesConfig(shapes={"w": (shape, "float32")}).save_pretrained(folder / "base")
with open(folder / "base" / "model.safetensors", "wb") as file:  # a header and a hole
    file.write(len(header).to_bytes(8, "little") + header)
    file.truncate(8 + len(header) + (256 << 20))

def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024

def peak_of(do):
    peaks, done = [], []
    def watch():
        while not done:
            peaks.append(anonymous())
            time.sleep(0.001)
    before = anonymous()
    thread = threading.Thread(target=watch)
    thread.start()
    kept = do()
    done.append(True)
    thread.join()
    return max(peaks) - before

print(peak_of(lambda: extend(folder / "base", folder / "out", {"w": ([shape[0] + 10, shape[1]], "float32")},
                             keep={"w": "leading"}) and None))
print(peak_of(lambda: load_file(folder / "base" / "model.safetensors")["w"].clone()))
"""


@pytest.mark.slow
def test_memory_is_that_of_what_is_new(tmp_path):
    """Ten new rows on 256 MiB take less than 64; and the measure would see the whole tensor in memory."""
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run([sys.executable, "-c", CHILD, tmp_path], stdout=subprocess.PIPE, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    writing, loading = map(float, done.stdout.split())
    assert writing < 64 < 200 < loading
