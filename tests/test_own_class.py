"""A class of one's own: its constructor's values, its `_init_weights`, and its recipe, in memory and on disk alike."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

import hf_init
from hf_init import HfInitError, InitMixin


def lora(linear: nn.Linear, rank: int = 2) -> nn.Module:
    linear.down, linear.up = nn.Linear(8, rank, bias=False), nn.Linear(rank, 8, bias=False)
    nn.init.zeros_(linear.up.weight)
    return linear


def codebook(self: Any) -> None:
    rows = torch.randn(6, 4)
    self.register_buffer("codes", rows)
    self.register_buffer("codes_mean", rows.clone())
    self.register_buffer("codes_used", torch.zeros(6, dtype=torch.int32))


def permuted(self: Any) -> None:
    places = torch.randperm(32)
    self.register_buffer("places", places)
    self.register_buffer("places_back", torch.argsort(places))


def seeded_features(self: Any) -> None:
    """A projection that is the same in every model: its author seeds it."""
    own = torch.Generator().manual_seed(5)
    self.register_buffer("first_feature", torch.randn(4, generator=own))
    self.register_buffer("second_feature", torch.randn(4, generator=own), persistent=False)
    self.register_buffer("first_again", torch.randn(4, generator=own.manual_seed(5)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        self.register_buffer("third_feature", torch.rand(4))
        self.register_buffer("fourth_feature", torch.rand(4))
        torch.manual_seed(7)
        self.register_buffer("third_again", torch.rand(4))


def crf(self: Any) -> None:
    self.transitions = nn.Parameter(torch.empty(5, 5).uniform_(-0.1, 0.1))
    self.transitions.data[:, 0] = float("-inf")
    self.transitions.data[4, :] = -10000.0


def teacher(self: Any) -> None:
    self.student = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    self.student.scale = nn.Parameter(torch.rand(3))
    self.teacher = copy.deepcopy(self.student).requires_grad_(False)


def drawn_by_others(self: Any) -> None:
    self.register_buffer("numpys", torch.from_numpy(np.random.permutation(16)))
    self.register_buffer("pythons", torch.tensor([random.random() for _ in range(3)]))


def shared_layer(self: Any) -> None:
    self.one = nn.Linear(8, 8)
    self.same = self.one


KINDS: dict[str, Callable[[Any], object]] = {
    "lstm": lambda m: setattr(m, "lstm", nn.LSTM(8, 4, bidirectional=True)),
    "gru": lambda m: setattr(m, "gru", nn.GRU(8, 4)),
    "conv": lambda m: setattr(m, "conv", nn.Conv1d(8, 8, 3, groups=2)),
    "transposed": lambda m: setattr(m, "transposed", nn.ConvTranspose2d(4, 2, 3)),
    "batch norm": lambda m: setattr(m, "batch_norm", nn.BatchNorm1d(8)),
    "plain norms": lambda m: setattr(m, "norms", nn.ModuleList([nn.GroupNorm(2, 8), nn.RMSNorm(8), nn.LayerNorm(8)])),
    "attention": lambda m: setattr(m, "mha", nn.MultiheadAttention(8, 2, kdim=4, add_bias_kv=True)),
    "a layer of torch's": lambda m: setattr(m, "layer", nn.TransformerEncoderLayer(8, 2, 16)),
    "layers cloned by torch": lambda m: setattr(
        m, "layers", nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), 2, enable_nested_tensor=False)
    ),
    "embedding bag": lambda m: setattr(m, "bag", nn.EmbeddingBag(6, 4)),
    "padded table": lambda m: setattr(m, "padded", nn.Embedding(6, 4, padding_idx=1)),
    "crf": crf,
    "codebook": codebook,
    "spectral": lambda m: setattr(m, "spectral", parametrizations.spectral_norm(nn.Linear(8, 4))),
    "weight norm": lambda m: setattr(m, "normed", parametrizations.weight_norm(nn.Linear(8, 4))),
    "weight norm by a hook": lambda m: setattr(m, "hooked", weight_norm(nn.Linear(8, 4))),
    "bilinear": lambda m: setattr(m, "bilinear", nn.Bilinear(4, 4, 2)),
    "positions": lambda m: setattr(m, "positions", nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 6, 4), std=0.02))),
    "lora": lambda m: setattr(m, "lora", lora(nn.Linear(8, 8))),
    "adapter": lambda m: setattr(m, "adapter", nn.Sequential(nn.Linear(8, 2), nn.GELU(), nn.Linear(2, 8))),
    "flags": lambda m: m.register_buffer("causal", torch.ones(4, 4, dtype=torch.bool).tril()),
    "infinite": lambda m: m.register_buffer("masked", torch.full((4, 4), float("-inf")).triu(1), persistent=False),
    "bytes": lambda m: m.register_buffer("bytes", torch.tensor([0, 255, 7], dtype=torch.uint8)),
    "complex": lambda m: m.register_buffer("turns", torch.polar(torch.ones(4), torch.arange(4.0))),
    "double": lambda m: m.register_buffer("mean", torch.tensor([1700000001.25, 1e-300], dtype=torch.float64)),
    "long": lambda m: m.register_buffer("ids", torch.tensor([16777217, -(2**62)]), persistent=False),
    "permutation": permuted,
    "seeded features": seeded_features,
    "teacher": teacher,
    "numpy's and python's": drawn_by_others,
    "a shared layer": shared_layer,
    "a list": lambda m: setattr(m, "levels", nn.ParameterList([nn.Parameter(torch.rand(2)) for _ in range(2)])),
    "a temperature": lambda m: setattr(m, "temperature", nn.Parameter(torch.tensor(0.07).log())),
    "not a number": lambda m: m.register_buffer("unknown", torch.tensor([float("nan"), 1.0])),
}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 40}
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
SPEECH = {
    "conv_dim": (8, 8), "conv_stride": (4, 4), "conv_kernel": (4, 4), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
FAMILIES: dict[str, tuple[type, dict[str, Any]]] = {
    "bert": (transformers.BertModel, SMALL),
    "llama": (transformers.LlamaModel, SMALL),
    "vit": (transformers.ViTModel, {**SMALL, "image_size": 8, "patch_size": 4}),
    "wav2vec2": (transformers.Wav2Vec2Model, {**SMALL, **SPEECH}),
    "t5": (transformers.T5EncoderModel, T5),
}
EACH_FAMILY = [pytest.param(name, marks=[pytest.mark.slow] if name != "bert" else []) for name in FAMILIES]


def own_class(trunk: Any, body: Callable[[Any], object], *mixins: type, **attributes: Any) -> Any:
    """The trunk under its usual name, and what the body adds."""
    name = trunk.base_model_prefix

    class Own(*mixins, trunk.__mro__[1]):
        def __init__(self, config):
            super().__init__(config)
            setattr(self, name, trunk(config))
            body(self)
            self.post_init()

    for key, value in attributes.items():
        setattr(Own, key, value)
    return Own


def all_kinds(model: Any) -> None:
    for body in KINDS.values():
        body(model)


@pytest.fixture
def trunk_base(tmp_path):
    def make(family: str) -> Any:
        trunk, values = FAMILIES[family]
        trunk(trunk.config_class(**values)).save_pretrained(tmp_path / family)
        return tmp_path / family

    return make


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """All of them, also those that no file holds."""
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a[~a.isnan()], b[~b.isnan()])


def relations(model: nn.Module) -> set[tuple[str, str]]:
    """What holds between the tensors of a model: the pairs of equal ones, and what was computed from another."""
    tensors = {name: tensor.detach() for name, tensor in tensors_of(model).items() if tensor.numel() > 1}
    names = sorted(tensors)
    pairs = {(a, b) for a in names for b in names if a < b and same(tensors[a], tensors[b])}
    spectral = model.eval().spectral.weight.detach()
    facts = {
        "inverse": torch.equal(tensors["places"][tensors["places_back"]], torch.arange(32)),
        "norm 1": abs(float(torch.linalg.matrix_norm(spectral, 2)) - 1) < 0.1,
        "norms": same(
            model.normed.parametrizations.weight.original0.detach(),
            model.normed.parametrizations.weight.original1.detach().norm(dim=1, keepdim=True),
        ),
        "hooked norms": same(model.hooked.weight_g.detach(), model.hooked.weight_v.detach().norm(dim=1, keepdim=True)),
    }
    return pairs | {("fact", name) for name, holds in facts.items() if holds}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_thirty_kinds_of_modules_are_what_the_plain_class_makes_of_them(family):
    """What a plain class has whatever the seed, and what holds between its tensors, holds with the mixin."""
    trunk, values = FAMILIES[family]
    config = trunk.config_class(**values)
    plain, mixed = own_class(trunk, all_kinds), own_class(trunk, all_kinds, InitMixin)
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        models.append(plain(config))
    first, second = map(tensors_of, models)
    mine, again = mixed(config), tensors_of(mixed(config))
    fixed = {name for name in first if same(first[name], second[name])}
    assert [name for name in fixed if not same(first[name], tensors_of(mine)[name])] == []
    assert relations(models[0]) & relations(models[1]) <= relations(mine)
    assert [name for name, tensor in tensors_of(mine).items() if not same(tensor, again[name])] == []


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_thirty_kinds_of_modules_are_the_same_in_memory_and_on_disk(family, trunk_base, tmp_path):
    base, cls = trunk_base(family), own_class(FAMILIES[family][0], all_kinds)
    model = hf_init.from_pretrained(cls, base)
    assert relations(own_class(FAMILIES[family][0], all_kinds, InitMixin)(model.config)) <= relations(model)
    assert hf_init.extend(base, tmp_path / "out", cls).ok
    assert hf_init.plan(base, cls) == model.init_plan == hf_init.Plan.load(tmp_path / "out")
    plain, files = tensors_of(cls.from_pretrained(tmp_path / "out")), load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in tensors_of(model).items():
        assert name not in files or same(tensor, files[name]), name
        assert name not in model.state_dict() or same(tensor, plain[name]), name
    hf_init.verify(tmp_path / "out", recompute=True, architecture=cls).raise_if_failed()


def test_values_of_a_class_in_a_dtype_of_few(trunk_base):
    """Eight bits are taken as they are; what the model's dtype can't hold is refused, and not made infinite."""
    base, lowest = trunk_base("bert"), torch.finfo(torch.float32).min
    eighths = torch.tensor([1.5, -448.0]).to(torch.float8_e4m3fn)
    held = hf_init.from_pretrained(own_class(transformers.BertModel, lambda m: m.register_buffer("b", eighths)), base)
    assert held.b.dtype is torch.float8_e4m3fn and held.b.tolist() == [1.5, -448.0]
    masked = own_class(transformers.BertModel, lambda m: m.register_buffer("mask", torch.full((2,), lowest)))
    with pytest.raises(HfInitError, match=r"gives -3\.40282e\+38, which bfloat16 can't hold; write in the class"):
        hf_init.from_pretrained(masked, base, dtype="bfloat16")
