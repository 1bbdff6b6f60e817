"""Several heads in training: under Trainer, accelerate, DDP, PEFT, checkpointing of gradients and torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import peft
import pytest
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from multihead_trunks import LABELS, PICTURES, TEXTS, inputs, multi, same, text, unmapped
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from hf_init import MultiHead

THREE = {
    "topic": {"kind": "sequence-classification", "labels": LABELS},
    "entities": {"kind": "token-classification", "labels": LABELS},
    "meaning": "similarity",
}
TOPICS, ENTITIES = torch.tensor([0, 1, 2]), torch.ones(3, 9, dtype=torch.long)


@pytest.fixture(autouse=True)
def _accelerate_state() -> Iterator[None]:
    """Accelerate keeps the precision of its first user for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def model() -> Any:
    return still(multi(TEXTS["bert"](), THREE))


def still(model: Any) -> Any:
    """Without dropout, so that passes can be compared."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """The names of what has other bits now."""
    return {name for name, value in model.state_dict().items() if not same(value, before[name])}


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({f"w{k}": k for k in range(96)}, unk_token="w1"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="w0", model_input_names=["input_ids", "attention_mask"]
    )


def mixed(many: int = 16) -> list[dict[str, Any]]:
    """Rows of three tasks in turn, of other lengths; a column that no model reads."""
    rows = []
    for k in range(many):
        ids = [5 + (k * 7 + j) % 80 for j in range(4 + k % 3)]
        labels = [{"topic": k % 3}, {"entities": [j % 3 for j in range(len(ids))]}, {"meaning": k % 2}][k % 3]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels, "source": "made"})
    return rows


def arguments(folder: Any, **settings: Any) -> transformers.TrainingArguments:
    return transformers.TrainingArguments(
        str(folder), use_cpu=True, report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
        **{"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_strategy": "no", **settings},
    )  # fmt: skip


# Trainer and accelerate


def test_a_trainer_mixes_tasks_evaluates_saves_and_loads(model, tmp_path):
    """With its defaults: it drops the columns that the forward doesn't name, and no other."""
    seen: list[Any] = []

    def metrics(found: Any) -> dict[str, float]:
        seen.append(found)
        return {"right": float((found.predictions["topic"].argmax(-1) == found.label_ids["topic"]).mean())}

    before = values(model)
    sets = {"topic": [row for row in mixed() if "topic" in row["labels"]]}
    trainer = transformers.Trainer(
        model, arguments(tmp_path, save_strategy="steps", save_steps=4), model.collator(tokenizer()),
        train_dataset=mixed(), eval_dataset=sets, compute_metrics=metrics,
    )  # fmt: skip
    trainer.train()
    assert moved(model, before) >= {"heads.topic.classifier.weight", "heads.entities.classifier.weight"}
    found = trainer.evaluate()
    assert 0 <= found["eval_topic_right"] <= 1 and found["eval_topic_loss"] > 0
    assert set(seen[0].predictions) == set(THREE) and seen[0].predictions["topic"].shape == (6, 3)
    again = unmapped(MultiHead.from_pretrained(tmp_path / "checkpoint-4"))
    assert same(again(**text()).logits["topic"], model.eval()(**text()).logits["topic"])


def test_a_trainer_evaluates_mixed_rows_by_their_loss(model, tmp_path):
    rows = mixed(8)
    trainer = transformers.Trainer(
        model, arguments(tmp_path, per_device_eval_batch_size=8), model.collator(tokenizer()), eval_dataset=rows
    )  # fmt: skip
    found = trainer.evaluate()["eval_loss"]
    batch = model.collator(tokenizer())([{key: row[key] for key in row if key != "source"} for row in rows])
    assert found == pytest.approx(model(**batch).loss.item(), rel=1e-6)


