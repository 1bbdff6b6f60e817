"""Reading checkpoints: what the library writes is read back, and every file that isn't what it says is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_headers import INDEX, SINGLE, framed, info, refused, sharded, write
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import hf_init
from hf_init import HfInitError

DTYPES = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Every code of the format, and the bits of an element."""


# What is written is read.


def opened(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a checkpoint as they are read, in their order: dtype and shape; and all of it is read."""
    done: list[int] = []
    report = hf_init.diff(folder, folder, progress=done.append)
    assert report.identical
    return {each["name"]: (each["dtype"], tuple(each["shape"])) for each in report.tensors}


def values_of(folder: Path, name: str, other: Path, **options: Any) -> list[Any]:
    """The number that is first in a tensor, and that of a copy with other bytes there, as they are read."""
    (changed,) = [each for each in hf_init.diff(folder, other).tensors if each["status"] == "changed"]
    assert changed["name"] == name
    return [changed["first"]["expected"], changed["first"]["seen"]]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 3), (2, 3, 4)])
@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int16", "uint16", "float16", "int32", "uint32", "float32", "complex64",
              "float64", "int64", "uint64"],
)  # fmt: skip
def test_every_dtype_and_shape_round_trips(tmp_path, dtype, shape):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    save_file({"before": np.ones(1, "int8"), "it": values}, tmp_path / SINGLE, {"format": "pt"})
    assert opened(tmp_path) == {"before": ("int8", (1,)), "it": (dtype, shape)}
    if values.size and dtype not in ("bool", "complex64"):
        (tmp_path / "other").mkdir()
        changed = values.copy()
        changed.flat[-1] += 1
        save_file({"before": np.ones(1, "int8"), "it": changed}, tmp_path / "other" / SINGLE)
        last = [values.flat[-1].item(), changed.flat[-1].item()]
        assert values_of(tmp_path, "it", tmp_path / "other") == last


@pytest.mark.parametrize("code", DTYPES)
def test_every_code_of_the_format_is_read(tmp_path, code):
    width = DTYPES[code]
    write(tmp_path, {"w": info(code, [4, 2], [0, width])}, bytes(width))
    with safe_open(tmp_path / SINGLE, "np") as library:
        assert list(library.keys()) == ["w"], "the library takes this code and this width"
    assert opened(tmp_path)["w"][1] == (4, 2)
    refused(write(tmp_path, {"w": info(code, [4, 2], [0, width - 1])}, bytes(width - 1)), "'w'", f"need {width}")


@pytest.mark.parametrize(
    ("code", "before", "after", "numbers"),
    [
        ("F16", b"\0\x3c", b"\0\xbc", [1.0, -1.0]),
        ("BF16", b"\x49\x40", b"\x80\x3f", [3.140625, 1.0]),
        ("F64", b"\0" * 6 + b"\xf0\x3f", bytes(8), [1.0, 0.0]),
        ("I8", b"\xff", b"\1", [-1, 1]),
        ("U64", b"\xff" * 8, bytes(8), [2**64 - 1, 0]),
        ("BOOL", b"\1", b"\0", [True, False]),
        ("F8_E4M3", b"\x38", b"\0", ["0x38", "0x00"]),
        ("C64", b"\1" + bytes(7), bytes(8), ["0x0000000000000001", "0x0000000000000000"]),
    ],
)
def test_bits_are_read_as_numbers(tmp_path, code, before, after, numbers):
    """Also where they start off their width."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, data in zip(folders, (before, after), strict=True):
        folder.mkdir()
        header = {"odd": info("U8", [1], [0, 1]), "w": info(code, [1], [1, 1 + len(data)])}
        write(folder, header, b"\0" + data)
    found = values_of(folders[0], "w", folders[1])
    assert found == numbers and list(map(type, found)) == list(map(type, numbers))


def test_elements_that_share_bytes_fill_whole_ones(tmp_path):
    assert opened(write(tmp_path, {"w": info("F4", [2, 3], [0, 3])}, b"abc"))["w"][1] == (2, 3)
    refused(write(tmp_path, {"w": info("F4", [3], [0, 1])}, b"a"), "'w'", "1 bytes", "need 1.5")


def test_entries_come_in_the_order_of_the_file_and_there_may_be_none(tmp_path):
    write(tmp_path, {"a": info("U8", [1], [2, 3]), "b": info("U8", [0], [2, 2]), "c": info("U8", [2], [0, 2])}, b"123")
    assert list(opened(tmp_path)) == ["c", "b", "a"]
    assert opened(write(tmp_path, {})) == {}


def test_shards_are_one_checkpoint_and_a_single_file_goes_before_them(tmp_path):
    assert opened(sharded(tmp_path)) == {"w": ("float32", (2,)), "x": ("float32", (3,)), "y": ("int64", (2, 2))}
    save_file({"only": np.ones(1)}, tmp_path / SINGLE)
    assert list(opened(tmp_path)) == ["only"]


def test_what_the_index_does_not_map_is_left_out_and_of_two_of_one_name_it_chooses(tmp_path):
    assert list(opened(sharded(tmp_path, {"w": "a.safetensors", "y": "b.safetensors"}))) == ["w", "y"]
    save_file({"y": np.zeros((2, 2), "int64"), "w": np.full(7, 5, "float32")}, tmp_path / "b.safetensors")
    assert opened(tmp_path)["w"] == ("float32", (2,))


def test_links_are_followed_as_in_the_hub_cache(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file({"w": np.ones(2)}, tmp_path / "blobs" / "0f3c")
    (tmp_path / "snapshot" / SINGLE).symlink_to("../blobs/0f3c")
    assert opened(tmp_path / "snapshot") == {"w": ("float64", (2,))}


# What is no checkpoint is refused.


def test_no_folder(tmp_path):
    refused(tmp_path / "nowhere", "no such folder")


def test_a_file_in_place_of_a_folder(tmp_path):
    """It is compared as the folder is that holds it; a result is made of a folder."""
    save_file({"w": np.ones(1)}, tmp_path / SINGLE)
    assert hf_init.diff(tmp_path / SINGLE, tmp_path).ok
    with pytest.raises(HfInitError, match=f"{SINGLE} is a file; give the folder that holds it"):
        hf_init.plan(tmp_path / SINGLE, "BertModel")


def test_a_folder_without_weights(tmp_path):
    refused(tmp_path, f"neither {SINGLE} nor {INDEX}", "save_pretrained")


def test_a_folder_in_place_of_a_file(tmp_path):
    (tmp_path / SINGLE).mkdir()
    (tmp_path / INDEX).write_text("{}")
    refused(tmp_path, "weight_map")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b"1234567", ["truncated", "7 bytes, expected at least 8"]),
        (framed(b"{}")[:-1], ["truncated", "9 bytes", "needs 10"]),
        ((10**8 + 1).to_bytes(8, "little") + b"{}", ["100000001 bytes", "more than the 100000000"]),
        (b"\xff" * 64, ["more than the 100000000"]),
        (b"<!DOCTYPE html><html>", ["not a safetensors file"]),
        (framed(b""), ["not valid JSON"]),
        (framed(b"{"), ["not valid JSON"]),
        (framed(b"\xff\xfe{}"), ["not valid JSON"]),
        (framed('{"a":1}'.encode("utf-16")), ["not valid JSON"]),
        (framed(b"{}\0"), ["not valid JSON"]),
        (framed(b"[" * 100_000), ["not valid JSON", "recursion"]),
        (framed(b'{"w": NaN}'), ["not valid JSON", "NaN"]),
        (framed(b'{"w": -0}'), ["not valid JSON", "-0"]),
        (framed(b'{"\\ud800": 1}'), ["not valid JSON", "surrogates"]),
        (framed(b'{"w": ' + b"9" * 5000 + b"}"), ["'w'" if sys.version_info < (3, 10, 7) else "not valid JSON"]),
        (framed(b"[]"), ["not a JSON object"]),
        (framed(b"7"), ["not a JSON object", "7"]),
    ],
)
def test_a_file_that_is_no_safetensors_file(tmp_path, content, words):
    (tmp_path / SINGLE).write_bytes(content)
    refused(tmp_path, *words, "again")


