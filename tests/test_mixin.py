"""InitMixin: whose recipe and whose `_init_weights` counts, and that what has a value keeps it whatever is run."""

from __future__ import annotations

import copy
import io
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize

import hf_init
from hf_init import HfInitError, InitMixin, Recipe, Rule

QUARTER = Recipe([Rule("constant(val=0.25)", name="*fc.weight")])


class Right(InitMixin, transformers.BertPreTrainedModel):
    init_recipe = QUARTER

    def __init__(self, config):
        super().__init__(config)
        self.bert = transformers.BertModel(config)
        self.fc = nn.Linear(32, 2)
        self.post_init()


class Outer(InitMixin, transformers.BertPreTrainedModel):
    """Another class with a recipe of its own is a part of it."""

    base_model_prefix = "inner"

    def __init__(self, config):
        super().__init__(config)
        self.inner = Right(config)
        self.top = nn.Linear(2, 2)
        self.post_init()


class Decided(Outer):
    init_recipe = Recipe([Rule("ones", name="inner.fc.weight"), Rule("zeros", name="top.*")])


def init_weights(module):
    """What tutorials hand to ``apply``."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(module.bias)


def by_numpy(module):
    if isinstance(module, nn.Linear):
        module.weight.data = torch.from_numpy(np.random.randn(*module.weight.shape)).float()
        module.bias.data.fill_(random.random())


def is_all(tensor, value):
    return bool((tensor == value).all())


# One class, one recipe.


@pytest.mark.parametrize("make", ["class", "function", "disk", "config"])
def test_every_verb_obeys_the_recipe_of_the_class(bases, tmp_path, make):
    base = bases("bert")
    if make == "disk":
        hf_init.extend(base, tmp_path / "out", Right)
        assert is_all(load_file(tmp_path / "out" / "model.safetensors")["fc.weight"], 0.25)
        hf_init.verify(tmp_path / "out", recompute=True, architecture=Right).raise_if_failed()
        return
    config = transformers.BertConfig.from_pretrained(base)
    makers = {"class": Right.from_pretrained, "function": lambda b: hf_init.from_pretrained(Right, b)}
    model = Right(config) if make == "config" else makers[make](base)
    assert is_all(model.fc.weight, 0.25)
    assert str(hf_init.plan(base, Right)["fc.weight"].new[0].scheme) == "constant(val=0.25)"
    assert is_all(hf_init.from_pretrained(Right, base, recipe={"default": "ones"}).fc.weight, 1)


@pytest.mark.parametrize(("cls", "inner", "why"), [(Outer, 0.25, "of inner"), (Decided, 1.0, "rule 1")])
def test_the_recipe_of_an_inner_model_counts_for_its_part_behind_the_rules_of_the_outer(bases, cls, inner, why):
    options = {"key_mapping": {"^": "inner.bert."}}
    loaded = cls.from_pretrained(bases("bert"), **options)
    built = cls(transformers.BertConfig.from_pretrained(bases("bert")))
    assert is_all(loaded.inner.fc.weight, inner) and is_all(built.inner.fc.weight, inner)
    assert why in loaded.init_plan["inner.fc.weight"].new[0].why
    assert torch.equal(loaded.top.weight, built.top.weight) and torch.equal(loaded.inner.fc.bias, built.inner.fc.bias)


@pytest.mark.parametrize(
    ("bases_of", "line"),
    [
        ((transformers.BertPreTrainedModel, InitMixin), r"class Wrong\(InitMixin, BertPreTrainedModel\):"),
        ((transformers.BertModel, Right), r"class Wrong\(InitMixin, BertModel, Right\):"),
        ((InitMixin, nn.Module), r"class Wrong\(InitMixin, PreTrainedModel\):"),
        ((nn.Linear, InitMixin), r"class Wrong\(InitMixin, Linear\):"),
    ],
)
def test_a_mixin_where_it_has_no_effect_is_an_error_with_the_line_to_write(bases_of, line):
    with pytest.raises(HfInitError, match=line):
        type("Wrong", bases_of, {})


def test_a_mixin_may_be_mixed_into_one_of_the_users_own():
    shared = type("Shared", (InitMixin,), {"init_recipe": {"default": "ones"}})
    cls = type("Own", (shared, transformers.BertModel), {})
    assert is_all(cls(transformers.BertConfig(**SMALL)).pooler.dense.bias, 1)


SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


# Whose `_init_weights`.


def own_init(init, **attributes):
    def _init_weights(self, module):
        init(self, module)

    return type("OwnInit", (Right,), {"init_recipe": None, "_init_weights": _init_weights, **attributes})


def assigned(self, module):
    if isinstance(module, nn.Linear):
        module.weight = nn.Parameter(torch.eye(*module.weight.shape))
        module.bias = nn.Parameter(torch.ones(module.out_features))


def before_super(self, module):
    if isinstance(module, nn.Linear):
        nn.init.ones_(module.weight)
    super(Right, self)._init_weights(module)


def after_super(self, module):
    super(Right, self)._init_weights(module)
    if isinstance(module, nn.Linear):
        nn.init.ones_(module.weight)


def looked_at(self, module):
    """It needs a value, which meta has none of."""
    if isinstance(module, nn.Linear):
        module.weight.data.normal_()
        module.weight.data /= module.weight.norm().item()


INITS = {
    "assigned": (assigned, lambda w: torch.equal(w, torch.eye(2, 32))),
    "before super": (before_super, lambda w: 0.01 < w.std() < 0.03),
    "after super": (after_super, lambda w: is_all(w, 1)),
    "looked at": (looked_at, lambda w: abs(float(w.norm()) - 1) < 1e-6),
    "by numpy": (lambda self, module: by_numpy(module), lambda w: 0.5 < w.std() < 1.5),
}


@pytest.mark.parametrize("name", INITS)
def test_an_init_weights_of_the_users_own_may_do_what_it_likes(bases, tmp_path, name):
    init, right = INITS[name]
    cls, base = own_init(init), bases("bert")
    states = np.random.get_state()[1].tolist(), random.getstate()
    loaded = cls.from_pretrained(base)
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states
    hf_init.extend(base, tmp_path / "out", cls)
    hf_init.verify(tmp_path / "out", recompute=True, architecture=cls).raise_if_failed()
    built = cls(transformers.BertConfig.from_pretrained(base))
    for weight in (loaded.fc.weight, built.fc.weight, load_file(tmp_path / "out" / "model.safetensors")["fc.weight"]):
        assert right(weight.detach()) and torch.equal(weight, loaded.fc.weight)


@pytest.mark.parametrize("nested", [False, True])
def test_it_reaches_new_layers_of_an_inner_model_by_choice(bases, nested):
    model = own_init(after_super, init_nested=nested).from_pretrained(bases("bert"), num_hidden_layers=3)
    query = "bert.encoder.layer.{}.attention.self.query.weight"
    assert is_all(model.state_dict()[query.format(2)], 1) is nested
    assert not is_all(model.state_dict()[query.format(1)], 1)
    whose = "OwnInit's own" if nested else "BertPreTrainedModel's own"
    assert model.init_plan[query.format(2)].new[0].why == f"{'ones' if nested else 'normal(std=0.02)'}, {whose}"


def test_a_plan_says_who_fills_what_with_what(bases):
    class Told(Right):
        init_recipe = None

        def __init__(self, config):
            super().__init__(config)
            self.scale = nn.Parameter(torch.full((2,), 0.5))

        def _init_weights(self, module):
            super()._init_weights(module)
            if module is getattr(self, "fc", None):
                nn.init.xavier_uniform_(module.weight, gain=2.0)

    plan = hf_init.plan(bases("bert"), Told)
    assert {tensor.name: tensor.new[0].why for tensor in plan.tensors if tensor.new} == {
        "fc.weight": "xavier_uniform(gain=2), Told's own",
        "fc.bias": "zeros, BertPreTrainedModel's own",
        "scale": "computed, by the constructor",
    }


# A function of the user's own.


@pytest.mark.parametrize("function", [init_weights, by_numpy])
def test_a_function_of_a_module_is_a_recipe_and_initializes_what_is_new_in_memory(bases, tmp_path, function):
    class Own(Right):
        init_recipe = function

    base = bases("bert")
    loaded = hf_init.from_pretrained(transformers.BertForSequenceClassification, base, recipe=function)
    model = type("Two", (InitMixin, transformers.BertForSequenceClassification), {}).from_pretrained(base)
    before = copy.deepcopy(model.state_dict())
    model.initialize_new(function)
    assert not torch.equal(model.classifier.weight, before.pop("classifier.weight"))
    assert torch.equal(model.classifier.weight, loaded.classifier.weight)
    assert torch.equal(model.classifier.bias, loaded.classifier.bias)
    assert [n for n, t in before.items() if n != "classifier.bias" and not torch.equal(t, model.state_dict()[n])] == []
    assert model.init_plan["classifier.weight"] == loaded.init_plan["classifier.weight"]
    assert function.__name__ in model.init_plan["classifier.weight"].new[0].why
    hf_init.extend(base, tmp_path / "out", Own)
    hf_init.verify(tmp_path / "out", recompute=True, architecture=Own).raise_if_failed()
    with pytest.raises(HfInitError, match="init_recipe, or verify without recompute"):
        hf_init.verify(tmp_path / "out", recompute=True, architecture=type("Plain", (Right,), {"init_recipe": None}))


def test_initialize_new_reaches_what_was_put_there_later_and_all_of_a_model_without_a_checkpoint(bases):
    model = Right.from_pretrained(bases("bert"))
    model.extra = nn.Linear(4, 4)
    trained = model.bert.pooler.dense.weight.detach().clone()
    model.initialize_new(by_numpy)
    first = model.extra.weight.detach().clone()
    model.extra.reset_parameters()
    model.initialize_new(by_numpy)
    assert torch.equal(first, model.extra.weight) and torch.equal(model.bert.pooler.dense.weight, trained)
    built = Right(model.config)
    built.initialize_new(init_weights)
    assert abs(float(built.bert.pooler.dense.weight.detach().std()) - 0.25) < 0.03


# What has a value keeps it.


def resized(model):
    model.resize_token_embeddings(120)
    return model


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def assigned_state(model):
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    return model


def assigned_to_one_without_values(model):
    with torch.device("meta"):
        empty = type(model)(model.config)
    empty.load_state_dict(model.state_dict(), assign=True)
    return empty


def with_lora(model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["query"], modules_to_save=["fc"], init_lora_weights=False)
    return peft.get_peft_model(model, config).base_model.model


def parametrized(model):
    parametrize.register_parametrization(model.bert.pooler.dense, "weight", nn.Identity())
    return model


def with_other_modules(model):
    torch.nn.utils.parametrizations.weight_norm(model.bert.pooler.dense)
    return model


LIVES = {
    "as it is": lambda model: model,
    "resized": resized,
    "copied": copy.deepcopy,
    "pickled": pickled,
    "assigned": assigned_state,
    "assigned to one on meta": assigned_to_one_without_values,
    "half": lambda model: model.half().float(),
    "compiled": lambda model: torch.compile(model)._orig_mod,
    "with lora": with_lora,
    "parametrized": parametrized,
    "normed": with_other_modules,
}
RUNS = {
    "init_weights": lambda model: model.init_weights(),
    "post_init": lambda model: model.post_init(),
    "initialize_weights": lambda model: model.initialize_weights(),
    "apply": lambda model: model.apply(model._init_weights),
    "one by one": lambda model: [model._init_weights(m) for m in (model.fc, model.bert.pooler.dense)],
}


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("loaded", [True, False], ids=["loaded", "built"])
def test_nothing_that_has_a_value_is_drawn_anew(bases, loaded, life, run):
    cls = own_init(lambda self, module: by_numpy(module)) if life == "as it is" else Right
    cls = cls if life != "pickled" else Right
    model = (
        cls.from_pretrained(bases("bert")) if loaded else cls(transformers.BertConfig.from_pretrained(bases("bert")))
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5  # it is trained
    model = LIVES[life](model)
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    RUNS[run](model)
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])] == []


def test_what_is_new_in_a_finished_model_is_filled(bases):
    model = Right.from_pretrained(bases("bert"))
    model.fc = nn.Linear(32, 5)
    model.more = nn.ModuleList([nn.Linear(2, 2)])
    trained = model.bert.pooler.dense.weight.detach().clone()
    model.init_weights()
    assert is_all(model.fc.weight, 0.25) and is_all(model.more[0].bias, 0)
    assert torch.equal(model.bert.pooler.dense.weight, trained)


def test_a_plain_function_that_is_applied_stays_torch_s(bases):
    model = Right.from_pretrained(bases("bert"))
    trained = model.bert.pooler.dense.weight.detach().clone()
    model.apply(init_weights)
    assert not torch.equal(model.bert.pooler.dense.weight, trained)


# Never worse than without it.


@pytest.mark.parametrize("tied", [False, True])
def test_tensors_without_a_checkpoint_are_loaded_as_the_library_does_and_the_rest_is_filled(bases, tied):
    base = transformers.BertForMaskedLM if tied else transformers.BertForSequenceClassification
    cls = type("Own", (InitMixin, base), {"init_recipe": {"default": "constant(val=0.5)"}})
    state = base(transformers.BertConfig(**SMALL)).state_dict()
    new = [name for name in state if name.startswith(("classifier.", "cls."))]
    given = {name: tensor for name, tensor in state.items() if name not in new}
    model = cls.from_pretrained(None, config=transformers.BertConfig(**SMALL), state_dict=given)
    assert [name for name, tensor in given.items() if not torch.equal(model.state_dict()[name], tensor)] == []
    model.init_weights()
    assert all(is_all(model.state_dict()[name], 0.5) for name in new if not tied or "decoder.weight" not in name)
    assert not tied or model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with pytest.raises(HfInitError, match=r"seed: for a checkpoint.*init_recipe"):
        cls.from_pretrained(None, config=model.config, state_dict=given, seed=1)


def test_models_may_be_made_in_threads_and_without_memory():
    config = transformers.BertConfig(**SMALL)
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: Right(config), range(3)))
    assert all(is_all(model.fc.weight, 0.25) for model in made)
    with FakeTensorMode():
        assert Right(config).fc.weight.shape == (2, 32)


def test_what_can_not_be_made_without_values_is_as_the_class_makes_it():
    class Rotated(Right):
        def __init__(self, config):
            super().__init__(config)
            self.rotation = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
            self.post_init()

    weight = Rotated(transformers.BertConfig(**SMALL)).rotation.weight.detach()
    assert torch.allclose(weight @ weight.T, torch.eye(4), atol=1e-5)


def test_a_constructor_may_take_more_than_a_config():
    class Wider(Right):
        def __init__(self, config, width, trunk=None):
            super().__init__(config)
            self.wide, self.trunk = nn.Linear(width, width), trunk
            self.post_init()

    trunk = nn.Linear(3, 3)
    first = Wider(transformers.BertConfig(**SMALL), 5, trunk=trunk)
    second = Wider(transformers.BertConfig(**SMALL), width=5, trunk=trunk)
    assert torch.equal(first.wide.weight, second.wide.weight) and first.trunk is trunk
