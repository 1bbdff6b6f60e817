"""A plain module: filled, loaded and proved as a model of the library is."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from bases import DECODER, SEEN, TEXT
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file, save_file, save_model
from scheme_checks import assert_orthogonal, assert_same_distribution
from torch import nn

import hf_init
from hf_init import HfInitError, Plan
from hf_init.cli import main

TRUNKS = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**TEXT)),
    "llama trunk": lambda: transformers.LlamaModel(transformers.LlamaConfig(**DECODER)),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**SEEN)),
}
SIZE = 64


class Composite(nn.Module):
    """One layer of every kind of the tutorials' example, large enough for statistics."""

    def __init__(self, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = trunk if trunk is not None else nn.Identity()
        self.fc = nn.Linear(3 * SIZE, SIZE)
        self.conv = nn.Conv2d(SIZE, 2 * SIZE, 3)
        self.lstm = nn.LSTM(SIZE, SIZE // 2, num_layers=2, bidirectional=True, proj_size=SIZE // 4)
        self.norm = nn.LayerNorm(SIZE)


def seed_loop(module: nn.Module) -> None:
    """What the tutorials write, to be applied to every module."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.LSTM):
        for name, parameter in module.named_parameters():
            (nn.init.orthogonal_ if "weight" in name else nn.init.zeros_)(parameter)


def test_the_classic_recipe_is_the_seeds_loop_tensor_by_tensor():
    plain, ours = Composite(), Composite()
    plain.apply(seed_loop)
    hf_init.initialize(ours, {"norm.weight": torch.ones(SIZE)}, recipe="classic", seed=5)
    expected = plain.state_dict()
    for name, tensor in ours.state_dict().items():
        assert bool(tensor.any()) == bool(expected[name].any()), name
        assert_same_distribution(tensor, expected[name])
        if name.startswith("lstm.weight"):
            assert_orthogonal(tensor), assert_orthogonal(expected[name])
    spread = {name: float(tensor.std()) for name, tensor in ours.state_dict().items()}
    assert spread["fc.weight"] == pytest.approx(math.sqrt(2 / (3 * SIZE)), rel=0.05)
    assert spread["conv.weight"] == pytest.approx(math.sqrt(2 / (9 * 3 * SIZE)), rel=0.05)


@pytest.mark.parametrize("base", TRUNKS)
def test_a_trunk_in_a_plain_module_is_kept_and_the_rest_made(bases, tmp_path, base):
    trunk = type(TRUNKS[base]()).from_pretrained(bases(base)).state_dict()
    trunk = {name: tensor.contiguous() for name, tensor in trunk.items()}  # in the module's own names
    (tmp_path / "trunk").mkdir()
    save_file(trunk, tmp_path / "trunk/model.safetensors")
    module, again = (Composite(TRUNKS[base]()) for _ in range(2))
    result = hf_init.initialize(module, tmp_path / "trunk", prefix="encoder.", recipe="classic", seed=1)
    assert all(torch.equal(module.encoder.state_dict()[name], tensor) for name, tensor in trunk.items())
    assert result.plan.counts["kept"] == len(trunk) and result.report.bytes_proved > 0 and result
    other = hf_init.initialize(again, trunk, prefix="encoder.", recipe="classic", seed=1)
    assert all(torch.equal(t, module.state_dict()[name]) for name, t in again.state_dict().items())
    assert other.plan == result.plan != hf_init.initialize(again, trunk, prefix="encoder.", seed=2).plan

    folder = tmp_path / "out"
    result.save(folder), save_model(module, str(folder / "model.safetensors"))
    assert Plan.load(folder) == result.plan and hf_init.verify(folder).ok
    assert main(["verify", str(folder), "--base", str(tmp_path / "trunk"), "--prefix", "encoder."]) == 0
    with torch.no_grad():
        next(iter(module.encoder.parameters())).view(-1)[0] += 1
        module.fc.bias += 1
    save_model(module, str(folder / "model.safetensors"))
    assert not hf_init.verify(folder).ok and not hf_init.drift(None, folder, frozen="kept").ok
    moved = hf_init.drift(tmp_path / "trunk", folder, prefix="encoder.")
    assert {t.name for t in moved.tensors if t.status == "trained"} == {next(iter(dict(module.named_parameters())))}
    assert main(["diff", str(tmp_path / "trunk"), str(folder), "--prefix", "encoder.", "--json"]) == 1
    with pytest.raises(HfInitError, match=r"prefix='encoder\.': give the one folder"):
        hf_init.verify(folder, prefix="encoder.")


class Hubbed(nn.Module, PyTorchModelHubMixin):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width))


class Wider(Hubbed):
    def __init__(self) -> None:
        super().__init__(12)
        self.head = nn.Linear(12, 2)


def sources(folder: Any) -> dict[str, Any]:
    """One module's weights in every form in which people have them."""
    module = Hubbed()
    state = module.state_dict()
    module.save_pretrained(folder / "hub")
    save_file(state, folder / "one.safetensors")
    torch.save(state, folder / "plain.pt")
    lightning = {"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.5", "hyper_parameters": {"lr": 0.1}}
    torch.save(lightning, folder / "last.ckpt")
    files = {name: folder / name for name in ("hub", "one.safetensors", "plain.pt", "last.ckpt")}
    return {**files, "text": str(folder / "last.ckpt"), "a state dict": state}


@pytest.mark.parametrize("form", ["hub", "one.safetensors", "plain.pt", "last.ckpt", "text", "a state dict"])
def test_weights_in_any_form_are_a_base(tmp_path, form):
    given, module = sources(tmp_path), Wider()
    before = load_file(tmp_path / "one.safetensors")
    result = hf_init.initialize(module, given[form], keep={"body.*": "leading"}, rules=["head.weight=zeros"])
    for name, tensor in before.items():
        kept = module.state_dict()[name]
        assert torch.equal(kept[: len(tensor)] if tensor.dim() else kept, tensor), name
    assert result.plan.counts["resized"] == 6 and not module.head.weight.any()
    result.save(tmp_path / "out"), save_model(module, str(tmp_path / "out/model.safetensors"))
    assert hf_init.verify(tmp_path / "out").ok
    if form != "a state dict":
        assert hf_init.diff(given[form], tmp_path / "one.safetensors").ok


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.out.weight = self.table.weight
        self.extra = nn.Linear(4, 4).requires_grad_(False)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tied_module_stays_tied_on_any_device(device):
    with torch.device(device):
        module = Tied()
    hf_init.initialize(module, {"table.weight": torch.arange(36.0).view(9, 4)}, seed=2)
    assert module.out.weight is module.table.weight and torch.equal(module.out.weight.view(-1), torch.arange(36.0))
    assert not module.extra.weight.requires_grad and module.extra.weight.std() > 0 and module.table.weight.requires_grad


def test_in_another_dtype_the_module_holds_the_exact_cast():
    module, values = nn.Linear(3, 2).to(torch.bfloat16), torch.randn(2, 3)
    report = hf_init.initialize(module, {"weight": values}).report
    assert torch.equal(module.weight, values.to(torch.bfloat16)) and report.cast == ("weight",)


def test_the_architectures_own_value_is_that_of_the_layer_or_is_said_to_be_the_constructors():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.bn, self.query = nn.Linear(64, 64), nn.BatchNorm1d(4), nn.Parameter(torch.randn(5))

    one, two = Odd(), Odd()
    query, state = one.query.detach().clone(), torch.get_rng_state()
    results = [hf_init.initialize(m, {"bn.weight": torch.ones(4)}, recipe={"default": "model"}) for m in (one, two)]
    assert torch.equal(one.fc.weight, two.fc.weight) and torch.equal(one.query, query)
    assert torch.equal(state, torch.get_rng_state())
    assert float(one.fc.weight.detach().abs().max()) == pytest.approx(1 / 8, rel=0.05)
    assert any("no seed decides: query" in note for note in results[0].plan.notes)


def test_a_layer_that_draws_by_numpy_or_python_does_so_under_the_seed():
    class Drawn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.weight = nn.Linear(3, 2), nn.Parameter(torch.empty(3))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            with torch.no_grad():
                self.weight.copy_(torch.from_numpy(np.random.normal(size=3) + random.random()))

    modules = [Drawn(), Drawn()]
    for caller, module in enumerate(modules):
        np.random.seed(caller)
        random.seed(caller)
        states = np.random.get_state()[1].tolist(), random.getstate()
        result = hf_init.initialize(module, {"fc.weight": torch.ones(2, 3)}, recipe={"default": "model"})
        assert states == (np.random.get_state()[1].tolist(), random.getstate())
        assert not any("no seed decides" in note for note in result.plan.notes)
    assert torch.equal(modules[0].weight, modules[1].weight)


def test_what_the_constructor_gives_is_exact_in_its_own_dtype():
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.bias = nn.Linear(3, 2), nn.Parameter(torch.full((2,), float("-inf")))
            self.register_buffer("ids", torch.tensor([2**24 + 1, 2**40]))
            self.register_buffer("mean", torch.tensor([1700000001.25], dtype=torch.float64))
            self.register_buffer("mask", torch.ones(3, 3, dtype=torch.bool).tril())
            self.register_buffer("turns", torch.polar(torch.ones(2), torch.arange(2.0)))

    module = Given()
    before = copy.deepcopy(module.state_dict())
    hf_init.initialize(module, {"fc.weight": torch.ones(2, 3)})
    changed = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"fc.weight", "fc.bias"}


LINEAR = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
REFUSED: dict[str, tuple[Any, ...]] = {
    "left over": ({**LINEAR, "old.weight": torch.ones(2)}, {}, r"1 tensors of the base have.*old\.weight.*drop"),
    "another prefix": (
        {f"net.{name}": tensor for name, tensor in LINEAR.items()}, {}, r"net\.weight.*it has.*key_mapping=\{'\^net",
    ),
    "another shape": ({"weight": torch.ones(5, 3)}, {}, "changed shape without a declared correspondence"),
    "a drop of nothing": (LINEAR, {"drop": ["old.*"]}, r"'old\.\*' names no tensor of the base"),
    "a drop of what stays": (LINEAR, {"drop": ["w*"]}, r"'w\*' names weight, with a place in Linear.*keep"),
    "not allowed": ({"weight": torch.ones(2, 3)}, {"allow_new": ["weight"]}, r"allow_new doesn't name bias"),
    "a bad seed": (LINEAR, {"seed": -1}, "seed must be"),
    "a rule of nothing": (LINEAR, {"rules": ["fc.*=zeros"]}, "matches no tensor"),
    "no tensor": ({"weight": 3}, {}, "weight: expected plain tensors"),
    "nothing": ({}, {}, "expected tensors by their names"),
    "no file": ("nowhere.ckpt", {}, "nowhere.ckpt"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_is_refused_and_the_module_left_alone(name):
    base, options, message = REFUSED[name]
    module = nn.Linear(3, 2)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(HfInitError, match="(?s)" + message):
        hf_init.initialize(module, base, **options)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


def test_what_the_refusals_advise_works():
    base = {f"net.{name}": tensor for name, tensor in LINEAR.items()}
    renamed = hf_init.initialize(nn.Linear(3, 2), base, key_mapping={r"^net\.": ""})
    dropped = hf_init.initialize(nn.Linear(3, 2), {**LINEAR, "old.weight": torch.ones(2)}, drop=["old.*"])
    assert renamed.plan.counts["kept"] == dropped.plan.counts["kept"] == 2 and dropped.plan.counts["unused"] == 1


def test_lazy_and_valueless_modules_and_code_in_files_are_refused(tmp_path):
    with pytest.raises(HfInitError, match="of lazy modules"):
        hf_init.initialize(nn.LazyLinear(2), LINEAR)
    with torch.device("meta"):
        module = nn.Linear(3, 2)
        module.register_buffer("mask", torch.ones(2), persistent=False)
    with pytest.raises(HfInitError, match="mask: in no file, and the module is on meta"):
        hf_init.initialize(module, LINEAR)
    torch.save({"state_dict": LINEAR, "callbacks": Wider()}, tmp_path / "code.ckpt")
    with pytest.raises(HfInitError, match=r"code\.ckpt holds more than tensors.*to be run"):
        hf_init.initialize(nn.Linear(3, 2), tmp_path / "code.ckpt")


def test_complex_and_whole_numbers_are_no_packed_weights():
    module = nn.Linear(2, 2)
    module.turns = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    module.places = nn.Parameter(torch.arange(3), requires_grad=False)
    assert hf_init.initialize(module, {"weight": torch.eye(2), "bias": torch.zeros(2)}).plan.counts["new"] == 2
    assert module.turns.requires_grad and torch.equal(module.places, torch.arange(3))
