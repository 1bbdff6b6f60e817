"""Several heads on one trunk: each answers what transformers' own class for it answers, bit for bit."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
import transformers
from multihead_trunks import (
    LABELS,
    PICTURES,
    SOUNDS,
    TEXTS,
    TRUNKS,
    answer,
    inputs,
    multi,
    same,
    text,
    twin,
    unmapped,
)

from hf_init import MultiHead

MultiHeadConfig: Any = MultiHead.config_class
LABELLED = ("sequence", "image", "audio", "token", "frame")
KINDS = (
    *(f"{each}-classification" for each in LABELLED), "multi-label", "regression", "per-patch", "question-answering",
    "multiple-choice", "language-model", "similarity", "reward", "value",
)  # fmt: skip
NAMED = (*(f"{each}-classification" for each in LABELLED), "multi-label", "per-patch")
THREE = {
    "topic": {"kind": "sequence-classification", "labels": LABELS},
    "entities": {"kind": "token-classification", "labels": LABELS},
    "meaning": "similarity",
}


def every_kind(trunk: Any) -> dict[str, Any]:
    """A head of every kind that a trunk can have."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        given = {"kind": kind, "labels": LABELS} if kind in NAMED else {"kind": kind}
        try:
            found |= MultiHeadConfig(trunk=trunk, heads={kind.replace("-", "_"): given}).heads
        except ValueError:
            continue
    return found


