"""The proof of a result: what is as planned passes, and whatever is not is found and named."""

from __future__ import annotations

import copy
import errno
import hashlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal

import hf_init
from hf_init import HfInitError
from hf_init.cli import main

SINGLE, INDEX, MANIFEST = "model.safetensors", "model.safetensors.index.json", "hf_init.json"
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


def places(folder: Path, name: str = SINGLE) -> dict[str, range]:
    """The bytes of a file that each tensor has."""
    data = (folder / name).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = {key: each for key, each in json.loads(data[8:start]).items() if key != "__metadata__"}
    return {key: range(*(start + at for at in each["data_offsets"])) for key, each in header.items()}


def floats(*shape: int, start: float = 0.0) -> np.ndarray:
    return (np.arange(math.prod(shape), dtype="float32") + start).reshape(shape)


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def box(start: Any, stop: Any) -> dict[str, Any]:
    return {"start": list(start), "stop": list(stop)}


def rows(dim: int, *index: int) -> dict[str, Any]:
    return {"dim": dim, "index": list(index)}


def new(*regions: dict[str, Any], scheme: str = "normal") -> list[dict[str, Any]]:
    return [{"region": region, "scheme": {"name": scheme}, "why": "a test"} for region in regions]


def region_of(region: dict[str, Any]) -> Any:
    """What to index an array with."""
    if "index" in region:
        return (*(slice(None),) * region["dim"], region["index"])
    return tuple(map(slice, region["start"], region["stop"]))


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


F, HEAD = {"dtype": "float32"}, box([0, 0], [3, 3])
PLANNED = [
    {"name": "model.embed", "status": "kept", "shape": [4, 3], "source": "embed", **F},
    {
        "name": "head", "status": "resized", "shape": [5, 4], **F,
        "kept": [{"region": HEAD, "source": "head", "source_region": HEAD}],
        "new": new(box([3, 0], [5, 4]), box([0, 3], [3, 4])),
    },
    {
        "name": "positions", "status": "resized", "shape": [6, 2], **F,
        "kept": [{"region": rows(0, 4, 0, 2), "source": "positions", "source_region": rows(0, 0, 2, 1)}],
        "new": new(rows(0, 1, 5, 3)),
    },
    {"name": "half", "status": "kept", "shape": [2, 2], "dtype": "bfloat16", "source": "half"},
    {"name": "step", "status": "kept", "shape": [], "dtype": "int64", "source": "step"},
    {"name": "fresh", "status": "new", "shape": [2, 3], **F, "new": new(box([0, 0], [2, 3]))},
    {"name": "empty", "status": "new", "shape": [0, 3], **F, "new": new(box([0, 0], [0, 3]))},
    {"name": "later", "status": "new", "shape": [2], **F, "new": new(box([0], [2]), scheme="skip")},
    {"name": "out", "status": "tied", "shape": [4, 3], **F, "tied_to": "model.embed", "source": "lm_head"},
]  # fmt: skip


def manifest_of(base: Path, out: Path, entries: list[dict[str, Any]], tensors: Tensors, digest: bool = False) -> None:
    """Write the manifest of a result, by hand; a digest of what is kept, too, where that is asked for."""

    def digests(which: str) -> dict[str, list[str]]:
        found = {
            entry["name"]: [sha256(tensors[entry["name"]][region_of(part["region"])]) for part in entry.get(which, ())]
            for entry in entries
            if entry["name"] in tensors
        }
        return {name: each for name, each in found.items() if each}

    data = (base / SINGLE).read_bytes() if (base / SINGLE).is_file() else b"\0" * 8
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    line = f"{SINGLE}\0{len(data)}\0{hashlib.sha256(header).hexdigest()}\n"
    record = {"path": str(base), "name": "org/base", "fingerprint": hashlib.sha256(line.encode()).hexdigest()}
    unused = ["pooler"] if entries is PLANNED else []
    plan = {"architecture": "Tiny", "seed": 0, "tensors": entries, "unused": unused}
    document = {"version": 1, "plan": plan, "base": record, "digests": digests("new"), "made_by": "a test"}
    if digest:
        kept = {entry["name"]: [sha256(tensors[entry["name"]])] for entry in entries if entry["status"] == "kept"}
        document["kept_digests"] = {**kept, **digests("kept")}
        document["tensor_digests"] = {name: sha256(array) for name, array in tensors.items()}
    (out / MANIFEST).write_text(json.dumps(document))


def make(folder: Path, digest: bool = False) -> tuple[Path, Path]:
    """A base, and a result of it with every status."""
    base, tensors = write(folder / "base", base_tensors()), result_tensors(base_tensors())
    out = write(folder / "out", tensors)
    manifest_of(base, out, PLANNED, tensors, digest)
    return base, out


@pytest.fixture
def made(tmp_path) -> tuple[Path, Path]:
    return make(tmp_path)


@pytest.fixture
def digested(tmp_path) -> tuple[Path, Path]:
    return make(tmp_path, digest=True)


