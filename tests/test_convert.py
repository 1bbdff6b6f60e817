"""Torch's own format becomes safetensors: every byte, every file that goes along, and nothing of the pickle is run."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from refusals import refusal, snapshot
from safetensors.torch import load_file

import hf_init
from hf_init import HfInitError
from hf_init.cli import main

SINGLE, INDEX, BIN, BIN_INDEX = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
State = dict[str, Any]


@pytest.fixture
def old(tiny, tmp_path) -> Callable[..., Path]:
    """A checkpoint in torch's format, with its tensors as a function makes them of the model's own."""

    def make(name: str = "bert", change: Callable[[State], object] = lambda state: state, **how: Any) -> Path:
        folder = tmp_path / "old"
        shutil.copytree(tiny(name), folder, copy_function=shutil.copyfile)
        torch.save(change(load_file(folder / SINGLE)), folder / BIN, **how)
        (folder / SINGLE).unlink()
        return folder

    return make


def shard(folder: Path, places: Callable[[str], str]) -> None:
    state = torch.load(folder / BIN)
    (folder / BIN).unlink()
    weight_map = {name: places(name) for name in state}
    for file in set(weight_map.values()):
        torch.save({name: state[name] for name in state if weight_map[name] == file}, folder / file)
    (folder / BIN_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def written(out: Path) -> State:
    return {name: tensor for file in sorted(out.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def same_bits(left: State, right: State) -> bool:
    def bits(tensor: torch.Tensor) -> bytes:
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() + str(tensor.dtype).encode()

    return left.keys() == right.keys() and all(bits(left[name]) == bits(right[name]) for name in left)


def odd(state: State) -> State:
    """Every dtype that people have, a transposed view, a NaN, a minus zero, no elements, one element."""
    kinds = (
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.int64,
        torch.int8,
        torch.uint8,
        torch.bool,
        torch.complex64,
    )
    more = {f"kind.{k}": torch.arange(-3, 4).to(dtype) for k, dtype in enumerate(kinds)}
    values = torch.tensor([[1.0, -0.0, float("nan")], [float("inf"), 2.0, 3.0]])
    more |= {
        "view": values.T,
        "part": values[:, 1:],
        "wide": values[0].expand(4, 3),
        "none": values[:0],
        "one": values[0, 0],
    }
    return {**state, **more}


FORMS: dict[str, tuple[Callable[[State], object], dict[str, Any]]] = {
    "as transformers saved it": (lambda state: state, {}),
    "the older file": (lambda state: state, {"_use_new_zipfile_serialization": False}),
    "parameters": (lambda state: {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}, {}),
    "odd": (odd, {}),
    "slices of one memory": (lambda state: {**state, **dict(zip("ab", torch.arange(6.0).split(3), strict=True))}, {}),
}


@pytest.mark.parametrize(("change", "how"), FORMS.values(), ids=FORMS)
def test_every_tensor_has_its_bytes(old, tmp_path, change, how):
    folder, out = old("bert", change, **how), tmp_path / "out"
    before = snapshot(folder)
    report = hf_init.convert(folder, out)
    assert report.ok and report.counts["kept"] == report.counts["tensors"] and snapshot(folder) == before
    source = {name: tensor.detach() for name, tensor in torch.load(folder / BIN).items()}
    assert same_bits(written(out), source) and report.bytes_compared == sum(t.nbytes for t in source.values())
    assert (out / "config.json").read_bytes() == (folder / "config.json").read_bytes() and not (out / BIN).exists()


def test_shards_stay_shards_and_the_result_is_a_base(old, tmp_path):
    folder, out = old(), tmp_path / "out"
    shard(folder, lambda name: f"pytorch_model-0000{len(name) % 3}.bin")
    source = {name: tensor for file in folder.glob("*.bin") for name, tensor in torch.load(file).items()}
    plain = transformers.BertModel.from_pretrained(folder).state_dict()
    assert hf_init.convert(str(folder), str(out)).ok and same_bits(written(out), source)
    assert len(list(out.glob("model-0000*-of-00003.safetensors"))) == 3 and (out / INDEX).is_file()
    assert same_bits(transformers.BertModel.from_pretrained(out).state_dict(), plain)
    assert hf_init.extend(out, tmp_path / "more", "BertForSequenceClassification", labels=["a", "b"]).ok


def test_files_go_along_as_with_extend(old, tmp_path):
    folder, out = old(), tmp_path / "out"
    for name in ("tokenizer.json", "vocab.txt", "training_args.bin", "optimizer.pt", "README.md"):
        (folder / name).write_text("{}")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / BIN).write_bytes(b"")
    assert main(["convert", str(folder), str(out)]) == 0
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {"config.json", SINGLE, "tokenizer.json", "vocab.txt", "README.md", "hf_init.json"}


def test_it_can_be_verified_again_and_a_flipped_bit_is_named(old, tmp_path, capsys):
    folder, out = old(), tmp_path / "out"
    hf_init.convert(folder, out)
    assert hf_init.verify(out).ok and main(["verify", str(out)]) == 0
    shutil.rmtree(folder)
    assert hf_init.verify(out).ok
    data = bytearray((out / SINGLE).read_bytes())
    data[-1] ^= 1
    (out / SINGLE).write_bytes(data)
    assert not hf_init.verify(out) and main(["verify", str(out)]) == 1


def tied_llama(state: State) -> State:
    return {**state, "lm_head.weight": state["model.embed_tokens.weight"]}


def test_what_the_class_ties_is_written_once(old, tmp_path):
    folder, out = old("llama", tied_llama), tmp_path / "out"
    plain = transformers.LlamaForCausalLM.from_pretrained(folder).state_dict()
    report = hf_init.convert(folder, out)
    assert report.counts["tied"] == 1 and "lm_head.weight" not in written(out)
    model = transformers.LlamaForCausalLM.from_pretrained(out)
    assert model.lm_head.weight is model.model.embed_tokens.weight and same_bits(model.state_dict(), plain)


@pytest.mark.parametrize(
    ("raw", "change"),
    [
        ({"tie_word_embeddings": False}, tied_llama),
        ({}, lambda state: {**state, "lm_head.weight": state["model.embed_tokens.weight"] + 1}),
        ({"architectures": ["NobodysModel"]}, tied_llama),
        ({"architectures": None}, tied_llama),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Own"}, "architectures": ["Own"]}, tied_llama),
    ],
    ids=["not tied", "other values", "an unknown class", "no class", "a class of its own code"],
)
def test_what_shares_memory_without_a_tie_is_written_whole(old, tmp_path, raw, change):
    folder, out = old("llama", change), tmp_path / "out"
    (folder / "config.json").write_text(json.dumps({**json.loads((folder / "config.json").read_text()), **raw}))
    report = hf_init.convert(folder, out)
    assert report.counts["tied"] == 0 and same_bits(written(out), torch.load(folder / BIN))


def test_the_dtype_of_a_config_without_one_stays(old, tmp_path):
    def mixed(state: State) -> State:
        return {
            name: tensor.bfloat16() if name.startswith("encoder") else tensor
            for name, tensor in reversed(state.items())
        }

    folder, out = old("bert", mixed), tmp_path / "out"
    raw = json.loads((folder / "config.json").read_text())
    del raw["dtype"]
    (folder / "config.json").write_text(json.dumps(raw))
    plain = transformers.BertModel.from_pretrained(folder)
    hf_init.convert(folder, out)
    assert transformers.BertModel.from_pretrained(out).dtype == plain.dtype
    assert same_bits(written(out), torch.load(folder / BIN))


class Harmful:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def no_bin(folder: Path) -> None:
    (folder / BIN).unlink()


def bad_index(folder: Path, **places: object) -> None:
    shard(folder, lambda name: "a.bin" if name.endswith("bias") else "b.bin")
    index = json.loads((folder / BIN_INDEX).read_text())
    index["weight_map"].update(places)
    (folder / BIN_INDEX).write_text(json.dumps(index))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "harmful": (lambda f: torch.save({"w": Harmful(f / "ran")}, f / BIN), "holds more than tensors: it asks for "),
    "harmful, older": (
        lambda f: torch.save({"w": Harmful(f / "ran")}, f / BIN, _use_new_zipfile_serialization=False),
        "Nothing of it was run. Look for the same model in safetensors",
    ),
    "a bare pickle": (lambda f: (f / BIN).write_bytes(pickle.dumps(Harmful(f / "ran"))), "as torch's format|more than"),
    "a whole module": (lambda f: torch.save(torch.nn.Linear(2, 2), f / BIN), "asks for torch.nn.modules.linear.Linear"),
    "a training's file": (
        lambda f: torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3}, f / BIN),
        "'epoch' is int",
    ),
    "a list": (lambda f: torch.save([torch.ones(2)], f / BIN), "holds 'list', expected tensors by their names"),
    "no tensors": (lambda f: torch.save({}, f / BIN), "expected tensors by their names"),
    "sparse": (lambda f: torch.save({"w": torch.eye(3).to_sparse()}, f / BIN), "'w' is a tensor of layout"),
    "complex128": (
        lambda f: torch.save({"w": torch.ones(2, dtype=torch.complex128)}, f / BIN),
        "safetensors can't hold",
    ),
    "cut off": (lambda f: (f / BIN).write_bytes((f / BIN).read_bytes()[:-100]), "can't be read as torch's format"),
    "empty": (lambda f: (f / BIN).write_bytes(b""), "can't be read as torch's format"),
    "text": (lambda f: (f / BIN).write_text("<!DOCTYPE html>"), "can't be read as torch's format"),
    "git-lfs": (lambda f: (f / BIN).write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "safetensors there": (lambda f: (f / SINGLE).write_bytes(b""), "has model.safetensors.*nothing to convert"),
    "nothing there": (no_bin, "holds neither"),
    "an adapter": (lambda f: (no_bin(f), (f / "adapter_model.bin").write_bytes(b"")), "adapter: merge it"),
    "an adapter beside": (lambda f: (f / "adapter_config.json").write_text("{}"), "a model and, beside it"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "an index that leads out": (lambda f: bad_index(f, x="../a.bin"), "expected the plain name of a file"),
    "a shard that isn't there": (lambda f: bad_index(f, x="c.bin"), "c.bin is not there"),
    "one tensor in two files": (
        lambda f: (bad_index(f), torch.save({**torch.load(f / "a.bin"), **torch.load(f / "b.bin")}, f / "b.bin")),
        "is in a.bin and in b.bin",
    ),
    "a tensor in no file": (lambda f: bad_index(f, lost="a.bin"), "'lost' is not in a.bin, where the index has it"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_converted_is_refused_in_words_and_nothing_is_run(old, tmp_path, capsys, spoil, message):
    folder = old()
    spoil(folder)
    said = refusal(tmp_path, capsys, "convert", folder, tmp_path / "out")
    with pytest.raises(HfInitError, match=f"(?s){message}"):
        hf_init.convert(folder, tmp_path / "out")
    assert not (folder / "ran").exists() and not (tmp_path / "out").exists() and "Traceback" not in said


def test_where_the_result_goes_is_looked_at_first(old, tmp_path):
    folder = old()
    for out, message in ((folder, "is the base itself"), (folder / "in", "inside the base"), ("", "an empty name")):
        with pytest.raises(HfInitError, match=message):
            hf_init.convert(folder, out)
