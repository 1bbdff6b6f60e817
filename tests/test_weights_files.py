"""The files that transformers would read are the files that are read, whatever lies beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from refusals import HEAD, refusal
from safetensors.torch import load_file, save_file

import hf_init

SINGLE, INDEX, FORMAT = "model.safetensors", "model.safetensors.index.json", {"format": "pt"}


def edit(path: Path, change: Callable[[dict], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def name_it(folder: Path, file: object) -> None:
    edit(folder / "config.json", lambda config: config.update(transformers_weights=file))


def decoy(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Other values under the same names."""
    save_file({name: torch.zeros_like(tensor) for name, tensor in state.items()}, path, FORMAT)


def shard(folder: Path, where: str = "", index: str = INDEX) -> None:
    """Two files instead of one, in a folder below, and their index."""
    state = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    (folder / where).mkdir(exist_ok=True)
    places = {name: f"{where}part-{len(name) % 2}.safetensors" for name in state}
    for file in set(places.values()):
        save_file({name: state[name] for name in state if places[name] == file}, folder / file, FORMAT)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def named(folder: Path, file: str = "other.safetensors") -> None:
    state = load_file(folder / SINGLE)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / SINGLE).rename(folder / file)
    decoy(folder / SINGLE, state)
    name_it(folder, file)


def named_index(folder: Path) -> None:
    state = load_file(folder / SINGLE)
    shard(folder, index="other.safetensors.index.json")
    decoy(folder / SINGLE, state)
    name_it(folder, "other.safetensors.index.json")


def named_index_below(folder: Path) -> None:
    """Its shards are named as from the folder of the config, wherever the index itself is."""
    (folder / "weights").mkdir()
    shard(folder, "parts/", "weights/other.safetensors.index.json")
    name_it(folder, "weights/other.safetensors.index.json")


def single_before_index(folder: Path) -> None:
    state = load_file(folder / SINGLE)
    shard(folder)
    for file in folder.glob("part-*"):
        decoy(file, load_file(file))
    save_file(state, folder / SINGLE, FORMAT)


def null_metadata(folder: Path) -> None:
    data = (folder / SINGLE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = None
    text = json.dumps(header).encode()
    (folder / SINGLE).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def other_formats(folder: Path) -> None:
    state = load_file(folder / SINGLE)
    decoy(folder / "model.fp16.safetensors", state)
    torch.save({name: torch.zeros_like(tensor) for name, tensor in state.items()}, folder / "pytorch_model.bin")


LAYOUTS = {
    "named by the config": named,
    "named, in a folder": lambda folder: named(folder, "weights/other.safetensors"),
    "named, an index": named_index,
    "named, an index in a folder": named_index_below,
    "null for a name": lambda folder: name_it(folder, None),
    "shards in a folder": lambda folder: shard(folder, "weights/"),
    "a file and an index": single_before_index,
    "null metadata": null_metadata,
    "a variant and torch's own format beside it": other_formats,
}


@pytest.fixture
def base(tiny, tmp_path) -> Path:
    return shutil.copytree(tiny("bert"), tmp_path / "base", copy_function=shutil.copyfile)


@pytest.mark.parametrize("arrange", LAYOUTS.values(), ids=LAYOUTS)
def test_what_is_kept_is_what_transformers_reads(base, tmp_path, arrange):
    arrange(base)
    plain = transformers.BertModel.from_pretrained(base).state_dict()
    hf_init.extend(base, tmp_path / "out", HEAD[1], labels=["a", "b"])
    written = load_file(tmp_path / "out" / SINGLE)
    assert {name: written[f"bert.{name}"].equal(tensor) for name, tensor in plain.items()} == dict.fromkeys(plain, True)
    model = hf_init.from_pretrained(transformers.BertForSequenceClassification, base, labels=["a", "b"])
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in written.items())
    assert "transformers_weights" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert hf_init.verify(tmp_path / "out").ok and hf_init.drift(base, base, frozen="*").ok


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "x.bin", "", 7, "C:x.safetensors"]
)
def test_a_name_that_leads_out_of_the_folder_or_to_another_format_is_refused(base, tmp_path, capsys, name):
    shutil.copy(base / SINGLE, tmp_path / "other.safetensors")
    name_it(base, name)
    for command in (("plan", base), ("extend", base, tmp_path / "out")):
        assert "transformers_weights is" in refusal(tmp_path, capsys, *command, *HEAD)