def edit(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as by hand."""
    document = json.loads((out / MANIFEST).read_text())
    change(document)
    (out / MANIFEST).write_text(json.dumps(document))


def entry_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in document["plan"]["tensors"] if entry["name"] == name)


def differences(out: Path, *base: Any, **options: Any) -> dict[str, list[str]]:
    """Name -> reasons; the report must not be ok."""
    report = hf_init.verify(out, *base, **{"everything": True, **options})
    assert not report.ok
    found: dict[str, list[str]] = {}
    for difference in report.differences:
        found.setdefault(difference["name"], []).append(difference["reason"])
    return found


def the_difference(out: Path, *base: Any, **options: Any) -> dict[str, Any]:
    (difference,) = hf_init.verify(out, *base, **{"everything": True, **options}).differences
    return difference


def rewrite(out: Path, change: Callable[[Tensors], object]) -> None:
    """Write the result's tensors again, changed."""
    tensors = {name: array.copy() for name, array in result_tensors(base_tensors()).items()}
    change(tensors)
    write(out, tensors)


# What is as planned.


def test_a_result_as_planned_is_proved_and_every_byte_once(made):
    steps: list[int] = []
    report = hf_init.verify(made[1], progress=steps.append)
    assert report and repr(report) == "<VerifyReport: proved, 9 tensors>"
    assert str(report).startswith("proved: 9 tensors, 3 kept")
    report.raise_if_failed()
    assert json.loads(json.dumps(report.to_json(), allow_nan=False)) == {
        "schema": "hf_init.verify/1",
        "ok": True,
        "counts": {"tensors": 9, "kept": 3, "resized": 2, "new": 3, "tied": 1, "carried": 0, "unused": 1},
        "bytes_compared": 48 + 36 + 24 + 8 + 8,
        "bytes_digested": 4 * (8 + 3 + 6 + 6),
        "bytes_linked": 0,
        "bytes_cloned": 0,
        "differences": [],
        "notes": [],
        "base": str(made[0]),
        "complete": True,
    }
    assert sum(steps) == report.bytes_compared + report.bytes_digested == sum(map(len, places(made[1]).values()))


def test_a_result_may_be_in_shards(made):
    _, out = made
    tensors = result_tensors(base_tensors())
    first, rest = list(tensors)[:3], list(tensors)[3:]
    write(out, {name: tensors[name] for name in first}, "a.safetensors")
    write(out, {name: tensors[name] for name in rest}, "b.safetensors")
    index = {**dict.fromkeys(first, "a.safetensors"), **dict.fromkeys(rest, "b.safetensors")}
    (out / INDEX).write_text(json.dumps({"weight_map": index}))
    assert [INDEX in note for note in hf_init.verify(out).notes] == [True], "the single file goes before the index"
    (out / SINGLE).unlink()
    assert hf_init.verify(out).ok and hf_init.verify(out).notes == ()
    write(out, {"stranger": floats(1), **{name: tensors[name] for name in rest}}, "b.safetensors")
    assert differences(out) == {"stranger": ["extra: in b.safetensors, where the index doesn't have it"]}


# In parts.


def changed_nothing(tensors: Tensors) -> None:
    pass


@pytest.mark.parametrize(
    "change",
    [
        changed_nothing,
        lambda tensors: tensors["positions"].__setitem__((4, 1), -1),
        lambda tensors: tensors["fresh"].__setitem__((1, 1), -1),
        lambda tensors: tensors.update(stranger=floats(2)) or tensors.pop("half"),
    ],
)
def test_the_reports_of_parts_make_the_report_of_the_whole(made, tmp_path, capsys, change):
    _, out = made
    rewrite(out, change)
    whole = hf_init.verify(out, everything=True).to_json()
    for of in (1, 3, 12):
        parts = [hf_init.verify(out, part=f"{k}/{of}", everything=True) for k in range(1, of + 1)]
        assert hf_init.verify(out, merge=reversed(parts)).to_json() == {**whole, "differences": ANY}
        merged = hf_init.verify(out, merge=parts)
        assert sorted(map(str, merged.differences)) == sorted(map(str, whole["differences"]))
        assert of == 1 or all(part.bytes_compared < merged.bytes_compared for part in parts)
    files = [tmp_path / f"{k}.json" for k in (1, 2)]
    for k, file in enumerate(files, 1):
        main(["verify", str(out), "--part", f"{k}/2", "--json"])
        file.write_text(capsys.readouterr().out)
    assert main(["verify", str(out), "--merge", f"{files[1]},{files[0]}"]) == (0 if whole["ok"] else 1)


def test_parts_that_make_no_whole(made, tmp_path, capsys):
    _, out = made
    first, second = (hf_init.verify(out, part=part) for part in ("1/3", "2/3"))
    third = hf_init.verify(out, part="3/3")
    other = replace(third, part=third.part._replace(recomputed=True))
    assert repr(second).startswith("<VerifyReport: part 2 of 3: proved")
    for reports, said in [
        ([first, third], "missing: part 2 of 3"),
        ([first, first, second, third], "part 1 is there twice"),
        ([first, second, hf_init.verify(out, part="3/4")], "they are parts of 3, 4"),
        ([first, second, other], "with recompute and others without"),
        ([hf_init.verify(out)], "a report is of the whole"),
        ([], "missing: part 1 of 1"),
    ]:
        with pytest.raises(HfInitError, match=f"can't be put together: .*{said}"):
            hf_init.verify(out, merge=reports)
    with pytest.raises(HfInitError, match="nothing is read; leave out everything"):
        hf_init.verify(out, merge=[first, second, third], everything=True)
    edit(out, lambda document: document.update(made_by="another"))
    with pytest.raises(HfInitError, match="of another result, or of this one before it was changed"):
        hf_init.verify(out, merge=[first, second, third])
    for part in ("0/4", "5/4", "1", "a/b"):
        assert "--part: expected K/N" in refusal(tmp_path, capsys, "verify", out, "--part", part)
    (tmp_path / "no.json").write_text('{"schema": "hf_init.verify/1"}')
    assert "no report of verify" in refusal(tmp_path, capsys, "verify", out, "--merge", tmp_path / "no.json")


# The base.


def test_a_base_that_moved_is_asked_for(made, tmp_path, capsys):
    base, out = made
    moved = base.rename(tmp_path / "moved")
    assert f"({base}), is not there" in (said := refusal(tmp_path, capsys, "verify", out)) and "--base FOLDER" in said
    with pytest.raises(HfInitError, match=r"is not there\. .*base=FOLDER"):
        hf_init.verify(out)
    assert hf_init.verify(out, moved).ok and hf_init.verify(out, base=str(moved)).base == str(moved)
    none = tmp_path / "none"
    for more in ((), ("--recompute",)):
        assert f"no such folder: {none};" in refusal(tmp_path, capsys, "verify", out, "--base", none, *more)


def test_another_base_with_the_same_tensors_is_noted_and_proves_and_with_other_bytes_does_not(made):
    base, out = made
    write(base, dict(reversed(base_tensors().items())))
    report = hf_init.verify(out)
    assert report.ok and len(report.notes) == 1 and "not the very same files" in report.notes[0]
    assert "note: " in str(report)
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
    write(base, {key: value for key, value in {**base_tensors(), **change}.items() if value is not None})
    found = differences(out)
    assert list(found) == [name] and found[name][0].startswith(reason)


# The result.


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"half": None}, {"half": ["missing: in the plan, not in the result"]}),
        ({"stranger": floats(2)}, {"stranger": ["extra: in the result, not in the plan"]}),
        ({"out": floats(2)}, {"out": ["tied to model.embed, and yet stored in the files"]}),
        ({"later": floats(2)}, {"later": ["left out by its scheme, and yet stored in the files"]}),
        ({"step": np.array(7, "float32"), "fresh": floats(3, 2)}, {"step": ["dtype"], "fresh": ["shape"]}),
    ],
)
def test_tensors_too_few_too_many_and_of_another_form(made, change, found):
    tensors = {**result_tensors(base_tensors()), **change}
    write(made[1], {name: array for name, array in tensors.items() if array is not None})
    assert differences(made[1]) == found
    report = hf_init.verify(made[1])
    assert len(report.differences) == len(found) and not report.complete
    assert report.bytes_compared == report.bytes_digested == 0, "headers that differ: no value is read"
    forms = {each["name"]: (each["seen"], each["expected"]) for each in report.differences if "seen" in each}
    assert len(found) < 2 or forms == {"fresh": ([3, 2], [2, 3]), "step": ("float32", "int64")}


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
    with pytest.raises(HfInitError, match=r"model\.embed: .*row 1, index \[1, 2\] \(2 rows.*seen -1\.5 .*expected 5"):
        hf_init.verify(out, everything=True).raise_if_failed()


