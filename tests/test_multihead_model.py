"""Several heads on one trunk: each answers what transformers' own class for it answers, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from multihead_heads import THREE, asked, every_kind
from multihead_heads import bert as bert
from multihead_trunks import LABELS, PICTURES, SOUNDS, TEXTS, TRUNKS, answer, inputs, multi, same, text, twin, unmapped

# Equal to the plain classes


def over(names: Any, *few: str) -> Any:
    """All of them, but a few by default."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=() if name in few else pytest.mark.slow) for name in names]
    )


@over(TRUNKS, "bert", "llama", "t5", "vit", "wav2vec2")
def test_every_head_answers_what_its_plain_class_answers(name):
    trunk = TRUNKS[name]()
    model, given = multi(trunk, every_kind(trunk)), inputs(name)
    plain = [head for head, spec in model.specs.items() if spec.plain]
    assert plain or name in ("t5",), name
    with torch.no_grad():
        together = model(**given).logits
        for head in plain:
            mine, own = asked(model, head, given), twin(model, head)
            answers = model(**mine, heads=[head]).logits[head]
            assert same(answers, answer(own(**mine))), head
            assert head not in together or same(answers, together[head]), head


@over(["bert", "gpt2", "llama", "bart", "vit", "layer sums"], "bert", "vit")
def test_exported_folders_are_the_plain_classes_own(name, tmp_path):
    trunk = TRUNKS[name]()
    model, given = multi(trunk, every_kind(trunk)), inputs(name)
    for head in (head for head, spec in model.specs.items() if spec.plain):
        made: Any = model.export(head, tmp_path / head)
        loaded, info = type(made).from_pretrained(tmp_path / head, output_loading_info=True)
        assert not any(info.values()), (head, info)
        assert loaded.config.architectures == [type(made).__name__]
        mine = asked(model, head, given)
        with torch.no_grad():
            answers = model(**mine, heads=[head]).logits[head]
            assert same(answers, answer(made(**mine))) and same(answers, answer(unmapped(loaded)(**mine))), head


def test_an_exported_head_shares_memory_and_leaves_the_model_as_it_was(bert):
    before, names = (bert(**text()).logits["sequence_classification"], list(bert.state_dict()))
    plain = bert.export("sequence_classification")
    assert plain.classifier.weight is bert.heads.sequence_classification.classifier.weight
    assert all(each is bert.trunk.get_parameter(name) for name, each in plain.bert.named_parameters())
    plain(**text(), output_hidden_states=True)
    assert len(bert(**text(), output_hidden_states=True).hidden_states) == 3  # each has hooks of its own
    assert list(bert.state_dict()) == names
    assert same(before, bert(**text()).logits["sequence_classification"])
    assert bert.export("token_classification").bert.pooler is None and bert.trunk.pooler is not None


def test_twins_can_differ(bert):
    """The checks above must be able to fail: one weight moved, and the answers are others."""
    own = twin(bert, "sequence_classification")
    own.bert.encoder.layer[0].attention.self.query.weight.data[0, 0] += 1e-2
    assert not same(bert(**text()).logits["sequence_classification"], own(**text()).logits)
    assert not same(torch.tensor([0.0]), torch.tensor([-0.0])) and not same(torch.zeros(2), torch.zeros(2, 1))


def test_the_trunk_runs_once(bert):
    calls: list[int] = []
    handle = bert.trunk.register_forward_hook(lambda *_: calls.append(1))
    found = bert(**text())
    handle.remove()
    assert len(calls) == 1
    assert set(found.logits) == {name for name, spec in bert.specs.items() if spec.kind != "multiple-choice"}
    assert len(found.logits) > 5


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_of_an_encoder_decoder_no_more_runs_than_is_read(name):
    trunk = TEXTS[name]()
    model = multi(trunk, {"topic": THREE["topic"], "mean": {**THREE["topic"], "pooling": "mean"}})
    calls: list[int] = []
    model.trunk.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    alone = model(**inputs(name), heads=["mean"]).logits["mean"]
    assert not calls
    both = model(**inputs(name)).logits
    assert len(calls) == (model.specs["topic"].plain is not None)
    assert same(alone, both["mean"])


