"""The proof of a result: what is as planned passes, and whatever is not is found and named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from unittest.mock import ANY

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import (
    HEAD,
    INDEX,
    SINGLE,
    Tensors,
    base_tensors,
    box,
    differences,
    edit,
    entry_of,
    flipped,
    floats,
    places,
    result_tensors,
    rewrite,
    rows,
    the_difference,
    write,
)
from made_results import made as made
from made_results import to_damage as to_damage
from refusals import refusal

import hf_init
from hf_init import HfInitError
from hf_init.cli import main

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