def test_only_the_first_differences_are_spelled_out(made):
    write(made[1], {**result_tensors(base_tensors()), **{f"t{k}": floats(1) for k in range(7)}})
    report = hf_init.verify(made[1])
    with pytest.raises(HfInitError, match=r"7 differences(.|\n)*t4: extra.*\n  \.\.\. and 2 more"):
        report.raise_if_failed()
    assert not report and repr(report) == "<VerifyReport: 7 differences, 9 tensors>" and "t5" not in str(report)


@pytest.mark.parametrize(
    ("name", "index", "region"),
    [
        ("head", (2, 1), HEAD),
        ("positions", (2, 1), rows(0, 4, 0, 2)),
        ("step", (), box([], [])),
        ("head", (4, 0), box([3, 0], [5, 4])),
        ("head", (0, 3), box([0, 3], [3, 4])),
        ("positions", (3, 1), rows(0, 1, 5, 3)),
        ("fresh", (1, 1), box([0, 0], [2, 3])),
    ],
)
def test_a_place_is_told_in_the_tensors_own_index_or_by_its_region(made, name, index, region):
    rewrite(made[1], lambda tensors: tensors[name].__setitem__(index, 77))
    difference = the_difference(made[1])
    assert (difference["name"], difference["region"]) == (name, region)
    if difference["reason"] == "digest of new bytes":
        assert difference["seen"] != difference["expected"] and "index" not in difference
    else:
        old = result_tensors(base_tensors())[name][index]
        assert (difference["index"], difference["row"]) == (list(index), (*index, 0)[0])
        assert (difference["seen"], difference["expected"], difference["changed_rows"]) == (77, old, 1)


def test_values_are_compared_by_their_bits(made):
    base, out = made
    odd = np.array([[math.nan, -0.0, 0.0]] * 4, "float32")
    write(base, {**base_tensors(), "embed": odd, "lm_head": odd})
    rewrite(out, lambda tensors: tensors.update({"model.embed": odd}))
    assert hf_init.verify(out).ok, "NaN is itself"
    rewrite(out, lambda tensors: tensors.update({"model.embed": np.abs(odd)}))
    found = hf_init.verify(out).differences[0]
    assert (found["index"], str(found["seen"]), str(found["expected"])) == ([0, 1], "0.0", "-0.0")
    other = odd.copy()
    other.view("uint32")[3, 0] ^= 1
    rewrite(out, lambda tensors: tensors.update({"model.embed": other}))
    report = hf_init.verify(out)
    assert report.differences[0]["index"] == [3, 0], "one NaN is not another"
    assert math.isnan(report.differences[0]["seen"]) and report.to_json()["differences"][0]["seen"] == "nan"


# One bit, of anything.


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.fixture(scope="module", params=[False, True], ids=["with the base", "without"])
def to_damage(request, tmp_path_factory) -> tuple[Path, bytes, Any]:
    _, out = make(tmp_path_factory.mktemp("damage"), digest=request.param)
    return out, (out / SINGLE).read_bytes(), False if request.param else None