@pytest.mark.parametrize("name", ["gone.safetensors", "gone.safetensors.index.json"])
def test_a_named_file_that_is_not_there_is_no_reason_to_read_another(base, tmp_path, capsys, name):
    name_it(base, name)
    said = refusal(tmp_path, capsys, "plan", base, *HEAD)
    assert f"lacks {name}, which its config.json names. There is {SINGLE}: if that is the model, remove" in said


def test_the_name_of_the_weights_is_the_folders_own_business(base):
    with pytest.raises(hf_init.HfInitError, match="transformers_weights: say it in"):
        hf_init.plan(base, HEAD[1], config={"transformers_weights": SINGLE})
    config = transformers.AutoConfig.from_pretrained(base)
    named(base)
    with pytest.raises(hf_init.HfInitError, match="transformers_weights"):
        hf_init.from_pretrained(transformers.BertForSequenceClassification, base, config=config)


def test_torchs_own_format_is_not_read_in_the_place_of_safetensors(base):
    with pytest.raises(hf_init.HfInitError, match="hf-init convert DIR OUT` makes it safetensors"):
        hf_init.from_pretrained(transformers.BertModel, base, use_safetensors=False)
    assert hf_init.from_pretrained(transformers.BertModel, base, use_safetensors=True).init_report


def test_a_file_under_two_names_in_one_index_is_refused(base, tmp_path, capsys):
    shard(base)
    edit(base / INDEX, lambda index: index["weight_map"].update({"pooler.dense.bias": "./part-1.safetensors"}))
    assert "expected the plain name of a file" in refusal(tmp_path, capsys, "plan", base, *HEAD)
    shutil.copy(base / "part-1.safetensors", base / "twice.safetensors")
    edit(base / INDEX, lambda index: index["weight_map"].update({"pooler.dense.bias": "twice.safetensors"}))
    assert "are not in the index" in refusal(tmp_path, capsys, "plan", base, *HEAD)


HALF, FULL = torch.bfloat16, torch.float32


def by_name(folder: Path, dtypes: dict[str, torch.dtype]) -> None:
    """No dtype in the config, and another one in some tensors."""
    state = load_file(folder / SINGLE)
    save_file({name: t.to(dtypes.get(name, HALF)) for name, t in state.items()}, folder / SINGLE, FORMAT)
    edit(folder / "config.json", lambda config: config.pop("dtype"))


def of_shards(folder: Path, metadata: dict[str, str]) -> None:
    by_name(folder, {"encoder.layer.0.attention.self.key.weight": FULL, "pooler.dense.weight": FULL})
    shard(folder)
    edit(folder / INDEX, lambda index: index.update(metadata=metadata))


DTYPES = {
    "the last by name is wider": lambda folder: by_name(folder, {"pooler.dense.weight": FULL}),
    "the first by name is wider": lambda folder: by_name(folder, {"embeddings.LayerNorm.bias": FULL}),
    "shards": lambda folder: of_shards(folder, {}),
    "the index says it": lambda folder: of_shards(folder, {"dtype": "float16"}),
}


@pytest.mark.parametrize("arrange", DTYPES.values(), ids=DTYPES)
def test_without_a_dtype_in_the_config_it_is_the_one_that_transformers_chooses(base, tmp_path, arrange):
    arrange(base)
    cls = transformers.BertForSequenceClassification
    plain, model = cls.from_pretrained(base), hf_init.from_pretrained(cls, base)
    assert model.dtype == plain.dtype
    assert [p.dtype for p in model.parameters()] == [p.dtype for p in plain.parameters()]
    hf_init.extend(base, tmp_path / "out", cls)
    again = cls.from_pretrained(tmp_path / "out")
    assert str(again.dtype) == str(plain.dtype) == f"torch.{hf_init.plan(base, cls)['classifier.weight'].dtype}"
