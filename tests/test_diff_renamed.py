"""What is the same though its name or its dtype isn't: prefixes, wrappers, moved layers, exact casts."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import places
from stored_arrays import NOTHING, SINGLE, entry, tensors, write
from stored_arrays import a as a

import hf_init
from hf_init import HfInitError

# What is the same, though its name or its dtype isn't.


def model(prefix: str = "", layers: int = 3, dtype: str = "float32", **others: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of a small model: matrices, biases that are all zeros, norms that are all ones."""
    values = np.random.default_rng(0).standard_normal((layers, 4, 4))
    blocks = {
        f"{prefix}layers.{n}.{name}": value.astype(dtype)
        for n in range(layers)
        for name, value in (("w.weight", values[n]), ("w.bias", np.zeros(4)), ("norm.weight", np.ones(4)))
    }
    return blocks | others


def found(report: Any) -> dict[str, tuple[str, str]]:
    """The status of every tensor that isn't identical, with its name in ``a``."""
    listed = [each for each in report.tensors if each["status"] != "identical"]
    return {each["name"]: (each["status"], each.get("name_before", each["name"])) for each in listed}


@pytest.mark.parametrize(("old", "new"), [("", "bert."), ("bert.", ""), ("bert.", "model.text."), ("m.", "m.m.")])
def test_a_prefix_that_came_or_went_is_a_renaming(tmp_path, old, new):
    a = write(tmp_path / "a", model(old))
    report = hf_init.diff(a, write(tmp_path / "b", model(new, head=np.ones((2, 4), "float32"))))
    assert report.counts == {**NOTHING, "renamed": 9, "added": 1} and not report.ok
    assert all(was == name.replace(new, old, 1) for name, (status, was) in found(report).items() if status == "renamed")
    first, second, _, table, row = str(report).splitlines()[:5]
    assert first.endswith("9 renamed, 1 added") and second == f"each of the 9 tensors of {a} is in {tmp_path / 'b'}"
    assert table == "under another name" and row.split() == ["was", "is", "tensors"]
    assert str(report).splitlines()[5].split() == [f"{old}*", f"{new}*", "9"] or new == 2 * old


def test_what_changed_under_another_name_is_compared_there(tmp_path):
    """Training moves everything, so that no bytes tell; names do, also of a table that has got more rows."""
    moved = {f"bert.{name}": value + 1 for name, value in model().items()}
    moved["bert.layers.0.w.weight"] = np.concatenate([model()["layers.0.w.weight"], np.ones((2, 4), "float32")])
    report = hf_init.diff(write(tmp_path / "a", model()), write(tmp_path / "b", moved))
    assert report.counts == {**NOTHING, "changed": 9}
    assert {was for _, was in found(report).values()} == model().keys()
    assert entry(report, "bert.layers.0.w.weight")["common_rows_identical"] == 4
    assert "bert.layers.1.w.bias: bytes at row 0, index [0] (4 rows changed)" in str(report)
    assert "was layers.1.w.bias" in str(report)


@pytest.mark.parametrize(
    "wrapped", ["_orig_mod.layers.{}.w", "layers.{}._checkpoint_wrapped_module.w", "module.m.layers.{}.w"]
)
def test_a_wrappers_words_are_passed_over_after_training(tmp_path, wrapped):
    a = write(tmp_path / "a", {f"layers.{n}.w": np.full(3, n) for n in range(2)})
    report = hf_init.diff(a, write(tmp_path / "b", {wrapped.format(n): np.full(3, n + 5) for n in range(2)}))
    assert found(report) == {wrapped.format(n): ("changed", f"layers.{n}.w") for n in range(2)}
    assert hf_init.drift(a, tmp_path / "b").counts["trained"] == 2


def test_a_layer_that_moved_is_found_where_it_is_now(tmp_path):
    grown = model(layers=3)
    grown["layers.3.w.weight"], grown["layers.2.w.weight"] = grown["layers.2.w.weight"], np.ones((4, 4), "float32") / 3
    grown |= {"layers.3.w.bias": np.zeros(4, "float32"), "layers.3.norm.weight": np.ones(4, "float32")}
    report = hf_init.diff(write(tmp_path / "a", model()), write(tmp_path / "b", grown))
    assert found(report)["layers.3.w.weight"] == ("renamed", "layers.2.w.weight")
    assert found(report)["layers.2.w.weight"] == ("added", "layers.2.w.weight")


