"""The same under transformers' Trainer, accelerate and PEFT."""

from __future__ import annotations

import json

import peft
import pytest
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from finetuned import CLASSIFIER, GROWN, copied, moved, new_names, take_steps, words
from safetensors.torch import load_file
from test_finetune_rows import EMBEDDING, LLAMA, NEW, grown, moved_rows, tokens
from torch.utils.data import DataLoader
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

import hf_init
from hf_init import HfInitError, Plan
from hf_init.finetune import (
    FinetuneCallback,
    Watch,
    check_rewriting,
    freeze,
    parameter_groups,
    peft_arguments,
    quantization_arguments,
    train_only_new,
    unfreeze_schedule,
)

pytestmark = pytest.mark.slow  # it trains


@pytest.fixture(autouse=True)
def _accelerate_state():
    """Accelerate keeps the precision of its first user for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def rows(batch, many=16):
    """A data set of single examples."""
    torch.manual_seed(1)
    return [{name: value[0] for name, value in batch().items()} for _ in range(many)]


def trainer(model, folder, batch, callbacks, **options):
    settings = dict(max_steps=6, per_device_train_batch_size=2, report_to=[], logging_steps=2, save_steps=3,
                    learning_rate=1e-2, weight_decay=0.1, disable_tqdm=True, use_cpu=True,
                    dataloader_pin_memory=False)  # fmt: skip
    arguments = transformers.TrainingArguments(str(folder), **{**settings, **options.pop("settings", {})})
    return transformers.Trainer(model, arguments, train_dataset=rows(batch), callbacks=callbacks, **options)


def test_a_trainer_moves_the_new_rows_alone_and_saves_plainly(tiny, tmp_path, capsys):
    model = grown(tiny)
    before, callback = copied(model), FinetuneCallback(verify_every=2)
    run = trainer(model, tmp_path, tokens, [callback], settings={"bf16": True, "gradient_accumulation_steps": 2})
    run.train()
    assert moved(model, before) == {EMBEDDING, "lm_head.weight"} and moved_rows(model, before) == NEW
    saved = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    assert torch.equal(saved[EMBEDDING][:96], before[EMBEDDING][:96]) and set(saved) == set(before) - {"lm_head.weight"}
    logs = [each for each in run.state.log_history if "loss" in each]
    assert len(logs) == 3 and all(each["grad_norm/new"] > 0 == each["grad_norm/pretrained"] for each in logs)
    assert logs[0]["norm/pretrained"] == logs[2]["norm/pretrained"] and logs[0]["norm/new"] != logs[2]["norm/new"]
    assert "norm/new" in capsys.readouterr().out
    for folder in (tmp_path, tmp_path / "checkpoint-3"):
        assert Plan.load(folder).counts == model.init_plan.counts


def test_a_trainer_resumes(tiny, tmp_path):
    ends = []
    for folder, resume in (("a", None), ("b", None), ("b", True)):
        model = grown(tiny)
        short = {"max_steps": 3} if folder == "b" and not resume else {}
        settings = {"lr_scheduler_type": "constant", **short}
        trainer(model, tmp_path / folder, tokens, [FinetuneCallback()], settings=settings).train(
            resume_from_checkpoint=resume
        )
        ends.append(copied(model))
    assert all(torch.equal(ends[0][name], ends[2][name]) for name in ends[0])
    assert not torch.equal(ends[1][EMBEDDING], ends[2][EMBEDDING])


def test_what_moves_stops_the_training_with_its_name(tiny, tmp_path):
    class Meddler(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                model.model.layers[1].mlp.up_proj.weight.data[4, 4] += 1

    model = grown(tiny)
    run = trainer(model, tmp_path, tokens, [Meddler(), FinetuneCallback(verify_every=1)])
    with pytest.raises(HfInitError, match=r"layers.1.mlp.up_proj.weight.*row 4"):
        run.train()
    assert run.state.global_step == 3


def test_groups_of_one_s_own_and_a_schedule(tiny, tmp_path):
    """The new head first, then all, with two rates."""
    model = hf_init.from_pretrained(CLASSIFIER, tiny("bert"), **GROWN)
    before, frozen = copied(model), freeze(model)
    schedule = unfreeze_schedule(model, every=1, start=3, blocks=9)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-3, new_lr=1e-2, later=schedule.names))
    seen = {}

    class Look(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen[state.global_step] = moved(model, before)

    callbacks = [FinetuneCallback(frozen, verify_every=1, schedule=schedule), Look()]
    trainer(model, tmp_path, words, callbacks, optimizers=(optimizer, None)).train()
    assert seen[3] == new_names(model.init_plan) and len(seen[4]) > len(seen[3]) + 20


def test_an_optimizer_from_before_and_a_callback_too_late_are_refused(tiny, tmp_path):
    model = grown(tiny)
    early = torch.optim.AdamW(model.parameters())
    with pytest.raises(HfInitError, match="made before the model was frozen"):
        trainer(model, tmp_path, tokens, [FinetuneCallback()], optimizers=(early, None)).train()
    callback = FinetuneCallback()
    with pytest.raises(HfInitError, match=r"nothing is frozen yet"):
        callback.frozen  # noqa: B018  # reading the attribute is the test
    frozen = train_only_new(grown(tiny))
    with pytest.raises(HfInitError, match="isn't the one that was frozen"):
        trainer(grown(tiny), tmp_path, tokens, [FinetuneCallback(frozen)]).train()


def test_accelerate(tiny):
    model = grown(tiny)
    before, frozen = copied(model), train_only_new(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-2))
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(rows(tokens), batch_size=2))
    with Watch(frozen, every=2, optimizer=optimizer) as watch:
        for batch in loader:
            with accelerator.accumulate(prepared):
                accelerator.backward(prepared(**batch).loss)
                accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            watch.end_step()
    assert moved_rows(model, before) == NEW
    assert list(accelerator.get_state_dict(prepared)) == list(before)


def test_distributed_data_parallel(tiny, tmp_path):
    """One process of it: gradients go through its buckets, and the new rows are the only parameters that it knows."""
    model = grown(tiny)
    before, frozen = copied(model), train_only_new(model)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(parameter_groups(wrapped, lr=1e-2))
        take_steps(wrapped, optimizer, tokens, 3)
    finally:
        torch.distributed.destroy_process_group()
    frozen.raise_if_moved()
    assert moved_rows(model, before) == NEW


def test_a_wrapped_model_is_the_model_in_it(tiny):
    model = grown(tiny)
    wrapped = torch.nn.DataParallel(model)
    frozen = train_only_new(wrapped)
    assert frozen.model is model
    groups = parameter_groups(wrapped, lr=1e-3)
    assert [group["name"] for group in groups] == ["new"]


# PEFT.

# What peft asks of transformers, which will have it under another name.
quietly = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.mark.parametrize("tied", [True, False])
@quietly
def test_peft_trains_the_new_rows_and_the_base_stays(tiny, tied):
    keep = {"*embed_tokens*": "leading"} if tied else {"*embed_tokens*": "leading", "lm_head*": "leading"}
    base, cls = ("llama", LLAMA) if tied else ("mixtral", transformers.MixtralForCausalLM)
    model = hf_init.from_pretrained(cls, tiny(base), keep=keep, config={"vocab_size": 104})
    before, arguments = copied(model), peft_arguments(model.init_plan)
    tables = ["model.embed_tokens"] if tied else ["lm_head", "model.embed_tokens"]
    assert arguments["trainable_token_indices"] == {name: NEW for name in tables}
    assert "modules_to_save" not in arguments
    config = peft.LoraConfig(r=4, target_modules=r".*_proj", **arguments)
    adapted = peft.PeftModel(model, config)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        adapted(**tokens()).loss.backward()
        optimizer.step()
    assert not any(f"{name}.lora" in each for name in tables for each, _ in adapted.named_modules())
    with adapted.disable_adapter():
        held = {name.replace("base_model.model.", ""): tensor for name, tensor in adapted.state_dict().items()}
    assert all(torch.equal(held[name], before[name]) for name in before.keys() & held.keys())
    merged = adapted.merge_and_unload()
    assert moved_rows(merged, before) == moved_rows(merged, before, "lm_head.weight") == NEW


@quietly
def test_peft_saves_a_new_head_and_a_new_layer(tiny):
    model = hf_init.from_pretrained(CLASSIFIER, tiny("bert"), **GROWN)
    arguments = peft_arguments(model.init_plan)
    assert "classifier" in arguments["modules_to_save"] and len(arguments["modules_to_save"]) == 9
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", **arguments))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad and "lora" not in name}
    names = {name.replace("base_model.model.", "").replace("modules_to_save.default.", "") for name in trained}
    assert names == new_names(model.init_plan)
    assert not any("lora" in name and "layer.2" in name for name, _ in adapted.named_parameters())
    assert json.loads(json.dumps(arguments)) == arguments


def test_what_peft_can_not_train_alone_is_named(tiny, tmp_path):
    wider = hf_init.plan(tiny("llama"), keep={"*mlp*": "leading"}, config={"intermediate_size": 96})
    with pytest.raises(
        HfInitError, match=r"(?s)layers.0.mlp.down_proj.weight .*isn't rows of an embedding.*train_only_new"
    ):
        peft_arguments(wider)
    hf_init.extend(tiny("bert"), tmp_path / "three", CLASSIFIER, num_labels=3)
    half = hf_init.plan(tmp_path / "three", num_labels=3, keep={"classifier.bias": "none"})
    with pytest.raises(
        HfInitError, match=r"classifier is new in part \(classifier.bias\): modules_to_save would train what is kept"
    ):
        peft_arguments(half)


def test_nothing_new_says_nothing_and_loads_in_peft(tiny):
    assert peft_arguments(hf_init.plan(tiny("llama"))) == {}


@pytest.mark.parametrize(
    ("base", "cls", "options"), [("bert", CLASSIFIER, GROWN), ("llama", LLAMA, {"config": {"num_hidden_layers": 3}})]
)
def test_a_quantizer_leaves_alone_what_is_new_and_what_the_library_would(tiny, base, cls, options):
    model = hf_init.from_pretrained(cls, tiny(base), **options)
    (skip,) = quantization_arguments(model.init_plan).values()
    packed = {name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
    library = {name.removesuffix(".bias") for name in get_keys_to_not_convert(model)} & packed
    packed = {name for name in packed if should_convert_module(name, skip)}
    assert packed and library <= {*skip}
    assert not packed & {name.rpartition(".")[0] for name in new_names(model.init_plan)}
    assert list(quantization_arguments(model.init_plan, "torchao")) == ["modules_to_not_convert"]
    with pytest.raises(HfInitError, match="method is 'gptq', expected one of"):
        quantization_arguments(model.init_plan, "gptq")


def test_initialisations_that_rewrite_the_base_are_refused_and_the_others_are_not():
    for init in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"):
        with pytest.raises(HfInitError, match=f"init_lora_weights='{init}': .* base weights"):
            check_rewriting({"init_lora_weights": init})
    for init in (True, False, "gaussian", "orthogonal", "eva"):
        own = {"eva_config": peft.EvaConfig()} if init == "eva" else {}
        config = peft.LoraConfig(init_lora_weights=init, **own)
        check_rewriting(config)
        assert config.init_lora_weights == init
