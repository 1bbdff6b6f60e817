"""`auto` and the known recipes: the right scheme for every role, for a reason, and never a path that can't learn."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from torch import nn

import hf_init
from hf_init import Recipe, Rule, recipes, schemes
from hf_init._architecture.describe import describe_model
from hf_init._plan.auto import TABLE, Surroundings, auto_scheme
from hf_init._plan.dead_paths import dead_paths
from hf_init._plan.tensor_plan import Fill, TensorPlan
from hf_init._roles import ROLES, matches
from hf_init._tensors import Box, Slot, Status, TensorSpec
from hf_init.schemes import finish


def spec(role: str, **more) -> TensorSpec:
    return TensorSpec("m.w", (8, 8), "float32", "m.w", role=role, **more)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_advice_with_a_reason(role):
    choice = auto_scheme(spec(role), Surroundings())
    assert isinstance(choice.scheme, schemes.Scheme) and len(choice.why) > 10


def test_every_line_of_the_table_serves_a_role():
    first = {role: next(pattern for pattern, _ in TABLE if matches(role, pattern)) for role in ROLES}
    assert {pattern for pattern, _ in TABLE} - set(first.values()) == set()


@pytest.mark.parametrize(
    ("role", "more", "wanted"),
    [
        ("linear.weight", {"activation": "relu"}, "kaiming_normal(nonlinearity=relu)"),
        ("linear.weight", {"activation": "tanh"}, "xavier_uniform(gain=tanh)"),
        ("linear.weight", {"activation": "selu"}, "lecun_normal"),
        ("mlp.up.weight", {"activation": "gelu"}, "kaiming_normal(nonlinearity=gelu)"),
        ("conv.weight", {"activation": "relu"}, "kaiming_normal(mode=fan_out, nonlinearity=relu)"),
        ("linear.weight", {}, "normal(std=0.02)"),
        ("norm.weight", {}, "ones"),
        ("norm_plus_one.weight", {}, "zeros"),
        ("recurrent.hidden.weight", {"module": ("LSTM",)}, "orthogonal"),
        ("recurrent.input.bias", {"module": ("LSTM",)}, "lstm_bias"),
        ("recurrent.hidden.bias", {"module": ("LSTM",)}, "zeros"),
        ("recurrent.input.bias", {"module": ("GRU",)}, "zeros"),
        ("embedding.token", {"padding": 1}, "embedding(padding=1)"),
        ("embedding.position", {}, "normal(std=0.02)"),
        ("norm.residual.weight", {"module": ("BatchNorm2d",)}, "zeros"),
        ("attention.qkv.weight", {}, "xavier_uniform(gain=0.7071)"),
        ("parameter", {}, "model"),
    ],
)
def test_what_follows_decides(role, more, wanted):
    assert str(auto_scheme(spec(role, **more), Surroundings()).scheme) == wanted


def test_the_residual_scale_counts_the_blocks_of_the_extended_model():
    choice = auto_scheme(spec("mlp.down.weight"), Surroundings(std=0.01, depth=8))
    assert choice.scheme == schemes.ScaledResidual(layers=8, std=0.01)


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """A plain module filled by `auto`, without the library."""
    for name, tensor in describe_model(model).items():
        scheme = auto_scheme(tensor, Surroundings()).scheme
        slot = Slot(name, Box.whole(tensor.shape), tensor.shape, seed=seed, role=tensor.role, geometry=tensor.geometry)
        with torch.no_grad():
            model.get_parameter(name).copy_(finish(scheme, slot))
    return model


def stack(activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(layer for _ in range(30) for layer in (nn.Linear(512, 512), activation())))


def spread(model: nn.Module) -> float:
    """The root mean square of the last layer's output, for inputs of 1."""
    inputs = torch.randn(256, 512, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return float(model(inputs).square().mean().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_thirty_layers_keep_their_variance_under_auto_and_lose_it_under_normal(activation):
    assert 0.3 < spread(fill(stack(activation))) < 3
    small = stack(activation)
    for number, tensor in enumerate(small.parameters()):
        nn.init.normal_(tensor, std=0.02, generator=torch.Generator().manual_seed(number)) if tensor.dim() > 1 else None
        nn.init.zeros_(tensor) if tensor.dim() == 1 else None
    assert spread(small) < 1e-6


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_known_recipes_round_trip_and_are_found_by_name(name):
    recipe = recipes.find_recipe(name)
    assert recipe == recipes.RECIPES[name]() and Recipe.from_dict(recipe.to_dict()) == recipe


def test_the_classic_recipe_is_the_composite_example_of_every_tutorial():
    model = nn.ModuleDict(
        {"fc": nn.Linear(4, 4), "conv": nn.Conv2d(3, 4, 3), "lstm": nn.LSTM(4, 4), "norm": nn.LayerNorm(4)}
    )
    chosen = recipes.classic().assign(list(describe_model(model).values()))
    assert {name: str(choice.scheme) for name, choice in chosen.items()} == {
        "fc.weight": "kaiming_normal(nonlinearity=relu)",
        "fc.bias": "zeros",
        "conv.weight": "xavier_uniform",
        "conv.bias": "model",
        "lstm.weight_ih_l0": "orthogonal(fused=whole)",
        "lstm.weight_hh_l0": "orthogonal(fused=whole)",
        "lstm.bias_ih_l0": "zeros",
        "lstm.bias_hh_l0": "zeros",
        "norm.weight": "ones",
        "norm.bias": "zeros",
    }


def grown(tiny, family: str, cls, recipe="auto", **config):
    return hf_init.from_pretrained(cls, tiny(family), recipe=recipe, config=config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "cls", "config"),
    [
        ("llama", transformers.LlamaForCausalLM, {"num_hidden_layers": 4}),
        ("gpt2", transformers.GPT2LMHeadModel, {"n_layer": 4}),
        ("mixtral", transformers.MixtralForCausalLM, {"num_hidden_layers": 3}),
    ],
)
def test_new_blocks_of_a_pretrained_stack_change_nothing_at_first(tiny, family, cls, config):
    before = cls.from_pretrained(tiny(family))
    after = grown(tiny, family, cls, **config)
    tokens = torch.arange(3, 19)[None]
    with torch.no_grad():
        assert torch.equal(before(tokens).logits, after(tokens).logits)
    assert any(
        "closed: the new block gives back" in fill.why for tensor in after.init_plan.tensors for fill in tensor.new
    )
    after(tokens, labels=tokens).loss.backward()
    reached = [
        t.grad.abs().max() > 0 for n, t in after.named_parameters() if n.endswith(("o_proj.weight", "c_proj.weight"))
    ]
    assert all(reached)


def test_a_path_that_is_closed_twice_is_refused():
    """A projection and a gate that are both zero would stop each other's gradient."""

    def new(name: str, role: str, scheme: schemes.Scheme) -> TensorPlan:
        shape = (8, 8) if name.endswith("weight") else (1,)
        return TensorPlan(
            name, Status.NEW, shape, "float32", new=(Fill(Box.whole(shape), scheme),), parameter=name, role=role
        )

    out = new("h.3.attn.out_proj.weight", "attention.output.weight", schemes.Zeros())
    gate = new("h.3.attn_gate", "gate", schemes.Zeros())
    other = new("h.3.mlp_gate", "gate", schemes.Zeros())
    open_gate = new("h.3.attn_gate", "gate", schemes.Constant(val=0.1))
    assert "h.3.attn.out_proj.weight and h.3.attn_gate" in dead_paths([out, gate])[0]
    assert dead_paths([out, other]) == [] and dead_paths([out, open_gate]) == []
    plus_one = new("h.3.post_attention_norm.weight", "norm_plus_one.residual.weight", schemes.Zeros())
    assert dead_paths([out, plus_one]) == []
    closed = new("h.3.post_attention_norm.weight", "norm_plus_one.residual.weight", schemes.Constant(val=-1.0))
    assert len(dead_paths([out, closed])) == 1


def test_advice_is_in_the_plan_after_rules_and_new_rows_are_matched_to_their_table(tiny):
    why, cls = "small and normal", "BertForSequenceClassification"
    plan = hf_init.plan(tiny("bert"), cls, recipe="auto", num_labels=3)
    assert why in plan["classifier.weight"].new[0].why and why in str(plan)
    recipe = Recipe([Rule("zeros", name="classifier.weight")], default="auto")
    plan = hf_init.plan(tiny("bert"), cls, recipe=recipe, num_labels=3)
    assert str(plan["classifier.weight"].new[0].scheme) == "zeros"
    keep = {"*position_embeddings.weight": "leading"}
    plan = hf_init.plan(tiny("bert"), "BertModel", recipe="auto", keep=keep, config={"max_position_embeddings": 96})
    assert str(plan["embeddings.position_embeddings.weight"].new[0].scheme) == "matched_normal"


def test_the_expected_spread_of_auto_is_kaimings():
    model = nn.Sequential(nn.Linear(256, 64), nn.ReLU())
    fill(model)
    assert abs(float(model[0].weight.detach().std()) / math.sqrt(2 / 256) - 1) < 0.03


def test_a_plan_that_closes_a_path_twice_is_refused(tmp_path):
    """OLMo 2 ends its branches with a norm: closed with the projection before it, neither would get a gradient."""
    size = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    config = transformers.Olmo2Config(**size, num_hidden_layers=2, pad_token_id=0)
    transformers.Olmo2ForCausalLM(config).save_pretrained(tmp_path)
    twice = Recipe(
        [Rule("zeros", name="*.2.self_attn.o_proj.weight"), Rule("zeros", name="*.2.post_attention_layernorm.weight")],
        default="auto",
    )
    with pytest.raises(hf_init.HfInitError, match="neither would ever get a gradient"):
        hf_init.plan(tmp_path, recipe=twice, config={"num_hidden_layers": 3})
    plan = hf_init.plan(tmp_path, recipe="auto", config={"num_hidden_layers": 3})
    assert str(plan["model.layers.2.post_attention_layernorm.weight"].new[0].scheme) == "zeros"
    assert str(plan["model.layers.2.self_attn.o_proj.weight"].new[0].scheme) != "zeros"


class Tagger(hf_init.InitMixin, transformers.BertPreTrainedModel):
    """MiniLM with an LSTM and a layer on top of it."""

    init_recipe = "auto"

    def __init__(self, config):
        super().__init__(config)
        self.bert = transformers.BertModel(config, add_pooling_layer=False)
        self.lstm = nn.LSTM(config.hidden_size, 48, batch_first=True, bidirectional=True)
        self.tags = nn.Sequential(nn.Linear(96, 24), nn.ReLU(), nn.Linear(24, 5))
        self.post_init()


@pytest.mark.slow
def test_an_lstm_head_on_minilm(minilm):
    model = Tagger.from_pretrained(minilm, drop=["pooler.*"])
    hidden = model.lstm.weight_hh_l0_reverse.detach()
    for gate in hidden.split(48):
        assert torch.allclose(gate @ gate.T, torch.eye(48), atol=1e-5)
    assert model.lstm.bias_ih_l0.detach().split(48)[1].eq(1).all() and not model.lstm.bias_hh_l0.any()
    inputs = model.lstm.weight_ih_l0.detach()
    assert abs(float(inputs.std()) / math.sqrt(2 / (384 + 48)) - 1) < 0.02
    assert abs(float(model.tags[0].weight.detach().std()) / math.sqrt(2 / 96) - 1) < 0.05
    assert model.init_report.bytes_proved > 80_000_000