def test_layers_that_were_swapped_are_told_as_swapped(tmp_path):
    swapped = model()
    swapped["layers.0.w.weight"], swapped["layers.1.w.weight"] = (
        swapped["layers.1.w.weight"],
        swapped["layers.0.w.weight"],
    )
    report = hf_init.diff(write(tmp_path / "a", model()), write(tmp_path / "b", swapped))
    assert report.counts == {**NOTHING, "identical": 7, "renamed": 2} and not report
    assert found(report)["layers.0.w.weight"] == ("renamed", "layers.1.w.weight")


def test_what_is_all_zeros_or_ones_is_told_by_its_name_alone(tmp_path):
    a = write(tmp_path / "a", {"pooler.bias": np.zeros(4), "norm.weight": np.ones(4)})
    report = hf_init.diff(a, write(tmp_path / "b", {"classifier.bias": np.zeros(4), "head.scale": np.ones(4)}))
    assert report.counts == {**NOTHING, "added": 2, "removed": 2}


def test_of_equal_tensors_each_is_found_once(tmp_path):
    w = model()["layers.0.w.weight"]
    a = write(tmp_path / "a", {"enc.w": w, "dec.w": w})
    report = hf_init.diff(a, write(tmp_path / "b", {"m.dec.w": w, "m.enc.w": w, "m.new.w": w}))
    assert found(report) == {
        "m.enc.w": ("renamed", "enc.w"), "m.dec.w": ("renamed", "dec.w"), "m.new.w": ("added", "m.new.w")
    }  # fmt: skip


def test_a_flipped_bit_under_another_name_is_a_change_of_one_element(tmp_path):
    changed = {"other.matrix": np.random.default_rng(1).standard_normal((400, 100))}
    a = write(tmp_path / "a", {"w": changed["other.matrix"].copy()})
    changed["other.matrix"][55, 5] += 1
    report = hf_init.diff(a, write(tmp_path / "b", changed))
    assert found(report) == {"other.matrix": ("changed", "w")}
    assert entry(report, "other.matrix")["changed_elements"] == 1


