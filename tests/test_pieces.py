"""Trained folders in pieces of every rank, as DCP and transformers write them, are read as they come."""

from __future__ import annotations

import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from refusals import refusal
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import FileSystemReader, HuggingFaceStorageWriter
from transformers import LlamaForSequenceClassification

import hf_init
from hf_init import HfInitError
from hf_init.cli import main

FSDP = "pytorch_model_fsdp_0"
LAYOUTS = {
    "plain": ("", lambda state: state),
    "accelerate": (FSDP, lambda state: {"model": state}),
    "trainer": (f"checkpoint-3/{FSDP}", lambda state: {"model": state}),
    "an application": ("", lambda state: {"app": {"model": state, "optimizer": {"step": torch.ones(1)}}}),
    "safetensors": ("", lambda state: state),
}


@pytest.fixture(scope="module")
def extended(bases, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pieces") / "out"
    hf_init.extend(bases("llama untied"), out, LlamaForSequenceClassification, labels=["a", "b"], drop=["lm_head*"])
    return out


def saved(folder: Path, layout: str, state: dict[str, torch.Tensor]) -> Path:
    """The folder with a state dict in that layout; where it lies is what is returned."""
    below, wrap = LAYOUTS[layout]
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True) if layout == "safetensors" else None
    (folder / below).mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group
        dcp.save(wrap(state), checkpoint_id=folder / below, storage_writer=writer, no_dist=True)
    return folder


def trained(extended: Path) -> dict[str, torch.Tensor]:
    state = load_file(extended / "model.safetensors")
    return {**state, "score.weight": state["score.weight"] + 1}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_training_moved_is_told_from_the_pieces(bases, extended, tmp_path, layout, capsys):
    state = trained(extended)
    run = saved(tmp_path / "run", layout, state)
    report = hf_init.drift(extended, run, frozen="kept")
    assert report.ok and (report.counts["identical"], report.counts["new"]) == (len(state) - 1, 1)
    folder = run / "checkpoint-3" if layout == "trainer" else run
    assert [each["name"] for each in hf_init.diff(extended, folder).tensors if each["status"] == "changed"] == [
        "score.weight"
    ]
    renamed = hf_init.diff(folder, folder, prefix="x.").tensors
    assert {each["status"] for each in renamed} == {"renamed"} and len(renamed) == len(state)
    shutil.copy(extended / "hf_init.json", folder)
    assert [each["name"] for each in hf_init.verify(folder, bases("llama untied")).differences] == ["score.weight"]
    assert main(["verify", str(run), "--after-training", "--base", str(extended)]) == 0
    moved = state["model.layers.1.mlp.up_proj.weight"]
    moved[1, 2] = -moved[1, 2]
    again = saved(tmp_path / "again", layout, state)
    (failure,) = hf_init.drift(extended, again, frozen="kept").failures
    assert failure.name == "model.layers.1.mlp.up_proj.weight" and failure.change.first["index"] == [1, 2]
    capsys.readouterr()
    assert main(["verify", str(again), "--after-training", "--base", str(extended)]) == 1
    assert "up_proj.weight: moved at row 1, index [1, 2]" in capsys.readouterr().out


def test_one_byte_in_a_file_of_pieces_is_found(extended, tmp_path):
    run = saved(tmp_path / "run", "accelerate", load_file(extended / "model.safetensors"))
    (file,) = run.glob(f"{FSDP}/*.distcp")
    data = bytearray(file.read_bytes())
    data[data.find(load_file(extended / "model.safetensors")["model.norm.weight"].numpy().tobytes())] ^= 1
    file.write_bytes(data)
    assert [each["name"] for each in hf_init.diff(extended, run).tensors if each["status"] == "changed"]
    assert not hf_init.drift(extended, run, frozen="kept")


class Harmful:
    def __reduce__(self):
        return print, ("it ran",)


def without_a_piece(folder: Path) -> None:
    metadata = FileSystemReader(folder).read_metadata()
    metadata.state_dict_metadata["model.norm.weight"].chunks.clear()
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def outside(folder: Path) -> None:
    metadata = FileSystemReader(folder).read_metadata()
    for info in metadata.storage_data.values():
        info.relative_path = "../" + info.relative_path
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: next(folder.glob("*.distcp")).unlink(), r"No such file.*distcp.*Copy or download"),
        (lambda folder: next(folder.glob("*.distcp")).write_bytes(b"PK" * 4000), "can't be read"),
        (lambda folder: (folder / ".metadata").write_bytes(b"no pickle"), "can't be read as a distributed checkpoint"),
        (lambda folder: (folder / ".metadata").write_bytes(pickle.dumps([1])), "holds list"),
        (lambda folder: (folder / ".metadata").write_bytes(pickle.dumps(Harmful())), "'builtins.print' to be run"),
        (without_a_piece, r"model.norm.weight.*don't make one tensor of shape \[32\]"),
        (outside, "leads out of the folder"),
    ],
)
def test_pieces_that_are_not_what_they_should_be(extended, tmp_path, damage, said, capfd):
    run = saved(tmp_path / "run", "plain", load_file(extended / "model.safetensors"))
    damage(run)
    with pytest.raises(HfInitError, match=f"(?s){said}"):
        hf_init.diff(extended, run)
    assert "it ran" not in capfd.readouterr().out


def test_safetensors_in_pieces_that_lack_one(extended, tmp_path):
    run = saved(tmp_path / "run", "safetensors", load_file(extended / "model.safetensors"))
    (file,) = run.glob("shard-*")
    half = {"model.norm.weight": torch.zeros(16)}
    save_file(half, file, {"DCP_SHARDING_INFO": '{"model.norm.weight": {"saved_offsets": [16]}}'})
    with pytest.raises(HfInitError, match=r"model.norm.weight.*don't make one tensor of shape \[32\]"):
        hf_init.diff(extended, run)


def test_what_is_no_model_yet_can_not_be_extended(extended, tmp_path, capsys):
    run = saved(tmp_path / "run", "safetensors", load_file(extended / "model.safetensors"))
    assert "is a distributed checkpoint" in refusal(tmp_path, capsys, "plan", run)
    assert "leave out --recompute" in refusal(tmp_path, capsys, "verify", run, "--after-training", "--recompute")
    assert "leave out --no-base" in refusal(tmp_path, capsys, "verify", run, "--after-training", "--no-base")