@pytest.mark.parametrize(
    "header",
    [
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}',
        b'{"w":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}',
    ],
)
def test_a_name_given_twice(tmp_path, header):
    refused(write(tmp_path, header, bytes(8)), "occurs twice")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (7, ["is 7", "an object"]),
        ({}, ["dtype is None"]),
        ({"dtype": "F32", "shape": [2]}, ["data_offsets is None"]),
        ({"dtype": "F32", "data_offsets": [0, 8]}, ["shape is None"]),
        (info("F33"), ["'F33'", "BF16"]),
        (info("f32"), ["'f32'"]),
        (info(["F32"]), ["['F32']"]),
        (info(shape=2), ["shape is 2"]),
        (info(shape=[-2]), ["shape is [-2]"]),
        (info(shape=[True, 2]), ["shape is [True, 2]"]),
        (info(shape=[2.0]), ["shape is [2.0]"]),
        (info(shape=["2"]), ["shape is ['2']"]),
        (info(shape=[2**63]), ["shape is [9223372036854775808]"]),
        (info(shape=[2**40, 2**40]), ["too large"]),
        (info(shape=[0, 2**62, 2**62], offsets=[0, 0]), ["too large"]),
        (info(shape=[1] * 33, offsets=[0, 4]), ["at most 32"]),
        (info(offsets=[8, 0]), ["[8, 0]", "the first not above the second"]),
        (info(offsets=[0, 8, 8]), ["[0, 8, 8]"]),
        (info(offsets=[-8, 0]), ["[-8, 0]"]),
        (info(offsets=[False, 8]), ["[False, 8]"]),
        (info(offsets=[0.0, 8.0]), ["[0.0, 8.0]"]),
        (info(offsets=[0, 7]), ["7 bytes", "need 8"]),
        (info("F16"), ["8 bytes", "need 4"]),
    ],
)
def test_a_tensor_that_can_not_be(tmp_path, entry, words):
    refused(write(tmp_path, {"good": info(), "bad": entry}, bytes(8)), "'bad'", *words)


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    message = refused(write(tmp_path, {f"t{i}": 7 for i in range(11)}), "'t0'", "'t7'", "and 3 more")
    assert "'t8'" not in message