def bfloat16(values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(values.copy()).to(torch.bfloat16)


@pytest.mark.parametrize(
    ("a", "b", "meaning"),
    [
        ("float32", "bfloat16", "each value rounded"),
        ("bfloat16", "float32", "the same values"),
        ("rounded", "float32", "what was there is the rounding of each value"),
        ("float32", "float16", "each value rounded"),
        ("float64", "float32", "each value rounded"),
        ("float32", "float64", "the same values"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_an_exact_cast_is_said_to_be_one(tmp_path, a, b, meaning, prefix):
    import torch
    from safetensors.torch import save_file as save_torch

    values = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 5)).astype("float32"))
    values = values.to(torch.bfloat16).float() if a == "bfloat16" else values
    values[0, 0], values[2, 4] = math.nan, math.inf
    values = values.double() * (1 + 2.0**-40) if a == "float64" else values
    for folder, name, dtype in ((tmp_path / "a", "", a.replace("rounded", "bfloat16")), (tmp_path / "b", prefix, b)):
        folder.mkdir()
        save_torch({f"{name}w": values.to(getattr(torch, dtype))}, folder / SINGLE)
    report = hf_init.diff(tmp_path / "a", tmp_path / "b")
    assert found(report) == {f"{prefix}w": ("cast", "w")} and entry(report, f"{prefix}w")["cast"] == meaning
    assert not report and str(report).splitlines()[0].endswith(" 1 cast") and meaning in str(report)
    assert "as its exact cast" in str(report)


def test_a_cast_that_is_not_exact_is_a_change(tmp_path):
    from safetensors.torch import save_file as save_torch

    values = np.random.default_rng(0).standard_normal((3, 5)).astype("float32")
    a, b = write(tmp_path / "a", {"w": values}), tmp_path / "b"
    b.mkdir()
    rounded = bfloat16(values)
    rounded[1, 2] += 1
    save_torch({"w": rounded}, b / SINGLE)
    changed = entry(hf_init.diff(a, b), "w")
    assert (changed["status"], changed["reason"], changed["changed_elements"]) == ("changed", "dtype", 1)
    assert changed["first"]["index"] == [1, 2]


def test_globs_choose_what_is_compared(tmp_path):
    a, b = write(tmp_path / "a", model()), write(tmp_path / "b", model("bert.", extra=np.ones(2)))
    for only in ("layers.1.*", ["bert.layers.1.*"], ["layers.1.w.*", "*.1.norm.weight"]):
        assert hf_init.diff(a, b, only=only).counts == {**NOTHING, "renamed": 3}
    with pytest.raises(HfInitError, match=r"only: 'layers\.1' \(did you mean 'layers\.1\.\*'\?\) names no tensor"):
        hf_init.diff(a, b, only=["layers.1"])


def test_a_line_a_layer(tmp_path):
    changed = model() | {"layers.1.w.bias": np.ones(4, "float32")}
    report = hf_init.diff(write(tmp_path / "a", model()), write(tmp_path / "b", changed), by_layer=True)
    assert report.layers()["layers.1"] == {"identical": 2, "changed": 1} == report.to_json()["layers"]["layers.1"]
    assert "layers.1.w.bias" not in str(report) and ["layers.1", "2", "1"] in [
        x.split() for x in str(report).splitlines()
    ]


def test_a_single_file_stands_for_a_folder(tmp_path):
    a, b = write(tmp_path / "a", model()), write(tmp_path / "b", model(), "adapter.safetensors")
    assert hf_init.diff(a, b / "adapter.safetensors") and hf_init.diff(b / "adapter.safetensors", a / SINGLE)
    (b / "notes.txt").write_text("no tensors")
    with pytest.raises(HfInitError, match=r"notes\.txt"):
        hf_init.diff(a, b / "notes.txt")


def test_a_config_that_can_t_be_read_is_no_hindrance(tmp_path):
    a, b = write(tmp_path / "a", {"gone": np.ones(3)}), write(tmp_path / "b", {"come": np.arange(3.0)})
    for folder, config in ((a, '{"model_type": "bert", "x": Infinity}'), (b, "no JSON")):
        (folder / "config.json").write_text(config)
    assert hf_init.diff(a, b).counts == {**NOTHING, "added": 1, "removed": 1}


def test_names_from_old_spellings_are_the_librarys_own(tmp_path, tiny):
    """A hub base of the old days has gamma and beta; after training no byte tells that they are weight and bias."""
    base, old, trained = tiny("bert"), tmp_path / "old", tmp_path / "trained"
    from safetensors.numpy import load_file

    values = {name: value + 1 for name, value in load_file(base / SINGLE).items()}
    spelled = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): value
        for name, value in values.items()
    }
    write(old, spelled)
    (old / "config.json").write_bytes((base / "config.json").read_bytes())
    assert any(name.endswith("gamma") for name in spelled)
    write(trained, {f"bert.{name}": value + 1 for name, value in values.items()})
    config = json.loads((base / "config.json").read_text()) | {"architectures": ["BertForSequenceClassification"]}
    (trained / "config.json").write_text(json.dumps(config))
    report = hf_init.diff(old, trained)
    assert report.counts == {**NOTHING, "changed": len(values)}
    drift = hf_init.drift(old, trained)
    assert drift.counts["trained"] == len(values) and "under another name" in str(drift)


@given(st.data())
def test_any_flipped_bit_is_one_changed_element_of_one_tensor(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    a, b = write(folder / "a", tensors()), write(folder / "b", tensors())
    name, hit = data.draw(st.sampled_from([item for item in places(a).items() if item[1]]))
    byte, bit = data.draw(st.sampled_from(hit)), data.draw(st.integers(0, 7))
    content = bytearray((b / SINGLE).read_bytes())
    content[byte] ^= 1 << bit
    (b / SINGLE).write_bytes(content)
    report = hf_init.diff(a, b)
    changed = entry(report, name)
    assert (changed["status"], changed["changed_rows"], changed["changed_elements"]) == ("changed", 1, 1)
    element = (byte - hit.start) // tensors()[name].itemsize
    assert changed["first"]["index"] == [int(i) for i in np.unravel_index(element, tensors()[name].shape)]
    assert report.counts["identical"] == len(report.tensors) - 1
