"""A hub id is planned from its headers: against a server on this machine that speaks the hub's few routes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import NAME, Hub, serving
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as torch_tensors

import hf_init
from hf_init import HfInitError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def sharded(folder: Path, tmp_path: Path) -> dict[str, bytes]:
    """The same checkpoint in two shards."""
    tensors, files = load_file(folder / SINGLE), files_of(folder)
    del files[SINGLE]
    names = sorted(tensors)
    groups = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, group in groups.items():
        save_file({name: tensors[name] for name in group}, tmp_path / shard, {"format": "pt"})
        files[shard] = (tmp_path / shard).read_bytes()
    places = {name: shard for shard, group in groups.items() for name in group}
    return {**files, INDEX: json.dumps({"metadata": {}, "weight_map": places}).encode()}


def header(**tensors: Any) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize("divided", [False, True])
def test_a_plan_from_remote_headers_is_the_plan_of_the_files_and_no_value_is_fetched(serve, tiny, tmp_path, divided):
    files = sharded(tiny("llama"), tmp_path) if divided else files_of(tiny("llama"))
    hub = serve(files)
    here, there = (hf_init.plan(base, "LlamaForTokenClassification") for base in (tiny("llama"), NAME))
    assert there == here and here.counts["new"] == 2
    shards = {name for name in files if name.endswith(".safetensors")}
    assert all(hub.served[shard] <= 100_001 for shard in shards), "the first of each file, as the client asks"
    assert not list((tmp_path / "cache").rglob("*.safetensors")), "no weights are here"


def test_only_the_header_of_a_large_file_is_fetched(serve, tiny, tmp_path):
    more = {**load_file(tiny("bert") / SINGLE), "more": np.zeros((1000, 500), "float32")}
    save_file(more, tmp_path / SINGLE, {"format": "pt"})
    hub = serve({**files_of(tiny("bert")), SINGLE: (tmp_path / SINGLE).read_bytes()})
    assert [unused.name for unused in hf_init.plan(NAME, drop=["more"]).unused] == ["more"]
    assert hub.served[SINGLE] == 100_001


def test_what_was_downloaded_is_opened_here_and_known_by_its_digests(serve, tiny, tmp_path):
    files = sharded(tiny("bert"), tmp_path)
    hub = serve(files)
    hf_init.extend(NAME, tmp_path / "out")
    hub.served.clear()
    assert hf_init.plan(NAME).counts["new"] == 0 and hub.served == {}
    digests = {shard: hashlib.sha256(data).hexdigest() for shard, data in files.items() if shard.endswith("tensors")}
    assert json.loads((tmp_path / "out" / "hf_init.json").read_text())["base"]["sha256"] == digests


def test_a_single_file_goes_before_an_index(serve, tiny, tmp_path):
    hub = serve({**sharded(tiny("bert"), tmp_path), SINGLE: files_of(tiny("bert"))[SINGLE]})
    hf_init.plan(NAME)
    assert [name for name in hub.served if name.endswith(".safetensors")] == [SINGLE]


def test_a_subfolder_of_a_repository(serve, tiny):
    hub = serve({f"deep/er/{name}": data for name, data in files_of(tiny("bert")).items()})
    assert hf_init.plan(NAME, subfolder="deep/er") == hf_init.plan(tiny("bert")) and hub.served[f"deep/er/{SINGLE}"]


HOSTILE = [
    (b"", "can't be read|truncated"),
    (b"\xff" * 8, "can't be read"),
    ((9).to_bytes(8, "little") + b"not json!", "can't be read"),
    ((2).to_bytes(8, "little") + b"[]", "can't be read"),
    (header(w=7), "can't be read"),
    (header(w={"dtype": "F32", "shape": [2]}), "can't be read"),
    (header(w={"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}) + bytes(8), "dtype is 'F33'"),
    (header(w={"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}) + bytes(8), r"shape is \[-2\]"),
    (header(w={"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]}) + bytes(8), "shape is 'ab'|can't be read"),
    (header(w={"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}) + bytes(8), "data_offsets is"),
    (header(w={"dtype": "F32", "shape": [2], "data_offsets": [0, 7]}) + bytes(8), "data_offsets give 7 bytes"),
    (header(w={"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}) + bytes(12), "hole of 4 bytes"),
    (header(w={"dtype": "F32", "shape": [999], "data_offsets": [0, 3996]}), "truncated"),
    (header(__metadata__={"format": 7}) + b"", "__metadata__ is"),
]


@pytest.mark.parametrize(("data", "message"), HOSTILE)
def test_a_hostile_header_is_refused_and_named(serve, tiny, data, message):
    serve({**files_of(tiny("bert")), SINGLE: data})
    with pytest.raises(HfInitError, match=message) as caught:
        hf_init.plan(NAME)
    assert NAME in str(caught.value) and SINGLE in str(caught.value)


@pytest.mark.parametrize("place", ["../../secret.safetensors", "/etc/passwd", ""])
def test_an_index_must_not_lead_out_of_the_repository(serve, tiny, tmp_path, place):
    files = sharded(tiny("bert"), tmp_path)
    document = json.loads(files[INDEX])
    document["weight_map"][next(iter(document["weight_map"]))] = place
    hub = serve({**files, INDEX: json.dumps(document).encode()})
    with pytest.raises(HfInitError, match="plain name of a file"):
        hf_init.plan(NAME)
    assert not any("secret" in path or "passwd" in path for path in hub.asked)


def test_what_is_not_in_the_repository_is_named(serve, tiny, tmp_path):
    files = sharded(tiny("bert"), tmp_path)
    missing = next(name for name in files if name.endswith(".safetensors"))
    hub = serve({name: data for name, data in files.items() if name != missing})
    with pytest.raises(HfInitError, match=f"{missing}: in its index, and not in the repository"):
        hf_init.plan(NAME)
    hub.push(**{missing: files[missing]})
    hub.lost.add(missing)
    with pytest.raises(HfInitError, match=f"{NAME}.*can't be fetched"):
        hf_init.plan(NAME)


def test_a_repository_without_safetensors(serve, tiny):
    files = files_of(tiny("bert"))
    del files[SINGLE]
    serve(files)
    with pytest.raises(HfInitError, match=f"{NAME} holds neither {SINGLE} nor"):
        hf_init.plan(NAME)


def test_a_repository_that_is_not_there_and_a_hub_that_is_not(serve, tiny, monkeypatch):
    serve(files_of(tiny("bert")))
    with pytest.raises(HfInitError, match=r"org/none.*can't be fetched"):
        hf_init.plan("org/none")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HfInitError, match=f"{NAME}.*can't be fetched"):
        hf_init.plan(NAME)
    with pytest.raises(HfInitError, match=r"no such folder: \./none"):
        hf_init.plan("./none")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HfInitError, match=f"{NAME}.*can't be fetched"):
        hf_init.plan(NAME)


@pytest.mark.slow
def test_the_environment_says_where_the_hub_is(tiny, tmp_path):
    code = f"""
