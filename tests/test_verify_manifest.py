"""Manifests that say what cannot be, and regions that are no whole tensor: refused, or disproved, and never more."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import MANIFEST, SINGLE, box, differences, edit, entry_of, in_plan, new, rows, set_entry
from made_results import digested as digested
from made_results import made as made
from made_results import to_damage as to_damage
from refusals import refusal

import hf_init
from hf_init import HfInitError

# The manifest.


def drop_a_region(document: dict[str, Any]) -> None:
    entry_of(document, "head")["new"].pop()
    document["digests"]["head"].pop()


def set_part(name: str, which: str, /, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: entry_of(document, name)[which][0].update(values)


def set_top(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(values)


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
