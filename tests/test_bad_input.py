"""Bad checkpoints, configs and classes: one clear message, exit 2, nothing written, the source untouched."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import HEAD, refusal, snapshot
from safetensors.numpy import load_file

import hf_init
from hf_init import HfInitError
from hf_init.cli import main

WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"


@pytest.fixture
def base(tiny, tmp_path) -> Path:
    """A tiny BERT that a test may spoil."""
    folder = tmp_path / "base"
    shutil.copytree(tiny("bert"), folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


@pytest.fixture
def refused(tmp_path, capsys) -> Callable[..., str]:
    """The message with which ``extend`` refuses a base; twice, as ``plan`` must refuse it too."""

    def run(base: object, *argv: object) -> str:
        planned = refusal(tmp_path, capsys, "plan", base, *argv)
        message = refusal(tmp_path, capsys, "extend", base, tmp_path / "out", *argv)
        assert message == planned
        return message

    return run


# The checking helpers, where they must fail.


def test_a_command_that_succeeds_is_no_refusal(base, tmp_path, capsys):
    with pytest.raises(AssertionError):
        refusal(tmp_path, capsys, "plan", base, *HEAD)


def test_a_refusal_must_not_write(base, tmp_path, capsys, monkeypatch):
    def leave_a_trace(terminal: object, message: str) -> int:
        (tmp_path / "trace").touch()
        print(f"hf-init: {message}", file=sys.stderr)
        return 2

    monkeypatch.setattr("hf_init.cli._terminal.Terminal.print_error", leave_a_trace)
    with pytest.raises(AssertionError, match="something was written"):
        refusal(tmp_path, capsys, "plan", base, "--labels", "a,a")


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"x"), lambda path: path.unlink()])
def test_a_snapshot_sees_what_changes(base, tmp_path, change):
    before = snapshot(tmp_path)
    change(base / CONFIG)
    assert snapshot(tmp_path) != before


# Folders.


@pytest.mark.parametrize("name", ["nowhere/at/all", "./nowhere", "no such name", "nobody/nothing", "nowhere"])
def test_no_such_folder(refused, name):
    assert f"no such folder: {name}" in refused(name, *HEAD) and "hub id" in refused(name, *HEAD)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://huggingface.co/org/m", "org/m"),
        ("https://hf.co/org/m/tree/v1", "org/m@v1"),
        ("hf://org/m/config.json", "org/m"),
    ],
)
def test_a_url_is_answered_with_the_hub_id(refused, url, name):
    assert f"no such folder: {url}; it is a URL: give what it leads to by its hub id, {name}\n" in refused(url, *HEAD)


def test_the_folder_that_may_be_meant_is_named(refused, tmp_path, monkeypatch):
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("all-MiniLM-L6", f"{tmp_path}/all-MiniLM-L6"):
        assert f"no such folder: {name} (did you mean 'all-MiniLM-L6-v2'?)" in refused(name, *HEAD)
    assert "the hub is off (HF_HUB_OFFLINE), and its cache doesn't hold it" in refused("org/model", *HEAD)


def test_an_empty_name(refused):
    assert "the base is an empty name" in refused("", *HEAD)
    for base in (None, 3, b"base"):
        with pytest.raises(HfInitError, match=f"the base is {base!r}; give a folder"):
            hf_init.plan(base, "BertModel")


def test_a_file_instead_of_a_folder(refused, base):
    assert "is a file; give the folder that holds it" in refused(base / WEIGHTS, *HEAD)


def test_no_weights(refused, base):
    (base / WEIGHTS).unlink()
    assert f"{base} holds neither {WEIGHTS} nor {INDEX}" in refused(base, *HEAD)


# Files.


def written(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of this header, whether true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(shape: list[int], start: int, stop: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


LIES = {  # all of them: test_checkpoint.py
    "empty": (b"", "is empty"),
    "header longer than the file": (written({"w": tensor([1], 0, 4)}, b"1234", 10_000), "is truncated"),
    "overlap": (written({"a": tensor([1], 0, 4), "b": tensor([1], 2, 6)}, b"123456"), "'b' overlaps 'a'"),
    "unknown dtype": (written({"w": tensor([1], 0, 4, "F99")}, b"1234"), "'w': dtype is 'F99'"),
}


@pytest.mark.parametrize(("data", "words"), LIES.values(), ids=LIES)
def test_a_file_that_lies(refused, base, data, words):
    (base / WEIGHTS).write_bytes(data)
    message = refused(base, *HEAD)
    assert str(base / WEIGHTS) in message and words in message and "Copy or download the file again" in message


def sharded(base: Path, **places: str) -> Path:
    """The same checkpoint as one shard with an index; ``places`` change the index. Gives the shard."""
    names = list(load_file(base / WEIGHTS))
    shard = (base / WEIGHTS).rename(base / "model-00001-of-00001.safetensors")
    places = {**dict.fromkeys(names, shard.name), **places}
    (base / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return shard


def test_an_index_is_read(base, tmp_path):
    sharded(base)
    assert main(["extend", str(base), str(tmp_path / "out"), *HEAD]) == 0


def test_a_tensor_in_a_file_that_the_index_leaves_out(refused, base):
    sharded(base)
    index = json.loads((base / INDEX).read_text())
    del index["weight_map"]["pooler.dense.bias"]
    (base / INDEX).write_text(json.dumps(index))
    message = refused(base, *HEAD)
    assert "1 tensors in the files are not in the index (pooler.dense.bias in model-00001" in message


# Configs.


def changed(base: Path, **values: Any) -> None:
    config = json.loads((base / CONFIG).read_text())
    (base / CONFIG).write_text(json.dumps({**config, **values}))


def test_no_config(refused, base):
    (base / CONFIG).unlink()
    assert f"{base} has no config.json" in refused(base, *HEAD)


@pytest.mark.parametrize("text", ["", "{", "not json", "[1]", "\xff", "[" * 100_000])
def test_a_config_that_is_no_json_object(refused, base, text):
    (base / CONFIG).write_text(text, encoding="latin-1")
    message = refused(base, *HEAD)
    assert str(base / CONFIG) in message and "JSON" in message and "Copy or download" in message


@pytest.mark.parametrize("names", [None, [], "BertModel", [3]])
def test_no_architecture(refused, base, names):
    changed(base, architectures=names)
    message = refused(base)
    assert "config.json names no architecture" in message and "--architecture CLASS" in message


@pytest.mark.parametrize("name", ["BertModell", "BertTokenizer", "BertConfig", "no such"])
def test_an_architecture_that_the_library_does_not_have(refused, base, name):
    changed(base, architectures=[name])
    message = refused(base)
    assert f"architecture {name!r} isn't in transformers" in message and "--architecture CLASS" in message
    assert name != "BertModell" or "BertModel" in message.partition("close: ")[2]


@pytest.mark.parametrize("architecture", [(), ("--architecture", "AutoModelForSequenceClassification")])
def test_a_model_type_that_the_library_does_not_have(refused, base, architecture):
    changed(base, model_type="bertt")
    message = refused(base, *architecture)
    assert "knows no model_type 'bertt'" in message and "'bert'" in message


def test_no_model_type(refused, base):
    config = json.loads((base / CONFIG).read_text())
    del config["model_type"]
    (base / CONFIG).write_text(json.dumps(config))
    assert "names no model_type" in refused(base, "--architecture", "AutoModelForSequenceClassification")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"vocab_size": "many"}, "vocab_size"),
        ({"hidden_size": 33}, "not a multiple of the number of attention heads"),
        ({"dtype": "float99"}, "float99"),
        ({"dtype": "int8"}, "expected a floating torch dtype"),
        ({"auto_map": [1]}, ""),
        ({"hidden_act": "gellu"}, "can't be built with this config: it knows no 'gellu'"),
    ],
)
def test_a_config_with_impossible_values(base, tmp_path, capsys, values, words):
    changed(base, **values)
    if words:
        assert words in refusal(tmp_path, capsys, "extend", base, tmp_path / "out", *HEAD)
    else:
        assert main(["plan", str(base), *HEAD]) == 0


# Classes.


def test_an_unknown_class(refused, base):
    message = refused(base, "--architecture", "BertForSequenceClasification")
    assert "no model class 'BertForSequenceClasification'; close: BertForSequenceClassification" in message


@pytest.mark.parametrize("name", ["BertTokenizer", "BertConfig", "Trainer", "../../x", "os.path"])
def test_what_is_no_model_class(refused, base, name):
    assert f"no model class {name!r}" in refused(base, "--architecture", name)


def test_every_change_of_shape_without_a_correspondence_is_named(refused, base):
    message = refused(base, *HEAD, "--config", "vocab_size=128", "--config", "max_position_embeddings=80")
    assert "2 tensors changed shape without a declared correspondence" in message
    assert "bert.embeddings.word_embeddings.weight: 96x32 in the checkpoint, 128x32 asked for" in message
    assert "bert.embeddings.position_embeddings.weight: 64x32 in the checkpoint, 80x32 asked for" in message
    assert "Say which elements are kept: --keep GLOB=leading keeps" in message


# Code that the checkpoint brings.

MODELING = """
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

