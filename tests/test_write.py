"""The files of a result: which are written, how little of them, and that they are what safetensors would write."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from shaped_models import THREE, base_of, extend, shapes_of, values
from shaped_models import three as three
from small_model import FILES, contents, extend_small, names, small_base

from hf_init import HfInitError


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
