"""What is frozen stands still, what is new trains, and each is said: freezing, groups, schedules, the proof."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import hf_init
from hf_init import HfInitError, Plan, finetune
from hf_init.finetune import Watch, check_optimizer, freeze, parameter_groups, plan_against, unfreeze_schedule

GROWN = {"num_labels": 3, "config": {"num_hidden_layers": 3}}
CLASSIFIER = transformers.BertForSequenceClassification


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


def words(vocabulary=96):
    return {"input_ids": torch.randint(0, vocabulary, (4, 12)), "labels": torch.tensor([0, 1, 2, 0])}


def take_steps(model, optimizer, batch=words, steps=5):
    model.train()
    for _ in range(steps):
        model(**batch()).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def new_names(plan):
    return {tensor.parameter for tensor in plan.tensors if tensor.status == "new"}


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


# Bad input.


def test_a_plan_of_another_model_is_refused_and_nothing_changes(model, tiny):
    other = hf_init.plan(tiny("gpt2"))
    with pytest.raises(
        HfInitError,
        match=r"(?s)isn't the model of this plan, which is of GPT2.*h.0.attn.c_attn.bias .kept.*75 more",
    ):
        freeze(model, other)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_changed_since_the_plan_is_named(model, result):
    changed = CLASSIFIER.from_pretrained(result)
    changed.resize_token_embeddings(100)
    with pytest.raises(HfInitError, match=r"(?s)changed since.*word_embeddings.weight is 100x32 in the model, 96x32"):
        freeze(changed, result)
    model.extra = nn.Linear(2, 2)
    with pytest.raises(HfInitError, match=r"extra.weight is in the model and not in the plan"):
        freeze(model)
    del model.extra
    model.bert.pooler.dense.weight.data[2, 1] += 1
    with pytest.raises(HfInitError, match=r"(?s)changed since.*pooler.dense.weight: differs from the files at row 2"):
        freeze(model)
    assert freeze(model, check=False).verify().ok


def test_files_of_another_checkpoint_are_refused(result, tmp_path):
    """The manifest of one result beside the weights of another."""
    model = CLASSIFIER.from_pretrained(result)
    transformers.BertForSequenceClassification(
        transformers.BertConfig(**{**model.config.to_diff_dict(), "hidden_size": 16, "intermediate_size": 32})
    ).save_pretrained(tmp_path)
    freeze(model).save_manifest(tmp_path)
    with pytest.raises(HfInitError, match=r"another one than the plan's:\n.*word_embeddings.weight in .* is 96x16"):
        freeze(CLASSIFIER.from_pretrained(result), tmp_path)


def test_a_tie_that_was_cut_or_made_is_named(tiny):
    model = hf_init.from_pretrained(transformers.LlamaForCausalLM, tiny("llama"))
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    with pytest.raises(
        HfInitError, match=r"lm_head.weight is tied to model.embed_tokens.weight in the plan, and a tensor"
    ):
        freeze(model)
    other = hf_init.from_pretrained(transformers.MixtralForCausalLM, tiny("mixtral"))
    other.lm_head.weight = other.model.embed_tokens.weight
    with pytest.raises(HfInitError, match="are one tensor in the model, and two in the plan"):
        freeze(other)


def test_quantized_offloaded_and_rescaling_models_are_refused(model):
    model.hf_quantizer = object()
    with pytest.raises(HfInitError, match="is quantized"):
        freeze(model)
    del model.hf_quantizer
    model.bert.embeddings.word_embeddings.max_norm = 1.0
    with pytest.raises(HfInitError, match="max_norm rescales rows"):
        freeze(model)
    model.bert.embeddings.word_embeddings.max_norm = None
    model.bert.pooler.to("meta")
    with pytest.raises(HfInitError, match=r"bert.pooler.dense.weight, bert.pooler.dense.bias: on meta or offloaded"):
        freeze(model)


def test_parameters_put_together_when_loading_are_kept_new_or_mixed(tiny):
    """Mixtral's experts: one tensor each on disk, all of a layer in one tensor in memory."""
    keep = {"*.gate.weight": "leading"}
    model = hf_init.from_pretrained(transformers.MixtralForCausalLM, tiny("mixtral"), keep=keep, num_local_experts=6)
    with pytest.raises(HfInitError, match=r"experts.gate_up_proj is put together from \d+ tensors on disk"):
        finetune.train_only_new(model)
    frozen = freeze(model, resized="none")
    assert "model.layers.0.mlp.experts.gate_up_proj" in frozen.names and frozen.verify().ok


