"""What has a value keeps it whatever is run on a model with the mixin; and never worse than without it."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from mixed_classes import SMALL, Right, by_numpy, init_weights, is_all, own_init
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize

from hf_init import HfInitError, InitMixin

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
