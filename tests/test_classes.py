"""A class of the user's own, its whole life: what its constructor and its loader do, or what it is refused for."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
import transformers
from headed_classes import FAMILIES, headed, sets
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification, BertModel, BertPreTrainedModel, PreTrainedModel

import hf_init
from hf_init import HfInitError, InitMixin, Recipe, Rule, finetune


def frozen_on_load(bases: tuple[type, ...]) -> Any:
    """A class whose own from_pretrained freezes the trunk, if it is told to."""

    class Frozen(*bases):
        @classmethod
        def from_pretrained(cls, *args, freeze=True, **options):
            model = super().from_pretrained(*args, **options)
            model.base_model.requires_grad_(not freeze)
            return model

    return Frozen


def is_frozen(model: Any) -> bool:
    return not any(parameter.requires_grad for parameter in model.base_model.parameters())


@pytest.mark.parametrize("base", FAMILIES)
def test_a_class_loads_through_the_from_pretrained_of_its_own(bases, base):
    before = FAMILIES[base][0].from_pretrained(bases(base)).state_dict()
    plain = frozen_on_load((headed(base),))
    around = frozen_on_load((headed(base, (InitMixin,)),))
    behind = type("Behind", (InitMixin, plain), {})
    for load in (around.from_pretrained, behind.from_pretrained, *(
        lambda *a, cls=cls, **o: hf_init.from_pretrained(cls, *a, **o) for cls in (plain, around, behind)
    )):  # fmt: skip
        model = load(bases(base), seed=3)
        assert is_frozen(model) and not is_frozen(load(bases(base), freeze=False)) and model.init_plan.seed == 3
        assert type(model) in (plain, around, behind)
        trunk = model.base_model.state_dict()
        assert all(torch.equal(trunk[name], tensor) for name, tensor in before.items()), base


def test_an_auto_class_gives_a_class_that_loads_in_its_own_way(bases, tmp_path):
    class OwnConfig(transformers.BertConfig):
        model_type = "own_bert_of_tests"

    cls = frozen_on_load((headed("bert"),))
    cls.config_class = OwnConfig
    transformers.AutoConfig.register(OwnConfig.model_type, OwnConfig)
    AutoModelForSequenceClassification.register(OwnConfig, cls)
    cls(OwnConfig.from_pretrained(bases("bert"))).save_pretrained(tmp_path)
    for asked in (AutoModelForSequenceClassification, None):
        model = hf_init.from_pretrained(asked, tmp_path)
        assert type(model) is cls and is_frozen(model)
    model, info = hf_init.from_pretrained(headed("bert"), bases("bert"), output_loading_info=True)
    assert not is_frozen(model) and not info["unexpected_keys"]


class Aside(BertModel):
    """Loads without the library."""

    @classmethod
    def from_pretrained(cls, path, **options):
        return cls(transformers.BertConfig.from_pretrained(path))


class Beside(BertModel):
    """Reads a file of its own, beside the weights."""

    @classmethod
    def from_pretrained(cls, path, **options):
        model = super().from_pretrained(path, **options)
        model.voices = (path / "voices.txt").read_text()
        return model


def reads(value: Any) -> Any:
    return headed("bert", body=lambda model: setattr(model, "k", value()))


def tied_by_hand(model: Any) -> None:
    model.decoder = nn.Linear(1, 1, bias=False)
    model.decoder.weight = model.base_model.get_input_embeddings().weight


class Lists(BertModel):
    """Keeps tensors where nobody looks."""

    def __init__(self, config):
        super().__init__(config)
        self.scales = [torch.ones(3)]
        self.post_init()


REFUSED = {
    "its own loader loads nothing": (Aside, r"Aside\.from_pretrained \(.*classes\.py:\d+\) doesn't call super\(\)"),
    "its own loader lacks a file": (Beside, r"Beside\.from_pretrained \(.*classes\.py:\d+\) can't .*voices\.txt"),
    "a model loaded in the constructor": (
        sets("inner", lambda: BertModel.from_pretrained("org/name")),
        r"test_classes\.py:\d+: .*BertModel\.from_pretrained.*`AutoModel\.from_config\(config\)`.*folder as the base",
    ),
    "item": (reads(lambda: torch.tensor([3, 4]).max().item()), r"max\(\)\.item\(\).*without values.*plain numbers"),
    "int": (reads(lambda: int(torch.ones(3).sum())), r"int\(torch\.ones\(3\)\.sum\(\).*without values"),
    "tolist": (reads(lambda: torch.linspace(0, 1, 3, device="meta").tolist()), r"tolist.*without values"),
    "numpy": (reads(lambda: torch.ones(3).numpy()), r"\.numpy\(\).*without values"),
    "a branch": (reads(lambda: 1 if torch.ones(3).sum() > 2 else 0), r"torch\.ones\(3\)\.sum\(\) > 2.*without values"),
    "a plain tensor": (sets("scale", lambda: torch.ones(3)), r"plain attributes.*: scale.*self\.register_buffer"),
    "a list of tensors": (Lists, r"scales \(.*:\d+: `self\.scales = \[torch\.ones\(3\)\]`\)\. .*register_buffer"),
    "a dict of tensors": (sets("by_name", lambda: {"a": torch.ones(3)}), r"by_name.*register_buffer"),
    "layers in a plain list": (sets("layers", lambda: [nn.Linear(2, 2)]), r"attributes.*: layers.*nn\.ModuleList"),
    "layers in a plain dict": (sets("by_task", lambda: {"a": nn.LSTM(2, 2)}), r"by_task.*nn\.ModuleDict"),
    "a tie by hand": (headed("bert", body=tied_by_hand), r"decoder\.weight is bert\..*`_tied_weights_keys = {'de"),
    "a lazy layer": (sets("lazy", lambda: nn.LazyLinear(2)), r"lazy\.weight, lazy\.bias are of lazy.*nn\.Linear"),
    "a lazy norm": (sets("lazy", lambda: nn.LazyBatchNorm1d()), r"lazy\.weight.*are of lazy modules"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_loaded_is_refused_with_the_line_to_change(bases, name, tmp_path):
    cls, message = REFUSED[name]
    with pytest.raises(HfInitError, match="(?s)" + message):
        hf_init.from_pretrained(cls, bases("bert"))
    if "from_pretrained" not in vars(cls):  # which isn't called folder to folder
        with pytest.raises(HfInitError, match="(?s)" + message):
            hf_init.extend(bases("bert"), tmp_path / "out", cls)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("base", FAMILIES)
def test_the_mixin_takes_what_a_constructor_may_do_without_it(bases, base):
    trunk, name = FAMILIES[base]

    class Made(InitMixin, trunk.__base__):
        init_recipe: ClassVar = Recipe([Rule("orthogonal", name="fc.weight")])

        def __init__(self, config):
            super().__init__(config)
            setattr(self, name, trunk.from_pretrained(bases(base)))
            self.fc = nn.Linear(config.hidden_size, int(torch.tensor([2, 3]).max()))
            self.scale = torch.ones(2)
            self.post_init()

    model = Made(trunk.config_class.from_pretrained(bases(base)))
    plain = trunk.from_pretrained(bases(base)).state_dict()
    assert all(torch.equal(tensor, plain[key]) for key, tensor in model.base_model.state_dict().items())
    weight = model.fc.weight.detach()
    assert torch.allclose(weight @ weight.T, torch.eye(3), atol=1e-5) and bool(model.scale.all())


@pytest.mark.parametrize("base", FAMILIES)
def test_what_the_constructor_freezes_stays_frozen(bases, base):
    def freeze(model: PreTrainedModel) -> None:
        model.base_model.requires_grad_(False)
        model.fc.bias.requires_grad_(False)
        model.turns = nn.Parameter(torch.ones(2, dtype=torch.complex64))  # the library's loader freezes such

    for dtype in (None, torch.bfloat16):
        cls = headed(base, body=freeze, _keep_in_fp32_modules_strict={"fc"})
        model = hf_init.from_pretrained(cls, bases(base), dtype=dtype)
        assert is_frozen(model) and model.fc.weight.requires_grad and not model.fc.bias.requires_grad
        assert model.turns.requires_grad


def test_a_dtype_that_files_have_not_is_refused_on_disk_and_exact_in_memory(bases, tmp_path):
    cls = headed("bert", body=lambda model: model.register_buffer("turns", torch.ones(2, dtype=torch.complex128)))
    assert hf_init.from_pretrained(cls, bases("bert")).turns.dtype == torch.complex128
    for verb in (hf_init.plan, lambda base, cls: hf_init.extend(base, tmp_path / "out", cls)):
        with pytest.raises(HfInitError, match=r"no dtype for turns \(complex128\).*persistent=False"):
            verb(bases("bert"), cls)


@pytest.mark.parametrize("parts", [{"fc"}, {"fc.weight"}, {"fc*weight"}])
def test_a_head_that_its_class_holds_in_float32_is_written_so(bases, tmp_path, parts):
    cls = headed("llama trunk", _keep_in_fp32_modules_strict=parts)
    hf_init.from_pretrained(transformers.LlamaModel, bases("llama trunk"), dtype="bfloat16").save_pretrained(
        tmp_path / "base"
    )
    hf_init.extend(tmp_path / "base", tmp_path / "out", cls)
    hf_init.from_pretrained(cls, tmp_path / "base").save_pretrained(tmp_path / "saved")
    written, saved = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "saved"))
    assert written["fc.weight"].dtype == torch.float32 and torch.equal(written["fc.weight"], saved["fc.weight"])
    assert {name: tensor.dtype for name, tensor in written.items()} == {n: t.dtype for n, t in saved.items()}


class Skipping(headed("bert", (InitMixin,))):
    init_recipe: ClassVar = Recipe([Rule("skip", name="fc.weight")])


def test_what_is_skipped_is_the_librarys_and_never_without_a_value(bases):
    recipe = Recipe([Rule("skip", name="fc.weight")])
    models = [
        hf_init.from_pretrained(headed("bert"), bases("bert"), recipe=recipe),
        Skipping.from_pretrained(bases("bert")),
        Skipping(transformers.BertConfig.from_pretrained(bases("bert"))),
    ]
    assert all(0 < float(model.fc.weight.detach().std()) < 0.1 for model in models)


def test_constructor_arguments_reach_every_way_of_making_a_model(bases, tmp_path):
    class Wide(BertPreTrainedModel):
        def __init__(self, config, width=2, *, depth=1):
            super().__init__(config)
            self.bert = BertModel(config)
            self.fc = nn.ModuleList(nn.Linear(config.hidden_size, width) for _ in range(depth))
            self.post_init()

    given = {"model_kwargs": {"width": 5, "depth": 3}}
    hf_init.extend(bases("bert"), tmp_path / "out", Wide, **given)
    disk = Wide.from_pretrained(tmp_path / "out", width=5, depth=3).state_dict()
    for model in (hf_init.from_pretrained(Wide, bases("bert"), **given),
                  hf_init.from_pretrained(Wide, bases("bert"), 5, depth=3)):  # fmt: skip
        assert all(torch.equal(tensor, disk[name]) for name, tensor in model.state_dict().items())


def test_bare_parameters_are_named_where_peft_can_not_train_them_alone(bases):
    cls = headed("bert", body=lambda model: setattr(model, "prompt", nn.Parameter(torch.zeros(4, 32))))
    with pytest.raises(HfInitError, match=r"the model itself is new in part \(prompt\)"):
        finetune.peft_arguments(hf_init.plan(bases("bert"), cls))


@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
@pytest.mark.parametrize("recipe", ["vision", "transformer", "classic"])
def test_known_recipes_cover_convolutions_of_every_kind(bases, layer, recipe):
    plan = hf_init.plan(bases("bert"), sets("up", lambda: layer(4, 8, 2)), recipe=recipe)
    names = ("up.weight",) if recipe == "classic" else ("up.weight", "up.bias")  # the tutorials leave these biases
    assert all(fill.why.startswith("rule") for name in names for fill in plan[name].new)