@pytest.mark.slow
def test_accelerate_trains_it(model):
    accelerator = Accelerator(cpu=True)
    rows = [{key: value for key, value in row.items() if key != "source"} for row in mixed()]
    loader = DataLoader(rows, 4, collate_fn=model.collator(tokenizer()))  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ready, optimizer, loader = accelerator.prepare(model.train(), optimizer, loader)
    before, losses = values(model), []
    for _ in range(4):
        for batch in loader:
            loss = ready(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert sum(losses[-4:]) < sum(losses[:4])
    assert moved(model, before)


def test_ddp_trains_where_a_batch_lacks_a_head(model, tmp_path):
    """With find_unused_parameters, as a Trainer sets it; the head that is lacking gets no gradient."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(model.train(), find_unused_parameters=True)
        single = copy.deepcopy(model)
        for labels in ({"topic": TOPICS}, {"entities": ENTITIES}, {"topic": TOPICS, "entities": ENTITIES}):
            for each in (parallel, single):
                each.zero_grad()
                each(**text(), labels=labels).loss.backward()
            for (name, one), other in zip(model.named_parameters(), single.parameters(), strict=True):
                lacking = name.startswith("heads.") and name.split(".")[1] not in labels
                expected = torch.zeros_like(one) if other.grad is None else other.grad
                found = torch.zeros_like(one) if one.grad is None else one.grad
                assert torch.allclose(found, expected, atol=1e-7) and (not lacking or not found.any()), name
    finally:
        torch.distributed.destroy_process_group()


# Memory and speed


quietly = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


@quietly
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_gradients_are_the_same_with_checkpointing(name):
    heads = {**THREE, "words": "language-model"}
    model = still(multi(TEXTS[name](), heads)).train()
    labels = {"topic": TOPICS, "entities": ENTITIES, "words": text()["input_ids"]}
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.trunk.modules())
        model.zero_grad()
        model(**text(), labels=labels, use_cache=False).loss.backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 10
    assert all(torch.equal(found[0][each], found[1][each]) for each in found[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama", "vit"])
def test_compiled_whole_it_answers_the_same(name):
    """As one graph; in evaluation, and in training with labels of some heads, and then of others.

    Bit for bit, where torch compiles the trunk alone so: torch 2.7 gives a plain ViT other last bits.
    """
    heads: dict[str, Any] = {**THREE, "mean": {"kind": "regression", "pooling": "mean", "depth": 2}}
    if name == "vit":
        heads = {
            "topic": {**THREE["topic"], "kind": "image-classification"},
            "parts": {**THREE["topic"], "kind": "per-patch"},
        }
    trunk = {**TEXTS, **PICTURES}[name]()
    trunk.use_cache = False
    model, given = still(multi(trunk, heads)), inputs(name)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        bare = torch.compile(model.trunk, backend="eager", fullgraph=True)(**given).last_hidden_state
        alike = same if same(bare, model.trunk(**given).last_hidden_state) else partial(torch.allclose, atol=1e-6)
        expected = model(**given).logits
        assert all(alike(value, expected[head]) for head, value in compiled(**given).logits.items())
    model.train()
    for labels in ({"topic": TOPICS}, {"topic": TOPICS.flip(0)}):
        assert alike(compiled(**given, labels=labels).loss, model(**given, labels=labels).loss)
    assert all(
        getattr(head, head.base_model_prefix).outputs is None
        for head in model.heads.values()
        if hasattr(head, "base_model_prefix")
    )


# PEFT


@quietly
def test_lora_on_the_trunk_beside_whole_heads_is_saved_and_loaded(model, tmp_path):
    base = copy.deepcopy(model)
    config = peft.LoraConfig(
        target_modules=["query", "value"], modules_to_save=["heads.topic"], r=2, init_lora_weights=False
    )
    lora = peft.get_peft_model(model, config)
    trained = {name for name, each in lora.named_parameters() if each.requires_grad}
    assert any("lora_A" in name and ".trunk." in name for name in trained)
    assert any("heads.topic" in name for name in trained) and not any("heads.entities" in name for name in trained)
    optimizer = torch.optim.AdamW([each for each in lora.parameters() if each.requires_grad], lr=1e-2)
    lora.train()
    for _ in range(3):
        lora(**text(), labels={"topic": TOPICS, "entities": ENTITIES}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    lora.save_pretrained(tmp_path)
    lora.eval()
    expected = lora(**text()).logits
    again = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    found = unmapped(again)(**text()).logits
    assert all(same(found[name], expected[name]) for name in THREE)
    assert not same(found["topic"], base(**text()).logits["topic"])
    merged = unmapped(again.merge_and_unload())
    assert isinstance(merged, MultiHead)
    assert torch.allclose(merged(**text()).logits["topic"], expected["topic"], atol=1e-5)
    plain: Any = merged.export("topic")
    assert torch.allclose(plain(**text()).logits, expected["topic"], atol=1e-5)


# Frozen


@pytest.mark.slow
def test_minilm_trained_on_one_head_moves_no_other_byte(minilm, tmp_path):
    """Ten steps with weight decay, the trunk frozen: in memory, in the saved files, and in the exported classes."""
    torch.manual_seed(0)
    model: Any = MultiHead(MultiHead.config_class(trunk=AutoConfig.from_pretrained(minilm), heads=THREE))
    model.trunk.load_state_dict(AutoModel.from_pretrained(minilm).state_dict())
    model.save_pretrained(tmp_path / "before")
    before = values(model)
    assert moved(model, before) == set()
    model.freeze("trunk").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    for step in range(10):
        ids = torch.randint(1000, 20000, (4, 8), generator=torch.Generator().manual_seed(step))
        model(input_ids=ids, labels={"topic": ids[:, 0] % 3}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    head = {"heads.topic.classifier.weight", "heads.topic.classifier.bias"}
    assert moved(model, before) == head
    model.eval().save_pretrained(tmp_path / "after")
    files = [load_file(tmp_path / each / "model.safetensors") for each in ("before", "after")]
    assert {name for name in files[0] if not same(files[0][name], files[1][name])} == head
    given = {"input_ids": torch.randint(1000, 20000, (2, 12)), "attention_mask": torch.ones(2, 12, dtype=torch.long)}
    with torch.no_grad():
        for name in ("topic", "entities"):
            model.export(name, tmp_path / name)
            plain = unmapped(getattr(transformers, model.specs[name].plain).from_pretrained(tmp_path / name))
            assert same(model(**given).logits[name], plain(**given).logits)


# Generation


def _generating(folder: Any) -> Any:
    """A checkpoint with a language model and a reward beside it, saved with its generation config, and loaded."""
    plain: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    trunk = AutoConfig.from_pretrained(folder)
    model: Any = MultiHead(MultiHead.config_class(trunk=trunk, heads={"words": "language-model", "reward": "reward"}))
    model.to(plain.dtype).trunk.load_state_dict(plain.model.state_dict())
    model.generation_config = copy.deepcopy(plain.generation_config)
    return plain.eval(), model.eval()


def test_a_tiny_decoder_generates_the_same(tiny, tmp_path):
    plain, model = _generating(tiny("llama"))
    plain.generation_config.max_new_tokens = model.generation_config.max_new_tokens = 12
    model.save_pretrained(tmp_path)
    assert (tmp_path / "generation_config.json").exists()
    again = unmapped(MultiHead.from_pretrained(tmp_path))
    ids = torch.tensor([[5, 6, 7]])
    expected = unmapped(plain).generate(ids, do_sample=False)
    assert torch.equal(model.generate(ids, do_sample=False), expected)
    assert torch.equal(again.generate(ids, do_sample=False), expected)
    assert torch.equal(again.generate(ids, do_sample=False, head="words"), expected)
    (tmp_path / "generation_config.json").unlink()
    bare: Any = MultiHead.from_pretrained(tmp_path)
    assert bare.generation_config.eos_token_id == plain.config.eos_token_id == 2


@pytest.mark.slow
def test_a_decoder_with_a_reward_beside_it_generates_token_for_token(smollm2, tmp_path):
    plain, model = _generating(smollm2)
    model.save_pretrained(tmp_path)
    again: Any = MultiHead.from_pretrained(tmp_path)
    assert again.generation_config.to_dict() == plain.generation_config.to_dict()
    assert again.heads.words.lm_head.weight is again.trunk.embed_tokens.weight
    ids = torch.tensor([[1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198]])
    asked: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 32, "do_sample": False}
    expected = plain.generate(ids, **asked)
    assert expected.shape[1] > 20
    assert torch.equal(again.generate(ids, **asked), expected)
    assert again(input_ids=expected, heads=["reward"]).logits["reward"].shape == (1, 1)
