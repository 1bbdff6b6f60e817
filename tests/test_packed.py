"""Packed and scaled weights are told from the headers; what a config says of them beside plain weights is left over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification

import hf_init
from hf_init import HfInitError

OPTIONS = {"labels": ["a", "b"], "drop": ["lm_head.*"]}
CLASSIFIER = {"architecture": LlamaForSequenceClassification, **OPTIONS}
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def base(bases, tmp_path):
    shutil.copytree(bases("llama untied"), tmp_path / "base", copy_function=shutil.copyfile)
    return tmp_path / "base"


def edited(base: Path, change: Callable[[str, torch.Tensor], Tensors], of: str = "proj.weight", **config) -> Path:
    """The checkpoint with what stands for each of its projections, and with other config values."""
    before = load_file(base / "model.safetensors")
    after = [change(name, t) if of in name else {name: t} for name, t in before.items()]
    save_file({name: t for each in after for name, t in each.items()}, base / "model.safetensors", {"format": "pt"})
    values = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**values, **config}))
    return base


def packed(dtype: torch.dtype, leaf: str = "weight", **beside: torch.dtype) -> Callable[[str, torch.Tensor], Tensors]:
    """A projection as numbers of another dtype, with tensors of these endings beside it."""

    def change(name: str, tensor: torch.Tensor) -> Tensors:
        module = name.removesuffix("weight")
        return {module + leaf: tensor.to(dtype)} | {
            module + ending.replace("__", "."): torch.ones(1, 1).to(kind) for ending, kind in beside.items()
        }

    return change


F8, HALF = torch.float8_e4m3fn, torch.float16
FORMATS = [
    ("GPTQ", packed(torch.int32, "qweight", qzeros=torch.int32, scales=HALF, g_idx=torch.int32), {}),
    ("AWQ or GPTQ", packed(torch.int32, "qweight", qzeros=torch.int32, scales=HALF), {}),
    ("bitsandbytes, 4 bits", packed(torch.uint8, weight__absmax=torch.uint8, weight__quant_map=HALF), {}),
    ("bitsandbytes, 8 bits", packed(torch.int8, SCB=HALF), {}),
    ("compressed-tensors", packed(torch.int32, "weight_packed", weight_scale=HALF, weight_shape=torch.int64), {}),
    ("float8 in blocks", packed(F8, weight_scale_inv=torch.float32), {}),
    ("modelopt, NVFP4", packed(torch.uint8, weight_scale=F8, weight_scale_2=torch.float32), {}),
    ("quanto", packed(torch.int8, "weight._data", weight___scale=HALF), {}),
    ("int8 with scales in int8", packed(torch.int8, weight_scale=HALF), {}),
    ("MLX in uint32", packed(torch.uint32, scales=HALF, biases=HALF), {"quantization": {"bits": 4, "group_size": 64}}),
    ("quanto or torchao", packed(torch.int8, "_weight_qdata", _weight_scale=HALF), {}),
    ("Quark", packed(torch.uint8, weight_scale=HALF, weight_zero_point=HALF), {}),
    ("no known format", packed(torch.int32, "indices", centroids__weight=HALF), {}),
    ("no known format", packed(torch.int64, "dense", row_offsets=torch.int32), {}),
    (r"\(float8_e5m2\)", packed(torch.float8_e5m2), {}),
    (r"\(int8\)", packed(torch.int8), {}),
    ("fp8 in float8_e4m3fn", packed(F8), {"compression_config": {"quant_method": "fp8"}}),
    (r"\(gptq\)", packed(HALF, weight_scale=HALF), {"compression_config": {"quant_method": "gptq"}}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "config"), FORMATS, ids=[kind for kind, *_ in FORMATS])
def test_packed_weights_are_refused_with_their_format(base, kind, change, config):
    edited(base, change, **config)
    with pytest.raises(HfInitError, match=rf"is quantized .*{kind}.*proj.*Extend the unquantized"):
        hf_init.plan(base, **CLASSIFIER)


METHODS = {  # what a config calls the quantizer, and the list there of what it leaves alone
    "GPTQ": ("gptq", ""),
    "AWQ or GPTQ": ("awq", "modules_to_not_convert"),
    "bitsandbytes, 4 bits": ("bitsandbytes", "llm_int8_skip_modules"),
    "bitsandbytes, 8 bits": ("bitsandbytes", "llm_int8_skip_modules"),
    "compressed-tensors": ("compressed-tensors", "ignore"),
    "float8 in blocks": ("fp8", "modules_to_not_convert"),
    "modelopt, NVFP4": ("nvfp4", ""),
    "quanto": ("quanto", "modules_to_not_convert"),
    r"\(float8_e5m2\)": ("fp8", "modules_to_not_convert"),
}
NAMED = [(*METHODS[kind], change) for kind, change, _ in FORMATS if kind in METHODS]


def packed_bytes(folder: Path) -> dict[str, bytes]:
    """What lies in the projections, by name."""
    tensors = load_file(folder / "model.safetensors")
    return {name: t.flatten().view(torch.uint8).numpy().tobytes() for name, t in tensors.items() if "proj" in name}


@pytest.mark.parametrize(("method", "key", "change"), NAMED, ids=[method for method, *_ in NAMED])
def test_what_the_config_says_is_packed_is_kept_byte_for_byte(base, tmp_path, method, key, change):
    """New rows of plain tables, or a new head, which the quantizer is told to leave alone."""
    said = {"quant_method": method, "bits": 4, **({key: ["lm_head"]} if method == "fp8" else {})}
    edited(base, change, quantization_config=said)
    rows = {"config": {"vocab_size": 104}, "keep": {"*embed_tokens*": "leading", "lm_head*": "leading"}}
    if not key:
        with pytest.raises(HfInitError, match=f"what {method} leaves unpacked isn't known here, .*score"):
            hf_init.plan(base, **CLASSIFIER)
    hf_init.extend(base, tmp_path / "out", **(CLASSIFIER if key else rows)).raise_if_failed()
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config == ({**said, key: [*said.get(key, ()), "score"]} if key else said)
    assert packed_bytes(tmp_path / "out") == packed_bytes(base) and hf_init.verify(tmp_path / "out", recompute=True)
    plan = hf_init.Plan.load(tmp_path / "out")
    assert any(
        f"quantized by {method}: " in note and note.endswith("names what is new") is bool(key) for note in plan.notes
    )


F8_BLOCKS, FOUR_BITS = packed(F8, weight_scale_inv=torch.float32), packed(torch.uint8, weight__absmax=HALF)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (F8_BLOCKS, {"layers": [0, "new", 1]}, "blocks of packed tensors would move"),
        (F8_BLOCKS, {"layers": [0, 1, "new"], "new_layers": "copy"}, "new values would be made of packed ones"),
        (FOUR_BITS, {"layers": [0, 1, 0]}, "blocks of packed tensors would move"),
        (FOUR_BITS, {"layers": [0]}, "blocks of packed tensors would move"),
        (F8_BLOCKS, {"widen": {"intermediate_size": 96}}, "would change their shape: .*gate_proj"),
        (FOUR_BITS, {"keep": {"*layers.0.mlp*": "none"}}, "would not stay as they are: .*layers.0.mlp"),
        (
            FOUR_BITS,
            {"config": {"num_key_value_heads": 4}, "keep": {"*": "leading"}},
            "would change their shape: .*k_proj",
        ),
        (F8_BLOCKS, {"name_head": "lm", "add_heads": {"v": "regression"}}, "packed tensors have no place in MultiHead"),
        (F8_BLOCKS, {"prove_function": True}, "can't be run as a whole: .*quantized"),
    ],
)
def test_a_packed_tensor_that_would_change_is_refused(base, tmp_path, change, options, said):
    edited(base, change, quantization_config={"quant_method": "fp8"})
    with pytest.raises(HfInitError, match=f"(?s){said}"):
        hf_init.extend(base, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_packed_tables_get_no_rows_and_nothing_quantized_is_loaded(base):
    edited(base, packed(torch.int8), of="embed_tokens", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(HfInitError, match=r"would change their shape: model.embed_tokens.weight"):
        hf_init.plan(base, config={"vocab_size": 104}, keep={"*embed*": "leading", "lm_head*": "leading"})
    with pytest.raises(HfInitError, match=r"is quantized .bitsandbytes.: extend it folder to folder"):
        hf_init.from_pretrained(LlamaForSequenceClassification, base, **OPTIONS)
    with pytest.raises(HfInitError, match="no head is fitted by it in memory"):
        hf_init.plan(base, **CLASSIFIER, head="class_means", examples=[("x", "a"), ("y", "b")])


@pytest.mark.parametrize(("file", "kind"), [("quantize_config.json", "GPTQ"), ("hf_quant_config.json", "modelopt")])
def test_a_file_beside_the_weights_names_the_format(base, file, kind):
    edited(base, packed(torch.int8))
    (base / file).write_text("{}")
    with pytest.raises(HfInitError, match=rf"is quantized \({kind} in int8\)"):
        hf_init.plan(base, **CLASSIFIER)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight", "layers.1.self_attn.o_proj.weight"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, F8])
def test_one_tensor_in_whole_numbers_is_noticed(base, name, dtype):
    edited(base, packed(dtype), of=name)
    with pytest.raises(HfInitError, match=rf"(?s)is quantized.*{name}"):
        hf_init.plan(base, **CLASSIFIER)


@pytest.mark.parametrize(
    ("key", "said", "method"),
    [
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ("compression_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ("quantization_config", {}, "of no known method"),  # with which transformers loads nothing
    ],
)
def test_what_is_left_over_in_the_config_goes_and_is_named(base, tmp_path, key, said, method):
    edited(base, packed(torch.bfloat16), **{key: said})
    plan = hf_init.plan(base, **CLASSIFIER)
    assert [note for note in plan.notes if note.startswith(f"{key} ({method}) is left over")]
    assert key not in str(plan.claim)
    hf_init.extend(base, tmp_path / "out", **CLASSIFIER).raise_if_failed()
    assert key not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert key not in hf_init.from_pretrained(LlamaForSequenceClassification, base, **OPTIONS).config.to_dict()


def test_plain_weights_that_are_packed_in_each_pass_are_no_left_over_word(base):
    edited(base, packed(torch.bfloat16), quantization_config={"quant_method": "bitnet", "quantization_mode": "online"})
    with pytest.raises(HfInitError, match=r"every forward pass packs them.*remove quantization_config"):
        hf_init.plan(base, **CLASSIFIER)


def test_whole_numbers_where_the_class_has_them_are_no_packed_weights(bases, tmp_path):
    base = shutil.copytree(bases("resnet"), tmp_path / "base", copy_function=shutil.copyfile)
    assert any(t.dtype is torch.int64 for t in load_file(base / "model.safetensors").values())
    assert hf_init.plan(base).counts["new"] == 0
