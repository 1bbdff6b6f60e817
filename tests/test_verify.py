"""The proof of a result: what is as planned passes, and whatever is not is found and named."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_init
from hf_init._checkpoint import read as _read
from hf_init._checkpoint.checkpoint import INDEX, SINGLE, Checkpoint
from hf_init._errors import CheckpointError, ProofError
from hf_init._plan import MANIFEST_NAME, BaseRecord, Fill, Manifest, Plan, TensorPlan, region_fault
from hf_init._tensors import Box, Rows
from hf_init._verify import ranges as _ranges
from hf_init._verify import regions as _parts
from hf_init._verify import threads as _work
from hf_init._verify.compare import ByteComparison, bytes_digest
from hf_init._verify.differences import TensorDiff, decode_element
from hf_init._verify.digests import result_digests
from hf_init._verify.ranges import compare_all
from hf_init._verify.regions import CHUNK, ArrayRegion, ReadBuffer, contiguous_spans, region_pieces, stored_tensor
from hf_init._verify.report import VerifyReport
from hf_init._verify.threads import VerifyMeter
from hf_init._verify.tiling import tiling_fault
from hf_init._verify.verify import verify_result

CODES = {"f": "F32", "H": "BF16", "l": "I64"}  # numpy's letter: bfloat16 is held as its bits
Tensors = dict[str, np.ndarray]


def write(folder: Path, tensors: Tensors, name: str = SINGLE) -> Path:
    folder.mkdir(exist_ok=True)
    header, at = {}, 0
    for key, array in tensors.items():
        offsets = [at, at + array.nbytes]
        header[key] = {"dtype": CODES[array.dtype.char], "shape": list(array.shape), "data_offsets": offsets}
        at += array.nbytes
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for array in tensors.values())
    (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def floats(*shape: int, start: float = 0.0) -> np.ndarray:
    return (np.arange(math.prod(shape), dtype="float32") + start).reshape(shape)


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def box(start: list[int], stop: list[int]) -> dict[str, Any]:
    return {"start": start, "stop": stop}


def rows(dim: int, *index: int) -> dict[str, Any]:
    return {"dim": dim, "index": list(index)}


def new(*regions: dict[str, Any], scheme: str = "normal") -> list[dict[str, Any]]:
    return [{"region": region, "scheme": {"name": scheme}, "why": "a test"} for region in regions]


def base_tensors() -> Tensors:
    return {
        "embed": floats(4, 3),
        "head": floats(3, 3, start=100),
        "positions": floats(3, 2, start=200),
        "half": np.array([[0x3F80, 0x8000], [0x7FC0, 0xFF80]], "uint16"),
        "step": np.array(7, "int64"),
        "lm_head": floats(4, 3),
        "pooler": floats(2, start=300),
    }


def result_tensors(base: Tensors) -> Tensors:
    head, positions = floats(5, 4, start=-50), floats(6, 2, start=-90)
    head[:3, :3] = base["head"]
    positions[[4, 0, 2]] = base["positions"][[0, 2, 1]]
    return {
        "model.embed": base["embed"],
        "head": head,
        "positions": positions,
        "half": base["half"],
        "step": base["step"],
        "fresh": floats(2, 3, start=-9),
        "empty": floats(0, 3),
    }


def planned_tensors() -> list[dict[str, Any]]:
    f, head = {"dtype": "float32"}, box([0, 0], [3, 3])
    return [
        {"name": "model.embed", "status": "kept", "shape": [4, 3], "source": "embed", **f},
        {
            "name": "head",
            "status": "resized",
            "shape": [5, 4],
            **f,
            "kept": [{"region": head, "source": "head", "source_region": head}],
            "new": new(box([3, 0], [5, 4]), box([0, 3], [3, 4])),
        },
        {
            "name": "positions",
            "status": "resized",
            "shape": [6, 2],
            **f,
            "kept": [{"region": rows(0, 4, 0, 2), "source": "positions", "source_region": rows(0, 0, 2, 1)}],
            "new": new(rows(0, 1, 5, 3)),
        },
        {"name": "half", "status": "kept", "shape": [2, 2], "dtype": "bfloat16", "source": "half"},
        {"name": "step", "status": "kept", "shape": [], "dtype": "int64", "source": "step"},
        {"name": "fresh", "status": "new", "shape": [2, 3], **f, "new": new(box([0, 0], [2, 3]))},
        {"name": "empty", "status": "new", "shape": [0, 3], **f, "new": new(box([0, 0], [0, 3]))},
        {"name": "later", "status": "new", "shape": [2], **f, "new": new(box([0], [2]), scheme="skip")},
        {"name": "out", "status": "tied", "shape": [4, 3], **f, "tied_to": "model.embed", "source": "lm_head"},
    ]


def plan_of(entries: list[dict[str, Any]]) -> Plan:
    return Plan.from_json({"architecture": "Tiny", "seed": 0, "tensors": entries, "unused": []})


def digests_of(tensors: Tensors) -> dict[str, list[str]]:
    head, positions = tensors["head"], tensors["positions"]
    return {
        "head": [sha256(head[3:]), sha256(head[:3, 3:])],
        "positions": [sha256(positions[[1, 5, 3]])],
        "fresh": [sha256(tensors["fresh"])],
        "empty": [sha256(tensors["empty"])],
    }


@pytest.fixture
def made(tmp_path) -> tuple[Path, Path]:
    """A base, and a result of it with every status."""
    return make(tmp_path)


def make(folder: Path) -> tuple[Path, Path]:
    base = write(folder / "base", base_tensors())
    tensors = result_tensors(base_tensors())
    out = write(folder / "out", tensors)
    plan = {"architecture": "Tiny", "seed": 0, "tensors": planned_tensors(), "unused": ["pooler"], "counts": {}}
    record = BaseRecord(str(base), Checkpoint.open(base).fingerprint(), name="org/base")
    Manifest(Plan.from_json(plan), record, digests_of(tensors), "hf_init 0.1.0").save(out)
    return base, out


def edit(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as by hand."""
    document = json.loads((out / MANIFEST_NAME).read_text())
    change(document)
    (out / MANIFEST_NAME).write_text(json.dumps(document))


def entry_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in document["plan"]["tensors"] if entry["name"] == name)


def differences(out: Path, **arguments: Any) -> dict[str, list[str]]:
    """Name -> reasons; the report must not be ok."""
    report = verify_result(out, **{"everything": True, **arguments})
    assert not report.ok
    found: dict[str, list[str]] = {}
    for difference in report.differences:
        found.setdefault(difference["name"], []).append(difference["reason"])
    return found


def the_difference(out: Path, **arguments: Any) -> dict[str, Any]:
    report = verify_result(out, **{"everything": True, **arguments})
    assert len(report.differences) == 1, report.differences
    return report.differences[0]


def rewrite(out: Path, change: Callable[[Tensors], object]) -> None:
    """Write the result's tensors again, changed."""
    tensors = {name: array.copy() for name, array in result_tensors(base_tensors()).items()}
    change(tensors)
    write(out, tensors)


# What is as planned.