@given(st.data())
def test_any_flipped_bit_of_any_tensor_is_found_and_the_tensor_named(to_damage, data):
    out, good, base = to_damage
    (out / SINGLE).write_bytes(good)
    tensors = places(out)
    bit = data.draw(st.integers(8 * min(each.start for each in tensors.values()), 8 * len(good) - 1))
    (name,) = [name for name, each in tensors.items() if bit // 8 in each]
    assert hf_init.verify(out, base).ok
    (out / SINGLE).write_bytes(flipped(good, bit))
    assert set(differences(out, base)) == {name}
    first = hf_init.verify(out, base).differences[0]
    assert first["name"] == name and (base is None or first["reason"].startswith("digest of "))


@given(st.data())
def test_any_flipped_bit_of_the_header_is_found_or_refused(to_damage, data):
    out, good, base = to_damage
    header = 8 + int.from_bytes(good[:8], "little")
    (out / SINGLE).write_bytes(flipped(good, data.draw(st.integers(0, 8 * header - 1))))
    try:
        assert not hf_init.verify(out, base).ok
    except HfInitError as error:
        assert str(out) in str(error)


# The manifest.


def drop_a_region(document: dict[str, Any]) -> None:
    entry_of(document, "head")["new"].pop()
    document["digests"]["head"].pop()


def set_entry(name: str, /, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: entry_of(document, name).update(values)


def set_part(name: str, which: str, /, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: entry_of(document, name)[which][0].update(values)


def set_top(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(values)


def in_plan(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["plan"].update(values)


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        (drop_a_region, "head", "hole: its regions cover 17 of 20 elements"),
        (set_part("head", "new", region=box([2, 0], [5, 4])), "head", "overlap"),
        (set_part("head", "new", region=box([0, 0], [5, 4])), "head", "overlap"),
        (set_part("positions", "new", region=rows(0, 1, 5, 4, 3)), "positions", "overlap"),
        (set_part("positions", "new", region=rows(0, 1, 1, 3)), "positions", "overlap"),
        (set_part("head", "kept", source_region=rows(0, 0, 1)), "head", "shape of the source region"),
        (set_part("head", "kept", source_region=box([0, 0], [2, 3])), "head", "shape of the source region"),
        (set_part("head", "kept", source_region=box([0, 0], [3, 2])), "head", "shape of the source region"),
    ],
)
def test_regions_that_are_no_whole_tensor(made, change, name, reason):
    edit(made[1], change)
    assert differences(made[1])[name][0].startswith(reason)
    if reason == "overlap":
        assert len(next(each for each in hf_init.verify(made[1]).differences if each["name"] == name)["regions"]) == 2


BAD = [
    (set_top(version=2), "format 2, newer than the 1"),
    (set_top(version="1"), "version is '1'"),
    (set_top(version=True), "version is True"),
    (set_top(version=0), "version is 0"),
    (set_top(plan=[]), r"plan is \[\], expected an object"),
    (lambda document: document["plan"].pop("seed"), "plan.seed is None, expected a whole number"),
    (in_plan(architecture=7), "plan.architecture is 7, expected a string"),
    (in_plan(record=[]), r"plan.record is \[\], expected an object"),
    (set_top(base={"path": "b", "fingerprint": "f", "link": 7}), "base.link is 7, expected a string"),
    (set_entry("half", geometry={"fan": 3}), "'half': geometry is {'fan': 3}, expected fan_in, fan_out"),
    (set_entry("half", geometry=3), "geometry is 3, expected"),
    (set_top(plan={}), r"plan.tensors is None(.|\n)*plan.unused is None"),
    (set_top(base="x"), "base is 'x', expected an object"),
    (set_top(base={"path": 7, "fingerprint": "f"}), "base.path is 7"),
    (set_top(digests=[]), r"digests is \[\]"),
    (set_top(made_by=None), "made_by is None, expected a string"),
    (in_plan(unused=[7]), r"plan.unused is \[7\], expected a list of strings"),
    (in_plan(tensors=[7]), r"plan.tensors is \[7\], expected a list of objects"),
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
    (set_part("head", "new", region={**rows(0, 3), **box([3, 0], [5, 4])}), "expected start and stop, or dim and"),
    (set_part("head", "new", region={}), "expected start and stop, or dim and index"),
    (set_part("head", "kept", source=None), "a kept region is"),
    (set_part("head", "kept", source_region=None), "source_region is None"),
    (set_entry("fresh", dtype="float4_e2m1fn_x2", new=new(box([0, 0], [1, 3]))), "kept or new as a whole"),
    (lambda document: document["digests"].pop("fresh"), "'fresh' has 0, expected 1"),
    (lambda document: document["digests"]["head"].pop(), "'head' has 1, expected 2"),
    (lambda document: document["digests"].update(half=["0" * 64]), "'half' has 1, expected 0"),
    (lambda document: document["digests"].update(fresh=["0" * 63]), "SHA-256 in hex"),
    (lambda document: document["digests"].update(fresh="0" * 64), "SHA-256 in hex"),
    (set_top(kept_digests=[]), r"kept_digests is \[\], expected an object"),
    (lambda document: document["kept_digests"].update(half=[]), "'half' has 0, expected 1, one a kept region"),
    (lambda document: document["kept_digests"].update(fresh=["0" * 64]), "'fresh' has 1, expected 0"),
    (lambda document: document["kept_digests"].update(half=["0" * 65]), "SHA-256 in hex"),
    (set_top(tensor_digests={"half": 7}), "tensor_digests is"),
    (lambda document: document["tensor_digests"].pop("half"), r"\['half'\] are only in one of the two"),
    (lambda document: document["tensor_digests"].update(later="0" * 64), r"\['later'\] are only in one"),
    (lambda document: document["base"].update(sha256=[]), r"base.sha256 is \[\]"),
    (lambda document: document["base"].update(sha256={SINGLE: "f"}), "base.sha256 is"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_manifest_that_says_what_can_not_be(digested, change, message):
    edit(digested[1], change)
    with pytest.raises(HfInitError, match=message) as caught:
        hf_init.verify(digested[1])
    assert MANIFEST in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1, "version": 1}', '{"version": NaN}'])
def test_a_manifest_that_is_no_object(made, text, tmp_path, capsys):
    (made[1] / MANIFEST).write_text(text)
    assert f"{made[1] / MANIFEST} is not" in refusal(tmp_path, capsys, "verify", made[1])


def test_what_is_no_result_or_no_checkpoint(made, tmp_path, capsys):
    base, out = made
    for folder in (base, tmp_path / "none"):
        assert f"{folder} has no {MANIFEST}" in refusal(tmp_path, capsys, "verify", folder)
    assert "`hf-init diff`" in refusal(tmp_path, capsys, "verify", base)
    for sides in ((out, tmp_path / "none"), (tmp_path / "none", out)):
        assert f"no such folder: {tmp_path / 'none'}" in refusal(tmp_path, capsys, "diff", *sides)
    (out / SINGLE).write_bytes((out / SINGLE).read_bytes()[:-10])
    for argv in (("verify", out), ("diff", out, out)):
        assert f"{out / SINGLE} is truncated" in refusal(tmp_path, capsys, *argv)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places_in(item, (*path, key)))]


JUNK = st.sampled_from([None, True, -1, 0, 2**70, 1.5, "", "kept", "w", [], [[]], [0], {}, {"name": "skip"}])


@given(st.data())
def test_no_manifest_does_more_than_be_refused_or_disproved(to_damage, data):
    out, good, _ = to_damage
    (out / SINGLE).write_bytes(good)
    document = json.loads((out / MANIFEST).read_text())
    edited = copy.deepcopy(document)
    *above, last = data.draw(st.sampled_from([place for place in places_in(document) if place]))
    holder: Any = edited
    for key in above:
        holder = holder[key]
    holder[last] = data.draw(JUNK)
    (out / MANIFEST).write_text(json.dumps(edited))
    try:
        assert hf_init.verify(out, document["base"]["path"]).counts
    except HfInitError as error:
        assert str(error)
    finally:
        (out / MANIFEST).write_text(json.dumps(document))


# Regions, pieces and threads.


@st.composite
def tilings(draw: Any) -> tuple[tuple[int, ...], list[dict[str, Any]]]:
    """A shape, and regions that come from cutting it and then, at times, from damaging that."""
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    regions = [([0] * len(shape), list(shape))]
    for _ in range(draw(st.integers(0, 3)) if shape else 0):
        start, stop = regions.pop(draw(st.integers(0, len(regions) - 1)))
        dim = draw(st.integers(0, len(shape) - 1))
        at = draw(st.integers(start[dim], stop[dim]))
        regions.append((start, [*stop[:dim], at, *stop[dim + 1 :]]))
        regions.append(([*start[:dim], at, *start[dim + 1 :]], stop))
    if draw(st.integers(0, 3)) == 0:
        regions.pop(draw(st.integers(0, len(regions) - 1)))
    found = [box(*region) for region in regions]
    if shape and shape[0]:
        if draw(st.booleans()):  # by rows instead
            order = draw(st.permutations(range(shape[0])))
            cut = draw(st.integers(0, shape[0]))
            found = [rows(0, *order[:cut]), rows(0, *order[cut:])]
        if draw(st.integers(0, 3)) == 0:
            found.append(rows(0, *draw(st.lists(st.integers(0, shape[0] - 1), max_size=3))))
    return shape, found


def tiled_result(folder: Path, source: np.ndarray, regions: list[dict[str, Any]], kept: list[bool]) -> Path:
    """A result of one tensor that is as its base, and says of each region whether it is kept."""
    folder.mkdir(exist_ok=True)
    base, out = write(folder / "base", {"w": source}), write(folder / "out", {"w": source})
    entry = {"name": "w", "status": "resized", "shape": list(source.shape), **F}
    entry["kept"] = [
        {"region": each, "source": "w", "source_region": each} for each, k in zip(regions, kept, strict=True) if k
    ]
    entry["new"] = new(*(each for each, k in zip(regions, kept, strict=True) if not k))
    manifest_of(base, out, [entry], {"w": source})
    return out


@given(st.data())
def test_regions_and_differences_are_those_of_counting_every_element(tmp_path_factory, data):
    """Whatever the pieces, the buffers and the number of threads."""
    shape, regions = data.draw(tilings())
    source = floats(*shape, start=1)
    times, kept = np.zeros(shape, int), [data.draw(st.integers(0, 2)) > 0 for _ in regions]
    for region in regions:
        np.add.at(times, region_of(region), 1)
    out = tiled_result(tmp_path_factory.getbasetemp() / "regions", source, regions, kept)
    unused = "" if any(kept) else "unaccounted"
    before = [each["reason"] for each in hf_init.verify(out, everything=True).differences]
    before = [reason for reason in before if not unused or not reason.startswith(unused)]
    assert bool(before) == bool((times != 1).any()) and all(
        each.split(":")[0] in ("hole", "overlap") for each in before
    )
    if before or unused:
        return
    changed = source.copy()
    changed.flat[data.draw(st.lists(st.integers(0, max(source.size - 1, 0)), max_size=5)) if source.size else []] *= -1
    write(out, {"w": changed})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_init._verify.regions.CHUNK", data.draw(st.sampled_from([4, 16, 64, 1000])))
        patch.setattr("hf_init._verify.ranges.PIECES_PER_JOB", data.draw(st.integers(1, 4)))
        threads = data.draw(st.sampled_from([1, 2, 5]))
        patch.setattr(os, "sched_getaffinity", lambda _: range(threads))
        found, first = (hf_init.verify(out, everything=everything).differences for everything in (True, False))
    where = np.zeros(shape, bool)
    for region, k in zip(regions, kept, strict=True):
        where[region_of(region)] = k
    differs = changed != source
    told = [each for each in found if each["reason"].startswith("kept")]
    assert bool(told) == bool((differs & where).any()) and bool(found) == bool(differs.any())
    assert sum(each["changed_elements"] for each in told) == int((differs & where).sum())
    for each in told:
        index = tuple(each["index"])
        assert (differs & where)[index] and each["row"] == (*index, 0)[0]
        assert (each["seen"], each["expected"]) == (changed[index], source[index])
    assert len(first) == min(len(found), 1)
    if told and len(regions) == 1:
        assert first[0]["index"] == [int(at) for at in np.argwhere(differs)[0]]


def test_an_overlap_is_found_behind_regions_that_are_no_part_of_it_and_many_rows_are_quick(made):
    regions = [box([0, 0], [8, 1]), *(box([row, 1], [row + 1, 2]) for row in range(8)), box([6, 0], [7, 1])]
    many = [rows(0, *range(0, 50_000, 2)), rows(0, *range(1, 50_000, 2)), rows(0, 7)]
    for shape, found in (([8, 2], regions), ([50_000, 4], many)):
        entry = {"name": "fresh", "status": "new", "shape": shape, **F, "new": new(*found)}
        write(made[1], {"fresh": floats(*shape)})
        manifest_of(made[0], made[1], [entry], {"fresh": floats(*shape)})
        fault = next(each for each in hf_init.verify(made[1]).differences if each["name"] == "fresh")
        assert fault["reason"] == "overlap: two of its regions share elements"
        assert shape != [8, 2] or fault["regions"] == [regions[0], regions[-1]]


@pytest.mark.parametrize("place", [0, 1_000_000, 2_999_999])
def test_a_difference_in_a_large_tensor_is_located_and_digests_go_over_pieces(tmp_path, place):
    large, odd = np.arange(3_000_000, dtype="float32").reshape(3, 1000, 1000), np.zeros(3, "uint16")
    base = write(tmp_path / "base", {"odd": odd, "w": large})  # w starts off a word
    entries = [
        {"name": "odd", "status": "kept", "shape": [3], "dtype": "bfloat16", "source": "odd"},
        {"name": "w", "status": "kept", "shape": [3, 1000, 1000], "source": "w", **F},
        {"name": "n", "status": "new", "shape": [3, 1000, 1000], **F,
         "new": new(rows(1, *range(999, -1, -1)))},
    ]  # fmt: skip
    out = write(tmp_path / "out", {"odd": odd, "w": large, "n": large})
    manifest_of(base, out, entries, {"odd": odd, "w": large, "n": large}, digest=True)
    assert hf_init.verify(out).ok and hf_init.verify(out, False).ok
    changed = large.copy()
    changed.flat[place] = -1
    write(out, {"odd": odd, "w": changed, "n": large})
    found = the_difference(out)
    assert tuple(found["index"]) == tuple(map(int, np.unravel_index(place, large.shape)))
    assert (found["seen"], found["expected"], found["changed_rows"]) == (-1, place, 1)


def test_kept_columns_and_rows_of_another_dimension(tmp_path):
    source = floats(3, 4)
    made = np.concatenate([source[:, [3, 1]], floats(3, 1, start=50)], axis=1)
    base, out = write(tmp_path / "base", {"w": source}), write(tmp_path / "out", {"w": made})
    kept = [{"region": rows(1, 0, 1), "source": "w", "source_region": rows(1, 3, 1)}]
    entry = {"name": "w", "status": "resized", "shape": [3, 3], **F, "kept": kept, "new": new(box([0, 2], [3, 3]))}
    manifest_of(base, out, [entry], {"w": made})
    assert hf_init.verify(out).ok
    made[2, 1] = -1
    write(out, {"w": made})
    found = the_difference(out)
    assert (found["index"], found["expected"], found["changed_rows"]) == ([2, 1], source[2, 1], 1)


# The first difference, or everything.


def test_reading_stops_at_the_first_difference(made):
    _, out = made
    rewrite(out, lambda tensors: (tensors["model.embed"].fill(7), tensors["head"].fill(7), tensors["fresh"].fill(7)))
    report = hf_init.verify(out)
    (difference,) = report.differences
    assert not report.ok and not report.complete and report.to_json()["complete"] is False
    assert (difference["name"], difference["index"], difference["seen"]) == ("model.embed", [0, 0], 7.0)
    assert "changed_rows" not in difference and "row 0, index [0, 0]: seen 7.0" in str(report)
    assert "everything=True" in str(report)
    whole = hf_init.verify(out, everything=True)
    assert [each["name"] for each in whole.differences] == ["model.embed", "head", "head", "fresh"]
    assert whole.complete and "everything=True" not in str(whole) and whole.differences[0]["changed_rows"] == 4
    assert report.bytes_digested == 0 < whole.bytes_digested


# Made again.


@pytest.fixture
def drawn(tmp_path) -> Path:
    from small_model import extend_small, small_base

    extend_small(small_base(tmp_path / "base"), tmp_path / "out")
    return tmp_path / "out"


def test_new_values_are_made_again_and_told_from_their_digests(drawn, tmp_path, capsys):
    file = drawn / "model-00002-of-00003.safetensors"
    assert hf_init.verify(drawn, recompute=True).ok
    manifest, good = (drawn / MANIFEST).read_text(), file.read_bytes()
    edit(drawn, in_plan(seed=1))
    (first,) = hf_init.verify(drawn, recompute=True).differences
    assert (first["name"], first["reason"], first["index"]) == ("b", "recomputed value differs", [5, 0])
    assert differences(drawn, recompute=True) == {key: [first["reason"]] for key in ("b", "head.weight", "head.bias")}
    (drawn / MANIFEST).write_text(manifest)
    at = places(drawn, file.name)["b"].stop - 4
    file.write_bytes(flipped(good, 8 * at))
    digest = hf_init.verify(drawn).differences[0]["seen"]
    edit(drawn, lambda document: document["digests"].update(b=[digest]))
    assert hf_init.verify(drawn).ok, "a tampered value with a tampered digest"
    difference = the_difference(drawn, recompute=True)
    assert (difference["reason"], difference["index"]) == ("recomputed value differs", [6, 3])
    assert difference["seen"] != difference["expected"]
    file.write_bytes(good)
    assert differences(drawn, recompute=True) == {"b": ["digest of new bytes"]}, "a tampered digest alone"
    for change, words in (
        (set_entry("b", geometry={}), "geometry is {}, expected fan_in"),
        (lambda document: entry_of(document, "b")["new"][0]["scheme"].update(name="nosuch"), "unknown scheme 'nosuch'"),
        (lambda document: entry_of(document, "b")["new"][0]["scheme"].update(std=-1), "std is -1"),
    ):
        (drawn / MANIFEST).write_text(manifest)
        edit(drawn, change)
        assert words in refusal(tmp_path, capsys, "verify", drawn, "--recompute")


def test_a_plan_that_names_a_tensor_the_model_lacks_is_not_made_again(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    hf_init.extend(tiny("bert"), out, "BertForSequenceClassification", num_labels=3)
    edit(out, set_entry("classifier.weight", parameter="classifier.wait"))
    assert "no tensor 'classifier.wait'" in refusal(tmp_path, capsys, "verify", out, "--recompute")


# Without the base.


def test_a_result_with_digests_is_proved_without_its_base(digested, tmp_path):
    base, out = digested
    whole = hf_init.verify(out)
    assert whole.ok and whole.notes == (), "with the base as ever"
    base.rename(tmp_path / "moved")
    for report in (hf_init.verify(out), hf_init.verify(out, False)):
        assert report.ok and report.base is None and report.bytes_compared == 0 and report.counts == whole.counts
        assert report.bytes_digested >= sum(map(len, places(out).values())) and "without the base" in report.notes[0]
        assert "no base, " in str(report) and json.loads(json.dumps(report.to_json()))["base"] is None


def test_a_result_without_digests_is_not(made, tmp_path, capsys):
    assert "again with --digest" in refusal(tmp_path, capsys, "verify", made[1], "--no-base")
    with pytest.raises(HfInitError, match=r"no digests of what was kept.*digest=True"):
        hf_init.verify(made[1], base=False)


def test_the_digests_of_extend_are_those_of_the_bytes(tmp_path):
    from safetensors.numpy import load_file
    from small_model import FILES, extend_small, small_base

    extend_small(small_base(tmp_path / "base"), tmp_path / "out", digest=True)
    document = json.loads((tmp_path / "out" / MANIFEST).read_text())
    tensors = {name: each for file in FILES for name, each in load_file(tmp_path / "out" / file).items()}
    assert document["tensor_digests"] == {name: sha256(each) for name, each in tensors.items()}
    kept = {"a": tensors["a"], "b": tensors["b"][:5], "c": tensors["c"], "e": tensors["e"]}
    assert document["kept_digests"] == {name: [sha256(each)] for name, each in kept.items()}


def test_a_digest_changed_by_hand_is_found_without_the_base(digested):
    _, out = digested
    edit(out, lambda document: document["kept_digests"].update(half=["0" * 64]))
    assert differences(out, False) == {"half": ["digest of kept bytes"]}
    edit(out, lambda document: document["tensor_digests"].update(head="0" * 64))
    assert differences(out, False) == {"half": ["digest of kept bytes"], "head": ["digest of the whole tensor"]}
    with pytest.raises(HfInitError, match="1 difference from what the manifest asks for"):
        hf_init.verify(out, False).raise_if_failed()


def test_digests_tell_which_side_changed(digested):
    base, out = digested
    write(base, {**base_tensors(), "embed": floats(4, 3, start=1), "lm_head": floats(4, 3, start=1)})
    for report in (hf_init.verify(out), hf_init.verify(out, everything=True)):
        assert report.differences[0]["name"] == "model.embed" and "it is the base that has changed" in report.notes[-1]
    write(base, base_tensors())
    rewrite(out, lambda tensors: tensors["model.embed"].fill(7))
    report = hf_init.verify(out)
    assert report.differences and not any("base that has changed" in note for note in report.notes)


# Which base it is, and links to it.


def test_the_base_is_known_by_its_name_in_the_hubs_cache(made, tmp_path):
    base, out = made
    blobs = tmp_path / "cache" / "blobs"
    blobs.mkdir(parents=True)
    (base / SINGLE).rename(blobs / ("a" * 64))
    (base / SINGLE).symlink_to(blobs / ("a" * 64))
    edit(out, lambda document: document["base"].update(sha256={SINGLE: "a" * 64}))
    assert hf_init.verify(out).ok and hf_init.verify(out).notes == ()
    (tmp_path / "shared" / "blobs").mkdir(parents=True)
    (blobs / ("a" * 64)).rename(tmp_path / "shared" / "blobs" / ("c" * 64))
    (blobs / ("a" * 64)).symlink_to(tmp_path / "shared" / "blobs" / ("c" * 64))
    assert hf_init.verify(out).notes == (), "a shared blob behind the cache's own isn't taken for it"
    edit(out, lambda document: document["base"].update(sha256={SINGLE: "b" * 64}))
    (note,) = hf_init.verify(out).notes
    assert note.startswith(f"{base} is not the base that the result was made from: {SINGLE} has another SHA-256")


@pytest.mark.parametrize("link", ["hard", "symbolic"])
def test_a_linked_file_is_the_base_s_own_and_compared_with_digests(tiny, tmp_path, link):
    base = tmp_path / "base"
    shutil.copytree(tiny("bert"), base, copy_function=shutil.copyfile)
    nbytes = sum(map(len, places(base).values()))
    report = hf_init.extend(base, tmp_path / "out", link=link)
    assert report.ok and report.bytes_compared == 0 < report.bytes_linked == nbytes
    assert "in files that are its own, by links" in str(report)
    (tmp_path / "out" / SINGLE).unlink()
    shutil.copy(base / SINGLE, tmp_path / "out")
    copied = hf_init.verify(tmp_path / "out")
    assert (copied.bytes_compared, copied.bytes_linked) == (nbytes, 0) and ", by links" not in str(copied)
    report = hf_init.extend(base, tmp_path / "more", link=link, digest=True)
    assert report.ok and report.bytes_linked == report.bytes_compared == 0 and report.bytes_digested == nbytes
    done: list[int] = []
    assert hf_init.verify(tmp_path / "more", progress=done.append).bytes_digested == nbytes == sum(done)
    with (base / SINGLE).open("r+b") as file:  # in place: the result's own bytes, too
        os.pwrite(file.fileno(), b"\xff", places(base)["pooler.dense.bias"].start)
    (difference,) = hf_init.verify(tmp_path / "more").differences
    assert (difference["name"], difference["reason"]) == ("pooler.dense.bias", "digest of kept bytes")
    (tmp_path / "more" / SINGLE).unlink()
    shutil.copy(base / SINGLE, tmp_path / "more")
    assert hf_init.verify(tmp_path / "more").bytes_compared == nbytes, "a copy has its base to be compared with"


def test_a_linked_file_with_digests_that_was_carried_to_another_name_is_found(tmp_path):
    """Digests of what is there say nothing of where it came from; and other bytes of one file are compared."""
    base = write(tmp_path / "base", tensors := {"a": floats(4), "c": floats(4, start=9)})
    (tmp_path / "out").mkdir()
    os.link(base / SINGLE, tmp_path / "out" / SINGLE)
    form = {"status": "kept", "shape": [4], **F}
    entries = [{"name": "a", "source": "c", **form}, {"name": "c", "source": "a", **form}]
    for digest in (True, False):
        manifest_of(base, tmp_path / "out", entries, tensors, digest)
        assert differences(tmp_path / "out") == {name: ["kept bytes differ from the base"] for name in "ac"}


# Files that change or fail while they are read.


def reading(monkeypatch: pytest.MonkeyPatch, after: int, do: Callable[[], object]) -> None:
    """Do something once a file's values are read for the so-manieth time."""
    left = iter(range(after))

    class Watched(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            if next(left, None) is None:
                do()
            return super().readinto(buffer)

    monkeypatch.setattr("hf_init._checkpoint.read.FileIO", Watched)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # another thread would open the file again


def test_a_file_that_shrinks_while_it_is_read_and_a_read_error_half_way(made, monkeypatch):
    base, out = made
    reading(
        monkeypatch,
        0,
        lambda: os.truncate(
            base / SINGLE, places(base)["embed"].start + 20 if (base / SINGLE).stat().st_size > 400 else 400
        ),
    )
    with pytest.raises(HfInitError, match=rf"{base / SINGLE} has changed (while it was read: it ends at byte|since)"):
        hf_init.verify(out)
    write(base, base_tensors())

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    reading(monkeypatch, 1, fail)
    with pytest.raises(HfInitError, match=rf"{SINGLE} can't be read at byte \d+: Input/output error"):
        hf_init.verify(out)


def test_bytes_that_differ_once_and_then_no_more_are_no_proof(made, monkeypatch):
    seen: list[int] = []

    def once(left: np.ndarray, right: np.ndarray) -> bool:
        seen.append(len(left))
        return len(seen) > 1

    monkeypatch.setattr("hf_init._verify.ranges.same_bytes", once)
    with pytest.raises(HfInitError, match="no longer when they were read again") as caught:
        hf_init.verify(made[1])
    assert str(made[1]) in str(caught.value)


def test_a_failure_in_one_thread_ends_the_others(made):
    def failing(nbytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hf_init.verify(made[1], progress=failing)


FEW_FILES = """
import resource, sys
import hf_init
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
assert hf_init.verify(sys.argv[1]).ok and hf_init.diff(sys.argv[1], sys.argv[1]).identical
assert not {"torch", "transformers", "safetensors"} & set(sys.modules)
"""


@pytest.mark.slow
def test_open_files_stay_few_and_the_proof_needs_neither_torch_nor_transformers(tmp_path):
    """More shards than a process may have files open."""
    base, index, entries = tmp_path / "base", {}, []
    for number in range(700):
        write(base, {f"w{number}": floats(100)}, f"model-{number:05d}.safetensors")
        index[f"w{number}"] = f"model-{number:05d}.safetensors"
        entries.append({"name": f"w{number}", "status": "kept", "shape": [100], "source": f"w{number}", **F})
    (base / INDEX).write_text(json.dumps({"weight_map": index}))
    manifest_of(base, base, entries, {})
    subprocess.run([sys.executable, "-c", FEW_FILES, str(base)], check=True)
