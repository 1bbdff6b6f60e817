"""One canary for everything that is private in transformers and used here: the version that changes it is named."""

from __future__ import annotations

import inspect

import pytest
import torch
import transformers
from transformers import PreTrainedModel, conversion_mapping, core_model_loading, initialization
from transformers.models.auto import auto_factory

VERSION = f"transformers {transformers.__version__}"


@pytest.fixture(scope="module")
def bert():
    return _on_meta(transformers.BertForMaskedLM, transformers.BertConfig)


@pytest.fixture(scope="module")
def mixtral():
    return _on_meta(transformers.MixtralForCausalLM, transformers.MixtralConfig, num_local_experts=2)


def _on_meta(cls, config, **values):
    size = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.device("meta"):
        return cls(config(**size, intermediate_size=16, bos_token_id=1, eos_token_id=2, **values))


def _transforms(model):
    transforms = conversion_mapping.get_model_conversion_mapping(model, None)
    renamings = [t for t in transforms if isinstance(t, core_model_loading.WeightRenaming)]
    return renamings, [t for t in transforms if isinstance(t, core_model_loading.WeightConverter)]


def test_get_model_conversion_mapping(bert, mixtral):
    assert _transforms(bert)[0], f"{VERSION}: get_model_conversion_mapping no longer gives the legacy names of BERT"
    assert _transforms(mixtral)[1], f"{VERSION}: get_model_conversion_mapping no longer gives Mixtral's converters"


def test_rename_source_key(bert, mixtral):
    state = mixtral.state_dict()
    name = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
    renamed, pattern = core_model_loading.rename_source_key(name, *_transforms(mixtral), "model", state)
    assert (renamed, bool(pattern)) == ("model.layers.0.mlp.experts.down_proj", True), (
        f"{VERSION}: rename_source_key no longer gives (name in memory, pattern of the converter)"
    )
    renamed, pattern = core_model_loading.rename_source_key(
        "embeddings.LayerNorm.gamma", *_transforms(bert), "bert", bert.state_dict()
    )
    assert (renamed, pattern) == ("bert.embeddings.LayerNorm.weight", None), (
        f"{VERSION}: rename_source_key no longer adds the base model's prefix to a legacy name"
    )


def test_dot_natural_key():
    names = ["experts.10.w", "experts.9.w", "experts.9.a"]
    in_order = sorted(names, key=core_model_loading.dot_natural_key)
    assert in_order == ["experts.9.a", "experts.9.w", "experts.10.w"], (
        f"{VERSION}: dot_natural_key, by which the loader numbers experts, sorts in another order"
    )


def test_revert_weight_conversion(mixtral):
    names = core_model_loading.revert_weight_conversion(mixtral, mixtral.state_dict())
    assert tuple(names["model.layers.0.block_sparse_moe.experts.1.w2.weight"].shape) == (16, 16), (
        f"{VERSION}: revert_weight_conversion no longer gives the names on disk, on meta"
    )


def test_from_pretrained_takes_a_state_dict_on_meta(bert):
    state = {name: tensor for name, tensor in bert.state_dict().items() if "query" not in name}
    model, info = transformers.BertForMaskedLM.from_pretrained(
        None, config=bert.config, state_dict=state, device_map="meta", output_loading_info=True
    )
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}, (
        f"{VERSION}: from_pretrained with device_map='meta' makes real tensors"
    )
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in info["missing_keys"]} == {"query"}, (
        f"{VERSION}: output_loading_info no longer names what is missing"
    )
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= info.keys(), f"{VERSION}: the loading info changed"


def test_from_pretrained_is_a_class_method_that_can_be_bound_to_any_class():
    assert inspect.ismethod(PreTrainedModel.from_pretrained), f"{VERSION}: from_pretrained is no class method any more"


def test_the_mark_of_what_is_loaded():
    """``_is_hf_initialized``: the library's own init functions, and torch's under the guard, pass over it."""
    marked, other = torch.zeros(3, 3), torch.zeros(3, 3)
    marked._is_hf_initialized = True
    with initialization.guard_torch_init_functions():
        for tensor in (marked, other):
            torch.nn.init.normal_(tensor)
    assert not bool(marked.any()) and bool(other.any()), f"{VERSION}: guard_torch_init_functions ignores the mark"


def test_torch_init_functions_are_looked_up_in_a_table(monkeypatch):
    """``TORCH_INIT_FUNCTIONS``: what is put there is called instead of torch's own."""
    seen = []
    monkeypatch.setitem(initialization.TORCH_INIT_FUNCTIONS, "trunc_normal_", lambda tensor, **_: seen.append(tensor))
    with initialization.guard_torch_init_functions():
        torch.nn.init.trunc_normal_(torch.zeros(2))
    initialization.trunc_normal_(torch.zeros(2))
    assert len(seen) == 2, f"{VERSION}: TORCH_INIT_FUNCTIONS is no longer where init functions are looked up"


def test_meta_device_safe_creation_ops():
    with torch.device("meta"), initialization.meta_device_safe_creation_ops():
        made = torch.linspace(0, 1, 3)
    assert made.device.type == "cpu", f"{VERSION}: meta_device_safe_creation_ops no longer keeps linspace real"


def test_a_constructor_on_meta_initializes_nothing(monkeypatch):
    """So that what is recorded is what the constructor declares."""
    calls = []
    monkeypatch.setattr(PreTrainedModel, "initialize_weights", lambda self: calls.append(self))
    _on_meta(transformers.BertModel, transformers.BertConfig)
    assert calls == [], f"{VERSION}: a model that is built on meta runs initialize_weights"