def test_a_result_as_planned_is_proved(made):
    base, out = made
    report = verify_result(out)
    assert report.ok and report.differences == () and report.notes == ()
    assert report.counts == {"tensors": 9, "kept": 3, "resized": 2, "new": 3, "tied": 1, "unused": 1}
    assert report.bytes_compared + report.bytes_digested == Checkpoint.open(out).nbytes, "every byte, once"
    assert report.bytes_digested == 4 * (8 + 3 + 6 + 6)
    assert report.base == str(base)
    report.raise_if_failed()
    assert report and repr(report) == "<VerifyReport: proved, 9 tensors>"
    assert str(report).startswith("proved: 9 tensors, 3 kept")


def test_the_report_is_json(made):
    assert json.loads(json.dumps(verify_result(made[1]).to_json(), allow_nan=False)) == {
        "schema": "hf_init.verify/1",
        "ok": True,
        "counts": {"tensors": 9, "kept": 3, "resized": 2, "new": 3, "tied": 1, "unused": 1},
        "bytes_compared": 48 + 36 + 24 + 8 + 8,
        "bytes_digested": 92,
        "bytes_linked": 0,
        "bytes_cloned": 0,
        "differences": [],
        "notes": [],
        "base": str(made[0]),
        "complete": True,
    }


def test_progress_adds_up_to_the_bytes_done(made):
    steps: list[int] = []
    report = verify_result(made[1], progress=steps.append)
    assert sum(steps) == report.bytes_compared + report.bytes_digested


def test_a_result_may_be_in_shards(made):
    _, out = made
    tensors = result_tensors(base_tensors())
    names = list(tensors)
    write(out, {name: tensors[name] for name in names[:3]}, "a.safetensors")
    write(out, {name: tensors[name] for name in names[3:]}, "b.safetensors")
    places = {name: "a.safetensors" if name in names[:3] else "b.safetensors" for name in names}
    (out / INDEX).write_text(json.dumps({"weight_map": places}))
    assert [INDEX in note for note in verify_result(out).notes] == [True], "the single file goes before the index"
    (out / SINGLE).unlink()
    assert verify_result(out).ok and verify_result(out).notes == ()
    write(out, {"stranger": floats(1), **{name: tensors[name] for name in names[3:]}}, "b.safetensors")
    assert differences(out) == {"stranger": ["extra: in b.safetensors, where the index doesn't have it"]}


# The base.


def test_a_base_that_moved_is_asked_for(made, tmp_path):
    base, out = made
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"base, is not there\. .*--base FOLDER"):
        verify_result(out)
    assert verify_result(out, moved).ok and verify_result(out, base=str(moved)).base == str(moved)


def test_another_base_with_the_same_tensors_is_noted_and_proves(made):
    base, out = made
    write(base, dict(reversed(base_tensors().items())))
    report = verify_result(out)
    assert report.ok and len(report.notes) == 1 and "not the very same files" in report.notes[0]
    assert "note: " in str(report)


def test_another_base_with_other_bytes_does_not(made):
    base, out = made
    write(base, {**base_tensors(), "embed": floats(4, 3, start=1), "lm_head": floats(4, 3, start=1)})
    assert set(differences(out)) == {"model.embed"}


def test_a_tied_tensor_whose_values_the_base_had_otherwise(made):
    base, out = made
    write(base, {**base_tensors(), "lm_head": floats(4, 3, start=1)})
    difference = the_difference(out)
    assert difference["name"] == "out" and difference["reason"] == "kept as embed, lm_head differs from it in the base"
    assert (difference["row"], difference["seen"], difference["expected"]) == (0, 0.0, 1.0)
    edit(out, lambda document: entry_of(document, "out").update(tied_to="fresh"))
    assert differences(out) == {"out": ["its source lm_head is in the base, and nothing of it in fresh"]}


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        ({"extra": floats(1)}, "extra", "unaccounted: in the base, neither used nor listed as unused"),
        ({"pooler": None}, "pooler", "listed as unused, not in the base"),
        ({"lm_head": None}, "out", "its source lm_head is not in the base"),
        ({"embed": None}, "model.embed", "its source embed is not in the base"),
        ({"embed": floats(4, 3).astype("int64")}, "model.embed", "dtype of its source in the base"),
        ({"embed": floats(3, 4)}, "model.embed", "shape of its source in the base"),
        ({"positions": floats(2, 2)}, "positions", "source region"),
        ({"head": floats(3, 2)}, "head", "source region"),
    ],
)
def test_a_base_that_does_not_fit_the_plan(made, change, name, reason):
    base, out = made
    tensors = {key: value for key, value in {**base_tensors(), **change}.items() if value is not None}
    write(base, tensors)
    found = differences(out)
    assert list(found) == [name] and found[name][0].startswith(reason)


# The result.


def test_a_tensor_that_is_missing(made):
    rewrite(made[1], lambda tensors: tensors.pop("half"))
    assert differences(made[1]) == {"half": ["missing: in the plan, not in the result"]}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("stranger", "extra: in the result, not in the plan"),
        ("out", "tied to model.embed, and yet stored in the files"),
        ("later", "left out by its scheme, and yet stored in the files"),
    ],
)
def test_a_tensor_too_many(made, name, reason):
    rewrite(made[1], lambda tensors: tensors.update({name: floats(2)}))
    assert differences(made[1]) == {name: [reason]}


def test_another_dtype_and_another_shape(made):
    _, out = made
    rewrite(out, lambda tensors: tensors.update(step=np.array(7, "float32"), fresh=floats(3, 2)))
    shape, dtype = sorted(verify_result(out).differences, key=lambda difference: difference["name"])
    assert shape == {"name": "fresh", "reason": "shape", "seen": [3, 2], "expected": [2, 3]}
    assert dtype == {"name": "step", "reason": "dtype", "seen": "float32", "expected": "int64"}


def test_a_kept_value_that_changed_is_named_with_row_and_both_values(made):
    _, out = made
    rewrite(out, lambda tensors: tensors["model.embed"].__setitem__((slice(1, 3), 2), [-1.5, math.inf]))
    assert the_difference(out) == {
        "name": "model.embed",
        "reason": "kept bytes differ from the base",
        "index": [1, 2],
        "row": 1,
        "seen": -1.5,
        "expected": 5.0,
        "seen_bits": "0xbfc00000",
        "expected_bits": "0x40a00000",
        "region": box([0, 0], [4, 3]),
        "changed_rows": 2,
        "changed_elements": 2,
    }
    with pytest.raises(
        ProofError, match=r"model\.embed: .*row 1, index \[1, 2\] \(2 rows.*seen -1\.5 .*expected 5\.0 "
    ):
        verify_result(out, everything=True).raise_if_failed()


def test_only_the_first_differences_are_spelled_out():
    many = tuple({"name": f"t{i}", "reason": "shape", "seen": [1], "expected": [2]} for i in range(7))
    report = VerifyReport({}, 0, 0, many, (), "base")
    with pytest.raises(
        ProofError, match=r"7 differences(.|\n)*t4: shape: seen \[1\], expected \[2\]\n  \.\.\. and 2 more"
    ):
        report.raise_if_failed()
    assert not report and not report.ok and "t5" not in str(report)
    assert repr(report) == "<VerifyReport: 7 differences, 0 tensors>"