def asked(model: Any, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The input of a head: of a multiple choice, each row with another as its second choice."""
    if model.specs[name].kind != "multiple-choice":
        return given
    return {key: torch.stack([value, value.flip(0)], 1) for key, value in given.items()}


@pytest.fixture(scope="module")
def bert() -> Any:
    return multi(TEXTS["bert"](), every_kind(TEXTS["bert"]()))


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
    before, names = (
        bert(**text()).logits["sequence_classification"],
        list(bert.state_dict()),
    )
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


# Losses


def _losses(name: str, heads: dict[str, Any], labels: dict[str, torch.Tensor]) -> Any:
    model = multi(TRUNKS[name](), heads)
    return model, model(**inputs(name), labels=labels).losses


def test_losses_are_those_of_the_plain_classes():
    """Where every row has a label. BERT, a decoder, pictures and sounds; frames by number, and not one-hot."""
    tokens = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1, 2], [1] * 9, [2, 1, 0, -100, 1, 2, 2, -100, -100]])
    two = {"kind": "regression", "outputs": 2}
    cases: list[tuple[str, Any, torch.Tensor, dict[str, Any]]] = [
        ("bert", THREE["topic"], torch.tensor([0, 1, 2]), {}),
        ("bert", {"kind": "multi-label", "labels": LABELS}, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]]), {}),
        ("bert", "regression", torch.tensor([0.5, -1.0, 2.0]), {}),
        ("bert", two, torch.tensor([[0.5, 1.0], [-1.0, 2], [2.0, 0]]), {}),
        ("bert", THREE["entities"], tokens, {}),
        ("bert", "language-model", text()["input_ids"], {}),
        ("bert", "question-answering", torch.tensor([[0, 2], [1, 20], [3, 3]]), {}),
        ("llama", "language-model", text()["input_ids"], {}),
        ("llama", THREE["topic"], torch.tensor([0, 1, 2]), {}),
        ("vit", {"kind": "image-classification", "labels": LABELS}, torch.tensor([0, 1, 2]), {}),
        ("wav2vec2", {"kind": "audio-classification", "labels": LABELS}, torch.tensor([0, 1, 2]), {}),
    ]
    for name, given, labels, _ in cases:
        model, losses = _losses(name, {"head": given}, {"head": labels})
        span = model.specs["head"].kind == "question-answering"
        told = (
            dict(zip(("start_positions", "end_positions"), labels.unbind(1), strict=True))
            if span
            else {"labels": labels}
        )
        expected = twin(model, "head")(**inputs(name), **told).loss
        assert torch.allclose(losses["head"], expected, rtol=1e-6, atol=1e-6), (name, given)
    model, losses = _losses(
        "wav2vec2",
        {"head": {"kind": "frame-classification", "labels": LABELS}},
        {"head": torch.ones(3, 39, dtype=torch.long)},
    )
    hot = torch.nn.functional.one_hot(torch.ones(3, 39, dtype=torch.long), 3)
    assert torch.allclose(losses["head"], twin(model, "head")(**inputs("wav2vec2"), labels=hot).loss)


def test_multiple_choice_loss_is_that_of_the_plain_class(bert):
    given, labels = asked(bert, "multiple_choice", text()), torch.tensor([0, 1, 1])
    found = bert(**given, labels={"multiple_choice": labels})
    assert set(found.logits) == {"multiple_choice"} and found.logits["multiple_choice"].shape == (3, 2)
    assert torch.allclose(found.loss, twin(bert, "multiple_choice")(**given, labels=labels).loss)


def labels_of_every_head(model: Any, none: bool) -> dict[str, torch.Tensor]:
    """Of the first two rows, or of none; in the shapes of a batch of 3 rows of 9 tokens."""
    made: dict[str, torch.Tensor] = {}
    for name, spec in model.specs.items():
        shapes = {"similarity": (3,), "question-answering": (3, 2), "multi-label": (3, 3)}
        of_tokens = spec.kind in ("token-classification", "language-model", "value")
        shape = shapes.get(spec.kind, (3, 9) if of_tokens else (3,))
        numbers = spec.loss in ("binary_cross_entropy", "mse", "l1", "huber", "preference")
        made[name] = torch.arange(torch.Size(shape).numel()).view(shape) % 2
        made[name] = made[name].float() if numbers else made[name]
        made[name][0 if none else 2 :] = float("nan") if numbers else -100
    return made


def test_rows_without_a_label_count_for_nothing(bert):
    model = copy.deepcopy(bert)
    labels = labels_of_every_head(model, none=False)
    labels.pop("multiple_choice")
    short = {name: each[:2] for name, each in labels.items()}
    given = {key: value[:2] for key, value in text().items()}
    whole, part = model(**text(), labels=labels), model(**given, labels=short)
    for name in labels:
        assert torch.allclose(whole.losses[name], part.losses[name], atol=1e-6), name
        assert part.losses[name] > 0 or name == "similarity", name  # of two rows alike, neither has any other


def test_a_batch_of_no_labels_at_all_costs_nothing_and_moves_nothing(bert):
    model = copy.deepcopy(bert).train()
    labels = labels_of_every_head(model, none=True)
    labels.pop("multiple_choice")
    found = model(**text(), labels=labels)
    found.loss.backward()
    assert {name: loss.item() for name, loss in found.losses.items()} == dict.fromkeys(labels, 0.0)
    assert all(bool((each.grad == 0).all()) for each in model.parameters() if each.grad is not None)


def test_the_loss_is_the_weighted_sum():
    heads = {"topic": {**THREE["topic"], "weight": 0.25}, "entities": {**THREE["entities"], "weight": 3.0}}
    model = multi(TEXTS["bert"](), heads)
    labels = {"topic": torch.tensor([0, 1, 2]), "entities": torch.ones(3, 9, dtype=torch.long)}
    found = model(**text(), labels=labels)
    assert torch.allclose(found.loss, 0.25 * found.losses["topic"] + 3 * found.losses["entities"])
    only = model(**text(), labels={"topic": labels["topic"]})
    assert torch.allclose(only.loss, 0.25 * found.losses["topic"]) and set(only.losses) == {"topic"}


def answered(head: Any, rows: int) -> Any:
    """Of a head on BERT: what it answers on some rows, and a function from their labels to its loss."""
    model, given = multi(TEXTS["bert"](), {"head": head}), text(rows)
    return model(**given).logits["head"], lambda labels: model(**given, labels={"head": labels}).losses["head"]


def test_a_reward_prefers_the_higher_of_each_pair():
    logits, loss = answered("reward", 6)
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0, float("nan"), 1.0])
    better, worse = logits[[1, 2], 0], logits[[0, 3], 0]
    expected = -torch.log(torch.sigmoid(better - worse)).mean()
    assert torch.allclose(loss(labels), expected) and torch.allclose(loss(labels[:, None]), expected)
    with pytest.raises(ValueError, match="pairs of rows, and the batch has 3"):
        answered("reward", 3)[1](labels[:3])


def test_a_meaning_is_drawn_to_those_of_its_group():
    """By hand: the mean over rows that have company of -log of the share of those alike."""
    vectors, loss = answered("similarity", 5)
    labels = torch.tensor([0, 0, 1, -100, 0])
    scores = (vectors @ vectors.T / 0.05).exp()
    known, losses = [0, 1, 2, 4], []
    for row in (0, 1, 4):
        total = sum(scores[row, other] for other in known if other != row)
        alike = [other for other in known if other != row and labels[other] == labels[row]]
        losses.append(-torch.stack([(scores[row, other] / total).log() for other in alike]).mean())
    assert torch.allclose(loss(labels), torch.stack(losses).mean(), atol=1e-5)


# Which heads run


def test_in_training_only_heads_with_labels_run(bert):
    model = copy.deepcopy(bert).train()
    found = model(**text(), labels={"sequence_classification": torch.tensor([0, 1, 2])})
    assert set(found.logits) == {"sequence_classification"}
    assert set(model(**text(), heads=["value", "reward"], return_loss=False).logits) == {"value", "reward"}
    found.loss.backward()
    assert all(each.grad is None for each in model.heads.token_classification.parameters())


def test_what_a_caller_gets_wrong_is_said(bert):
    model = copy.deepcopy(bert).train()
    with pytest.raises(ValueError, match="no head 'tone'; there are: sequence_classification, "):
        model(**text(), labels={"tone": torch.zeros(3)})
    with pytest.raises(ValueError, match="no head 'tone'"):
        model(**text(), heads=["tone"])
    with pytest.raises(ValueError, match="a training batch without any label; give labels="):
        model(**text())
    with pytest.raises(ValueError, match=r"labels of type Tensor; give \{HEAD"):
        model(**text(), labels=torch.zeros(3))
    with pytest.raises(ValueError, match=r"'multiple_choice' reads \(rows, choices, tokens\).*input_ids \(3, 9\)"):
        model(**text(), labels={"multiple_choice": torch.zeros(3)})
    with pytest.raises(ValueError, match="'similarity' can't be exported: transformers has no class for a similarity"):
        model.export("similarity")
    with pytest.raises(ValueError, match="no head 'tone'"):
        model.export("tone")
    with pytest.raises(ValueError, match="no head 'tone'"):
        model.freeze("trunk", "tone")
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="generate: name one head that generates"):
        model.generate(text()["input_ids"])
    own = multi(TEXTS["bert"](), {"score": {"kind": "regression", "pooling": "mean"}})
    with pytest.raises(ValueError, match="a pooling, a depth or a dropout of its own is in no class of transformers"):
        own.export("score")
    with pytest.raises(ValueError, match=r"attention_mask \(3, 1, 9, 9\) for states \(3, 9, 32\)"):
        own(text()["input_ids"], attention_mask=torch.ones(3, 1, 9, 9))


# The config


@pytest.mark.parametrize(
    "name", ["two words", "1st", "", "class", "keys", "trunk", "training", "input_ids", "labels", 3]
)
def test_a_name_must_be_one_that_a_module_can_have(name):
    with pytest.raises(ValueError, match="head name"):
        MultiHeadConfig(trunk=TEXTS["bert"](), heads={name: "similarity"})


def test_every_parameter_of_a_forward_is_reserved():
    for name in inspect.signature(MultiHead.forward).parameters:
        with pytest.raises(ValueError, match="head name"):
            MultiHeadConfig(trunk=TEXTS["bert"](), heads={name: "similarity"})


@pytest.mark.parametrize(
    "given, said",
    [
        ("sentiment", "'sentiment' is no kind of head; there are: sequence-classification"),
        ({"kind": "similarity", "width": 3}, "width: no property of a head; there are: kind, labels"),
        ({"kind": "sequence-classification"}, "a sequence-classification head needs labels"),
        ({"kind": "sequence-classification", "labels": ["a", "a"]}, "each needs a name of its own"),
        ({"kind": "sequence-classification", "labels": []}, "each needs a name of its own"),
        ({"kind": "sequence-classification", "labels": "a,b"}, "give a list of names"),
        ({"kind": "regression", "labels": ["a"]}, "a regression head has no labels"),
        ({"kind": "reward", "outputs": 2}, "outputs 2: a reward head has 1"),
        ({"kind": "regression", "outputs": 0}, "outputs 0"),
        (
            {"kind": "regression", "labels": ["a"], "pooling": "max", "dropout": 2},
            "no labels; pooling 'max'.*; dropout 2",
        ),
        ({"kind": "regression", "pooling": "max"}, "pooling 'max'; there are: first, mean, last, attention"),
        ({"kind": "regression", "depth": 3}, "depth 3; there are: 1, 2"),
        ({"kind": "regression", "loss": "cross_entropy"}, "loss 'cross_entropy'; there are: mse, l1, huber"),
        ({"kind": "regression", "activation": "gelu"}, "depth must be 2"),
        ({"kind": "value", "pooling": "mean"}, "a value head answers for every token"),
        ({"kind": "language-model", "depth": 2}, "a language-model head is transformers' own"),
        ({"kind": "multiple-choice", "plain": None}, "a multiple-choice head is transformers' own"),
        ({"kind": "regression", "dropout": 1.0}, "dropout 1.0"),
        ({"kind": "regression", "weight": -1}, "weight -1"),
        ({"kind": "image-classification", "labels": ["a"]}, "BertConfig reads text, and a image-classification head"),
        ({"kind": "frame-classification", "labels": ["a"]}, "reads text"),
    ],
)
def test_a_head_that_cannot_be_is_refused(given, said):
    with pytest.raises(ValueError, match=f"head 'x': .*{said}"):
        MultiHeadConfig(trunk=TEXTS["bert"](), heads={"x": given})


def test_a_trunk_that_heads_cannot_read_is_refused():
    clip = transformers.CLIPConfig()
    with pytest.raises(ValueError, match="CLIPModel gives no last_hidden_state, which heads read"):
        MultiHeadConfig(trunk=clip, heads={"x": "similarity"})
    with pytest.raises(ValueError, match="PerceiverModel reads inputs"):
        MultiHeadConfig(trunk=transformers.PerceiverConfig(), heads={"x": "similarity"})
    with pytest.raises(ValueError, match="the language model of an encoder-decoder"):
        MultiHeadConfig(trunk=TEXTS["t5"](), heads={"x": "language-model"})
    with pytest.raises(ValueError, match=r"needs a backbone's config \(trunk\) and at least one head"):
        MultiHeadConfig(trunk=TEXTS["bert"](), heads={})
    with pytest.raises(ValueError, match="head 'x': plain 'pipeline': transformers has no such model class"):
        MultiHead(MultiHeadConfig(trunk=TEXTS["bert"](), heads={"x": {"kind": "reward", "plain": "pipeline"}}))


def test_a_class_that_makes_its_own_input_of_the_rows_is_no_head():
    """Longformer's question answering attends from the question's tokens: no trunk that runs once can serve it."""
    sizes: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    trunk = transformers.LongformerConfig(attention_window=4, **sizes)
    heads = {"span": "question-answering", "topic": THREE["topic"], "tags": THREE["entities"]}
    model: Any = MultiHead(MultiHeadConfig(trunk=trunk, heads=heads))
    for name in ("span", "topic"):
        with pytest.raises(ValueError, match="compute"):
            model.export(name)
    assert type(model.export("tags")).__name__ == "LongformerForTokenClassification"


def test_a_config_is_the_same_after_json(bert, tmp_path):
    config = bert.config
    config.save_pretrained(tmp_path)
    again = MultiHeadConfig.from_pretrained(tmp_path)
    assert again.heads == config.heads and again.trunk.to_dict() == config.trunk.to_dict()
    assert again == MultiHeadConfig.from_pretrained(tmp_path)
    assert json.loads(config.to_json_string(use_diff=False)) == json.loads(again.to_json_string(use_diff=False))
    other = MultiHeadConfig(trunk=TEXTS["bert"](), heads=THREE)
    assert other != again and copy.deepcopy(other) == other


def test_copies_answer_alike_and_share_nothing():
    bert = multi(TEXTS["bert"](), every_kind(TEXTS["bert"]()))
    for other in (copy.deepcopy(bert), pickle.loads(pickle.dumps(bert))):
        assert same(other(**text()).logits["reward"], bert(**text()).logits["reward"])
        ready = other.heads.sequence_classification.bert
        assert ready.backbone is other.trunk and ready.backbone is not bert.trunk
    alone = copy.deepcopy(bert.heads.sequence_classification)
    assert alone.bert.backbone is bert.trunk


def test_the_random_state_of_the_caller_is_left_by_a_config():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    MultiHeadConfig(trunk=TEXTS["bert"](), heads=every_kind(TEXTS["bert"]()))
    assert torch.equal(before, torch.get_rng_state())


# On disk


def test_a_dtype_is_that_of_trunk_and_heads(bert, tmp_path):
    bert.save_pretrained(tmp_path)
    half: Any = MultiHead.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half(**text(), labels={"reward": torch.tensor([1.0, 0, float("nan")])}).loss.isfinite()
    trunk = TEXTS["llama"]()
    trunk.dtype = "bfloat16"  # as a checkpoint's config says
    assert {each.dtype for each in multi(trunk, {"r": "reward"}).parameters()} == {torch.float32}


def test_attention_is_computed_as_asked(bert, tmp_path):
    bert.save_pretrained(tmp_path)
    eager: Any = MultiHead.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.trunk.config._attn_implementation == "eager"
    found = eager(**text(), output_attentions=True, output_hidden_states=True)
    assert len(found.attentions) == 2 and len(found.hidden_states) == 3


def test_left_out_modules_are_not_there_and_must_not_be_read(tmp_path):
    heads = {"entities": THREE["entities"], "meaning": "similarity"}
    model = multi(TEXTS["bert"](), heads, left_out=["pooler"])
    assert not any("pooler" in name for name in model.state_dict())
    model.save_pretrained(tmp_path)
    again = unmapped(MultiHead.from_pretrained(tmp_path))
    assert same(model(**text()).logits["meaning"], again(**text()).logits["meaning"])
    with pytest.raises(ValueError, match=r"BertForSequenceClassification reads trunk\.pooler, which left_out names"):
        MultiHead(MultiHeadConfig(trunk=TEXTS["bert"](), heads=THREE, left_out=["pooler"]))


FOREIGN = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_init":
            raise ImportError("hf_init isn't here")

sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoConfig, AutoModel

torch.set_num_threads(1)
try:
    import hf_init
    raise SystemExit("hf_init could be imported")
except ImportError:
    pass
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
assert type(config).__name__ == "MultiHeadConfig" and type(model).__module__.startswith("transformers_modules")
assert type(config).__module__.endswith(".configuration_multi_head"), type(config).__module__
for parameter in model.parameters():
    parameter.data = parameter.data.clone()
given, expected = torch.load(sys.argv[2])
found = model(**given).logits
assert found.keys() == expected.keys()
for name in expected:  # to the last bits: they depend on how the memory lies
    torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
model.save_pretrained(folder + "/again")
again = AutoModel.from_pretrained(folder + "/again", trust_remote_code=True).eval()
plain = again.export("topic")
print(type(plain).__name__, sorted(again.heads), "hf_init" in sys.modules)
"""


@pytest.mark.slow
def test_it_loads_where_hf_init_is_not(tmp_path):
    """Another process, that refuses to import hf_init, and is offline."""
    model = multi(TEXTS["bert"](), THREE)
    model.save_pretrained(tmp_path / "folder")
    torch.save((text(), dict(model(**text()).logits)), tmp_path / "expected.pt")
    (tmp_path / "foreign.py").write_text(FOREIGN)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
    }
    command = [sys.executable, "foreign.py", "folder", "expected.pt"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "BertForSequenceClassification ['entities', 'meaning', 'topic'] False"


def test_a_vocabulary_can_be_resized_under_one_language_model():
    for name in ("bert", "llama"):
        model = multi(TEXTS[name](), {"lm": "language-model", "topic": THREE["topic"]})
        model.resize_token_embeddings(100)
        assert model(**text()).logits["lm"].shape == (3, 9, 100)
        assert model.export("lm").config.vocab_size == 100
    model = multi(TEXTS["llama"](), {"lm": "language-model", "other": "language-model"})
    with pytest.raises(ValueError, match="the vocabulary of 2 language models"):
        model.resize_token_embeddings(100)


# Frozen


def test_what_is_frozen_has_no_gradient_and_what_is_shared_is_the_trunks(bert):
    model = copy.deepcopy(bert)
    assert model.freeze("language_model", "reward") is model
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    assert frozen and all(name.startswith(("heads.language_model.", "heads.reward.")) for name in frozen)
    assert model.trunk.embeddings.word_embeddings.weight.requires_grad
    model.freeze("trunk")
    assert not any(each.requires_grad for each in model.trunk.parameters())


def test_the_statistics_of_a_frozen_trunk_stay():
    model = multi(PICTURES["resnet"](), {"x": {"kind": "image-classification", "labels": LABELS}}).train()
    given, labels = inputs("resnet"), {"x": torch.tensor([0, 1, 2])}
    before = {name: each.clone() for name, each in model.trunk.state_dict().items()}
    free = copy.deepcopy(model)
    free(**given, labels=labels)
    assert any(not torch.equal(each, before[name]) for name, each in free.trunk.state_dict().items())
    model.freeze("trunk").train()
    model(**given, labels=labels).loss.backward()
    assert all(torch.equal(each, before[name]) for name, each in model.trunk.state_dict().items())
    assert model.training and model.trunk.training and model.heads.x.training


# Rows to batches


class Tokenizer:
    """The part of a tokenizer that a collator asks for."""

    def __init__(self, side: str = "right") -> None:
        self.padding_side = side

    def pad(self, rows: Any, return_tensors: str) -> dict[str, torch.Tensor]:
        long = max(len(row["input_ids"]) for row in rows)
        found = {}
        for key in rows[0]:
            spare = [[0] * (long - len(row[key])) for row in rows]
            left = self.padding_side == "left"
            found[key] = torch.tensor(
                [pad + list(row[key]) if left else list(row[key]) + pad for row, pad in zip(rows, spare, strict=True)]
            )
        return found


def _row(*ids: int, **labels: Any) -> dict[str, Any]:
    return {"input_ids": list(ids), "attention_mask": [1] * len(ids), "labels": labels}


@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_of_several_tasks_make_a_batch(bert, side):
    rows = [
        _row(5, 6, 7, 8, sequence_classification=1, question_answering=[1, 2]),
        _row(9, 10, token_classification=[2, 1], regression=0.5),
        _row(11, 12, 13, multi_label=[1, 0, 1], question_answering=[0, 1], token_classification=None),
    ]
    batch = bert.collator(Tokenizer(side))(rows)
    found, left, nan = batch["labels"], side == "left", float("nan")
    assert batch["input_ids"].shape == (3, 4)
    assert found["sequence_classification"].tolist() == [1, -100, -100]
    assert found["question_answering"].tolist() == [[1, 2], [-100, -100], [1, 2] if left else [0, 1]]
    middle = [-100, -100, 2, 1] if left else [2, 1, -100, -100]
    assert found["token_classification"].tolist() == [[-100] * 4, middle, [-100] * 4]
    assert torch.equal(found["regression"].nan_to_num(7), torch.tensor([7, 0.5, 7]))
    assert torch.equal(
        found["multi_label"].nan_to_num(7), torch.tensor([[nan] * 3, [nan] * 3, [1.0, 0, 1]]).nan_to_num(7)
    )
    mixed = copy.deepcopy(bert).train()(**batch)
    assert set(mixed.losses) == set(found) and mixed.loss.isfinite()


def test_a_mixed_batch_costs_what_its_rows_cost(bert):
    """Each head's loss is that of the rows that have its label, alone and without padding."""
    rows = [_row(5, 6, 7, 8, sequence_classification=1), _row(9, 10, 4, token_classification=[2, 1, 0])]
    collate = bert.collator(Tokenizer())
    mixed = bert(**collate(rows)).losses
    for row, name in zip(rows, ("sequence_classification", "token_classification"), strict=True):
        assert torch.allclose(mixed[name], bert(**collate([row])).losses[name], atol=1e-6)


def test_rows_of_choices_stay_rows_for_a_multiple_choice(bert):
    two = {"input_ids": [[5, 6], [7, 8, 9]], "attention_mask": [[1, 1], [1, 1, 1]]}
    batch = bert.collator(Tokenizer())([{**two, "labels": {"multiple_choice": 1}}, two])
    assert batch["input_ids"].tolist() == [[[5, 6, 0], [7, 8, 9]]] * 2
    assert batch["labels"]["multiple_choice"].tolist() == [1, -100]
    assert bert(**batch).loss.isfinite()
    assert bert.collator(Tokenizer())([two])["input_ids"].shape == (1, 2, 3)


def test_a_rewards_pairs_stay_together(bert):
    two = {"input_ids": [[5, 6], [7, 8, 9]], "attention_mask": [[1, 1], [1, 1, 1]]}
    rows = [_row(4, 5, sequence_classification=2), {**two, "labels": {"reward": [1.0, 0.0]}}]
    batch = bert.collator(Tokenizer())(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 0], [7, 8, 9], [4, 5, 0]]
    assert batch["labels"]["reward"][:2].tolist() == [1, 0] and batch["labels"]["reward"][2].isnan()
    assert batch["labels"]["sequence_classification"].tolist() == [-100, -100, 2]
    scores = bert(**batch).logits["reward"].flatten()
    expected = -torch.nn.functional.logsigmoid(scores[0] - scores[1])
    assert torch.allclose(bert(**batch).losses["reward"], expected)


