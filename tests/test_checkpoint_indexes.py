"""Indexes that lead astray, shards that are missing, damage of any kind, and checkpoints of a terabyte."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hub_server import NAME
from hypothesis import example, given
from hypothesis import strategies as st
from made_headers import INDEX, SINGLE, framed, info, refused, sharded, write
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

import hf_init
from hf_init import HfInitError
from hf_init._checkpoint import Checkpoint, open_checkpoint

# Indexes.


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["not valid JSON"]),
        (b"[]", ["not a JSON object"]),
        (b"{}", ["weight_map is None"]),
        (b'{"weight_map": []}', ["weight_map is []"]),
        (b'{"weight_map": {}}', ["weight_map is {}"]),
        (
            b'{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}',
            ["'w'", "'a.safetensors'", "'b.safetensors'"],
        ),
    ],
)
def test_an_index_that_is_none(tmp_path, content, words):
    sharded(tmp_path)
    (tmp_path / INDEX).write_bytes(content)
    refused(tmp_path, *words)


OUTSIDE = [
    "../a.safetensors",
    "..",
    ".",
    "",
    "/etc/passwd",
    "sub//a.safetensors",
    "sub/../a.safetensors",
    "./a.safetensors",
    "..\\a",
    "C:a",
    "a\0b",
    7,
    None,
    ["a"],
]


@pytest.mark.parametrize("file", OUTSIDE)
def test_an_index_that_leads_out_of_its_folder(tmp_path, file):
    places = {"w": "a.safetensors", "x": file, "y": "b.safetensors"}
    refused(sharded(tmp_path, places), "'x' is in", "the plain name of a file in the same folder")


def test_shards_that_are_missing_are_all_named(tmp_path):
    places = {"w": "a.safetensors", "x": "c.safetensors", "y": "d" * 300}
    refused(sharded(tmp_path, places), "c.safetensors is not there", "ddd is not there")


def test_tensors_that_are_missing_are_all_named(tmp_path):
    places = {"w": "a.safetensors", "v": "a.safetensors", "x": "b.safetensors"}
    message = refused(sharded(tmp_path, places), "'v' is not in a.safetensors", "'x' is not in b.safetensors")
    assert "'w' is not" not in message


def test_a_shard_that_is_cut_off(tmp_path):
    file = sharded(tmp_path) / "b.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    refused(tmp_path, "b.safetensors is truncated")


def test_an_index_too_large_to_be_read(tmp_path):
    sharded(tmp_path)
    os.truncate(tmp_path / INDEX, 10**8 + 1)  # a sparse file: no such amount is written
    refused(tmp_path, "100000001 bytes", "more than the 100000000 allowed")


# Anything at all.


VALID = framed(json.dumps({"v": info(), "w": info("BF16", [2, 0], [8, 8]), "x": info("I8", [3], [8, 11])}).encode())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["F32", "BF16"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["w", "dtype", "shape", "data_offsets", "__metadata__"]), inner, max_size=4)
    ),
    max_leaves=8,
)


def is_read(folder: Path, content: bytes) -> bool:
    """Whether the content is read; anything raised but a HfInitError goes through, as does too short a reading."""
    (folder / SINGLE).write_bytes(content)
    try:
        assert hf_init.diff(folder, folder).identical
    except HfInitError:
        return False
    return True


def is_read_by_the_library(content: bytes) -> bool:
    try:
        load(content)
    except SafetensorError:
        return False
    except KeyError:  # a dtype that the library knows and numpy doesn't
        return True
    return True


def test_the_content_that_is_damaged_below_is_good(tmp_path):
    assert is_read(tmp_path, VALID + bytes(11)) and is_read_by_the_library(VALID + bytes(11))


@given(st.binary(max_size=200))
@example(framed(b"{}"))
def test_of_any_bytes_only_what_the_library_takes_is_read(tmp_path_factory, content):
    for candidate in (content, framed(content, bytes(8))):
        assert not is_read(tmp_path_factory.getbasetemp(), candidate) or is_read_by_the_library(candidate)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3), st.integers(0, 16))
def test_of_any_header_only_what_the_library_takes_is_read(tmp_path_factory, header, size):
    content = framed(json.dumps(header).encode(), bytes(size))
    assert not is_read(tmp_path_factory.getbasetemp(), content) or is_read_by_the_library(content)


@given(st.integers(0, len(VALID) - 1), st.integers(0, 255))
def test_of_damaged_headers_only_what_the_library_takes_is_read(tmp_path_factory, at, byte):
    damaged = VALID[:at] + bytes([byte]) + VALID[at + 1 :] + bytes(11)
    assert not is_read(tmp_path_factory.getbasetemp(), damaged) or is_read_by_the_library(damaged)


@given(st.integers(0, len(VALID) + 10))
def test_no_truncated_file_is_read(tmp_path_factory, length):
    assert not is_read(tmp_path_factory.getbasetemp(), (VALID + bytes(11))[:length])


# Large ones.


def sparse_llama(folder: Path, layers: int, width: int, shards: int) -> int:
    """A Llama's shards, all header and hole: bytes of its tensors, of which the disk holds none."""
    shapes = {"model.embed_tokens.weight": [128_000, width], "model.norm.weight": [width]}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{part}_proj.weight": [width, width] for part in "qkvo"}
        shapes |= {f"{name}.mlp.{part}_proj.weight": [4 * width, width] for part in ("gate", "up")}
        shapes |= {f"{name}.mlp.down_proj.weight": [width, 4 * width]}
        shapes |= {f"{name}.{part}_layernorm.weight": [width] for part in ("input", "post_attention")}
    names, places, total = sorted(shapes), {}, 0
    for number in range(shards):
        document, at = {}, 0
        for name in names[number::shards]:
            stop = at + 2 * math.prod(shapes[name])
            document[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [at, stop]}
            places[name] = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            at = stop
        text = json.dumps(document).encode()
        with (folder / f"model-{number + 1:05d}-of-{shards:05d}.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + at)
        total += at
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return total


@pytest.mark.slow
def test_a_thousand_shards_of_a_terabyte_are_planned_by_their_headers(tmp_path):
    total = sparse_llama(tmp_path, layers=152, width=16_384, shards=1000)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16_384, "vocab_size": 128_000,
        "intermediate_size": 65_536, "num_hidden_layers": 152, "num_attention_heads": 128, "num_key_value_heads": 128,
        "tie_word_embeddings": True, "dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    hf_init.plan(tmp_path, "LlamaForTokenClassification")  # what is imported for it
    tracemalloc.start()
    plan = hf_init.plan(tmp_path, "LlamaForTokenClassification")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000
    assert plan.counts["kept"] == 152 * 9 + 2 and plan.counts["new"] == 2 and total > 1.3e12


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    write_single = tmp_path / "single"
    write_single.mkdir()
    (write_single / SINGLE).symlink_to(tmp_path / "gone")
    with pytest.raises(HfInitError, match=rf"{SINGLE} is a link to '.*gone', which is not there"):
        hf_init.diff(write_single, write_single)
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))
    (sharded / "a.safetensors").symlink_to("nowhere")
    with pytest.raises(HfInitError, match=r"a\.safetensors is a link to 'nowhere'(.|\n)*b\.safetensors is not there"):
        hf_init.diff(sharded, sharded)


