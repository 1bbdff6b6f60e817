"""What plain transformers gets wrong when a checkpoint meets a larger architecture: first its behaviour, then ours.

Fresh memory is full of NaN here, so that what nobody writes to shows.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

import hf_init

TINY = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


class PlainConfig(PreTrainedConfig):
    model_type = "plain_for_gaps"

    def __init__(self, width: int = 8, **options):
        self.width = width
        super().__init__(**options)


class Plain(PreTrainedModel):
    """Somebody's class, in the way of version 4: its `_init_weights` writes to ``.data``."""

    config_class = PlainConfig
    base_model_prefix = "model"

    def __init__(self, config: PlainConfig):
        super().__init__(config)
        self.lin = nn.Linear(config.width, config.width, bias=False)
        self.build(config)
        self.post_init()

    def build(self, config: PlainConfig) -> None:
        """What a larger architecture adds."""

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(std=0.02)
            if module.bias is not None:
                module.bias.data.zero_()


class WithBias(Plain):
    def build(self, config):
        self.lin = nn.Linear(config.width, config.width)


class Gates(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), 0.1))
        self.shift = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.cut = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.5))
        self.real = nn.Parameter(nn.init.constant_(torch.Tensor(width), 0.3))  # whatever device is the default


class WithParameters(Plain):
    def build(self, config):
        self.gates = Gates(config.width)
        self.zeroed = nn.Linear(config.width, 2)
        nn.init.zeros_(self.zeroed.weight)


class Forgotten(Plain):
    def build(self, config):
        self.nothing = nn.Parameter(torch.empty(config.width))


class WithBuffers(Plain):
    def build(self, config):
        self.register_buffer("steps", torch.arange(config.width) * 2, persistent=False)
        self.register_buffer("table", torch.tensor([0.5, 0.25]).repeat(2), persistent=False)


class Inner(Plain):
    def build(self, config):
        self.adapter = nn.Linear(config.width, config.width)


class Outer(PreTrainedModel):
    config_class = PlainConfig
    base_model_prefix = "model"

    def __init__(self, config: PlainConfig):
        super().__init__(config)
        self.model = Inner(config)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.weight, 1.0)


