"""What people take for a checkpoint and isn't one that can be read: every command says what it is and the next step."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest
from refusals import HEAD, refusal
from safetensors.torch import load_file, save_file

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
LORA = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/base"}).encode()

BROKEN = "be read as a distributed checkpoint"  # by diff, which reads such folders: these hold nothing
KINDS: list[tuple[str, Mapping[str, bytes], str]] = [
    ("adapter", {"adapter_model.safetensors": b"x", "adapter_config.json": LORA}, "LORA adapter for org/base: merge"),
    ("adapter .bin", {"adapter_model.bin": b"x", "adapter_config.json": b"{}"}, "a PEFT adapter: merge it into its"),
    ("adapter, config lost", {"adapter_model.safetensors": b"x"}, "a PEFT adapter: merge"),
    ("git-lfs", {SINGLE: LFS}, "git-lfs pointer, not the file itself.*git lfs pull"),
    ("git-lfs shards", {INDEX: b'{"weight_map": {"w": "a.safetensors"}}', "a.safetensors": LFS}, "git lfs pull"),
    ("gguf", {"model-Q4_K_M.gguf": b"GGUF"}, "GGUF, of llama.cpp .model-Q4_K_M.gguf.*gguf_file=FILE"),
    (
        "pipeline", {"model_index.json": b"{}", "text_encoder/config.json": b'{"architectures": ["CLIPTextModel"]}',
                     "unet/config.json": b"{}", f"text_encoder/{SINGLE}": b""},
        "diffusers pipeline.*--subfolder text_encoder",
    ),
    ("diffusers' own", {"diffusion_pytorch_model.safetensors": b""}, "a model of diffusers.*has no class"),
    ("mistral", {"consolidated.safetensors": b"x", "params.json": b"{}"}, "Mistral's or Meta's own code .consolidated"),
    ("meta", {"consolidated.00.pth": b"x", "params.json": b"{}"}, "Mistral's or Meta's own code"),
    (
        "old sentence-transformers",
        {"modules.json": b"[]", "0_Transformer/config.json": b"{}", "0_Transformer/pytorch_model.bin": b""},
        "sentence-transformers folder of the older layout.*--subfolder 0_Transformer",
    ),
    (
        "Trainer", {f"checkpoint-500/{SINGLE}": b"", f"checkpoint-1500/{SINGLE}": b""},
        r"output folder of a Trainer: give \S+/base/checkpoint-1500 .the newest of 2",
    ),
    ("Trainer, in pieces", {"checkpoint-20/trainer_state.json": b"{}"}, r"give \S+/checkpoint-20\."),
    ("the hub's cache", {"refs/main": b"0", f"snapshots/0/{SINGLE}": b""}, "where the hub's files are kept: give the"),
    ("Trainer, adapters", {"checkpoint-20/adapter_model.safetensors": b""}, r"give \S+/checkpoint-20\."),
    ("DeepSpeed", {"zero_to_fp32.py": b"", "global_step5/mp_rank_00_model_states.pt": b""}, "DeepSpeed.*zero_to_fp32"),
    ("FSDP", {"pytorch_model_fsdp_0/__0_0.distcp": b"", "pytorch_model_fsdp_0/.metadata": b""}, f"merge-w|{BROKEN}"),
    ("DCP", {"__0_0.distcp": b"", ".metadata": b""}, f"distributed .*accelerate merge-weights|{BROKEN}"),
    ("transformers' DCP", {"shard-00001-model-00001-of-00002.safetensors": b""}, f"save_pretr|{BROKEN}"),
    (
        "DCP beside a model", {"shard-00001-model-00001-of-00002.safetensors": b"", SINGLE: b""},
        f"is a distributed checkpoint|{BROKEN}",
    ),
    (
        "no index", {f"model-0000{k}-of-00003.safetensors": b"" for k in (1, 3)},
        "There are 2 of 3 shards .*and not their index: copy or download model.safetensors.index.json",
    ),
    ("variant", {"model.fp16.safetensors": b""}, "variant 'fp16' alone.*copy model.fp16.safetensors to model.safetens"),
    (
        "sharded variant",
        {"model.safetensors.index.fp16.json": b"{}", "model.fp16-00001-of-00002.safetensors": b""},
        "variant 'fp16'.*copy model.safetensors.index.fp16.json to model.safetensors.index.json",
    ),
    (".bin", {"pytorch_model.bin": b"PK"}, "pytorch_model.bin, in the older format.*`hf-init convert DIR OUT`"),
    ("sharded .bin", {"pytorch_model.bin.index.json": b"{}", "pytorch_model-00001-of-00002.bin": b""}, "convert DIR"),
    ("another name", {"weights.safetensors": b""}, "There is weights.safetensors.*transformers_weights"),
    ("below", {f"bert/{SINGLE}": b""}, "weights in bert: say which, such as --subfolder bert"),
    ("TensorFlow", {"tf_model.h5": b""}, "of TensorFlow, Flax or Rust .tf_model.h5.*from_tf=True"),
    ("Flax", {"flax_model.msgpack": b""}, "of TensorFlow, Flax or Rust"),
    ("ONNX", {"onnx/model.onnx": b"", "model.onnx": b""}, "export for inference.*the model that it was made from"),
    ("torch's own", {"best.pt": b"", "training_args.bin": b""}, "best.pt.*in nobody's layout"),
    ("nothing", {}, f"holds neither {SINGLE} nor {INDEX}. Give the folder of a model saved with save_pretrained"),
]  # fmt: skip


@pytest.fixture
def base(tiny, tmp_path) -> Callable[[Mapping[str, bytes]], Path]:
    """The folder of a tiny BERT without its weights, and with these files."""

    def make(files: Mapping[str, bytes], keep: bool = False) -> Path:
        folder = tmp_path / "base"
        shutil.copytree(tiny("bert"), folder, copy_function=shutil.copyfile)
        if not keep:
            (folder / SINGLE).unlink()
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder

    return make


@pytest.mark.parametrize(("files", "message"), [row[1:] for row in KINDS], ids=[row[0] for row in KINDS])
def test_every_command_says_what_it_is_and_the_next_step(base, tmp_path, capsys, files, message):
    folder = base(files)
    commands = (
        ("plan", folder, *HEAD),
        ("extend", folder, tmp_path / "out", *HEAD),
        ("heads", folder),
        ("diff", folder, folder),
        ("report", folder, "--out", tmp_path / "page.html"),
    )
    for command in commands:
        said = " ".join(refusal(tmp_path, capsys, *command).split())
        assert re.search(message, said), (command[0], said)


@pytest.mark.parametrize("files", [{"adapter_config.json": LORA}, KINDS[0][1]], ids=["config alone", "with weights"])
def test_a_model_and_an_adapter_in_one_folder_are_merged_first(base, tmp_path, capsys, files):
    folder = base(files, keep=True)
    for command in (("plan", folder), ("extend", folder, tmp_path / "out"), ("heads", folder)):
        said = refusal(tmp_path, capsys, *command)
        assert "a model and, beside it, a LORA adapter for org/base: merge" in said


@pytest.mark.parametrize("options", [(), ("--keep", "*=leading"), ("--keep", "*=none")], ids=str)
@pytest.mark.parametrize("names", ["*", "*pooler.dense.weight", ""])
def test_tensors_that_another_rank_held_are_no_shapes_to_change(base, tmp_path, capsys, names, options):

    folder = base({}, keep=True)
    state = load_file(folder / SINGLE)
    emptied = {name: t.new_empty(0) if fnmatch(name, names) else t for name, t in state.items()} if names else {}
    save_file(emptied, folder / SINGLE)
    for command in (("plan", folder), ("extend", folder, tmp_path / "out")):
        said = refusal(tmp_path, capsys, *command, *HEAD, *options)
        assert (
            ("by name and have no elements" if names else "no tensor at all") in said
            and "ZeRO-3" in said
            and "zero_to_fp32" in said
        )


CONFIGS = [
    ({"architectures": None}, "names no architecture", "architecture"),
    ({"architectures": None, "model_type": None, "architecture": "resnet50", "num_features": 8}, "timm model", "timm"),
    (
        {"architectures": None, "model_type": None, "_class_name": "UNet2DModel"},
        "of diffusers .UNet2DModel",
        "diffusers",
    ),
    ({"architectures": None, "model_type": None, "model_cfg": {}}, "a model of OpenCLIP", "OpenCLIP"),
    ({"architectures": None, "model_type": None}, "names no architecture; say which class", "not None"),
]


@pytest.mark.parametrize(("raw", "planned", "listed"), CONFIGS, ids=str)
def test_a_config_that_names_no_class_is_told_by_what_it_says(base, tmp_path, capsys, raw, planned, listed):
    folder = base({}, keep=True)
    config = {**json.loads((folder / "config.json").read_text()), **raw}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    for command in (("plan", folder), ("extend", folder, tmp_path / "out")):
        assert re.search(planned, refusal(tmp_path, capsys, *command))
    for command in (("heads", folder), ("plan", folder, "--add-heads", "x=sequence-classification:a,b")):
        assert listed in refusal(tmp_path, capsys, *command)
    if "model_type" not in config or config["model_type"] is None:
        assert "names no model_type" in refusal(tmp_path, capsys, "plan", folder, "--architecture", "AutoModel")


def test_a_pointer_that_would_go_along_is_named(base, tmp_path, capsys):
    folder = base({"tokenizer.json": LFS, "model.onnx": LFS}, keep=True)
    for command in (("plan", folder, *HEAD), ("extend", folder, tmp_path / "out", *HEAD)):
        said = refusal(tmp_path, capsys, *command)
        assert "tokenizer.json is a git-lfs pointer" in said and "git lfs pull" in said and "onnx" not in said


def test_weights_that_a_class_keeps_in_files_of_its_own(base, tmp_path, capsys, monkeypatch):
    import transformers

    monkeypatch.setattr(transformers.BertConfig, "extra_files", ("head.safetensors",), raising=False)
    folder = base({"head.safetensors": b""}, keep=True)
    assert "transformers reads head.safetensors with the other" in refusal(tmp_path, capsys, "plan", folder, *HEAD)