# Pooling


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("pooling", ["first", "last", "mean", "attention"])
@pytest.mark.parametrize("depth", [1, 2])
def test_pooling_is_that_of_each_row_without_its_padding(pooling, left, depth):
    spec = {"kind": "regression", "outputs": 2, "pooling": pooling, "depth": depth, "dropout": 0.5}
    model = multi(TEXTS["bert"](), {"score": spec})
    given = text(left=left)
    found = model(**given, position_ids=_positions(given["attention_mask"])).logits["score"]
    for row in range(3):
        keep = given["attention_mask"][row] == 1
        hidden = model.trunk(input_ids=given["input_ids"][row, keep][None]).last_hidden_state[0]
        assert torch.allclose(found[row], _by_hand(model.heads.score, pooling, hidden), atol=1e-5)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


def _by_hand(head: Any, pooling: str, hidden: torch.Tensor) -> torch.Tensor:
    if pooling == "attention":
        weights = (hidden @ head.attention.score.weight[0]).softmax(0)
        pooled = weights @ hidden
    else:
        pooled = {"first": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}[pooling]
    if head.dense is not None:
        pooled = torch.tanh(head.dense.weight @ pooled + head.dense.bias)
    return head.out_proj.weight @ pooled + head.out_proj.bias


def test_what_pooling_is_if_none_is_asked_for():
    """First of an encoder, last of a decoder, mean of pictures, sounds and meanings."""
    for name, expected in {"bert": "first", "llama": "last", "vit": "mean", "wav2vec2": "mean"}.items():
        kind = {"kind": "regression", "depth": 1}
        model = multi(TRUNKS[name](), {"score": kind, "meaning": "similarity"})
        assert (model.heads.score.pooling, model.heads.meaning.pooling) == (expected, "mean")


def test_meanings_have_length_1_and_may_be_projected():
    model = multi(TEXTS["bert"](), {"wide": "similarity", "small": {"kind": "similarity", "outputs": 5}})
    found = model(**text()).logits
    assert found["wide"].shape == (3, 32) and found["small"].shape == (3, 5)
    assert all(torch.allclose(each.norm(dim=-1), torch.ones(3)) for each in found.values())


def test_patches_are_those_of_the_picture():
    for name in ("vit", "dinov2"):
        model = multi(PICTURES[name](), {"parts": {"kind": "per-patch", "labels": LABELS}})
        found, given = model(**inputs(name)), inputs(name)
        head, hidden = model.heads.parts, model.trunk(**given).last_hidden_state
        assert torch.equal(found.logits["parts"], head.out_proj(hidden[:, 1:])) and found.logits["parts"].shape[1] == 16
    model = multi(PICTURES["resnet"](), {"parts": {"kind": "per-patch", "labels": LABELS}})
    assert model(**inputs("resnet")).logits["parts"].shape == (3, 16, 3)


def test_sounds_are_pooled_over_the_frames_that_are_no_padding():
    model = multi(SOUNDS["wav2vec2"](), {"meaning": "similarity"})
    given = inputs("wav2vec2")["input_values"]
    mask = torch.ones(3, 400, dtype=torch.long)
    given[1, 200:], mask[1, 200:] = 0, 0
    hidden = model.trunk(given, attention_mask=mask).last_hidden_state
    frames = int(model.trunk._get_feat_extract_output_lengths(torch.tensor(200)))
    expected = torch.nn.functional.normalize(hidden[1, :frames].mean(0), dim=-1)
    assert 0 < frames < hidden.shape[1]
    assert torch.allclose(model(input_values=given, attention_mask=mask).logits["meaning"][1], expected, atol=1e-6)


def test_a_whisper_encoder_is_read_without_its_decoder():
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4}
    sizes |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_source_positions": 20}
    trunk = transformers.WhisperConfig(**sizes, vocab_size=96, num_mel_bins=8, pad_token_id=0, max_target_positions=16)
    model = multi(trunk, {"meaning": "similarity", "sound": {"kind": "audio-classification", "labels": LABELS}})
    features, mask = torch.randn(2, 8, 40), torch.ones(2, 40, dtype=torch.long)
    mask[1, 20:] = 0
    found = model(input_features=features, attention_mask=mask).logits
    hidden = model.trunk.encoder(features).last_hidden_state
    assert found["sound"].shape == (2, 3)
    expected = torch.nn.functional.normalize(hidden[1, :10].mean(0), dim=-1)
    assert torch.allclose(found["meaning"][1], expected, atol=1e-6)