class Table(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.rows = nn.Parameter(torch.ones(4, width))
        self.register_buffer("positions", torch.arange(4), persistent=False)


class Padded(Plain):
    """A module that the library initializes though it is loaded, for the sake of its buffer."""

    def build(self, config):
        self.table = Table(config.width)

    def _init_weights(self, module):
        if isinstance(module, Table):
            module.rows.data[0].zero_()


class Dropping(transformers.LlamaForSequenceClassification):
    _keys_to_ignore_on_load_unexpected = (r"^mtp\.",)


@pytest.fixture
def plain(tmp_path):
    """A checkpoint of the smallest of these classes: one matrix of halves."""
    model = Plain(PlainConfig())
    nn.init.constant_(model.lin.weight, 0.5)
    model.save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def both(cls, base, out, **options):
    """In memory and folder to folder, which must be the same; the model and the tensors in the files."""
    model = hf_init.from_pretrained(cls, base, **options)
    assert hf_init.extend(base, out, cls, **options).ok
    files = load_file(out / "model.safetensors")
    again = cls.from_pretrained(out)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
        assert not bool(tensor.isnan().any()), name
    return model, files


def rewritten(folder, change):
    """The tensors of a checkpoint, changed in place."""
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def test_a_half_loaded_module_keeps_its_pretrained_weight(plain, tmp_path):
    theirs, info = WithBias.from_pretrained(plain, output_loading_info=True)
    assert info["missing_keys"] == {"lin.bias"}
    assert not bool((theirs.lin.weight == 0.5).any()), "transformers keeps it now"

    model, files = both(WithBias, plain, tmp_path / "out")
    assert bool((model.lin.weight == 0.5).all()) and bool((files["lin.weight"] == 0.5).all())
    assert not bool(model.lin.bias.any())


def test_a_pretrained_row_that_init_weights_overwrites_is_put_back(tmp_path):
    """The model and the file may share memory: the proof must not look through the same mapping."""
    model = Padded(PlainConfig())
    nn.init.constant_(model.table.rows, 0.5)
    model.save_pretrained(tmp_path / "base")
    assert not bool(Padded.from_pretrained(tmp_path / "base").table.rows[0].any()), "transformers keeps it now"

    mine = hf_init.from_pretrained(Padded, tmp_path / "base")
    assert bool((mine.table.rows == 0.5).all())
    assert "table.rows" in mine.init_report.restored


def test_a_parameter_of_its_own_has_the_value_that_the_constructor_gives_it(plain, tmp_path):
    theirs = WithParameters.from_pretrained(plain)
    assert bool(theirs.gates.scale.isnan().all()), "transformers fills it now"

    model, _ = both(WithParameters, plain, tmp_path / "out")
    assert bool((model.gates.scale == 0.1).all())
    assert model.gates.shift.tolist() == [1.0, 2.0, 3.0]
    assert 0.1 < float(model.gates.cut.detach().std()) < 1.0
    assert bool((model.gates.real == 0.3).all())


def test_a_layer_zeroed_in_its_constructor_stays_zero_where_that_is_declared(plain, tmp_path):
    theirs = WithParameters.from_pretrained(plain)
    assert bool(theirs.zeroed.weight.all()), "transformers keeps the zeros now"

    model, files = both(WithParameters, plain, tmp_path / "out", recipe={"default": "declared"})
    assert not bool(model.zeroed.weight.any())
    assert bool(files["zeroed.bias"].any()), "torch's own constructor draws it"


def test_what_nobody_gives_a_value_is_an_error_that_names_it(plain, tmp_path):
    assert bool(Forgotten.from_pretrained(plain).nothing.isnan().all())
    for recipe in (None, {"default": "declared"}):
        with pytest.raises(hf_init.HfInitError, match="nothing: Forgotten gives it no value"):
            hf_init.extend(plain, tmp_path / "out", Forgotten, recipe=recipe)
    assert bool((hf_init.from_pretrained(Forgotten, plain, recipe={"default": "ones"}).nothing == 1).all())


def test_a_buffer_that_no_file_holds_is_that_of_a_freshly_built_model(plain):
    theirs = WithBuffers.from_pretrained(plain)
    assert bool(theirs.table.isnan().all()), "transformers fills it now"

    model = hf_init.from_pretrained(WithBuffers, plain)
    assert model.steps.tolist() == list(range(0, 16, 2))
    assert model.table.tolist() == [0.5, 0.25, 0.5, 0.25]
    assert set(model.init_report.restored) == {"steps", "table"}


def test_a_buffer_in_no_file_that_nobody_gives_a_value_is_to_be_made_in_the_constructor(plain):
    class Unmade(Plain):
        def build(self, config):
            self.register_buffer("room", torch.empty(3), persistent=False)

    with pytest.raises(hf_init.HfInitError, match=r"room: Unmade gives it no value.*Give it one there \(`torch.zeros`"):
        hf_init.from_pretrained(Unmade, plain)


def test_a_new_module_inside_a_nested_model_obeys_the_recipe_of_the_root(plain, tmp_path):
    theirs = Outer.from_pretrained(plain)
    assert not bool((theirs.model.adapter.weight == 1.0).any()), "transformers asks the root now"

    recipe = {"rules": [{"name": "model.adapter.weight", "scheme": "constant(val=0.25)"}]}
    model, _ = both(Outer, plain, tmp_path / "out", recipe=recipe)
    assert bool((model.model.adapter.weight == 0.25).all())
    assert bool((model.model.lin.weight == 0.5).all())


def test_a_float32_tensor_in_a_bfloat16_checkpoint_keeps_its_bytes(tmp_path):
    base = tmp_path / "base"
    transformers.LlamaModel(transformers.LlamaConfig(**TINY)).to(torch.bfloat16).save_pretrained(base)
    exact = torch.rand(32) / 3
    rewritten(base, lambda tensors: {**tensors, "norm.weight": exact})

    theirs = transformers.LlamaForSequenceClassification.from_pretrained(base)
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_file(tmp_path / "theirs" / "model.safetensors")["model.norm.weight"].dtype is torch.bfloat16

    hf_init.extend(base, tmp_path / "out", transformers.LlamaForSequenceClassification)
    kept = load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"]
    assert kept.dtype is torch.float32 and torch.equal(kept, exact)
    memory = hf_init.from_pretrained(transformers.LlamaForSequenceClassification, base)
    assert torch.equal(memory.model.norm.weight, exact.to(torch.bfloat16))


def test_legacy_names(tmp_path):
    base = tmp_path / "base"
    transformers.BertModel(transformers.BertConfig(**TINY)).save_pretrained(base)
    gamma = torch.rand(32)

    def old(tensors):
        names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        tensors["embeddings.LayerNorm.weight"] = gamma
        return {n.replace(k, v): t for n, t in tensors.items() for k, v in [_first(names, n)]}

    rewritten(base, old)
    theirs = transformers.BertForTokenClassification.from_pretrained(base)
    assert torch.equal(theirs.bert.embeddings.LayerNorm.weight, gamma)
    theirs.save_pretrained(tmp_path / "theirs")
    model, files = both(transformers.BertForTokenClassification, base, tmp_path / "out", drop=["pooler.*"])
    assert torch.equal(model.bert.embeddings.LayerNorm.weight, gamma)
    assert torch.equal(files["bert.embeddings.LayerNorm.gamma"], gamma)
    assert files.keys() == load_file(tmp_path / "theirs" / "model.safetensors").keys()


def test_layers_under_names_that_the_loader_does_not_know(tmp_path):
    base = tmp_path / "base"
    transformers.BertModel(transformers.BertConfig(**TINY)).save_pretrained(base)
    before = load_file(base / "model.safetensors")
    rewritten(base, lambda tensors: {n.replace("encoder.", "text_model.encoder.", 1): t for n, t in tensors.items()})
    name = "encoder.layer.0.attention.self.query.weight"
    theirs = transformers.BertForTokenClassification.from_pretrained(base)
    assert not torch.equal(theirs.bert.state_dict()[name], before[name]), "transformers finds them now"

    with pytest.raises(hf_init.HfInitError, match="32 tensors that have no place under their names") as refused:
        hf_init.extend(base, tmp_path / "out", transformers.BertForTokenClassification)
    mapping = {r"^text_model\.": "bert."}
    assert repr(mapping) in str(refused.value) and "drop=['pooler.*']" in str(refused.value)
    advised = {"key_mapping": mapping, "drop": ["pooler.*"]}
    found = hf_init.from_pretrained(transformers.BertForTokenClassification, base, **advised)
    assert torch.equal(found.bert.state_dict()[name], before[name])
    given_up = {"rules": [hf_init.Rule("model", name="*.layer.*")], "drop": ["text_model.*", "pooler.*"]}
    assert len(hf_init.plan(base, transformers.BertForTokenClassification, **given_up).unused) == 34


def _first(names, name):
    return next(((old, new) for old, new in names.items() if name.endswith(old)), ("", ""))


def test_what_the_class_ignores_is_carried_over_byte_for_byte(tmp_path):
    base = tmp_path / "base"
    transformers.LlamaModel(transformers.LlamaConfig(**TINY)).save_pretrained(base)
    more = torch.rand(5, 3)
    rewritten(base, lambda tensors: {**tensors, "mtp.proj.weight": more})
    theirs, info = Dropping.from_pretrained(base, output_loading_info=True)
    assert not info["unexpected_keys"] and "mtp.proj.weight" not in theirs.state_dict()

    hf_init.extend(base, tmp_path / "out", Dropping)
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["mtp.proj.weight"], more)


