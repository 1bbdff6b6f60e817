"""Comparing any two checkpoints: by bytes, tensor by tensor, row by row."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import hf_init
from hf_init import HfInitError

NOTHING = dict.fromkeys(("identical", "renamed", "cast", "changed", "added", "removed"), 0)
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def write(folder: Path, tensors: dict[str, np.ndarray], name: str = SINGLE) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name)
    return folder


def tensors() -> dict[str, np.ndarray]:
    return {
        "w": np.arange(12, dtype="float32").reshape(4, 3),
        "ids": np.arange(5, dtype="int64"),
        "step": np.array(3, "int32"),
        "none": np.zeros((0, 2), "float16"),
    }


def places(folder: Path) -> dict[str, range]:
    """The bytes of the file that each tensor has."""
    data = (folder / SINGLE).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return {name: range(*(start + at for at in each["data_offsets"])) for name, each in header.items()}


def entry(report: Any, name: str) -> dict[str, Any]:
    return next(tensor for tensor in report.tensors if tensor["name"] == name)


@pytest.fixture
def a(tmp_path) -> Path:
    return write(tmp_path / "a", tensors())


def test_a_checkpoint_is_identical_to_itself(a):
    report = hf_init.diff(a, a)
    assert report.identical
    assert report.counts == {**NOTHING, "identical": 4}
    assert [tensor["name"] for tensor in report.tensors] == sorted(tensors(), key=lambda name: places(a)[name].start)
    assert entry(report, "w") == {"name": "w", "status": "identical", "shape": [4, 3], "dtype": "float32"}
    assert str(report) == f"{a} -> {a}: 4 identical"


def test_a_diff_is_true_where_nothing_differs_and_raises_where_something_does(a, tmp_path):
    same = hf_init.diff(a, a)
    same.raise_if_failed()
    assert same and same.ok and same.to_json()["schema"] == "hf_init.diff/1"
    other = hf_init.diff(a, write(tmp_path / "b", {**tensors(), "new": np.ones(2)}))
    assert not other and not other.ok and other.to_json()["ok"] is False
    assert repr(other) == f"<DiffReport: {a} -> {tmp_path / 'b'}: 4 identical, 1 added>"
    with pytest.raises(HfInitError, match="expected identical ones:\n  new: added"):
        other.raise_if_failed()


def test_real_checkpoints_are_identical_to_themselves(minilm, smollm2):
    assert hf_init.diff(minilm, str(minilm)).identical
    report = hf_init.diff(minilm, smollm2)
    assert not report.identical and report.counts["identical"] == report.counts["changed"] == 0


def test_files_and_metadata_do_not_count(a, tmp_path):
    b = tmp_path / "b"
    whole = tensors()
    write(b, {"w": whole.pop("w")}, "first.safetensors")
    save_file(whole, b / "rest.safetensors", {"format": "pt"})
    places = {"w": "first.safetensors", **dict.fromkeys(whole, "rest.safetensors")}
    (b / INDEX).write_text(json.dumps({"weight_map": places}))
    assert hf_init.diff(a, b).identical and hf_init.diff(b, a).identical


def test_added_and_removed_mirror_each_other(a, tmp_path):
    b = write(tmp_path / "b", {**tensors(), "new": np.ones(2)})
    report, mirrored = hf_init.diff(a, b), hf_init.diff(b, a)
    assert report.counts == {**NOTHING, "identical": 4, "added": 1}
    assert mirrored.counts == {**NOTHING, "identical": 4, "removed": 1}
    assert entry(report, "new") == {"name": "new", "status": "added", "shape": [2], "dtype": "float64"}
    assert report.tensors[-1]["name"] == "new", "what only b has comes last"
    assert not report.identical and "removed (1)" in str(mirrored) and "new     float64  [2]" in str(mirrored)


def test_changed_bytes_are_located_and_counted(a, tmp_path):
    changed = tensors()
    changed["w"][1, 1:], changed["w"][3, 0] = -1.5, 7
    report = hf_init.diff(a, write(tmp_path / "b", changed))
    assert report.counts == {**NOTHING, "identical": 3, "changed": 1}
    assert entry(report, "w") == {
        "name": "w",
        "status": "changed",
        "shape": [4, 3],
        "dtype": "float32",
        "reason": "bytes",
        "first": {
            "index": [1, 1],
            "row": 1,
            "seen": -1.5,
            "expected": 4.0,
            "seen_bits": "0xbfc00000",
            "expected_bits": "0x40800000",
        },
        "rows": 4,
        "changed_rows": 2,
        "changed_elements": 3,
    }
    assert "w: bytes at row 1, index [1, 1] (2 rows changed): seen -1.5 (0xbfc00000), expected 4.0" in str(report)


def test_a_scalar_has_one_row(a, tmp_path):
    report = hf_init.diff(a, write(tmp_path / "b", {**tensors(), "step": np.array(-3, "int32")}))
    step = entry(report, "step")
    assert (step["rows"], step["changed_rows"], step["changed_elements"]) == (1, 1, 1)
    assert (step["first"]["index"], step["first"]["seen"], step["first"]["expected"]) == ([], -3, 3)


def test_numbers_do_not_decide_bits_do(tmp_path):
    a = write(tmp_path / "a", {"w": np.array([math.nan, -0.0, 1], "float32")})
    assert hf_init.diff(a, a).identical, "NaN is itself"
    report = hf_init.diff(a, write(tmp_path / "b", {"w": np.array([math.nan, 0.0, 1], "float32")}))
    assert entry(report, "w")["first"]["index"] == [1] and entry(report, "w")["changed_elements"] == 1
    other = np.array([math.nan, -0.0, 1], "float32")
    other.view("uint32")[0] ^= 1
    report = hf_init.diff(a, write(tmp_path / "c", {"w": other}))
    assert entry(report, "w")["first"]["seen_bits"] == "0x7fc00001"
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["tensors"][0]["first"]["seen"] == "nan"


def test_another_dtype_of_the_same_bytes_is_a_change(a, tmp_path):
    report = hf_init.diff(a, write(tmp_path / "b", {**tensors(), "w": tensors()["w"].view("int32")}))
    changed = entry(report, "w")
    assert (changed["reason"], changed["dtype_before"], changed["dtype"]) == ("dtype", "float32", "int32")
    assert "float32 [4, 3] -> int32 [4, 3]" in str(report)


def test_another_shape_of_the_same_bytes_is_a_change(a, tmp_path):
    changed = entry(hf_init.diff(a, write(tmp_path / "b", {**tensors(), "w": tensors()["w"].reshape(4, 3, 1)})), "w")
    assert (changed["reason"], changed["shape_before"], changed["shape"]) == ("shape", [4, 3], [4, 3, 1])
    assert "common_rows" not in changed


@pytest.mark.parametrize("grown", [True, False])
def test_of_another_number_of_rows_the_common_ones_are_compared(a, tmp_path, grown):
    longer = np.concatenate([tensors()["w"], np.full((2, 3), 9, "float32")])
    b = write(tmp_path / "b", {**tensors(), "w": longer})
    report = hf_init.diff(a, b) if grown else hf_init.diff(b, a)
    changed = entry(report, "w")
    assert (changed["reason"], changed["common_rows"], changed["common_rows_identical"]) == ("shape", 4, 4)
    assert "first" not in changed and "4 of 4 common rows identical" in str(report)


def test_of_another_number_of_rows_a_change_is_located(a, tmp_path):
    longer = np.concatenate([tensors()["w"], np.full((2, 3), 9, "float32")])
    longer[2, 1] = -1
    changed = entry(hf_init.diff(a, write(tmp_path / "b", {**tensors(), "w": longer})), "w")
    assert (changed["common_rows"], changed["common_rows_identical"]) == (4, 3)
    assert (changed["first"]["index"], changed["first"]["expected"]) == ([2, 1], 7)


def test_progress_adds_up_to_the_bytes_of_one_side(a):
    steps: list[int] = []
    hf_init.diff(a, a, progress=steps.append)
    assert sum(steps) == sum(each.nbytes for each in tensors().values())


def test_what_can_not_be_read_is_an_error(a, tmp_path):
    with pytest.raises(HfInitError, match=r"no such folder: .*nowhere"):
        hf_init.diff(a, tmp_path / "nowhere")


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