@pytest.mark.parametrize("metadata", [7, ["pt"], {"format": 7}, {"format": None}])
def test_metadata_that_is_no_text(tmp_path, metadata):
    refused(write(tmp_path, {"__metadata__": metadata}), "__metadata__", "an object of strings")


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        ({"w": info()}, 5, ["truncated", "header describes"]),
        ({"w": info(offsets=[8, 16])}, 8, ["truncated"]),
        ({"w": info()}, 9, ["the rest is a hole"]),
        ({"w": info(offsets=[4, 12])}, 12, ["a hole of 4 bytes before 'w'"]),
        ({"v": info(), "w": info(offsets=[12, 20])}, 20, ["a hole of 4 bytes before 'w'"]),
        ({"v": info(), "w": info(offsets=[4, 12])}, 12, ["'w' overlaps 'v'"]),
        ({"v": info(), "w": info()}, 8, ["'w' overlaps 'v'"]),
        ({"v": info(), "w": info(shape=[0], offsets=[4, 4])}, 8, ["'w' overlaps 'v'"]),
    ],
)
def test_tensors_that_do_not_cover_the_file(tmp_path, header, size, words):
    write(tmp_path, header, bytes(size))
    with pytest.raises(SafetensorError):
        safe_open(tmp_path / SINGLE, "np").__enter__()
    message = refused(tmp_path, *words)
    if "truncated" in words:
        assert str((tmp_path / SINGLE).stat().st_size) in message