@pytest.mark.parametrize(
    ("name", "index", "region"),
    [
        ("head", (2, 1), box([0, 0], [3, 3])),
        ("positions", (2, 1), rows(0, 4, 0, 2)),
        ("step", (), box([], [])),
    ],
)
def test_a_kept_place_is_told_in_the_tensors_own_index(made, name, index, region):
    rewrite(made[1], lambda tensors: tensors[name].__setitem__(index, 77))
    difference = the_difference(made[1])
    assert (difference["name"], difference["index"], difference["region"]) == (name, list(index), region)
    assert (difference["row"], difference["seen"], difference["changed_rows"]) == ((*index, 0)[0], 77, 1)
    old = result_tensors(base_tensors())[name][index]
    assert difference["expected"] == old


@pytest.mark.parametrize(
    ("name", "index", "region"),
    [
        ("head", (4, 0), box([3, 0], [5, 4])),
        ("head", (0, 3), box([0, 3], [3, 4])),
        ("positions", (3, 1), rows(0, 1, 5, 3)),
        ("fresh", (1, 1), box([0, 0], [2, 3])),
    ],
)
def test_a_new_value_that_changed_fails_its_digest(made, name, index, region):
    rewrite(made[1], lambda tensors: tensors[name].__setitem__(index, 77))
    difference = the_difference(made[1])
    assert (difference["name"], difference["reason"]) == (name, "digest of new bytes")
    assert difference["region"] == region and difference["seen"] != difference["expected"]


def test_values_are_compared_by_their_bits(made):
    base, out = made
    odd = np.array([[math.nan, -0.0, 0.0]] * 4, "float32")
    write(base, {**base_tensors(), "embed": odd, "lm_head": odd})
    rewrite(out, lambda tensors: tensors.update({"model.embed": odd}))
    assert verify_result(out).ok, "NaN is itself"
    rewrite(out, lambda tensors: tensors.update({"model.embed": np.abs(odd)}))
    found = verify_result(out).differences[0]
    assert (found["index"], str(found["seen"]), str(found["expected"])) == ([0, 1], "0.0", "-0.0")
    other = odd.copy()
    other.view("uint32")[3, 0] ^= 1
    rewrite(out, lambda tensors: tensors.update({"model.embed": other}))
    report = verify_result(out)
    assert report.differences[0]["index"] == [3, 0], "one NaN is not another"
    assert math.isnan(report.differences[0]["seen"]) and report.to_json()["differences"][0]["seen"] == "nan"


# One bit.


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.fixture(scope="module")
def to_damage(tmp_path_factory) -> tuple[Path, bytes]:
    _, out = make(tmp_path_factory.mktemp("damage"))
    return out, (out / SINGLE).read_bytes()


def stored_at(out: Path, byte: int) -> str | None:
    entries = Checkpoint.open(out).entries.values()
    return next((entry.name for entry in entries if entry.start <= byte < entry.stop), None)