# Without a manifest.


def test_the_base_alone_tells_what_is_its_own(tiny, tmp_path, result):
    model = CLASSIFIER.from_pretrained(result)
    plan = plan_against(model, tiny("bert"))
    tensors = [tensor for tensor in Plan.load(result).tensors if tensor.status != "carried"]
    wanted = {tensor.parameter: tensor.status for tensor in tensors}
    assert {tensor.name: tensor.status for tensor in plan.tensors} == wanted
    assert freeze(model, plan).names == freeze(CLASSIFIER.from_pretrained(result), result).names
    assert "by what schemes the new was filled it can't tell" in str(plan)


def test_the_base_alone_can_not_tell_trained_from_new(model, tiny):
    model.bert.pooler.dense.weight.data[0, 0] += 1
    plan = plan_against(model, tiny("bert"))
    assert plan["bert.pooler.dense.weight"].status == "new"
    assert any("with other bytes" in note and "bert.pooler.dense.weight" in note for note in plan.notes)


def test_no_manifest_and_no_base(tiny, tmp_path):
    plain = transformers.BertModel.from_pretrained(tiny("bert"))
    with pytest.raises(HfInitError, match=r"no hf_init.json.*plan_against"):
        freeze(plain)
    with pytest.raises(HfInitError, match=r"has no hf_init.json"):
        freeze(plain, tmp_path)
    with pytest.raises(HfInitError, match=r"nothing in BertModel is of"):
        plan_against(plain, tiny("llama"))


def test_the_manifest_goes_with_what_is_saved(model, result, tmp_path):
    for each, folder in ((model, tmp_path / "a"), (CLASSIFIER.from_pretrained(result), tmp_path / "b")):
        frozen = freeze(each)
        take_steps(each, torch.optim.SGD(parameter_groups(each, lr=0.1)), steps=1)
        each.save_pretrained(folder)
        assert frozen.save_manifest(folder) == folder / "hf_init.json"
        assert Plan.load(folder).counts == Plan.load(result).counts
        report = hf_init.verify(folder)
        # `extend` keeps the position ids that today's BERT doesn't save
        names = {difference["name"] for difference in report.differences} - {"embeddings.position_ids"}
        assert names and names <= new_names(frozen.plan)
        assert freeze(CLASSIFIER.from_pretrained(folder)).names == frozen.names


def test_nothing_of_a_hub_id_is_invented(model, tmp_path):
    model.config.name_or_path = "someone/elses-model"
    assert freeze(model).save_manifest(tmp_path) is None and not list(tmp_path.iterdir())


# The real one.


@pytest.mark.slow
def test_minilm_with_a_new_head(minilm, tmp_path):
    model = hf_init.from_pretrained(CLASSIFIER, minilm, num_labels=3)
    frozen = freeze(model)
    take_steps(model, torch.optim.AdamW(parameter_groups(model, lr=1e-2)), lambda: words(1000), 3)
    frozen.raise_if_moved()
    model.save_pretrained(tmp_path)
    base, saved = (load_file(folder / "model.safetensors") for folder in (minilm, tmp_path))
    for tensor in model.init_plan.tensors:
        if tensor.status == "kept" and tensor.name in saved:
            assert torch.equal(saved[tensor.name], base[tensor.source]), tensor.name


@pytest.mark.slow
def test_importing_it_brings_no_transformers():
    code = "import sys, hf_init.finetune as f; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(hasattr(finetune, name) for name in finetune.__all__)
    with pytest.raises(AttributeError, match="no attribute 'frieze'"):
        finetune.frieze  # noqa: B018  # reading the attribute is the test