class OddConfig(PreTrainedConfig):
    model_type = "odd"
    width: int = 4

class OddModel(PreTrainedModel):
    config_class, base_model_prefix = OddConfig, "odd"

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(config.width, config.width)
        self.post_init()

class OddForSequenceClassification(PreTrainedModel):
    config_class, base_model_prefix = OddConfig, "odd"

    def __init__(self, config):
        super().__init__(config)
        self.odd = OddModel(config)
        self.head = torch.nn.Linear(config.width, config.num_labels)
        self.post_init()
"""
AUTO_CLASS, ODD = "AutoModelForSequenceClassification", "OddForSequenceClassification"
AUTO = {
    "AutoConfig": "modeling_odd.OddConfig",
    "AutoModel": "modeling_odd.OddModel",
    "AutoModelForSequenceClassification": "modeling_odd.OddForSequenceClassification",
}


@pytest.fixture
def odd(tmp_path) -> Path:
    """A checkpoint with model code of its own."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "modeling_odd.py").write_text(MODELING)
    config = {"model_type": "odd", "architectures": ["OddModel"], "width": 4, "auto_map": AUTO, "dtype": "float32"}
    (folder / CONFIG).write_text(json.dumps(config))
    save_file({"layer.weight": torch.ones(4, 4), "layer.bias": torch.ones(4)}, folder / WEIGHTS, {"format": "pt"})
    return folder


