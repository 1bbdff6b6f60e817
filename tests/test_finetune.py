"""What is frozen stands still, what is new trains, and each is said: freezing, groups, schedules, the proof."""

from __future__ import annotations

import pytest
import torch
import transformers
from finetuned import CLASSIFIER, GROWN, copied, moved, new_names, take_steps, words
from torch import nn

import hf_init
from hf_init import HfInitError, Plan
from hf_init.finetune import Watch, check_optimizer, freeze, parameter_groups, unfreeze_schedule


@pytest.fixture
def model(tiny):
    """BERT with a new head and a new third layer."""
    return hf_init.from_pretrained(CLASSIFIER, tiny("bert"), **GROWN)


@pytest.fixture(scope="module")
def result(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("finetune") / "out"
    hf_init.extend(tiny("bert"), out, CLASSIFIER, **GROWN)
    return out


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A tiny ResNet without a head, whose running statistics have seen something."""
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    torch.manual_seed(0)
    base = transformers.ResNetModel(config)
    base.train()
    base(torch.randn(4, 3, 32, 32))
    base.save_pretrained(tmp_path_factory.mktemp("resnet"))
    folder = tmp_path_factory.mktemp("resnet") / "base"
    base.save_pretrained(folder)
    return folder


def images():
    return {"pixel_values": torch.randn(4, 3, 32, 32) + 3, "labels": torch.tensor([0, 1, 2, 0])}


# Freezing.


def test_what_is_new_trains_and_everything_else_stands_still(model):
    before, frozen = copied(model), freeze(model)
    take_steps(model, torch.optim.AdamW(parameter_groups(model, lr=1e-2), weight_decay=0.1))
    assert moved(model, before) == new_names(model.init_plan)
    report = frozen.verify()
    assert report.ok and report.tensors == len(frozen.names) == 39
    assert report.nbytes == sum(before[name].nbytes for name in frozen.names)
    assert str(frozen).startswith("frozen: 39 tensors") and "trained: bert.encoder.layer.2." in str(frozen)


def test_the_plan_may_be_given_or_lie_in_the_folder(result, model):
    loaded = CLASSIFIER.from_pretrained(result)
    by_hint, by_name = freeze(loaded), freeze(CLASSIFIER.from_pretrained(result), str(result))
    by_plan = freeze(CLASSIFIER.from_pretrained(result), Plan.load(result))
    assert by_hint.names == by_name.names == by_plan.names == freeze(model).names


def test_statistics_of_norms_do_not_move_in_training_mode(resnet):
    model = hf_init.from_pretrained(transformers.ResNetForImageClassification, resnet, num_labels=3)
    before, frozen = copied(model), freeze(model)
    take_steps(model, torch.optim.SGD(parameter_groups(model, lr=0.1), momentum=0.9), images)
    assert moved(model, before) == {"classifier.1.weight", "classifier.1.bias"}
    assert any(name.endswith("running_mean") for name in frozen.names)
    frozen.raise_if_moved()
    frozen.thaw()
    take_steps(model, torch.optim.SGD(model.parameters(), lr=0.1), images, 1)
    after = moved(model, before)
    assert {name for name in before if "running" in name or "tracked" in name} <= after


def test_gradients_left_from_before_do_not_move_anything(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(**words()).loss.backward()
    before = copied(model)
    freeze(model)
    optimizer.step()
    assert not moved(model, before)


def test_a_tied_tensor_is_one(tiny):
    model = hf_init.from_pretrained(transformers.LlamaForCausalLM, tiny("llama"), num_hidden_layers=3)
    frozen = freeze(model)
    assert "model.embed_tokens.weight" in frozen.names and "lm_head.weight" not in frozen.names
    assert not model.lm_head.weight.requires_grad
    frozen.thaw(["model.embed_tokens.weight"])
    assert model.lm_head.weight.requires_grad and model.lm_head.weight is model.model.embed_tokens.weight


def test_thawing_what_is_not_frozen_is_refused(model):
    frozen = freeze(model)
    with pytest.raises(HfInitError, match=r"classifier.weight, pooler: not frozen"):
        frozen.thaw(["classifier.weight", "pooler"])
    assert frozen.thaw(["bert.pooler.dense.bias"]) == ("bert.pooler.dense.bias",)
    assert model.bert.pooler.dense.bias.requires_grad and "bert.pooler.dense.bias" not in frozen.names


# The proof.


@pytest.mark.parametrize("copies", [False, True])
def test_one_flipped_bit_is_named_with_row_and_both_values(model, copies):
    frozen = freeze(model, copies=copies)
    weight = model.bert.encoder.layer[1].output.dense.weight
    old = weight[7, 3].item()
    weight.data.view(torch.int32)[7, 3] ^= 1
    (difference,) = frozen.verify().differences
    assert difference["name"] == "bert.encoder.layer.1.output.dense.weight"
    assert (difference["row"], difference["index"], difference["changed_elements"]) == (7, [7, 3], 1)
    assert (difference["seen"], difference["expected"]) == (weight[7, 3].item(), old)
    with pytest.raises(HfInitError, match=r"layer.1.output.dense.weight.*row 7, index \[7, 3\] \(1 row changed\)"):
        frozen.raise_if_moved()
    weight.data.view(torch.int32)[7, 3] ^= 1
    frozen.raise_if_moved()


def test_minus_zero_is_not_zero_and_nan_is_itself(model):
    model.bert.pooler.dense.weight.data[0, :2] = torch.tensor([0.0, float("nan")])
    frozen = freeze(model, check=False, copies=True)
    frozen.raise_if_moved()
    model.bert.pooler.dense.weight.data[0, 0] = -0.0
    assert [each["index"] for each in frozen.verify().differences] == [[0, 0]]


def test_another_dtype_is_a_move_and_a_report_is_json(model):
    frozen = freeze(model)
    model.bert.pooler.half()
    report = frozen.verify().to_json()
    assert not report["ok"] and {each["name"] for each in report["differences"]} == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    }
    assert "dtype is torch.float16, was torch.float32" in str(frozen.verify())
    assert report["schema"] == "hf_init.guard/1" and not frozen.verify() and "float16" in frozen.verify()._repr_html_()
    assert repr(frozen.verify()) == "<GuardReport: 2 tensors moved while frozen>"


def test_an_optimizer_that_moves_what_is_frozen_is_caught(model):
    frozen = freeze(model)
    with pytest.raises(HfInitError, match=r"embeddings.word_embeddings.weight"), Watch(frozen, every=2) as watch:
        for step in range(3):
            assert step < 2, "the proof comes after the second step"
            model.bert.embeddings.word_embeddings.weight.data.mul_(1 - 1e-3)
            watch.end_step()


def test_a_watch_proves_at_the_end_unless_something_else_went_wrong(model):
    frozen = freeze(model)
    with pytest.raises(HfInitError), Watch(frozen):
        model.bert.pooler.dense.bias.data.add_(1)
    with pytest.raises(KeyError), Watch(frozen):
        raise KeyError("the loop's own")


# Optimizers.


def groups_of(model, **settings):
    return {group["name"]: group for group in parameter_groups(model, **{"lr": 1e-3, **settings})}


def test_every_trainable_parameter_is_in_exactly_one_group(model, tiny):
    tied = hf_init.from_pretrained(transformers.LlamaForCausalLM, tiny("llama"), num_hidden_layers=3)
    for each in (model, tied):
        for frozen in (None, freeze(each)):
            groups = parameter_groups(each, lr=1e-3, new_lr=1e-2, layer_decay=0.5)
            held = [id(parameter) for group in groups for parameter in group["params"]]
            assert sorted(held) == sorted(id(p) for p in each.parameters() if p.requires_grad)
            if frozen:
                frozen.thaw()


def test_new_and_pretrained_decayed_and_not(model):
    groups = groups_of(model, new_lr=1e-2, weight_decay=0.1)
    assert set(groups) == {"new", "new, no decay", "pretrained", "pretrained, no decay"}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, group in groups.items():
        mine = {names[id(parameter)] for parameter in group["params"]}
        assert (mine <= new_names(model.init_plan)) == name.startswith("new")
        vectors = {each for each in mine if each.endswith("bias") or "LayerNorm" in each}
        assert vectors == (mine if name.endswith("no decay") else set())
        assert group["weight_decay"] == (0 if name.endswith("no decay") else 0.1)
        assert group["lr"] == (1e-2 if name.startswith("new") else 1e-3)


def test_rates_fall_with_depth(model):
    groups = groups_of(model, new_lr=1.0, layer_decay=0.5)
    rates = {name: group["lr"] for name, group in groups.items() if "no decay" not in name}
    # embeddings, two layers, (the new third,) and the pooler after them
    assert rates == {"new": 1.0, "pretrained/0": 1e-3 / 16, "pretrained/1": 1e-3 / 8, "pretrained/2": 1e-3 / 4,
                     "pretrained/4": 1e-3}  # fmt: skip


def test_a_tied_head_has_the_embedding_s_rate_and_an_encoder_lies_below_the_decoder(tmp_path, tiny):
    tied = hf_init.from_pretrained(transformers.LlamaForCausalLM, tiny("llama"), num_hidden_layers=3)
    (lowest,) = groups_of(tied, layer_decay=0.5)["pretrained/0"]["params"]
    assert lowest is tied.lm_head.weight
    sizes = dict(d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=2, vocab_size=50, decoder_start_token_id=0)
    transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    t5 = hf_init.from_pretrained(transformers.T5ForConditionalGeneration, tmp_path / "t5")
    groups = groups_of(t5, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in t5.named_parameters()}
    for number, block in enumerate(("encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"), 1):
        assert all(block in names[id(parameter)] for parameter in groups[f"pretrained/{number}"]["params"])


def test_settings_out_of_range_an_unknown_name_and_nothing_to_train_are_refused(model):
    for settings in ({"lr": -1}, {"new_lr": float("nan")}, {"layer_decay": 0}, {"layer_decay": 1.1}):
        with pytest.raises(HfInitError, match="expected"):
            groups_of(model, **settings)
    for settings in ({"every": 0}, {"every": 1, "blocks": 0}, {"every": 1, "start": -1}):
        with pytest.raises(HfInitError, match="expected every and blocks of at least 1"):
            unfreeze_schedule(model, **settings)
    with pytest.raises(HfInitError, match="head: no tensor of this model"):
        groups_of(model, later=["head"])
    model.requires_grad_(False)
    with pytest.raises(HfInitError, match="nothing for an optimizer"):
        groups_of(model)


def test_an_optimizer_made_before_freezing_is_detected(model, tiny):
    early = torch.optim.AdamW(model.parameters())
    freeze(model)
    with pytest.raises(HfInitError, match=r"holds what is frozen: bert.embeddings.word_embeddings.* and 34 more"):
        check_optimizer(early, model)
    check_optimizer(torch.optim.AdamW(parameter_groups(model, lr=1e-3)), model)
    with pytest.raises(HfInitError, match=r"lacks what is to train: bert.encoder.layer.2"):
        check_optimizer(torch.optim.AdamW(model.classifier.parameters()), model)
    other = nn.Linear(2, 3)
    with pytest.raises(HfInitError, match=r"isn't in the model: a tensor of 3x2, a tensor of 3"):
        Watch(freeze(model), optimizer=torch.optim.SGD([*model.parameters(), *other.parameters()]))


# Gradual unfreezing.


def test_blocks_open_from_the_head_down(model):
    schedule = unfreeze_schedule(model, every=2)
    kept = {name for name, _ in model.named_parameters()} - new_names(model.init_plan)
    assert set(schedule.names) == kept and len(schedule.names) == len(kept)
    assert [stage.step for stage in schedule.stages] == [2, 4, 6, 8]
    firsts = [stage.names[0].rpartition(".dense")[0] or stage.names[0] for stage in schedule.stages]
    assert firsts[0].startswith("bert.pooler") and firsts[3].startswith("bert.embeddings")
    assert all("layer.1." in name for name in schedule.stages[1].names)
    assert [len(each.stages) for each in (unfreeze_schedule(model, every=2, blocks=2),
            unfreeze_schedule(model, every=1, lowest=1))] == [2, 3]  # fmt: skip
    assert str(schedule).startswith("unfreezing (4 stages)")


@pytest.mark.slow
def test_a_schedule_trains_each_block_from_its_step_on_and_no_earlier(model):
    schedule = unfreeze_schedule(model, every=2, start=1)
    frozen = freeze(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-3, later=schedule.names))
    with Watch(frozen, every=1, schedule=schedule, optimizer=optimizer) as watch:
        for step in range(8):
            before = copied(model)
            watch.begin_step()
            take_steps(model, optimizer, steps=1)
            assert moved(model, before) - new_names(model.init_plan) <= set(schedule.opened(step))
            assert {name for name in schedule.opened(step) if not name.endswith("key.bias")} <= moved(model, before) | {
                name for name in schedule.opened(step) if "embeddings" in name
            }
            watch.end_step()
    assert not frozen.names


def test_resuming_opens_what_was_open(model):
    schedule = unfreeze_schedule(model, every=2)
    watch = Watch(freeze(model), schedule=schedule)
    assert set(watch.begin_step(5)) == set(schedule.opened(5)) and watch.begin_step() == ()
