"""A model in 4 bits, on a CPU: what is new is never packed and trains, what is packed stays byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from every_function import outcomes
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file
from token_bases import ROWS, tokenizer
from transformers import AutoModel, BitsAndBytesConfig, LlamaForCausalLM, LlamaForSequenceClassification

import hf_init
from hf_init import HfInitError, MultiHead
from hf_init.finetune import peft_arguments, quantization_arguments

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")]  # PEFT's
HEADS = {
    "topic": {"kind": "sequence-classification", "labels": ["a", "b"]},
    "tags": {"kind": "token-classification", "labels": ["x", "y"]},
    "value": {"kind": "regression"},
}
CHANGES: dict[str, tuple[type, dict[str, Any]]] = {
    "tokens": (LlamaForCausalLM, {"add_tokens": [" photon", " quark"]}),
    "head": (LlamaForSequenceClassification, {"labels": ["a", "b", "c"], "drop": ["lm_head*"]}),
    "layer": (LlamaForCausalLM, {"config": {"num_hidden_layers": 3}}),
    "heads": (MultiHead, {"name_head": "text", "add_heads": HEADS}),
}
IDS = torch.tensor([[1, 9, 3, ROWS - 1], [5, 6, 7, ROWS + 1]])
LABELS = {
    "topic": torch.tensor([0, 1]),
    "tags": torch.tensor([[0, 1, 0, 1]] * 2),
    "value": torch.tensor([[0.1], [0.2]]),
}


@pytest.fixture(scope="module", autouse=True)
def bitsandbytes():
    try:
        import bitsandbytes
    except ImportError as error:
        pytest.fail(f"bitsandbytes is not installed ({error}): `scripts/test --all` installs it, as the extra `dist`")
    return bitsandbytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """``base`` in bfloat16, ``packed`` in 4 bits, and of each what every change makes."""
    at = tmp_path_factory.mktemp("quantized")
    config = transformers.LlamaConfig(
        vocab_size=ROWS, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(at / "base")
    four_bits(LlamaForCausalLM, at / "base").save_pretrained(at / "packed")
    for base in ("base", "packed"):
        tokenizer().save_pretrained(at / base)
        for name, (cls, options) in CHANGES.items():
            if (base, name) != ("packed", "heads"):
                hf_init.extend(at / base, at / f"{base} {name}", None if cls is MultiHead else cls, **options)
    return at


def four_bits(cls: Any, path: Path, **how: object) -> Any:
    return cls.from_pretrained(path, quantization_config=BitsAndBytesConfig(load_in_4bit=True, **how))


def is_packed(module: torch.nn.Module) -> bool:
    return type(module).__name__ == "Linear4bit"


def state_of(model: torch.nn.Module) -> dict[str, bytes]:
    parts = model.named_parameters()
    return {name: each.detach().flatten().view(torch.uint8).numpy().tobytes() for name, each in parts}


def train(model: Any, changed: str) -> tuple[set[str], set[str]]:
    """The names of what two steps moved, and of what was meant to train."""
    before = state_of(model.train())
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(2):
        ids = IDS if changed == "tokens" else IDS.clamp(max=ROWS - 1)
        labels = {"heads": {**LABELS, "text": ids}, "head": torch.tensor([0, 2])}.get(changed, ids)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, data in state_of(model).items() if data != before[name]}
    return moved, {name for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_new_is_not_packed_and_trains_beside_adapters(folder, name):
    cls, plan = CHANGES[name][0], hf_init.Plan.load(folder / f"base {name}")
    model = four_bits(cls, folder / f"base {name}", **({} if cls is MultiHead else quantization_arguments(plan)))
    new = {tensor.parameter.rpartition(".")[0] for tensor in plan.tensors if tensor.new}
    packed = [path for path, module in model.named_modules() if is_packed(module)]
    assert len(packed) == 14 and not new & {*packed} and new
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=packed, **peft_arguments(plan, model)))
    moved, meant = train(model, name)
    assert moved == meant
    own = {path.partition("modules_to_save.default")[0] for path in meant if "lora_" not in path}
    assert all(any(module in path for path in own) for module in new)


def test_what_is_new_and_packed_all_the_same_is_named(folder):
    model = four_bits(LlamaForCausalLM, folder / "base layer")
    with pytest.raises(
        HfInitError, match=r"model.layers.2.self_attn.q_proj, .*packed by the quantizer.*quantization_ar"
    ):
        peft_arguments(hf_init.Plan.load(folder / "base layer"), model)


@pytest.mark.parametrize("cls", [MultiHead, AutoModel])
@pytest.mark.parametrize("skip", [None, ["norm"]])
def test_several_heads_are_never_packed_and_the_callers_list_stays(folder, tmp_path, cls, skip):
    asked = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=skip)
    model = cls.from_pretrained(folder / "base heads", quantization_config=asked)
    assert asked.llm_int8_skip_modules == skip
    model.save_pretrained(tmp_path / "saved")
    for each in (model, cls.from_pretrained(tmp_path / "saved")):
        kinds = {
            name: is_packed(module) for name, module in each.named_modules() if isinstance(module, torch.nn.Linear)
        }
        assert {name for name, is_it in kinds.items() if not is_it} >= {f"heads.{name}.score" for name in HEADS}
        assert all(is_it for name, is_it in kinds.items() if name.startswith("trunk.layers"))


@pytest.mark.parametrize("name", ["tokens", "head", "layer"])
def test_a_folder_in_4_bits_is_extended_and_loads_without_a_word(folder, name):
    cls = CHANGES[name][0]
    before, after = (load_file(folder / path / "model.safetensors") for path in ("packed", f"packed {name}"))
    kept = {key: tensor for key, tensor in before.items() if "proj" in key}
    assert len(kept) == 14 * 4 and all(torch.equal(tensor, after[key]) for key, tensor in kept.items())
    model, said = cls.from_pretrained(folder / f"packed {name}", output_loading_info=True)
    assert not any(said.values()) and sum(map(is_packed, model.modules())) == 14
    plan = hf_init.Plan.load(folder / f"packed {name}")
    new = {tensor.parameter.rpartition(".")[0] for tensor in plan.tensors if tensor.new}
    assert not any(is_packed(model.get_submodule(module)) for module in new)
    assert hf_init.verify(folder / f"packed {name}", recompute=True)
    if name != "layer":
        old, ids = LlamaForCausalLM.from_pretrained(folder / "packed"), IDS.clamp(max=ROWS - 1)
        assert torch.equal(model.model(ids).last_hidden_state, old.model(ids).last_hidden_state)


def test_every_function_gives_a_result_or_a_refusal(folder, tmp_path):
    path = folder / "packed tokens"
    seen = outcomes(lambda: LlamaForCausalLM.from_pretrained(path), path, path, tmp_path)
    assert not {name: said for name, said in seen.items() if said.startswith("FAULT")}
    assert {"extend", "verify", "drift", "diff", "report", "peft_arguments"} <= {
        n for n, s in seen.items() if s == "a result"
    }