@pytest.mark.parametrize("architecture", [(), *(("--architecture", name) for name in (AUTO_CLASS, ODD))])
def test_code_of_the_checkpoint_does_not_run_unasked(refused, odd, architecture, tmp_path):
    (odd / "modeling_odd.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{MODELING}")
    message = refused(odd, *architecture)
    assert "brings its own model code (modeling_odd.Odd" in message and "--trust-remote-code" in message
    assert not (tmp_path / "ran").exists()


EXTENDED_AND_LOADED = """
import sys
from hf_init.cli import main
assert main(["extend", *sys.argv[1:], "--trust-remote-code", "--labels", "a,b,c"]) == 0
from transformers import AutoModelForSequenceClassification as Auto, logging
logging.disable_progress_bar()
model, info = Auto.from_pretrained(sys.argv[2], trust_remote_code=True, output_loading_info=True)
assert not any(info.values()), info
print(type(model).__name__, model.config.num_labels, model.odd.layer.weight.eq(1).all().item())
"""


@pytest.mark.slow
def test_code_of_the_checkpoint_runs_when_it_is_trusted(odd, warm, tmp_path):
    before = snapshot(odd)
    done = warm.run(EXTENDED_AND_LOADED, odd, tmp_path / "out", "--architecture", ODD)
    assert done.stdout.splitlines()[-1].split() == [ODD, "3", "True"] and done.stderr == ""
    assert snapshot(odd) == before