def test_rows_that_make_no_batch_are_refused(bert):
    collate = bert.collator(Tokenizer())
    with pytest.raises(ValueError, match="labels for no head: 'tone'; there are: sequence_classification"):
        collate([_row(1, tone=1)])
    with pytest.raises(ValueError, match="'token_classification': 3 labels for 2 tokens"):
        collate([_row(1, 2, token_classification=[0, 1, 2])])
    two = {"input_ids": [[5], [7]], "attention_mask": [[1], [1]]}
    with pytest.raises(ValueError, match="a row of 2 choices needs a label for each of head 'reward'"):
        collate([{**two, "labels": {"reward": 1.0}}])


def test_pictures_and_sounds_make_batches():
    from transformers import Wav2Vec2FeatureExtractor

    model = multi(PICTURES["vit"](), {"parts": {"kind": "per-patch", "labels": LABELS}})
    row = {"pixel_values": torch.zeros(3, 16, 16), "labels": {"parts": [1] * 16}}
    batch = model.collator(None)([row, {"pixel_values": torch.ones(3, 16, 16)}])
    assert batch["labels"]["parts"].shape == (2, 16) and model(**batch).loss.isfinite()
    model = multi(SOUNDS["wav2vec2"](), {"x": {"kind": "audio-classification", "labels": LABELS}})
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    rows = [{"input_values": [0.1] * 300, "labels": {"x": 1}}, {"input_values": [0.2] * 400, "labels": {"x": 2}}]
    batch = model.collator(extractor)(rows)
    assert batch["input_values"].shape == (2, 400) and model(**batch).loss.isfinite()
