"""The library's own loading options either work as they do there, or are refused in words."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap

import pytest
import torch
import transformers

import hf_init
from hf_init import HfInitError

CLS = transformers.BertForSequenceClassification


def load(tiny, **options):
    return hf_init.from_pretrained(CLS, tiny("bert"), num_labels=3, **options)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, torch.device("cpu")])
def test_device_maps_that_stay_here(tiny, device_map):
    assert same(load(tiny, device_map=device_map), load(tiny))


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", torch.float16, "auto"])
def test_a_dtype(tiny, dtype):
    model = load(tiny, dtype=dtype)
    wanted = torch.float32 if dtype == "auto" else getattr(torch, str(dtype).removeprefix("torch."))
    assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {wanted}
    exact = load(tiny)
    assert same(model, exact.to(wanted))
    assert bool(model.init_report.cast) == (wanted != torch.float32)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_an_attention_implementation(tiny, implementation):
    model = load(tiny, attn_implementation=implementation)
    assert model.config._attn_implementation == implementation and same(model, load(tiny))


def test_low_memory_loading_is_the_library_s_default(tiny):
    assert same(load(tiny, low_cpu_mem_usage=True), load(tiny))


def test_config_values_and_constructor_arguments(tiny):
    model = load(tiny, hidden_dropout_prob=0.3)
    assert model.config.hidden_dropout_prob == 0.3
    bare = hf_init.from_pretrained(transformers.BertModel, tiny("bert"), add_pooling_layer=False, drop=["pooler.*"])
    assert bare.pooler is None
    assert {unused.name for unused in bare.init_plan.unused} == {"pooler.dense.weight", "pooler.dense.bias"}


def test_the_library_s_marks_are_set(tiny):
    model = load(tiny)
    assert not model.training and model.name_or_path == str(tiny("bert")) == model.config.name_or_path


def test_a_generation_config_is_loaded(tiny):
    """SmolLM2's and every other language model's generation settings live in a file of their own."""
    model = hf_init.from_pretrained(transformers.LlamaForCausalLM, tiny("llama"))
    plain = transformers.LlamaForCausalLM.from_pretrained(tiny("llama"))
    assert model.generation_config.to_dict() == plain.generation_config.to_dict()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantization_config": {"load_in_8bit": True}}, "unquantized base"),
        ({"load_in_4bit": True}, "unquantized base"),
        ({"tp_plan": "auto"}, "tp_plan"),
        ({"tp_size": 2}, "tp_size"),
        ({"offload_folder": "somewhere"}, "offload_folder"),
        ({"state_dict": {"w": 1}}, "checkpoint folder"),
        ({"ignore_mismatched_sizes": True, "intermediate_size": 80}, "keep="),
        ({"gguf_file": "model.gguf"}, "gguf_file"),
        ({"from_tf": True}, "safetensors"),
        ({"num_labelz": 4}, "num_labels"),
        ({"dtype": "int8"}, "floating"),
        ({"dtype": "float31"}, "floating"),
    ],
)
def test_what_is_refused_says_what_to_do(tiny, options, words):
    with pytest.raises(HfInitError, match=words):
        hf_init.from_pretrained(CLS, tiny("bert"), **options)


CUSTOM = '''
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    import hf_init
    from hf_init import InitMixin, Recipe, Rule


    class Gated(InitMixin, BertForSequenceClassification):
        """A class of the user's own: a gate that the constructor closes, and a head by rule."""

        init_recipe = Recipe([Rule("constant(val=0.25)", name="classifier.weight")], default="declared")

        def __init__(self, config):
            super().__init__(config)
            self.gate = torch.nn.Parameter(torch.full((config.hidden_size,), 0.125))
            self.post_init()


    Gated.register_for_auto_class("AutoModelForSequenceClassification")
'''


def test_a_class_of_the_user_s_own_travels_with_its_checkpoint(tiny, warm, tmp_path, monkeypatch):
    """Registered for auto classes, saved with its code, loaded by name with trust and refused without."""
    (tmp_path / "gated.py").write_text(textwrap.dedent(CUSTOM))
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module("gated").Gated.from_pretrained(tiny("bert"), num_labels=3)
    assert bool((model.gate == 0.125).all()) and bool((model.classifier.weight == 0.25).all())
    model.save_pretrained(tmp_path / "saved")
    monkeypatch.delitem(sys.modules, "gated")
    assert "auto_map" in json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (tmp_path / "saved" / "gated.py").is_file()
    program = f"""
        import hf_init
        from transformers import AutoModelForSequenceClassification
        folder = {str(tmp_path / "saved")!r}
        model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
        assert type(model).__name__ == "Gated" and bool((model.gate == 0.125).all())
        try:
            hf_init.plan(folder)
        except hf_init.HfInitError as error:
            assert "trust_remote_code=True" in str(error)
        else:
            raise AssertionError("ran code that nobody trusted")
        assert not hf_init.plan(folder, trust_remote_code=True).counts["new"]
    """
    done = warm.run(textwrap.dedent(program))
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_hub_id_is_found_in_the_cache(tiny, tmp_path):
    """As the hub's own client lays it out: a name for the revision, a folder for the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny-bert"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in tiny("bert").iterdir():
        (snapshot / file.name).symlink_to(file)
    model = hf_init.from_pretrained(CLS, "someone/tiny-bert", num_labels=3, cache_dir=str(tmp_path))
    assert same(model, load(tiny)) and model.name_or_path == "someone/tiny-bert"
    out = tmp_path / "out"
    hf_init.extend("someone/tiny-bert", out, CLS, num_labels=3, cache_dir=str(tmp_path))
    assert hf_init.verify(out).ok
    with pytest.raises(HfInitError, match="someone/other"):
        hf_init.plan("someone/other", CLS, cache_dir=str(tmp_path))


def test_what_is_skipped_is_left_to_the_library(tiny, tmp_path):
    recipe = {"rules": [{"name": "classifier.*", "scheme": "skip"}]}
    out = tmp_path / "out"
    assert hf_init.extend(tiny("bert"), out, CLS, recipe=recipe, num_labels=3).ok
    _, info = CLS.from_pretrained(out, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    model = load(tiny, recipe=recipe)
    assert abs(float(model.classifier.weight.detach().std()) / 0.02 - 1) < 0.5