# The arrays that the rooms read values as: maps of the files.


def test_values_are_mapped_read_only_and_outlive_what_they_were_read_from(tmp_path):
    save_file({"w": np.ones(4), "x": np.ones(4)}, tmp_path / SINGLE)
    checkpoint = Checkpoint.open(tmp_path)
    first = checkpoint.raw("w")
    assert np.shares_memory(first, checkpoint.raw("w")) and not first.flags.writeable
    checkpoint.close()
    assert first.view(np.float64).tolist() == checkpoint.array("x").view(np.float64).tolist() == [1] * 4
    with pytest.raises(HfInitError, match=r"no tensor 'v'; it has \['w', 'x'\]"):
        checkpoint.raw("v")


def test_a_mapped_file_that_changes_is_noticed(tmp_path):
    checkpoint = Checkpoint.open(write(tmp_path, {"w": info()}, bytes(8)))
    for change, message in (
        (lambda file: file.write_bytes(b"short"), "has changed since it was opened: 5 bytes, expected"),
        (lambda file: file.write_bytes(b""), "can't be mapped"),
        (Path.unlink, r"can't be mapped: .*No such file"),
    ):
        change(tmp_path / SINGLE)
        with pytest.raises(HfInitError, match=message):
            checkpoint.raw("w")


def test_more_shards_than_may_be_mapped_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_init._checkpoint.checkpoint._MOST_MAPS", 3)
    total = sparse_llama(tmp_path, layers=2, width=8, shards=10)
    checkpoint = Checkpoint.open(tmp_path)
    arrays = [checkpoint.array(name) for name in checkpoint.entries]
    assert sum(array.nbytes for array in arrays) == total
    assert not any(array.any() for array in arrays), "those let go of are still good"


def test_reading_a_value_of_a_hub_id_is_refused_with_the_way_to_have_it(serve, tiny):
    serve({path.name: path.read_bytes() for path in tiny("bert").iterdir()})
    remote = open_checkpoint(NAME, headers_only=True)
    name = next(iter(remote.entries))
    for read in (lambda: remote.raw(name), lambda: remote.array(name), remote.fingerprint):
        with pytest.raises(HfInitError, match=f"{NAME}: only its headers were read.*hf download {NAME}"):
            read()
