"""How a proof is made: regions, pieces and threads, and files that change while they are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import F, box, floats, manifest_of, new, region_of, rewrite, rows, the_difference, write
from made_results import made as made

import hf_init

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
