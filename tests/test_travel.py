"""What goes with the weights and what stays behind: one rule for folders and hub ids, said by the plan."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hub_server import NAME
from small_model import contents

import hf_init
from hf_init import HfInitError

CARRIED = (
    ".gitattributes",
    "LICENSE", "LICENSE.txt", "NOTICE", "README.md", "USE_POLICY.md", "added_tokens.json", "bpe.codes",
    "chat_template.jinja", "additional_chat_templates/rag.jinja", "config_sentence_transformers.json", "dict.txt",
    "kernels/fused.cu",
    "custom_generate/generate.py", "generation_config.json", "merges.txt", "modeling_own.py", "modules.json",
    "preprocessor_config.json", "processor_config.json", "prophetnet.tokenizer", "qwen.tiktoken",
    "sentencepiece.bpe.model", "source.spm", "speaker_embeddings/v2/en_1.npy", "special_tokens_map.json",
    "spiece.model", "spk_dict.pt", "tekken.json", "tokenizer.json", "tokenizer.model", "tokenizer.model.v3",
    "tokenizer_config.json", "vocab.bpe", "vocab.json", "1_Pooling/config.json",
)  # fmt: skip
LEFT = (
    # training state
    "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "scaler.pt",
    "training_args.bin", "trainer_state.json", "random_states_0.pkl", "all_results.json", "zero_to_fp32.py", "latest",
    "runs/Jan01/events.out.tfevents.1", "logs/log.txt", "wandb/run.json",
    "checkpoint-500/config.json", "checkpoint-500/model.safetensors", "checkpoint-500/tokenizer.json",
    "checkpoint_last/notes.txt", "global_step500/mp_rank_00_model_states.pt", "pytorch_model_fsdp_0/__0_0.distcp",
    "__0_0.distcp", "best_model/config.json", "best_model/model.safetensors", "best_model/deep/vocab.txt",
    # exports
    "onnx/model.onnx", "onnx/config.json", "model.onnx", "model.onnx_data", "ort_config.json",
    "openvino/openvino_model.xml", "openvino_model.bin", "openvino_config.json", "tf_model.h5", "flax_model.msgpack",
    "rust_model.ot", "model-q4.gguf", "coreml/model/weights.txt", "model.tflite", "saved_model.pb",
    # other weights, adapters
    "pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors", "consolidated.00.pth",
    "params.json", "original/params.json", "original/tokenizer.model", "model.fp16.safetensors",
    "model.safetensors.index.fp16.json", "model-00001-of-00002.safetensors",
    "adapter_model.safetensors", "adapters/x/adapter_model.bin", "adapters/x/README.md",
    # what nothing loads
    "banner.png", "samples.wav", "data.csv", "archive.zip",
)  # fmt: skip


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    base = tmp_path / "base"
    base.mkdir()
    for file in tiny("llama").iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    return base


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}" if name.endswith(".json") else name)


def places(folder: Path) -> tuple[set[str], set[str]]:
    """What a plan says that goes along and that stays behind."""
    files = hf_init.plan(folder).files
    return {*files.carried}, {*files.left}


def test_every_name_has_its_place_whatever_else_is_there(folder):
    own = places(folder)[0]
    put(folder, *CARRIED)
    (folder / "modules.json").write_text("[]")
    assert places(folder) == ({*CARRIED}, set()) and own < {*CARRIED}
    put(folder, *LEFT)
    assert places(folder) == ({*CARRIED}, {*LEFT})


def test_modules_that_are_named_go_along_with_their_weights(folder):
    named = {"2_Dense/config.json", "2_Dense/model.safetensors", "3_Words/words.npy", "4_Old/pytorch_model.bin"}
    others = {"2_Dense/onnx/model.onnx", "2_Dense/optimizer.pt", "2_Dense/pytorch_model.bin"}
    put(folder, *named, *others)
    own, left = places(folder)
    assert left == named | others, "a folder with weights that nobody names is another model"
    modules = [{"path": path} for path in ("2_Dense", "3_Words", "4_Old")]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert places(folder) == ({"modules.json"} | own | named, others)


def test_a_decoders_language_model_goes_along_with_its_alphabet(folder, serve):
    names = {"language_model/attrs.json", "language_model/unigrams.txt", "language_model/5gram.bin"}
    put(folder, "alphabet.json", *names)
    (folder / "language_model/attrs.json").write_text('{"not": "the same blob as the alphabet"}')
    assert places(folder)[0] >= {"alphabet.json", *names}
    hub = serve(contents(folder))
    assert {*hf_init.plan(NAME).files.carried} >= names and {*hub.served} & names == names - {
        "language_model/5gram.bin"
    }
    (folder / "alphabet.json").unlink()
    put(folder, "language_model/model.safetensors")
    assert not places(folder)[0] & names


def test_a_result_holds_what_travels_and_the_plan_names_the_rest(folder, tmp_path):
    put(folder, "source.spm", "optimizer.pt", "checkpoint-500/config.json", "checkpoint-500/optimizer.pt", "LICENSE")
    put(folder, "own.py", "own.vocabulary", "2_Dense/model.safetensors", ".git/config", ".cache/lock")
    (folder / "own.py").write_text("class T:\n    vocab_files_names = {\n 'vocab_file': 'own.vocabulary'}\n")
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "2_Dense"}, {"path": "3_Normalize"}]))
    plan = hf_init.plan(folder, "LlamaForTokenClassification", num_labels=2)
    hf_init.extend(folder, tmp_path / "out", "LlamaForTokenClassification", num_labels=2)
    there = contents(tmp_path / "out").keys() - {"config.json", "model.safetensors", "hf_init.json"}
    assert there == {*plan.files.carried} and plan.to_json().get("files", {})["carried"] == [*plan.files.carried]
    assert {"source.spm", "LICENSE", "own.vocabulary", "2_Dense/model.safetensors"} <= there
    assert plan.files.left == ("checkpoint-500/config.json", "checkpoint-500/optimizer.pt", "optimizer.pt")
    assert "left behind: checkpoint-500/ (2 files), optimizer.pt" in str(plan)
    assert hf_init.Plan.load(tmp_path / "out").files == plan.files


@pytest.mark.parametrize("name", ["1_Pooling", "tokenizer", "vocab"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_linked_folder_is_an_error(folder, tmp_path, name, gone):
    put(tmp_path, "elsewhere/config.json")
    (folder / name).symlink_to(tmp_path / ("nowhere" if gone else "elsewhere"))
    refused(folder, tmp_path, f"{name} is a link to")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "LICENSE", "config.json", "x.spm"])
def test_a_link_to_nothing_is_an_error(folder, tmp_path, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("../blobs/gone")
    refused(folder, tmp_path, f"{name} is a link to '../blobs/gone', which is not there")


def test_what_stays_behind_need_not_be_readable(folder, tmp_path):
    for name in ("optimizer.pt", "checkpoint-500", "model.onnx", "runs"):
        (folder / name).symlink_to("nowhere")
    put(tmp_path, "step/config.json")
    (folder / "checkpoint-last").symlink_to(tmp_path / "step")
    assert len(hf_init.plan(folder, "LlamaModel").files.left) == 5


def test_a_pipe_is_no_file(folder, tmp_path):
    os.mkfifo(folder / "vocab.txt")
    refused(folder, tmp_path, "vocab.txt is no file")


@pytest.mark.parametrize("name", ["vocab.txt", "1_Pooling"])
def test_what_may_not_be_read_is_an_error(folder, tmp_path, monkeypatch, name):
    """By calls that fail, since root reads everything."""
    put(folder, "vocab.txt", "1_Pooling/config.json", "checkpoint-5/config.json")

    def denied(real):
        def call(path, *args, **options):
            if os.path.basename(path) in (name, "checkpoint-5"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *args, **options)

        return call

    monkeypatch.setattr(os, "scandir", denied(os.scandir))
    monkeypatch.setattr(Path, "open", denied(Path.open))
    refused(folder, tmp_path, f"{name} can't be read (Permission denied)")


@pytest.mark.parametrize("text", ["[", "7", "[{}]", '[{"path": "../x"}]', '[{"path": "/etc"}]'])
def test_a_list_of_modules_that_is_none(folder, tmp_path, text):
    (folder / "modules.json").write_text(text)
    refused(folder, tmp_path, "modules.json")


def refused(folder: Path, tmp_path: Path, message: str) -> None:
    """A plan and an extension are refused alike, and nothing is written."""
    for verb in (lambda: hf_init.plan(folder), lambda: hf_init.extend(folder, tmp_path / "out")):
        with pytest.raises(HfInitError) as caught:
            verb()
        assert message in str(caught.value)
    assert not (tmp_path / "out").exists()
