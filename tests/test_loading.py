"""Loads into memory: what they prove and how, the mixin's class however it is made, and the heads of CTC."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
import torch
import transformers
from bases import CHARACTERS, Classifier, character_tokenizer
from changes_of_tokens import OTHER_CHARACTERS
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertForSequenceClassification, BertModel, Wav2Vec2ForCTC

import hf_init
from hf_init import HfInitError, InitMixin, Recipe, Rule

# What is proved.


def test_another_dtype_in_memory_is_the_one_exact_cast(bases):
    plain = transformers.LlamaModel.from_pretrained(bases("llama in bfloat16"), dtype=torch.float32)
    cls = transformers.LlamaForTokenClassification
    model = hf_init.from_pretrained(cls, bases("llama in bfloat16"), num_labels=2, dtype=torch.float32)
    assert len(model.init_report.cast) == len(plain.state_dict())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[f"model.{name}"]), name


class Careful(BertForSequenceClassification):
    """Its norms are held in float32, whatever the model is."""

    _keep_in_fp32_modules_strict: ClassVar = {"LayerNorm"}


def test_what_a_class_holds_in_float32_is_cast_and_proved(bases):
    model = hf_init.from_pretrained(Careful, bases("sentiment"), dtype=torch.bfloat16)
    dtypes = {name: tensor.dtype for name, tensor in model.named_parameters()}
    assert {dtypes[name] for name in dtypes if "LayerNorm" in name} == {torch.float32}
    assert {dtypes[name] for name in dtypes if "LayerNorm" not in name} == {torch.bfloat16}
    before = load_file(bases("sentiment") / "model.safetensors")
    assert all(torch.equal(tensor, before[name].to(tensor.dtype)) for name, tensor in model.state_dict().items())


def test_what_the_loader_computes_with_or_fuses_is_asked_of_it(bases):
    options = {"num_labels": 2, "attn_implementation": "eager"}
    config = transformers.ViTConfig.from_pretrained(bases("vit"), fusion_config={"patch_embeddings": True}, **options)
    cls = transformers.ViTForImageClassification
    model = hf_init.from_pretrained(cls, bases("vit"), config=config, attn_implementation="eager", drop="pooler.*")
    plain = cls.from_pretrained(bases("vit"), config=config)
    assert model.config._attn_implementation == plain.config._attn_implementation == "eager"
    assert [type(each) for each in model.modules()] == [type(each) for each in plain.modules()]
    assert all(torch.equal(tensor, model.vit.state_dict()[name]) for name, tensor in plain.vit.state_dict().items())


def test_what_a_constructor_can_not_draw_is_said_and_torch_is_left_as_it_was(bases):
    class Wrong(BertModel):
        def __init__(self, config):
            super().__init__(config)
            self.extra = torch.nn.Parameter(torch.nn.init.kaiming_uniform_(torch.empty(2)))

    before = torch.nn.init.kaiming_uniform_
    with pytest.raises(HfInitError, match=r"Wrong can't be built.*fewer than 2 dimensions"):
        hf_init.from_pretrained(Wrong, bases("bert"))
    assert torch.nn.init.kaiming_uniform_ is before


def test_a_load_builds_the_model_once_and_once_to_be_recorded(bases):
    """The second has no memory: it tells what the buffers hold that are in no file."""
    built = []

    class Counted(BertForSequenceClassification):
        def __init__(self, config):
            super().__init__(config)
            built.append(self)

    model = hf_init.from_pretrained(Counted, bases("bert"), recipe="transformer")
    assert built[0] is model and [{p.device.type for p in each.parameters()} for each in built[1:]] == [{"meta"}]


def test_where_pages_cannot_be_asked_for_every_byte_is_compared(bases, monkeypatch):
    usual = hf_init.from_pretrained(BertModel, bases("bert")).init_report
    really = os.open

    def refuse(path, *rest, **options):
        if str(path).endswith("pagemap"):
            raise PermissionError(path)
        return really(path, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    report = hf_init.from_pretrained(BertModel, bases("bert")).init_report
    assert report.bytes_mapped == 0 and report.bytes_compared == usual.bytes_proved > 0
    assert usual.bytes_proved == usual.bytes_compared + usual.bytes_mapped and str(report) == str(usual)


class Overwritten(BertModel):
    """Writes to one pretrained element after it is loaded."""

    def eval(self):
        self.encoder.layer[1].output.dense.weight.data[3, 4] = 7.0
        return super().eval()


def test_one_element_written_in_place_is_found_and_put_back(bases):
    assert Overwritten.from_pretrained(bases("bert")).encoder.layer[1].output.dense.weight[3, 4] == 7.0
    model = hf_init.from_pretrained(Overwritten, bases("bert"))
    assert model.init_report.restored == ("encoder.layer.1.output.dense.weight",)
    before = load_file(bases("bert") / "model.safetensors")
    assert torch.equal(model.encoder.layer[1].output.dense.weight, before["encoder.layer.1.output.dense.weight"])


def test_what_is_kept_at_two_places_is_not_one_memory(bases):
    """Else training the head of an untied model would move its table, and saving would leave one of them out."""
    cls = transformers.LlamaForCausalLM
    model = hf_init.from_pretrained(cls, bases("llama"), tie_word_embeddings=False)
    before = model.model.embed_tokens.weight.clone()
    model.lm_head.weight.data += 1
    assert torch.equal(model.model.embed_tokens.weight, before)


@pytest.mark.parametrize(
    ("base", "cls", "options"),
    [
        ("bert", BertForSequenceClassification, {}),
        ("bert", transformers.BertForMaskedLM, {"drop": ["pooler.*"]}),
        ("bart", transformers.BartForConditionalGeneration, {}),
        ("llama", transformers.LlamaForSequenceClassification, {}),
    ],
)
def test_the_loading_info_names_what_the_files_lack_as_the_librarys_does(bases, base, cls, options):
    _, info = hf_init.from_pretrained(cls, bases(base), output_loading_info=True, **options)
    _, theirs = cls.from_pretrained(bases(base), output_loading_info=True)
    assert {key: set(names) for key, names in info.items()} == {key: set(names) for key, names in theirs.items()}


def test_the_loading_info_names_what_changed_its_shape(bases):
    _, info = hf_init.from_pretrained(
        BertForSequenceClassification, bases("sentiment"), labels=["neg", "more"], output_loading_info=True
    )
    assert info["mismatched_keys"] == {("classifier.weight", (3, 32), (2, 32)), ("classifier.bias", (3,), (2,))}


@pytest.mark.parametrize(
    ("device_map", "memory", "said"),
    [
        ("disk", None, "puts the model on disk, where"),
        ({"": "disk"}, None, "puts the model on disk, where"),
        ({"embeddings": "cpu", "encoder": "disk", "pooler": "cpu"}, None, "puts encoder on disk, where"),
        ("meta", None, "puts the model on meta, where"),
        ({"": torch.device("meta")}, None, "puts the model on meta, where"),
        ("auto", {"cpu": "1KB"}, "='auto': the model doesn't fit, and a part of it would go to disk, where"),
        ("sequential", {"cpu": "50KB"}, "='sequential': the model doesn't fit, and a part of it"),
        ("nonsense", None, "='nonsense': When passing device_map as a string"),
    ],
)
def test_what_would_lie_elsewhere_is_refused_in_words(bases, device_map, memory, said):
    with pytest.raises(HfInitError, match=f"device_map {said}|device_map{said}") as refused:
        hf_init.from_pretrained(BertModel, bases("bert"), device_map=device_map, max_memory=memory)
    assert ("extend folder to folder" in str(refused.value)) is (device_map != "nonsense")


def test_on_meta_nothing_is_loaded_and_a_plan_is_made(bases):
    with torch.device("meta"), pytest.raises(HfInitError, match="load outside of it"):
        hf_init.from_pretrained(BertModel, bases("bert"))
    with torch.device("meta"):
        assert hf_init.plan(bases("bert"), BertForSequenceClassification).counts["new"] == 2


def test_a_config_with_several_texts_in_it(tmp_path):
    text = transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    sound = transformers.EncodecConfig(
        num_filters=2, hidden_size=16, codebook_size=16, codebook_dim=16, upsampling_ratios=[2, 2], num_lstm_layers=1,
        target_bandwidths=[1.0], sampling_rate=100,
    )  # fmt: skip
    decoder = transformers.MusicgenDecoderConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, num_codebooks=2,
        pad_token_id=49, bos_token_id=49,
    )  # fmt: skip
    parts = {"text_encoder": text.to_dict(), "audio_encoder": sound.to_dict(), "decoder": decoder.to_dict()}
    cls = transformers.MusicgenForConditionalGeneration
    cls(transformers.MusicgenConfig(**parts)).save_pretrained(tmp_path / "base")
    assert hf_init.from_pretrained(cls, tmp_path / "base").init_plan.counts["new"] == 0
    assert hf_init.extend(tmp_path / "base", tmp_path / "out").ok


# A class with the mixin obeys its recipe, however it is made.


class Nested(InitMixin, BertForSequenceClassification):
    """A rule for modules that live in the inner model, whose own `_init_weights` the library would ask."""

    init_recipe: ClassVar = {"rules": [{"name": "*.query.weight", "scheme": "orthogonal"}], "seed": 3}


class Decoder(InitMixin, transformers.LlamaForCausalLM):
    init_recipe: ClassVar = {"rules": [{"role": "embedding", "scheme": "constant(val=0.5)"}]}


SIZE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL = transformers.BertConfig(**SIZE, num_labels=3)


def test_a_load_takes_another_recipe_and_gives_loading_info(bases):
    model, info = Classifier.from_pretrained(bases("bert"), recipe={"default": "ones"}, output_loading_info=True)
    assert type(model) is Classifier and bool((model.classifier.weight == 1).all())
    assert info["missing_keys"] == {"classifier.weight", "classifier.bias"}


def test_without_a_checkpoint_everything_is_new_and_nested_models_obey_the_root():
    torch.manual_seed(1)
    model = Nested(SMALL)
    for layer in model.bert.encoder.layer:
        weight = layer.attention.self.query.weight.detach()
        assert torch.allclose(weight @ weight.T, torch.eye(32), atol=1e-5)
    assert abs(float(model.bert.pooler.dense.weight.detach().std()) / 0.02 - 1) < 0.2
    torch.manual_seed(2)
    again = Nested(SMALL).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_from_a_config_and_into_a_larger_architecture_one_name_has_one_value(bases):
    built = Nested(transformers.BertConfig.from_pretrained(bases("bert"), num_labels=3))
    loaded = Nested.from_pretrained(bases("bert"), num_labels=3, recipe={"seed": 3})
    assert torch.equal(built.classifier.weight, loaded.classifier.weight)


def test_a_resized_matrix_obeys_the_rules_that_know_its_kind():
    model = Decoder(transformers.LlamaConfig(**SIZE))
    with torch.no_grad():
        model.model.embed_tokens.weight[:64] = 2.0
    model.resize_token_embeddings(80, mean_resizing=False, pad_to_multiple_of=1)
    rows = model.model.embed_tokens.weight.detach()
    assert bool((rows[:64] == 2.0).all()) and bool((rows[64:] == 0.5).all())


def test_auto_as_a_default_serves_construction_too():
    class Auto(InitMixin, BertForSequenceClassification):
        init_recipe = "auto"

    model = Auto(SMALL)
    assert bool((model.bert.encoder.layer[0].output.LayerNorm.weight == 1).all())
    assert model.bert.embeddings.word_embeddings.weight[0].abs().max() == 0  # the padding row


def test_recipes_that_cover_too_little_or_nothing_are_refused(bases):
    class Strict(InitMixin, BertForSequenceClassification):
        init_recipe = Recipe([Rule("zeros", name="classifier.*")], default="error")

    class Misspelt(InitMixin, BertForSequenceClassification):
        init_recipe = Recipe([Rule("zeros", name="clasifier.*")])

    with pytest.raises(HfInitError, match=r"no rule covers bert\.embeddings"):
        Strict(SMALL)
    with pytest.raises(HfInitError, match="matches no tensor"):
        Misspelt.from_pretrained(bases("bert"), num_labels=3)


def test_a_saved_model_loads_again_though_nothing_is_new(bases, tmp_path):
    model = Classifier.from_pretrained(bases("bert"), num_labels=3)
    model.save_pretrained(tmp_path)
    again = Classifier.from_pretrained(tmp_path)
    assert not again.init_plan.counts["new"] and torch.equal(again.classifier.weight, model.classifier.weight)


# Heads with a row for each token and no table of input rows.


def test_the_old_logits_of_ctc_are_at_their_tokens_new_places(bases, tmp_path):
    """The blank is a token like others: it moves with its row, and the config says where it is now."""
    other = character_tokenizer(tmp_path / "other", OTHER_CHARACTERS)
    hf_init.extend(bases("ctc"), tmp_path / "out", tokenizer=str(other))
    before, after = Wav2Vec2ForCTC.from_pretrained(bases("ctc")), Wav2Vec2ForCTC.from_pretrained(tmp_path / "out")
    sound = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        old, new = before(sound).logits, after(sound).logits
    kept = [token for token in OTHER_CHARACTERS if token in CHARACTERS]
    places, origins = [OTHER_CHARACTERS.index(token) for token in kept], [CHARACTERS.index(token) for token in kept]
    torch.testing.assert_close(new[..., places], old[..., origins], rtol=0, atol=2e-6)
    assert (after.config.vocab_size, after.config.pad_token_id) == (9, OTHER_CHARACTERS.index("<pad>"))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").decode([7, 7, 4, 7, 5, 0, 6]) == "aac d"


def test_a_new_character_starts_as_the_one_that_describes_it(bases):
    tokens = [{"token": "\u00e1", "description": "a"}]
    model = hf_init.from_pretrained(Wav2Vec2ForCTC, bases("ctc"), add_tokens=tokens)
    assert torch.equal(model.lm_head.weight[8], model.lm_head.weight[5])
    assert torch.equal(model.lm_head.bias[8], model.lm_head.bias[5])
    assert model.init_tokenizer("a\u00e1b").input_ids == [5, 8, 6]