from hf_init._checkpoint import open_checkpoint
checkpoint = open_checkpoint({NAME!r}, headers_only=True)
folder = checkpoint.root
print(checkpoint.remote, len(checkpoint.entries), len(list(folder.glob("*.safetensors"))))
"""
    with serving(Hub(files_of(tiny("bert")))) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [NAME, str(len(load_file(tiny("bert") / SINGLE))), "0"]


def test_the_weights_that_the_config_names_are_fetched_and_no_others(serve, tiny, tmp_path):
    files = files_of(tiny("bert"))
    config = {**json.loads(files["config.json"]), "transformers_weights": "weights/other.safetensors"}
    files["weights/other.safetensors"] = files[SINGLE]
    hub = serve({**files, "config.json": json.dumps(config).encode(), SINGLE: b"another model"})
    assert hf_init.extend(NAME, tmp_path / "out").ok and SINGLE not in hub.served
    written, source = load_file(tmp_path / "out" / SINGLE), load_file(tiny("bert") / SINGLE)
    assert all((written[name] == source[name]).all() for name in source)


ADAPTER = b'{"base_model_name_or_path": "org/base", "peft_type": "LORA"}'


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"adapter_model.safetensors": b"", "adapter_config.json": ADAPTER}, "LORA adapter for org/base: merge it"),
        ({"pytorch_model.bin": b""}, "`hf-init convert DIR OUT`"),
        ({"model.Q4_K_M.gguf": b""}, "GGUF, of llama.cpp"),
        (
            {"model_index.json": b"{}", "text_encoder/config.json": b'{"architectures": ["A"]}'},
            "subfolder='text_encoder'",
        ),
    ],
    ids=["adapter", "torch's own format", "gguf", "pipeline"],
)
def test_what_a_repository_is_instead_is_said(serve, tiny, tmp_path, others, message):
    serve({**others, "config.json": files_of(tiny("bert"))["config.json"]})
    for verb in (hf_init.plan, hf_init.heads, lambda name: hf_init.extend(name, tmp_path / "out")):
        with pytest.raises(HfInitError, match=message):
            verb(NAME)


def test_a_model_and_an_adapter_in_one_repository(serve, tiny):
    serve({**files_of(tiny("bert")), "adapter_config.json": ADAPTER})
    with pytest.raises(HfInitError, match="a model and, beside it, a LORA adapter for org/base"):
        hf_init.plan(NAME)


@pytest.mark.parametrize("divided", [False, True])
def test_a_repository_in_torchs_own_format_is_converted(serve, tiny, tmp_path, divided):
    files = files_of(tiny("bert"))
    state = torch_tensors(tiny("bert") / SINGLE)
    del files[SINGLE]
    groups = {"a.bin": sorted(state)[::2], "b.bin": sorted(state)[1::2]} if divided else {"pytorch_model.bin": [*state]}
    for name, group in groups.items():
        torch.save({each: state[each] for each in group}, tmp_path / name)
        files[name] = (tmp_path / name).read_bytes()
    if divided:
        places = {each: name for name, group in groups.items() for each in group}
        files["pytorch_model.bin.index.json"] = json.dumps({"metadata": {}, "weight_map": places}).encode()
    hub = serve({**files, "tf_model.h5": b"not asked for", "vocab.txt": b"a"})
    assert hf_init.convert(NAME, tmp_path / "out").ok and "tf_model.h5" not in hub.served
    written = {name: t for file in (tmp_path / "out").glob("*.safetensors") for name, t in load_file(file).items()}
    assert {name: (written[name] == tensor.numpy()).all() for name, tensor in state.items()} == dict.fromkeys(
        state, True
    )
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == b"a"