@given(st.data())
def test_any_flipped_bit_of_any_tensor_is_found_and_the_tensor_named(to_damage, data):
    out, good = to_damage
    (out / SINGLE).write_bytes(good)
    start = min(entry.start for entry in Checkpoint.open(out).entries.values())
    bit = data.draw(st.integers(8 * start, 8 * len(good) - 1))
    name = stored_at(out, bit // 8)
    assert name is not None and verify_result(out).ok
    (out / SINGLE).write_bytes(flipped(good, bit))
    assert set(differences(out)) == {name}


@given(st.data())
def test_any_flipped_bit_of_the_header_is_found_or_refused(to_damage, data):
    out, good = to_damage
    header = 8 + int.from_bytes(good[:8], "little")
    (out / SINGLE).write_bytes(flipped(good, data.draw(st.integers(0, 8 * header - 1))))
    try:
        assert not verify_result(out).ok
    except CheckpointError as error:
        assert str(out) in str(error)


# Recomputing.


def recomputed(out: Path, change: float = 0.0) -> Callable[..., np.ndarray]:
    def recompute(tensor: TensorPlan, fill: Fill) -> np.ndarray:
        array, region = result_tensors(base_tensors())[tensor.name], fill.region
        cut = array[list(region.index)] if isinstance(region, Rows) else array[region.slices]
        return np.ascontiguousarray(cut + np.float32(change)).reshape(-1).view(np.uint8)

    return recompute


def test_new_values_are_derived_again(made):
    _, out = made
    assert verify_result(out, recompute=recomputed(out)).ok
    found = differences(out, recompute=recomputed(out, 1.0))
    assert found == {name: ["recomputed value differs"] for name in ("head", "positions", "fresh")}


def test_a_tampered_value_with_a_tampered_digest_is_found_by_recomputing(made):
    _, out = made
    rewrite(out, lambda tensors: tensors["positions"].__setitem__((5, 1), 77))
    edit(out, lambda document: document["digests"].update(positions=[verify_result(out).differences[0]["seen"]]))
    assert verify_result(out).ok
    difference = the_difference(out, recompute=recomputed(out))
    assert (difference["reason"], difference["index"], difference["seen"]) == ("recomputed value differs", [5, 1], 77)
    assert difference["expected"] == result_tensors(base_tensors())["positions"][5, 1]


def test_a_tampered_digest_alone_is_told_from_a_tampered_value(made):
    _, out = made
    edit(out, lambda document: document["digests"].update(fresh=["0" * 64]))
    assert differences(out, recompute=recomputed(out)) == {"fresh": ["digest of new bytes"]}


def test_a_recomputed_value_of_another_size(made):
    found = differences(made[1], recompute=lambda entry, part: np.zeros(5, np.uint8))
    assert found["head"] == ["recomputed value has another size"] * 2


# Manifests edited by hand.


def test_a_manifest_round_trips(made, tmp_path):
    manifest = Manifest.load(made[1])
    assert Manifest.from_json(manifest.to_json()) == manifest
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert manifest.base.name == "org/base" and manifest.tensors[1].new[0].why == "a test"


def test_a_manifest_that_could_not_be_read_is_not_written(made, tmp_path):
    manifest = Manifest.load(made[1])
    with pytest.raises(CheckpointError, match="digests"):
        Manifest(manifest.plan, manifest.base, {}, manifest.made_by).save(tmp_path)
    assert not (tmp_path / MANIFEST_NAME).exists()


def test_a_folder_without_a_manifest(made):
    with pytest.raises(CheckpointError, match=r"has no hf_init\.json.*hf-init diff"):
        verify_result(made[0])


def test_a_hole_in_the_plan(made):
    def drop(document: dict[str, Any]) -> None:
        entry_of(document, "head")["new"].pop()
        document["digests"]["head"].pop()

    edit(made[1], drop)
    assert differences(made[1]) == {"head": ["hole: its regions cover 17 of 20 elements"]}


@pytest.mark.parametrize(
    ("name", "region"),
    [("head", box([2, 0], [5, 4])), ("head", box([0, 0], [5, 4])), ("positions", rows(0, 1, 5, 4, 3))],
)
def test_an_overlap_in_the_plan(made, name, region):
    edit(made[1], lambda document: entry_of(document, name)["new"][0].update(region=region))
    (difference,) = [found for found in verify_result(made[1], everything=True).differences if found["name"] == name]
    assert difference["reason"].startswith("overlap") and len(difference["regions"]) == 2


@pytest.mark.parametrize("region", [rows(0, 0, 1), box([0, 0], [2, 3]), box([0, 0], [3, 2])])
def test_a_source_region_of_another_shape(made, region):
    edit(made[1], lambda document: entry_of(document, "head")["kept"][0].update(source_region=region))
    difference = the_difference(made[1])
    assert (difference["name"], difference["reason"]) == ("head", "shape of the source region")
    assert difference["seen"] != difference["expected"] == [3, 3]


def test_a_row_named_twice_is_an_overlap(made):
    edit(made[1], lambda document: entry_of(document, "positions")["new"][0].update(region=rows(0, 1, 1, 3)))
    assert differences(made[1])["positions"][0].startswith("overlap")


def set_entry(name: str, /, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: entry_of(document, name).update(values)


def set_part(name: str, which: str, /, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: entry_of(document, name)[which][0].update(values)


def set_top(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(values)


BAD = [
    (set_top(version=2), "format 2, newer than the 1"),
    (set_top(version="1"), "version is '1'"),
    (set_top(version=True), "version is True"),
    (set_top(version=0), "version is 0"),
    (set_top(plan=[]), r"plan is \[\], expected an object"),
    (lambda document: document["plan"].pop("seed"), "plan.seed is None, expected a whole number"),
    (lambda document: document["plan"].update(architecture=7), "plan.architecture is 7, expected a string"),
    (lambda document: document["plan"].update(record=[]), r"plan.record is \[\], expected an object"),
    (set_top(base={"path": "b", "fingerprint": "f", "link": 7}), "base.link is 7, expected a string"),
    (set_entry("half", geometry={"fan": 3}), "'half': geometry is {'fan': 3}, expected fan_in, fan_out"),
    (set_top(plan={}), r"plan.tensors is None(.|\n)*plan.unused is None"),
    (set_top(base="x"), "base is 'x', expected an object"),
    (set_top(base={"path": 7, "fingerprint": "f"}), "base.path is 7"),
    (set_top(digests=[]), r"digests is \[\]"),
    (set_top(made_by=None), "made_by is None, expected a string"),
    (lambda document: document["plan"].update(unused=[7]), r"plan.unused is \[7\], expected a list of strings"),
    (lambda document: document["plan"].update(tensors=[7]), r"plan.tensors is \[7\], expected a list of objects"),
    (lambda document: document["plan"]["tensors"].append(document["plan"]["tensors"][0]), "'model.embed' occurs twice"),
    (set_entry("half", name=7), "has the name 7"),
    (set_entry("half", status="held"), "'half': status is 'held', expected one of kept, resized, new, tied"),
    (set_entry("half", status=["kept"]), r"status is \['kept'\]"),
    (set_entry("half", shape=[-1]), r"shape is \[-1\]"),
    (set_entry("half", shape=[True]), r"shape is \[True\]"),
    (set_entry("half", dtype="float7"), "dtype is 'float7', expected one of bool"),
    (set_entry("half", source=["half"]), r"source is \['half'\]"),
    (lambda document: entry_of(document, "half").pop("source"), "its source is None"),
    (set_entry("half", new=new(box([0, 0], [1, 1]))), "'half': kept, but it has new regions"),
    (set_entry("fresh", kept=[7]), "'fresh': new, but it has kept regions"),
    (set_entry("fresh", new=None), "'fresh': its new regions are None"),
    (set_entry("fresh", new=[7]), "'fresh': a new region is 7"),
    (set_entry("head", kept=None), "'head': resized, its kept regions are None"),
    (set_entry("head", kept=[7]), "'head': a kept region is 7"),
    (set_entry("out", tied_to=None), "'out': tied to None"),
    (set_entry("out", tied_to="nothing"), "'out' is tied to 'nothing', no tensor of its own"),
    (set_entry("out", tied_to="out"), "'out' is tied to 'out'"),
    (set_entry("out", new=new(box([0], [1]))), "tied, but it has regions of its own"),
    (set_part("fresh", "new", scheme="normal"), "'fresh': a new region is"),
    (set_part("head", "new", region=box([3, 0], [6, 4])), r"'head': region .* is outside the tensor, .*\(5, 4\)"),
    (set_part("head", "new", region=box([3], [5])), "is outside the tensor"),
    (set_part("head", "new", region=box([5, 0], [3, 4])), "is outside the tensor"),
    (set_part("head", "new", region=box([-1, 0], [5, 4])), "none negative"),
    (set_part("head", "new", region=rows(2, 0)), "is outside the tensor"),
    (set_part("head", "new", region=rows(0, 5)), "is outside the tensor"),
    (
        set_part("head", "new", region={**rows(0, 3), **box([3, 0], [5, 4])}),
        "expected start and stop, or dim and index",
    ),
    (set_part("head", "new", region={}), "expected start and stop, or dim and index"),
    (set_part("head", "kept", source=None), "a kept region is"),
    (set_part("head", "kept", source_region=None), "source_region is None"),
    (set_entry("fresh", dtype="float4_e2m1fn_x2", new=new(box([0, 0], [1, 3]))), "kept or new as a whole"),
    (lambda document: document["digests"].pop("fresh"), "'fresh' has 0, expected 1"),
    (lambda document: document["digests"]["head"].pop(), "'head' has 1, expected 2"),
    (lambda document: document["digests"].update(half=["0" * 64]), "'half' has 1, expected 0"),
    (lambda document: document["digests"].update(fresh=["0" * 63]), "SHA-256 in hex"),
    (lambda document: document["digests"].update(fresh="0" * 64), "SHA-256 in hex"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_manifest_that_says_what_can_not_be(made, change, message):
    edit(made[1], change)
    with pytest.raises(CheckpointError, match=message) as caught:
        verify_result(made[1])
    assert MANIFEST_NAME in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1, "version": 1}', '{"version": NaN}'])
def test_a_manifest_that_is_no_object(made, text):
    (made[1] / MANIFEST_NAME).write_text(text)
    with pytest.raises(CheckpointError, match=r"hf_init\.json is not"):
        verify_result(made[1])


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places_in(item, (*path, key)))]


JUNK = st.sampled_from([None, True, -1, 0, 2**70, 1.5, "", "kept", "w", [], [[]], [0], {}, {"name": "skip"}])


@given(st.data())
def test_no_manifest_does_more_than_be_refused_or_disproved(to_damage, data):
    out, good = to_damage
    (out / SINGLE).write_bytes(good)
    document = Manifest.load(out).to_json()
    edited = copy.deepcopy(document)
    *above, last = data.draw(st.sampled_from([place for place in places_in(document) if place]))
    holder: Any = edited
    for key in above:
        holder = holder[key]
    holder[last] = data.draw(JUNK)
    (out / MANIFEST_NAME).write_text(json.dumps(edited))
    try:
        assert isinstance(verify_result(out, base=document["base"]["path"]), VerifyReport)
    except CheckpointError as error:
        assert str(error)
    finally:
        (out / MANIFEST_NAME).write_text(json.dumps(document))


def test_region_fault_takes_what_is_inside():
    assert region_fault(Box((0,), (3,)), (3,)) is None
    assert region_fault(Box((), ()), ()) is None
    assert region_fault(Rows(1, (2, 0)), (1, 3)) is None
    assert region_fault(Rows(0, ()), (1, 3)) is None


# The parts.


def covered(shape: tuple[int, ...], regions: list[Any]) -> bool:
    """Element by element, what tiling_fault decides from corners."""
    times = np.zeros(shape, int)
    for region in regions:
        if isinstance(region, Box):
            times[region.slices] += 1
        else:
            np.add.at(times, (*(slice(None),) * region.dim, list(region.index)), 1)
    return bool((times == 1).all())


SHAPES = st.lists(st.integers(0, 3), min_size=0, max_size=3).map(tuple)


@st.composite
def tilings(draw: Any) -> tuple[tuple[int, ...], list[Any]]:
    """A shape, and regions that come from cutting it and then, at times, from damaging one."""
    shape = draw(SHAPES)
    regions: list[Any] = [Box.whole(shape)]
    for _ in range(draw(st.integers(0, 3)) if shape else 0):
        whole = regions.pop(draw(st.integers(0, len(regions) - 1)))
        dim = draw(st.integers(0, len(shape) - 1))
        at = draw(st.integers(whole.start[dim], whole.stop[dim]))
        regions.append(Box(whole.start, (*whole.stop[:dim], at, *whole.stop[dim + 1 :])))
        regions.append(Box((*whole.start[:dim], at, *whole.start[dim + 1 :]), whole.stop))
    if draw(st.booleans()):
        regions.pop(draw(st.integers(0, len(regions) - 1)))
    if shape and shape[0] and draw(st.booleans()):
        regions.append(Rows(0, tuple(draw(st.lists(st.integers(0, shape[0] - 1), max_size=3))), shape))
    return shape, regions


@given(tilings())
def test_tiling_is_decided_as_by_counting_every_element(tiling):
    shape, regions = tiling
    assert (tiling_fault(shape, regions) is None) == covered(shape, regions)


def test_an_empty_region_overlaps_nothing():
    assert tiling_fault((4, 2), [Box((0, 0), (4, 2)), Box((2, 1), (2, 2)), Box((1, 1), (3, 1))]) is None
    assert tiling_fault((), [Box((), ())]) is None
    assert tiling_fault((), []) == {"reason": "hole: its regions cover 0 of 1 elements"}


def test_an_overlap_is_found_behind_regions_that_are_no_part_of_it():
    regions = [Box((0, 0), (8, 1)), *(Box((row, 1), (row + 1, 2)) for row in range(8)), Box((6, 0), (7, 1))]
    fault = tiling_fault((8, 2), list(regions))
    assert fault == {
        "reason": "overlap: two of its regions share elements",
        "regions": [regions[0].to_json(), regions[-1].to_json()],
    }


def test_tiling_of_many_rows_is_quick():
    count = 50_000
    even, odd = (Rows(0, tuple(range(first, count, 2)), (count, 4)) for first in (0, 1))
    assert tiling_fault((count, 4), [even, odd]) is None
    fault = tiling_fault((count, 4), [even, odd, Rows(0, (7,), (count, 4))])
    assert fault is not None and str(fault["reason"]).startswith("overlap")


@given(st.lists(st.integers(0, 5), max_size=4).map(tuple), st.sampled_from([1, 4, 1 << 20, 1 << 22]))
def test_pieces_tile_a_shape_and_are_small(shape, width):
    cuts = region_pieces(shape, contiguous_spans(shape, width))
    boxes = [Box(tuple(cut.start for cut in piece), tuple(cut.stop for cut in piece)) for piece in cuts]
    assert covered(shape, boxes)
    assert all(math.prod(box.shape) * width <= max(CHUNK, width) for box in boxes)
    assert boxes == sorted(boxes, key=lambda box: box.start), "in row-major order"


@st.composite
def regions_of(draw: Any, shape: tuple[int, ...]) -> Any:
    if draw(st.booleans()):
        dim = draw(st.integers(0, len(shape) - 1))
        places = st.lists(st.integers(0, shape[dim] - 1), unique=True, min_size=1, max_size=shape[dim])
        return Rows(dim, tuple(draw(places)), shape)
    start = tuple(draw(st.integers(0, length - 1)) for length in shape)
    return Box(start, tuple(draw(st.integers(a + 1, length)) for a, length in zip(start, shape, strict=True)))


def region_of(array: np.ndarray, region: Any) -> Any:
    """What to index an array with."""
    return region.slices if isinstance(region, Box) else (*(slice(None),) * region.dim, list(region.index))


@contextmanager
def opened(**tensors: np.ndarray) -> Iterator[Checkpoint]:
    """A checkpoint with these tensors, of unsigned integers."""
    with tempfile.TemporaryDirectory() as folder, Checkpoint.open(write(Path(folder), tensors)) as checkpoint:
        yield checkpoint


@given(st.data())
def test_differences_are_gathered_as_by_comparing_every_element(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    expected = np.arange(math.prod(shape), dtype="uint16").reshape(shape)
    flips = data.draw(st.lists(st.integers(0, expected.size - 1), max_size=6))
    seen, compared, elements = expected.copy(), np.zeros(shape, bool), 0
    seen.flat[flips] += 1000
    tally, regions = TensorDiff.of(shape, "uint16"), data.draw(st.lists(regions_of(shape), max_size=2))
    with pytest.MonkeyPatch.context() as patch, opened(w=seen) as left, opened(w=expected) as right:
        patch.setattr(_parts, "CHUNK", data.draw(st.sampled_from([1, 4, 16, 1000])))
        parts = [(stored_tensor(left, "w", region), stored_tensor(right, "w", region)) for region in regions]
        if data.draw(st.booleans()):
            parts = [
                (part, ArrayRegion(np.ascontiguousarray(expected[region_of(seen, part.region)]))) for part, _ in parts
            ]
        compare_all([ByteComparison(a, b, a.region, tally, number) for number, (a, b) in enumerate(parts)])
        for region in regions:
            compared[region_of(seen, region)] = True
            elements += int((seen != expected)[region_of(seen, region)].sum())
    differs = (seen != expected) & compared
    assert bool(tally.first) == bool(differs.any()) and tally.elements == elements
    if tally.first:
        assert tally.rows.tolist() == differs.reshape(shape[0], -1).any(1).tolist()
        index = tuple(tally.first["index"])
        assert differs[index] and tally.first["row"] == index[0]
        assert (tally.first["seen"], tally.first["expected"]) == (seen[index], expected[index])


@given(st.data())
def test_a_region_is_read_as_it_is_cut_from_an_array(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    array, hand = np.arange(math.prod(shape), dtype="uint16").reshape(shape), ReadBuffer()
    region = data.draw(regions_of(shape))
    with pytest.MonkeyPatch.context() as patch, opened(w=array) as checkpoint:
        patch.setattr(_parts, "CHUNK", data.draw(st.sampled_from([1, 4, 16, 1000])))
        part = stored_tensor(checkpoint, "w", region)
        read = [part.read(hand, piece).tobytes() for piece in region_pieces(part.shape, part.spans)]
        assert bytes_digest(part, hand) == sha256(array[region_of(array, region)])
        hand.files.close()
    boxes = region_pieces(part.shape, part.spans) if part.flat() is None else ()
    assert sorted(b"".join(read)) == sorted(np.ascontiguousarray(array[region_of(array, region)]).tobytes())
    assert all(len(piece) == len(shape) for piece in boxes)


def test_the_first_difference_is_the_first_in_the_file():
    seen, expected = np.ones((3, 4), "uint16"), np.zeros((3, 4), "uint16")
    tally = TensorDiff.of((3, 4), "uint16")
    with pytest.MonkeyPatch.context() as patch, opened(w=seen) as left, opened(w=expected) as right:
        patch.setattr(_parts, "CHUNK", 2)
        part = stored_tensor(left, "w")
        compare_all([ByteComparison(part, stored_tensor(right, "w"), part.region, tally)])
    assert (tally.first["index"], tally.elements, tally.rows.tolist()) == ([0, 0], 12, [True] * 3)


def test_digests_go_over_pieces_as_over_the_whole():
    array = np.arange(3_000_000, dtype="float32").reshape(3, 1000, 1000)
    regions = [Box.whole(array.shape), Box((0, 10, 0), (3, 20, 999)), Rows(1, (5, 3, 999), array.shape)]
    cuts = [array, array[:, 10:20, :999], array[:, [5, 3, 999]]]
    done: list[int] = []
    with opened(w=array) as checkpoint:
        hand = ReadBuffer()
        for region, cut in zip(regions, cuts, strict=True):
            assert bytes_digest(stored_tensor(checkpoint, "w", region), hand, done.append) == sha256(cut)
        hand.files.close()
    assert sum(done) == sum(cut.nbytes for cut in cuts)


@pytest.mark.parametrize("place", [0, 1_000_000, 2_999_999])
def test_a_difference_in_a_large_tensor_is_located(tmp_path, place):
    large = np.arange(3_000_000, dtype="float32").reshape(3, 1000, 1000)
    base = write(tmp_path / "base", {"odd": np.zeros(3, "uint16"), "w": large})  # w starts off a word
    entries = [
        {"name": "odd", "status": "kept", "shape": [3], "dtype": "bfloat16", "source": "odd"},
        {"name": "w", "status": "kept", "shape": [3, 1000, 1000], "dtype": "float32", "source": "w"},
    ]
    changed = large.copy()
    changed.flat[place] = -1
    out = write(tmp_path / "out", {"odd": np.zeros(3, "uint16"), "w": changed})
    Manifest(plan_of(entries), BaseRecord(str(base), ""), {}, "a test").save(out)
    found = the_difference(out)
    assert tuple(found["index"]) == tuple(map(int, np.unravel_index(place, large.shape)))
    assert (found["seen"], found["expected"], found["changed_rows"]) == (-1, place, 1)


def test_kept_columns_and_rows_of_another_dimension(tmp_path):
    source = floats(3, 4)
    out_array = np.concatenate([source[:, [3, 1]], floats(3, 1, start=50)], axis=1)
    base, out = write(tmp_path / "base", {"w": source}), write(tmp_path / "out", {"w": out_array})
    kept = [{"region": rows(1, 0, 1), "source": "w", "source_region": rows(1, 3, 1)}]
    entry = {"name": "w", "status": "resized", "shape": [3, 3], "dtype": "float32", "kept": kept}
    entry["new"] = new(box([0, 2], [3, 3]))
    digests = {"w": [sha256(out_array[:, 2:])]}
    Manifest(plan_of([entry]), BaseRecord(str(base), ""), digests, "a test").save(out)
    assert verify_result(out).ok
    out_array[2, 1] = -1
    write(out, {"w": out_array})
    found = the_difference(out)
    assert (found["index"], found["expected"], found["changed_rows"]) == ([2, 1], source[2, 1], 1)


@pytest.mark.parametrize(
    ("element", "dtype", "value"),
    [
        (np.uint16(0x3C00), "float16", 1.0),
        (np.uint16(0x4049), "bfloat16", 3.140625),
        (np.uint64(0x3FF0000000000000), "float64", 1.0),
        (np.uint8(0xFF), "int8", -1),
        (np.uint64(2**64 - 1), "uint64", 2**64 - 1),
        (np.uint8(1), "bool", True),
        (np.uint8(0x38), "float8_e4m3fn", "0x38"),
        (np.uint64(1), "complex64", "0x0000000000000001"),
    ],
)
def test_bits_are_shown_as_numbers(element, dtype, value):
    assert decode_element(element, dtype) == value and type(decode_element(element, dtype)) is type(value)


def test_the_proof_needs_neither_torch_nor_transformers():
    code = "import sys, hf_init._verify; print(*sorted({'torch', 'transformers', 'safetensors'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


# The first difference, or everything.


def test_reading_stops_at_the_first_difference(made):
    _, out = made
    rewrite(out, lambda tensors: (tensors["model.embed"].fill(7), tensors["head"].fill(7), tensors["fresh"].fill(7)))
    report = verify_result(out)
    (difference,) = report.differences
    assert not report.ok and not report.complete and report.to_json()["complete"] is False
    assert (difference["name"], difference["index"], difference["seen"]) == ("model.embed", [0, 0], 7.0)
    assert (
        "changed_rows" not in difference
        and "everything=True" in str(report)
        and "row 0, index [0, 0]: seen 7.0" in str(report)
    )
    whole = verify_result(out, everything=True)
    assert [each["name"] for each in whole.differences] == ["model.embed", "head", "head", "fresh"]
    assert whole.complete and "everything=True" not in str(whole) and whole.differences[0]["changed_rows"] == 4
    assert report.bytes_digested == 0 < whole.bytes_digested


@settings(max_examples=30)
@given(st.data())
def test_the_first_difference_is_the_same_on_any_number_of_threads(data):
    array = np.arange(4000, dtype="uint16").reshape(40, 100)
    changed = array.copy()
    places = data.draw(st.lists(st.integers(0, array.size - 1), min_size=1, max_size=4))
    changed.flat[places] ^= 1
    names = ("a", "b", "c")
    left_side, right_side = ({name: values for name in names} for values in (changed, array))
    with pytest.MonkeyPatch.context() as patch, opened(**left_side) as left, opened(**right_side) as right:
        patch.setattr(_parts, "CHUNK", 64)
        patch.setattr(_ranges, "PIECES_PER_JOB", data.draw(st.integers(1, 4)))
        threads = data.draw(st.sampled_from([1, 2, 5]))
        patch.setattr(_work, "_cores", lambda: threads)
        tallies = {name: TensorDiff.of(array.shape, "uint16") for name in names}
        parts = [(name, stored_tensor(left, name), stored_tensor(right, name)) for name in names]
        comparisons = [ByteComparison(a, b, a.region, tallies[n], everything=False) for n, a, b in parts]
        compare_all(comparisons, everything=False)
    assert tuple(tallies["a"].first["index"]) == divmod(min(places), 100)


def test_headers_that_differ_are_all_told_and_no_value_is_read(made):
    rewrite(made[1], lambda tensors: tensors.update(step=np.array(7, "float32"), fresh=floats(3, 2), more=floats(1)))
    report = verify_result(made[1])
    assert [each["name"] for each in report.differences] == ["more", "step", "fresh"] and not report.complete
    assert report.bytes_compared == report.bytes_digested == 0
    assert verify_result(made[1], everything=True).bytes_compared > 0


def test_a_recomputed_value_is_told_once_and_all_with_everything(made):
    _, out = made
    (first,) = verify_result(out, recompute=recomputed(out, 1.0)).differences
    assert (first["name"], first["reason"], first["index"]) == ("head", "recomputed value differs", [3, 0])
    assert len(verify_result(out, recompute=recomputed(out, 1.0), everything=True).differences) == 3


# Without the base.


def with_digests(out: Path) -> None:
    """Record the digests of what is kept, as ``extend`` does when it is asked to."""
    manifest = Manifest.load(out)
    replace(manifest, **result_digests(out, manifest.tensors)).save(out)


def test_digests_are_those_of_the_bytes(made):
    _, out = made
    tensors, steps = result_tensors(base_tensors()), list[int]()
    found = result_digests(out, plan_of(planned_tensors()).tensors, steps.append)
    assert found["tensor_digests"] == {name: sha256(array) for name, array in tensors.items()}
    assert found["kept_digests"] == {
        "model.embed": [sha256(tensors["model.embed"])],
        "head": [sha256(tensors["head"][:3, :3])],
        "positions": [sha256(tensors["positions"][[4, 0, 2]])],
        "half": [sha256(tensors["half"])],
        "step": [sha256(tensors["step"])],
    }
    assert sum(steps) >= Checkpoint.open(out).nbytes


def test_digests_of_files_that_are_not_as_planned_are_refused(made):
    rewrite(made[1], lambda tensors: tensors.pop("half"))
    with pytest.raises(CheckpointError, match="half are not what the plan says"):
        result_digests(made[1], plan_of(planned_tensors()).tensors)


def test_a_result_with_digests_is_proved_without_its_base(made, tmp_path):
    base, out = made
    with_digests(out)
    whole = verify_result(out)
    assert whole.ok and whole.notes == (), "with the base as ever"
    base.rename(tmp_path / "moved")
    for report in (verify_result(out), verify_result(out, base=False), verify_result(out, False, recomputed(out))):
        assert report.ok and report.base is None and report.bytes_compared == 0
        assert report.bytes_digested >= Checkpoint.open(out).nbytes and "without the base" in report.notes[0]
        assert "no base, " in str(report) and json.loads(json.dumps(report.to_json()))["base"] is None
    assert verify_result(out, base=False).counts == whole.counts


def test_a_result_without_digests_is_not(made):
    with pytest.raises(CheckpointError, match=r"no digests of what was kept.*--digest"):
        verify_result(made[1], base=False)


@given(st.data())
def test_any_flipped_bit_is_found_without_the_base(to_damage, data):
    out, good = to_damage
    (out / SINGLE).write_bytes(good)
    manifest = (out / MANIFEST_NAME).read_bytes()
    with_digests(out)
    start = min(entry.start for entry in Checkpoint.open(out).entries.values())
    bit = data.draw(st.integers(8 * start, 8 * len(good) - 1))
    name = stored_at(out, bit // 8)
    assert verify_result(out, base=False).ok
    (out / SINGLE).write_bytes(flipped(good, bit))
    assert set(differences(out, base=False)) == {name}
    first = verify_result(out, base=False).differences[0]
    assert first["name"] == name and first["reason"].startswith("digest of ")
    (out / MANIFEST_NAME).write_bytes(manifest)


def test_a_digest_changed_by_hand_is_found_without_the_base(made):
    _, out = made
    with_digests(out)
    edit(out, lambda document: document["kept_digests"].update(half=["0" * 64]))
    assert differences(out, base=False) == {"half": ["digest of kept bytes"]}
    edit(out, lambda document: document["tensor_digests"].update(head="0" * 64))
    assert differences(out, base=False) == {"half": ["digest of kept bytes"], "head": ["digest of the whole tensor"]}
    with pytest.raises(ProofError, match="1 difference from what the manifest asks for"):
        verify_result(out, base=False).raise_if_failed()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.update(kept_digests=[]), r"kept_digests is \[\], expected an object"),
        (lambda document: document["kept_digests"].update(half=[]), "'half' has 0, expected 1, one a kept region"),
        (lambda document: document["kept_digests"].update(fresh=["0" * 64]), "'fresh' has 1, expected 0"),
        (lambda document: document["kept_digests"].update(half=["0" * 65]), "SHA-256 in hex"),
        (lambda document: document.update(tensor_digests={"half": 7}), "tensor_digests is"),
        (lambda document: document["tensor_digests"].pop("half"), r"\['half'\] are only in one of the two"),
        (lambda document: document["tensor_digests"].update(later="0" * 64), r"\['later'\] are only in one"),
        (lambda document: document["base"].update(sha256=[]), r"base.sha256 is \[\]"),
        (lambda document: document["base"].update(sha256={SINGLE: "f"}), "base.sha256 is"),
    ],
)
def test_digests_that_can_not_be(made, change, message):
    with_digests(made[1])
    edit(made[1], change)
    with pytest.raises(CheckpointError, match=message):
        verify_result(made[1])


def test_digests_tell_which_side_changed(made):
    base, out = made
    with_digests(out)
    changed = {**base_tensors(), "embed": floats(4, 3, start=1), "lm_head": floats(4, 3, start=1)}
    write(base, changed)
    for report in (verify_result(out), verify_result(out, everything=True)):
        assert report.differences[0]["name"] == "model.embed" and "it is the base that has changed" in report.notes[-1]
    write(base, base_tensors())
    rewrite(out, lambda tensors: tensors["model.embed"].fill(7))
    assert verify_result(out).differences and not any(
        "base that has changed" in note for note in verify_result(out).notes
    )


# Which base it is.


def as_cached(base: Path, cache: Path, sha256: str) -> None:
    """Lay a base out as the hub's cache does: a link to a file named by its SHA-256."""
    (cache / "blobs").mkdir(parents=True, exist_ok=True)
    (base / SINGLE).rename(cache / "blobs" / sha256)
    (base / SINGLE).symlink_to(cache / "blobs" / sha256)


def test_the_base_is_known_by_its_name_in_the_hubs_cache(made, tmp_path):
    base, out = made
    assert Checkpoint.open(base).blobs() == {}
    as_cached(base, tmp_path / "cache", "a" * 64)
    assert Checkpoint.open(base).blobs() == {SINGLE: "a" * 64}
    edit(out, lambda document: document["base"].update(sha256={SINGLE: "a" * 64}))
    assert verify_result(out).ok and verify_result(out).notes == ()
    edit(out, lambda document: document["base"].update(sha256={SINGLE: "b" * 64}))
    (note,) = verify_result(out).notes
    assert note.startswith(f"{base} is not the base that the result was made from: {SINGLE} has another SHA-256")


def test_a_shared_blob_behind_the_caches_own_is_not_taken_for_it(made, tmp_path):
    base, _ = made
    (tmp_path / "blobs" / "cc").mkdir(parents=True)
    as_cached(base, tmp_path / "cache", "a" * 64)
    (tmp_path / "cache" / "blobs" / ("a" * 64)).rename(tmp_path / "blobs" / "cc" / ("c" * 64))
    (tmp_path / "cache" / "blobs" / ("a" * 64)).symlink_to(tmp_path / "blobs" / "cc" / ("c" * 64))
    assert Checkpoint.open(base).blobs() == {SINGLE: "a" * 64}


# Files that change or fail while they are read.


def test_a_file_that_shrinks_while_it_is_read(made, monkeypatch):
    base, out = made
    opened_as_ever = _read._opened

    def shrinking(checkpoint: Checkpoint, shard: str) -> Any:
        file = opened_as_ever(checkpoint, shard)
        if checkpoint.root == base:
            os.truncate(base / shard, checkpoint.entries["embed"].start + 20)
        return file

    monkeypatch.setattr(_work, "_cores", lambda: 1)  # another thread would open the file again, and see its new size
    monkeypatch.setattr(_read, "_opened", shrinking)
    with pytest.raises(CheckpointError, match=rf"{base / SINGLE} has changed while it was read: it ends at byte"):
        verify_result(out)


def test_a_file_that_has_shrunk_since_it_was_opened(made, monkeypatch):
    base, out = made
    opened_as_ever = Checkpoint.open

    def late(path: Any) -> Checkpoint:
        checkpoint = opened_as_ever(path)
        if checkpoint.root == base:
            os.truncate(base / SINGLE, 300)
        return checkpoint

    monkeypatch.setattr(Checkpoint, "open", late)
    with pytest.raises(CheckpointError, match=r"has changed since it was opened: 300 bytes, expected"):
        verify_result(out)


def test_a_read_error_half_way(made, monkeypatch):
    class Failing(FileIO):
        def readinto(self, buffer: Any) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_read, "FileIO", Failing)
    with pytest.raises(CheckpointError, match=r"can't be read at byte \d+: Input/output error") as caught:
        verify_result(made[1])
    assert SINGLE in str(caught.value)


def test_bytes_that_differ_once_and_then_no_more_are_no_proof(made, monkeypatch):
    seen: list[int] = []

    def once(left: np.ndarray, right: np.ndarray) -> bool:
        seen.append(len(left))
        return len(seen) > 1

    monkeypatch.setattr(_ranges, "same_bytes", once)
    with pytest.raises(CheckpointError, match="no longer when they were read again") as caught:
        verify_result(made[1])
    assert str(made[1]) in str(caught.value)


def test_a_failure_in_one_thread_ends_the_others(made):
    def failing(nbytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_result(made[1], progress=failing)


def test_memory_and_open_files_stay_small(tmp_path):
    """More shards than a process may have files open, and a tensor larger than what may be in memory."""
    shards, rows = 700, 100
    places: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number:05d}.safetensors"
        write(tmp_path / "base", {f"w{number}": floats(rows)}, name)
        places[f"w{number}"] = name
    (tmp_path / "base" / INDEX).write_text(json.dumps({"weight_map": places}))
    entries = [
        {"name": f"w{n}", "status": "kept", "shape": [rows], "dtype": "float32", "source": f"w{n}"}
        for n in range(shards)
    ]
    base = tmp_path / "base"
    Manifest(plan_of(entries), BaseRecord(str(base), ""), {}, "a test").save(base)
    code = """
import resource, sys
from hf_init._verify import diff_checkpoints, verify_result
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
assert verify_result(sys.argv[1]).ok and diff_checkpoints(sys.argv[1], sys.argv[1]).identical
"""
    subprocess.run([sys.executable, "-c", code, str(base)], check=True)


@pytest.mark.parametrize("link", ["hard", "symbolic"])
def test_a_result_of_links_says_that_it_is_its_base(minilm, tmp_path, link):
    base = tmp_path / "base"
    shutil.copytree(minilm, base)
    report = hf_init.extend(base, tmp_path / "out", link=link)
    assert report.ok and report.bytes_compared == 0 < report.bytes_linked == Checkpoint.open(base).nbytes
    assert "86.6 MiB in files that are its own, by links" in str(report)
    (tmp_path / "out" / SINGLE).unlink()
    shutil.copy(base / SINGLE, tmp_path / "out")
    copied = hf_init.verify(tmp_path / "out")
    assert (copied.bytes_compared, copied.bytes_linked) == (report.bytes_linked, 0) and ", by links" not in str(copied)


@pytest.mark.parametrize("link", ["hard", "symbolic"])
def test_a_linked_file_with_digests_is_compared_with_them(minilm, tmp_path, link):
    base = tmp_path / "base"
    shutil.copytree(minilm, base)
    report = hf_init.extend(base, tmp_path / "out", link=link, digest=True)
    assert report.ok and report.bytes_linked == report.bytes_compared == 0
    nbytes = Checkpoint.open(base).nbytes
    assert report.bytes_digested == nbytes
    done: list[int] = []
    assert hf_init.verify(tmp_path / "out", progress=done.append).bytes_digested == nbytes == sum(done)
    with (base / SINGLE).open("r+b") as file:  # in place: the result's own bytes, too
        at = Checkpoint.open(base).entries["pooler.dense.bias"].start
        os.pwrite(file.fileno(), b"\xff", at)
    (difference,) = hf_init.verify(tmp_path / "out").differences
    assert (difference["name"], difference["reason"]) == ("pooler.dense.bias", "digest of kept bytes")
    (tmp_path / "out" / SINGLE).unlink()
    shutil.copy(base / SINGLE, tmp_path / "out")
    assert hf_init.verify(tmp_path / "out").bytes_compared == nbytes, "a copy has its base to be compared with"


def test_a_linked_file_with_digests_that_was_carried_to_another_name_is_found(tmp_path):
    """Digests of what is there say nothing of where it came from."""
    base = write(tmp_path / "base", {"a": floats(4), "c": floats(4, start=9)})
    (tmp_path / "out").mkdir()
    os.link(base / SINGLE, tmp_path / "out" / SINGLE)
    form = {"status": "kept", "shape": [4], "dtype": "float32"}
    entries = [{"name": "a", "source": "c", **form}, {"name": "c", "source": "a", **form}]
    named = BaseRecord(str(base), Checkpoint.open(base).fingerprint())
    records = result_digests(tmp_path / "out", plan_of(entries).tensors)
    Manifest(plan_of(entries), named, {}, "a test", **records).save(tmp_path / "out")
    assert differences(tmp_path / "out") == {name: ["kept bytes differ from the base"] for name in "ac"}


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_linked_file_is_the_base_s_own_and_counted_apart(made, monkeypatch, link):
    base, out = made
    tensors = [entry for entry in planned_tensors() if entry["status"] == "kept"]
    (out / SINGLE).unlink()
    link(base / SINGLE, out / SINGLE)
    read: list[int] = []
    monkeypatch.setattr(
        _ranges, "same_bytes", lambda left, right: read.append(left.nbytes) or bool((left == right).all())
    )
    with Checkpoint.open(out) as left, Checkpoint.open(base) as right:
        parts = [(stored_tensor(left, entry["source"]), stored_tensor(right, entry["source"])) for entry in tensors]
        tally = TensorDiff.of((1,), "uint8")
        meter = VerifyMeter()
        compare_all([ByteComparison(a, b, a.region, tally, meter=meter) for a, b in parts])
        assert not read and not tally.first
        assert meter.nbytes == {"linked": sum(a.entry.nbytes for a, _ in parts)}
        a, b = stored_tensor(left, "embed"), stored_tensor(right, "pooler")
        assert a.entry.start != b.entry.start, "other bytes of one file are compared"
        narrow = Box.whole((1,)), Box.whole((1,))
        flat = [replace(part, whole=(4,), width=1, region=box) for part, box in zip((a, b), narrow, strict=True)]
        compare_all([ByteComparison(flat[0], flat[1], flat[0].region, tally, meter=meter)])
        assert read == [1] and meter.nbytes["compared"] == 1
    os.truncate(base / SINGLE, 10)
    with pytest.raises(CheckpointError, match="has changed"):
        compare_all([ByteComparison(a, b, a.region, tally) for a, b in parts])
