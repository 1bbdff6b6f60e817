"""The same seed gives the same bytes, whatever else changes; and the caller's random state is left alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hf_init
from hf_init import Recipe, Rule, schemes
from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init.schemes import RowScheme, finish, whole_slot

RECIPE = Recipe([Rule("xavier_uniform", name="classifier.weight")], default="model", seed=11)
CLS = transformers.BertForSequenceClassification


def head(model: torch.nn.Module) -> bytes:
    return b"".join(tensor.detach().numpy().tobytes() for tensor in model.classifier.parameters())


@pytest.fixture(scope="module")
def reference(request):
    base = request.getfixturevalue("minilm")
    return head(hf_init.from_pretrained(CLS, base, recipe=RECIPE, num_labels=3))


def test_after_any_manual_seed_and_without_a_trace(minilm, reference):
    torch.manual_seed(987)
    before = torch.get_rng_state()
    model = hf_init.from_pretrained(CLS, minilm, recipe=RECIPE, num_labels=3)
    assert head(model) == reference
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("scheme", ["model", "declared"])
def test_no_other_device_is_seeded(minilm, tmp_path, monkeypatch, scheme):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    hf_init.from_pretrained(CLS, minilm, recipe={"default": scheme}, num_labels=3)
    hf_init.extend(minilm, tmp_path / "out", CLS, recipe={"default": scheme}, num_labels=3)
    hf_init.verify(tmp_path / "out", recompute=True).raise_if_failed()
    assert not seeded
    torch.manual_seed(0)
    assert seeded == [0], "what is watched is what torch.manual_seed calls"


def test_writing_leaves_no_trace_either(minilm, reference, tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    hf_init.extend(minilm, tmp_path / "out", CLS, recipe=RECIPE, num_labels=3)
    hf_init.verify(tmp_path / "out", recompute=True).raise_if_failed()
    assert torch.equal(torch.get_rng_state(), before)
    assert head(CLS.from_pretrained(tmp_path / "out")) == reference


def test_in_a_fresh_process(minilm, reference):
    program = (
        "import hashlib, hf_init, transformers\n"
        "recipe = {'seed': 11, 'rules': [{'name': 'classifier.weight', 'scheme': 'xavier_uniform'}]}\n"
        f"m = hf_init.from_pretrained(transformers.BertForSequenceClassification, {str(minilm)!r}, "
        "recipe=recipe, num_labels=3)\n"
        "data = b''.join(t.detach().numpy().tobytes() for t in m.classifier.parameters())\n"
        "print(data.hex())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert bytes.fromhex(done.stdout.strip().splitlines()[-1]) == reference


def test_with_more_rules_and_another_order(minilm, reference):
    more = Recipe([Rule("zeros", name="classifier.bias"), Rule("xavier_uniform", role="linear.weight")], seed=11)
    assert head(hf_init.from_pretrained(CLS, minilm, recipe=more, num_labels=3)) == reference


def test_with_another_order_of_tensors_in_the_file_and_other_shards(minilm, reference, tmp_path):
    tensors = load_file(minilm / "model.safetensors")
    backwards = dict(reversed(list(tensors.items())))
    save_file(backwards, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((minilm / "config.json").read_bytes())
    assert head(hf_init.from_pretrained(CLS, tmp_path, recipe=RECIPE, num_labels=3)) == reference
    out = tmp_path / "out"
    hf_init.extend(minilm, out, CLS, recipe=RECIPE, num_labels=3, max_shard_size="20MB")
    assert len(Checkpoint.open(out).shards) > 3
    assert head(CLS.from_pretrained(out)) == reference


def test_another_seed_gives_other_values(minilm, reference):
    assert head(hf_init.from_pretrained(CLS, minilm, recipe=RECIPE, seed=12, num_labels=3)) != reference


def test_the_librarys_own_scheme_is_keyed_by_name_too(tiny):
    """A tensor's values don't depend on what else is new beside it."""
    one = hf_init.from_pretrained(transformers.BertForMaskedLM, tiny("bert"), seed=3)
    both = hf_init.from_pretrained(transformers.BertForPreTraining, tiny("bert"), seed=3)
    name = "cls.predictions.transform.dense.weight"
    assert torch.equal(one.state_dict()[name], both.state_dict()[name])


def test_the_librarys_own_scheme_is_the_librarys(tiny):
    """GPT-2 re-draws every residual projection smaller, from the block around it."""
    grown = hf_init.from_pretrained(transformers.GPT2LMHeadModel, tiny("gpt2"), n_layer=64, n_embd=32)
    new = [t for name, t in grown.state_dict().items() if name.endswith("mlp.c_proj.weight") and ".h.0." not in name]
    spread = torch.stack(new[2:]).std()
    assert abs(spread / (0.02 / (2 * 64) ** 0.5) - 1) < 0.02
    plain = torch.stack([t for n, t in grown.state_dict().items() if n.endswith("mlp.c_fc.weight")][2:]).std()
    assert abs(plain / 0.02 - 1) < 0.02


ASKING = {"model", "skip", "declared", "auto", "matched_normal", "fitted"}
OF_ROWS = {name for name, kind in schemes.REGISTRY.items() if issubclass(kind, RowScheme)}  # of a table that is there


@pytest.mark.parametrize("name", sorted(set(schemes.REGISTRY) - ASKING - OF_ROWS))
def test_rounding_happens_once(name):
    """The same seed gives the same values in every dtype, up to the one rounding."""
    settings = {
        "constant": {"val": 0.3},
        "sparse": {"sparsity": 0.5},
        "scaled_residual": {"layers": 12},
        "embedding": {"padding": 0},
        "log_prior": {"counts": [10, 20, 30, 10, 20, 30]},
    }
    scheme = schemes.build(name, settings.get(name, {}))
    shape = {
        "dirac": (6, 6, 3),
        "delta_orthogonal": (6, 6, 3),
        "lstm_bias": (24,),
        "gru_bias": (18,),
        "log_prior": (6,),
    }.get(name, (6, 8))
    leaf = "bias_ih_l0" if name.endswith("_bias") else "w"
    full = finish(scheme, whole_slot(leaf, shape, parameter=leaf))
    for dtype in ("bfloat16", "float16"):
        rounded = finish(scheme, whole_slot(leaf, shape, dtype=dtype, parameter=leaf))
        assert torch.equal(rounded, full.to(getattr(torch, dtype)))
