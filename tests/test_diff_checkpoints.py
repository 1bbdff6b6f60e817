"""Comparing any two checkpoints: by bytes, tensor by tensor, row by row."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from made_results import places
from safetensors.numpy import save_file
from stored_arrays import INDEX, NOTHING, entry, tensors, write
from stored_arrays import a as a

import hf_init
from hf_init import HfInitError


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