def test_an_embedding_under_a_name_that_only_the_source_ties(tmp_path):
    base = tmp_path / "base"
    config = transformers.BartConfig(
        vocab_size=96, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BartModel(config).save_pretrained(base)
    stored = load_file(base / "model.safetensors")
    assert "shared.weight" in stored and "decoder.embed_tokens.weight" not in stored
    theirs = transformers.BartForCausalLM.from_pretrained(base)
    name = "model.decoder.embed_tokens.weight"
    assert not torch.equal(theirs.state_dict()[name], stored["shared.weight"]), "transformers keeps it now"

    model, files = both(transformers.BartForCausalLM, base, tmp_path / "out", drop=["encoder.*"])
    assert torch.equal(files[name], stored["shared.weight"])
    assert torch.equal(model.lm_head.weight, stored["shared.weight"])
    assert "shared.weight" not in {unused.name for unused in hf_init.Plan.load(tmp_path / "out").unused}


def test_a_bias_that_init_weights_does_not_reach(tmp_path):
    base = tmp_path / "base"
    config = transformers.FNetConfig(vocab_size=96, hidden_size=32, num_hidden_layers=1, intermediate_size=32)
    transformers.FNetModel(config).save_pretrained(base)
    theirs = transformers.FNetForMaskedLM.from_pretrained(base)
    assert bool(theirs.cls.predictions.bias.isnan().all()), "transformers fills it now"

    model, _ = both(transformers.FNetForMaskedLM, base, tmp_path / "out")
    assert not bool(model.cls.predictions.bias.any())


def test_declared_in_a_model_that_is_made_from_its_config():
    class Mine(hf_init.InitMixin, WithParameters):
        init_recipe = hf_init.Recipe(default="declared")

    model = Mine(PlainConfig())
    assert not bool(model.zeroed.weight.any()) and bool((model.gates.scale == 0.1).all())
