"""What a result takes over besides tensors, and the weight files beside a checkpoint that nobody should load."""

from __future__ import annotations

from pathlib import Path

import pytest
from write_checks import contents, names, save_base, values

from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._write.other_files import carry_files, other_files_bytes, stale_weights

FILES = ("tokenizer.json", "vocab.txt", "README.md", "1_Pooling/config.json", "2_Dense/model.safetensors")
STALE = ("adapter_model.safetensors", "consolidated.00.pth", "model.gguf", "pytorch_model.bin", "tf_model.h5")


@pytest.fixture
def single(tmp_path) -> Checkpoint:
    return save_base(tmp_path / "single", {"a": values(2)})


@pytest.fixture
def sharded(tmp_path) -> Checkpoint:
    return save_base(tmp_path / "sharded", {"a": values(2)}, {"b": values(3)})


def put(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(file)


def test_a_checkpoint_alone_has_nothing_stale(single, sharded):
    for source in (single, sharded):
        put(source.root, *FILES, "config.json")
        assert stale_weights(source.root, source) == []


def test_weights_of_another_format_are_stale(single, sharded):
    for source in (single, sharded):
        put(source.root, *STALE)
        assert stale_weights(source.root, source) == list(STALE)


def test_files_of_another_layout_are_stale(tmp_path, single, sharded):
    """One file beside shards goes before their index, so the shards and the index are the ones that nobody reads."""
    put(sharded.root, "model-00001-of-00003.safetensors")
    assert stale_weights(sharded.root, sharded) == ["model-00001-of-00003.safetensors"]
    (sharded.root / "model.safetensors").write_bytes((single.root / "model.safetensors").read_bytes())
    assert stale_weights(sharded.root, Checkpoint.open(sharded.root)) == [
        "model-00001-of-00002.safetensors",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


def test_a_result_gets_everything_but_weights(single, tmp_path):
    put(single.root, *FILES, *STALE, "config.json", "hf_init.json", ".cache/lock")
    (tmp_path / "out").mkdir()
    carry_files(single.root, tmp_path / "out")
    assert contents(tmp_path / "out") == {file: file.encode() for file in FILES}
    assert other_files_bytes(single.root) == sum(map(len, FILES))


def test_links_are_carried_as_files(single, tmp_path):
    put(tmp_path, "blob")
    (single.root / "tokenizer.json").symlink_to("../blob")
    (tmp_path / "out").mkdir()
    carry_files(single.root, tmp_path / "out")
    assert names(tmp_path / "out") == ["tokenizer.json"] and not (tmp_path / "out" / "tokenizer.json").is_symlink()