def test_initialize_weights_is_what_a_constructor_calls(monkeypatch):
    """The mixin overrides it."""
    calls = []
    monkeypatch.setattr(PreTrainedModel, "initialize_weights", lambda self: calls.append(self))
    transformers.BertModel(transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    assert len(calls) == 1, f"{VERSION}: a constructor no longer calls initialize_weights once"


def test_a_constructor_ends_in_init_weights_which_asks_the_object_for_its_own(monkeypatch):
    """What is recorded stands in the place of ``init_weights``; each module comes to the object's ``_init_weights``."""
    calls, seen = [], []
    monkeypatch.setattr(PreTrainedModel, "init_weights", lambda self: calls.append(self))
    model = _on_meta(transformers.BertModel, transformers.BertConfig)
    assert calls[-1] is model, f"{VERSION}: post_init no longer calls init_weights"
    vars(model).update(_init_weights=seen.append, is_custom_code=lambda: False)
    model.initialize_weights()
    assert {*seen} == {*model.modules()}, f"{VERSION}: initialize_weights leaves modules out, or asks the class"


def test_init_weights_takes_one_module():
    assert list(inspect.signature(PreTrainedModel._init_weights).parameters) == ["self", "module"], (
        f"{VERSION}: _init_weights takes other arguments"
    )


def test_all_tied_weights_keys(bert):
    assert bert.all_tied_weights_keys["cls.predictions.decoder.weight"] == "bert.embeddings.word_embeddings.weight", (
        f"{VERSION}: all_tied_weights_keys no longer maps a tied name to the one in the files"
    )


def test_base_model_prefix(bert):
    assert bert.base_model_prefix == "bert", f"{VERSION}: base_model_prefix changed"


def test_patterns_of_what_is_ignored(bert):
    for attribute in ("_keys_to_ignore_on_load_unexpected", "_keys_to_ignore_on_save"):
        assert isinstance(getattr(bert, attribute), (set, list, type(None))), f"{VERSION}: {attribute} changed its kind"


def test_auto_classes(bert):
    auto = transformers.AutoModelForMaskedLM
    assert issubclass(auto, auto_factory._BaseAutoModelClass), f"{VERSION}: _BaseAutoModelClass is no base any more"
    assert auto_factory._get_model_class(bert.config, auto._model_mapping) is transformers.BertForMaskedLM, (
        f"{VERSION}: _get_model_class no longer finds the class of a config"
    )


def test_get_class_from_dynamic_module():
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    first = list(inspect.signature(get_class_from_dynamic_module).parameters)[:2]
    assert first == ["class_reference", "pretrained_model_name_or_path"], (
        f"{VERSION}: get_class_from_dynamic_module takes other arguments"
    )


def _config(**values):
    size = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.BertConfig(**size, intermediate_size=16, **values)


def test_from_config_builds_with_a_dtype_and_an_attention():
    """``_from_config``: what ``from_pretrained`` tells the constructor, without a checkpoint."""
    with torch.device("meta"), initialization.no_init_weights():
        model = PreTrainedModel._from_config.__func__(
            transformers.BertModel, _config(), dtype=torch.bfloat16, attn_implementation="eager"
        )
    assert (model.dtype, model.config._attn_implementation) == (torch.bfloat16, "eager"), (
        f"{VERSION}: _from_config no longer takes dtype and attn_implementation"
    )


def test_no_init_weights():
    """Torch's functions do nothing, and nothing is tied: ``tie_weights`` is called afterwards."""
    with initialization.no_init_weights():
        model = transformers.BertForMaskedLM(_config())
        torch.nn.init.ones_(ones := torch.zeros(2))
    assert not bool(ones.any()), f"{VERSION}: no_init_weights no longer switches torch's functions off"
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    assert head.weight is not table, f"{VERSION}: no_init_weights ties"
    model.tie_weights(recompute_mapping=False)
    assert head.weight is table, f"{VERSION}: tie_weights(recompute_mapping=False) no longer ties"


def test_the_plan_of_dtypes(bert):
    """``_get_dtype_plan``: what is held in another dtype than the model's."""
    assert bert._get_dtype_plan(torch.float32) == {}, f"{VERSION}: _get_dtype_plan casts something of BERT"
    bert._keep_in_fp32_modules_strict = {"LayerNorm"}
    found = bert._get_dtype_plan(torch.bfloat16)
    bert._keep_in_fp32_modules_strict = set()
    assert found == {"LayerNorm": torch.float32}, f"{VERSION}: _get_dtype_plan no longer maps a pattern to a dtype"


def test_a_renaming_knows_whether_it_was_used(bert):
    """``was_used``, and ``_weight_conversions``, which is what the loader leaves of those that were."""
    for name, used in (("bert.embeddings.LayerNorm.weight", False), ("bert.embeddings.LayerNorm.gamma", True)):
        renamings, converters = _transforms(bert)
        core_model_loading.rename_source_key(name, renamings, converters, "bert", bert.state_dict())
        assert any(each.was_used() for each in renamings) is used, f"{VERSION}: was_used no longer says so of {name}"
    state = {name: torch.empty(t.shape, device="meta") for name, t in bert.state_dict().items()}
    loaded = transformers.BertForMaskedLM.from_pretrained(None, config=bert.config, state_dict=state, device_map="meta")
    assert loaded._weight_conversions == [], f"{VERSION}: _weight_conversions is not what the loader used"


def test_registered_configs_are_a_dict_that_is_read_by_its_key():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    import hf_init

    assert "MultiHead" in hf_init.__all__
    assert isinstance(CONFIG_MAPPING._extra_content, dict), (
        f"{VERSION}: CONFIG_MAPPING keeps registered configs elsewhere"
    )
    assert "multi_head" in CONFIG_MAPPING and CONFIG_MAPPING["multi_head"].model_type == "multi_head", (
        f"{VERSION}: CONFIG_MAPPING no longer reads what was registered by its key"
    )
