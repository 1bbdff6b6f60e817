"""The files of a result: which are written, how little of them, and that they are what safetensors would write."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from write_checks import (
    NORMAL,
    contents,
    expected,
    extend,
    grown,
    kept,
    names,
    new,
    plan_of,
    read,
    resized,
    save_base,
    values,
)

from hf_init import schemes
from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._checkpoint.header import DTYPES
from hf_init._checkpoint.runs import byte_runs, outer
from hf_init._checkpoint.tensor_bytes import equal_bytes, region_of
from hf_init._checkpoint.tensor_reader import Reader
from hf_init._errors import PlanError
from hf_init._plan.tensor_plan import TensorPlan
from hf_init._tensors import Box, Copy, Region, Rows, Status, num_elements, subtract_boxes
from hf_init._write import copying as _copying
from hf_init._write.files import OutputFile, bytes_written, plan_files
from hf_init._write.safetensors_file import file_form
from hf_init._write.writing import Budget, room_needed

# The format.

SAVED = [name for name, bits in DTYPES.values() if bits >= 8 and hasattr(torch, name)]


def test_the_form_is_that_of_safetensors():
    """Every dtype, names with all kinds of letters, a scalar, an empty tensor."""
    tensors = {f"{k}.{dtype}": torch.zeros(2, k, dtype=getattr(torch, dtype)) for dtype in SAVED for k in (1, 3)}
    tensors |= {'é\n\x01\x7f"\\/ü\u2028': torch.zeros(3), "scalar": torch.zeros(()), "empty": torch.zeros(0, 3)}
    plans = [
        TensorPlan(name, Status.NEW, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    ]
    theirs = save(tensors, metadata={"format": "pt"})
    made = file_form(plans)
    assert theirs[: len(made.header)] == made.header and len(theirs) == made.size


def test_all_dtypes_of_safetensors_are_in_that_test():
    assert {"float8_e8m0fnu", "uint64", "complex64", "bool", "bfloat16"} <= set(SAVED)


@pytest.mark.parametrize("link", ["copy", "hard", "symbolic"])
def test_a_file_is_what_safetensors_writes(tmp_path, link):
    source = save_base(tmp_path / "base", {"b.w": values(5, 3), "a": values(7, dtype="bfloat16")})
    plan = plan_of(kept(source, "z", "a"), grown(source, "b.w", 4), new("head", 3, 2, dtype="float16"))
    extend(source, tmp_path / "out", plan, link=link)
    save_file(expected(source, plan), tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()


# Regions.

SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple)


@st.composite
def regions(draw: st.DrawFn) -> tuple[Region, tuple[int, ...]]:
    shape = draw(SHAPES)
    if draw(st.booleans()) and 0 not in shape:
        dim = draw(st.integers(0, len(shape) - 1))
        index = draw(st.lists(st.integers(0, shape[dim] - 1), min_size=1, max_size=6, unique=True))
        return Rows(dim, tuple(index), shape), shape
    ends = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    return Box(tuple(a for a, _ in ends), tuple(b for _, b in ends)), shape


@given(regions(), st.integers(0, 2))
def test_runs_are_the_region_in_its_order(case, more):
    region, shape = case
    dims = min(outer(region, shape) + more, len(shape))
    places = byte_runs(region, shape, 16, 1000, dims)
    found = [start + at for start in places.starts(0, places.num_runs).tolist() for at in range(0, places.size, 2)]
    whole = torch.arange(1000, 1000 + 2 * num_elements(shape), 2).reshape(shape)
    assert found == region_of(whole, region).reshape(-1).tolist()


BOXES = [
    ((6, 4), [((0, 0), (3, 4))]),
    ((6, 4), [((0, 1), (6, 3))]),
    ((6, 4), [((1, 0), (2, 1)), ((3, 2), (6, 4))]),
    ((3, 4, 5), [((0, 1, 2), (3, 3, 5))]),
    ((2, 3, 2, 3), [((1, 0, 0, 0), (2, 3, 1, 2)), ((0, 0, 1, 0), (1, 3, 2, 3))]),
    ((9,), [((2,), (4,)), ((8,), (9,))]),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize(("shape", "boxes"), BOXES)
def test_boxes_and_what_they_leave_go_to_their_places(tmp_path, shape, boxes, dtype):
    """Kept from the other end of a tensor that is larger in every dimension."""
    larger = tuple(n + 2 for n in shape)
    source = save_base(tmp_path / "base", {"a": values(3), "w": values(*larger, dtype=dtype)})
    copies = [Copy(Box(*box), "w", Box(*(tuple(n + 2 for n in corner) for corner in box))) for box in boxes]
    rest = list(subtract_boxes(shape, [copy.region for copy in copies]))
    plan = plan_of(kept(source, "a"), resized("w", shape, dtype, copies, rest))
    extend(source, tmp_path / "out", plan)
    assert equal_bytes(read(tmp_path / "out")["w"], expected(source, plan)["w"])


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_rows_go_to_their_places(tmp_path, dim, dtype):
    was = values(7, 6, 5) if dtype == "float32" else values(7, 6, 5, dtype="uint8") > 127
    shape = tuple(9 if d == dim else n for d, n in enumerate(was.shape))
    source = save_base(tmp_path / "base", {"w": was})
    here, there, rest = (8, 0, 1, 5, 6), (0, 4, 2, 3, 1), (2, 3, 4, 7)
    copy = Copy(Rows(dim, here, shape), "w", Rows(dim, there, tuple(was.shape)))
    fills = [Rows(dim, rest, shape)]
    plan = plan_of(resized("w", shape, dtype, [copy], fills, schemes.Zeros() if dtype == "bool" else NORMAL))
    extend(source, tmp_path / "out", plan)
    made = read(tmp_path / "out")["w"]
    assert equal_bytes(region_of(made, copy.region), region_of(was, copy.source_region))
    assert equal_bytes(made, expected(source, plan)["w"])


def test_pieces_larger_than_a_block_are_taken_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_init._checkpoint.runs.BLOCK", 64)
    monkeypatch.setattr("hf_init._checkpoint.runs._SPAN", 128)
    source = save_base(tmp_path / "base", {"w": values(40, 30), "v": values(50, 3)})
    rows = tuple(range(0, 50, 2))
    plan = plan_of(
        resized(
            "w", (40, 20), "float32", [Copy(Box((0, 5), (40, 20)), "w", Box((0, 15), (40, 30)))], [Box((0, 0), (40, 5))]
        ),
        resized("v", (25, 3), "float32", [Copy(Box((0, 0), (25, 3)), "v", Rows(0, rows[::-1], (50, 3)))], []),
    )
    extend(source, tmp_path / "out", plan)
    for name, tensor in expected(source, plan).items():
        assert equal_bytes(read(tmp_path / "out")[name], tensor)


@given(regions(), st.sampled_from(["float32", "bool"]), st.integers(1, 40))
def test_rows_of_a_region_are_its_elements_in_order(folder, case, dtype, block):
    """What a scheme is given of the pretrained elements: all of them, some slices at a time."""
    region, shape = case
    tensor = values(*shape) if dtype == "float32" else values(*shape, dtype="uint8") > 127
    save_file({"w": tensor}, folder / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch, Reader(Checkpoint.open(folder)) as reader:
        patch.setattr("hf_init._checkpoint.tensor_reader._CACHED", block)
        pieces = list(reader.rows("w", region))
    whole = region_of(tensor, region)
    if whole.numel():
        assert equal_bytes(torch.cat(pieces), whole) and all(piece.shape[1:] == whole.shape[1:] for piece in pieces)
    else:
        assert not pieces


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("one")


# What is written at all.


@pytest.fixture
def three(tmp_path) -> Checkpoint:
    return save_base(tmp_path / "base", {"a": values(4, 4)}, {"b": values(5, 4), "c": values(3)}, {"d": values(9)})


def how_of(file: OutputFile) -> str:
    """``carried``: a file of the source, whole. ``renamed``: whole tensors of the source. ``written``: else."""
    if file.carried is not None:
        return "carried"
    return "renamed" if all(tensor.status is Status.KEPT for tensor in file.tensors) else "written"


def hows(source: Checkpoint, *tensors: TensorPlan, **options) -> dict[str, tuple[str, list[str]]]:
    files = plan_files(plan_of(*tensors), source, **options)
    return {file.name: (how_of(file), sorted(tensor.name for tensor in file.tensors)) for file in files}


def all_kept(source: Checkpoint, *but: str) -> list[TensorPlan]:
    return [kept(source, name) for name in source.entries if name not in but]


def test_only_the_file_of_a_changed_tensor_is_written(three):
    assert hows(three, *all_kept(three, "b"), grown(three, "b", 2)) == {
        "model-00001-of-00003.safetensors": ("carried", ["a"]),
        "model-00002-of-00003.safetensors": ("written", ["b", "c"]),
        "model-00003-of-00003.safetensors": ("carried", ["d"]),
    }


def test_what_is_new_goes_into_a_file_that_is_written_anyway(three):
    for link in ("copy", "hard", "symbolic"):
        found = hows(three, *all_kept(three, "a"), grown(three, "a", 2), new("head", 2), link=link)
        assert [how for how, _ in found.values()] == ["written", "carried", "carried"]
        assert found["model-00001-of-00003.safetensors"][1] == ["a", "head"]


def test_a_file_of_its_own_for_what_is_new_where_that_writes_less(three):
    copies = hows(three, *all_kept(three), new("head", 2))
    assert [how for how, _ in copies.values()] == ["carried", "carried", "written"]
    links = hows(three, *all_kept(three), new("head", 2), link="hard")
    assert [how for how, _ in links.values()] == ["carried", "carried", "carried", "written"]
    assert links["model-00004-of-00004.safetensors"] == ("written", ["head"])


def test_a_single_file_gets_an_index_beside_it_with_links_alone(tmp_path):
    source = save_base(tmp_path / "base", {"a": values(2), "b": values(3)})
    assert list(hows(source, *all_kept(source), new("head", 2))) == ["model.safetensors"]
    assert list(hows(source, *all_kept(source), new("head", 2), link="symbolic")) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_a_tensor_less_or_under_another_name_is_a_file_anew(three):
    assert [how for how, _ in hows(three, *all_kept(three, "c")).values()] == ["carried", "renamed", "carried"]
    renamed = hows(three, *all_kept(three, "a"), kept(three, "model.a", "a"))
    assert [how for how, _ in renamed.values()] == ["renamed", "carried", "carried"]


def test_a_file_without_tensors_isn_t_there(three):
    assert list(hows(three, *all_kept(three, "d"))) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert list(hows(three, kept(three, "d"))) == ["model.safetensors"]


def test_a_file_that_isn_t_marked_as_torch_s_is_not_carried(tmp_path):
    (tmp_path / "base").mkdir()
    save_file({"a": values(2)}, tmp_path / "base" / "model.safetensors")
    source = Checkpoint.open(tmp_path / "base")
    assert hows(source, kept(source, "a")) == {"model.safetensors": ("renamed", ["a"])}


def test_a_largest_size_divides_anew_and_keeps_what_fits(three):
    found = hows(three, *all_kept(three), max_bytes=80)
    assert [members for _, members in found.values()] == [["a"], ["b"], ["c", "d"]]
    assert [how for how, _ in found.values()] == ["carried", "renamed", "renamed"]


def test_an_unknown_way_of_linking_is_refused(three):
    with pytest.raises(PlanError, match="link: expected one of copy, hard, symbolic, not 'soft'"):
        plan_files(plan_of(*all_kept(three)), three, link="soft")  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize("link", ["copy", "hard", "symbolic"])
def test_the_room_that_is_counted_is_the_room_that_is_taken(three, tmp_path, link):
    plan = plan_of(*all_kept(three, "b"), grown(three, "b", 2), new("head", 2))
    extend(three, tmp_path / "out", plan, link=link)
    origins = {os.stat(path).st_ino for path in three.root.iterdir()}
    own = [path for path in (tmp_path / "out").glob("*.safetensors") if os.stat(path).st_ino not in origins]
    assert bytes_written(plan_files(plan, three, link=link), three, link) == sum(path.stat().st_size for path in own)


def test_a_copy_that_shares_its_blocks_needs_no_room(three, tmp_path, monkeypatch):
    """A filesystem with reflinks, played; and the real one here, which takes a copy's bytes or none of them."""
    files = plan_files(plan_of(*all_kept(three, "b"), grown(three, "b", 2), new("head", 2)), three)
    copied, linked = bytes_written(files, three), bytes_written(files, three, "hard")
    assert linked < copied and room_needed(files, three, "copy", tmp_path / "a" / "out") in (linked, copied)
    tried: list[int] = []
    monkeypatch.setattr(_copying.fcntl, "ioctl", lambda new, request, old: tried.append(new))
    assert room_needed(files, three, "copy", tmp_path / "a" / "out") == linked and len(tried) == 1
    assert room_needed(files[1:2], three, "copy", tmp_path / "out") == bytes_written(files[1:2], three)
    assert {path.name for path in tmp_path.iterdir()} == {three.root.name}, "nothing is left of the trial"
    monkeypatch.delattr(os, "O_TMPFILE")
    assert room_needed(files, three, "copy", tmp_path / "out") == copied


def test_a_copy_that_can_t_share_its_blocks_needs_its_room(three, tmp_path, monkeypatch):
    def refused(new: int, request: int, old: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    files = plan_files(plan_of(*all_kept(three)), three)
    monkeypatch.setattr(_copying.fcntl, "ioctl", refused)
    assert room_needed(files, three, "copy", tmp_path / "out") == bytes_written(files, three) > 0
    assert room_needed(files, three, "hard", tmp_path / "out") == 0
    assert not _copying.can_clone(tmp_path / "not there", tmp_path)


def test_links_are_links_and_the_bytes_are_the_same(three, tmp_path):
    plan = plan_of(*all_kept(three, "b"), grown(three, "b", 2), new("head", 2))
    found = {}
    for link in ("copy", "hard", "symbolic"):
        extend(three, tmp_path / link, plan, link=link)
        found[link] = {name: data for name, data in contents(tmp_path / link).items() if name != "hf_init.json"}
    assert found["copy"] == found["hard"] == found["symbolic"]
    first = "model-00001-of-00003.safetensors"
    assert os.path.samefile(tmp_path / "hard" / first, three.root / first)
    assert os.readlink(tmp_path / "symbolic" / first) == str(three.root / first)
    assert not os.path.samefile(tmp_path / "copy" / first, three.root / first)
    assert not (tmp_path / "hard" / "model-00002-of-00003.safetensors").is_symlink()


def test_a_hub_s_cache_is_linked_to_its_blobs(tmp_path):
    source = save_base(tmp_path / "base", {"a": values(2)})
    blob = tmp_path / "blob"
    (source.root / "model.safetensors").rename(blob)
    (source.root / "model.safetensors").symlink_to("../blob")
    for link in ("hard", "symbolic"):
        extend(source, tmp_path / link, plan_of(kept(source, "a")), link=link)
    assert os.readlink(tmp_path / "symbolic" / "model.safetensors") == str(blob)
    assert not (tmp_path / "hard" / "model.safetensors").is_symlink()
    assert os.path.samefile(tmp_path / "hard" / "model.safetensors", blob)


def test_the_index_is_that_of_save_pretrained(three, tmp_path):
    import json

    extend(three, tmp_path / "out", plan_of(*all_kept(three, "b"), grown(three, "b", 2)))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 4 * (16 + 28 + 3 + 9)}
    assert index["weight_map"]["b"] == "model-00002-of-00003.safetensors"
    assert sorted(index["weight_map"]) == ["a", "b", "c", "d"]


def test_a_file_without_another_has_no_index(tmp_path):
    source = save_base(tmp_path / "base", {"a": values(2)})
    extend(source, tmp_path / "out", plan_of(grown(source, "a", 2)))
    assert names(tmp_path / "out") == ["config.json", "hf_init.json", "model.safetensors"]


# Memory.

CHILD = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from write_checks import Checkpoint, expected, extend, grown, plan_of
torch.set_num_threads(1)
source = Checkpoint.open(sys.argv[2])
plan = plan_of(grown(source, "w", 10))
def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024
peak, done = 0.0, False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)
before = anonymous()
thread = threading.Thread(target=watch)
thread.start()
if sys.argv[4] == "write":
    extend(source, Path(sys.argv[3]), plan)
else:
    held = expected(source, plan)
done = True
thread.join()
print(peak - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A tensor of 256 MiB: a header and a hole."""
    folder = tmp_path_factory.mktemp("large")
    made = file_form([TensorPlan("w", Status.NEW, (64 << 10, 1 << 10), "float32")])
    with open(folder / "model.safetensors", "wb") as file:
        file.write(made.header)
        file.truncate(made.size)
    return folder


@pytest.mark.parametrize(("way", "fits"), [("write", True), ("compose", False)])
def test_memory_is_that_of_what_is_new(large, tmp_path, way, fits):
    """Ten new rows on 256 MiB take less than 64; and the measure would see the whole tensor in memory."""
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(large), str(tmp_path / "out"), way]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert (float(done.stdout) < 64) == fits


def test_the_budget_lets_in_what_fits_and_one_that_never_does():
    import threading

    budget, order = Budget(10), []
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with budget.taken(50):
            order.append("first")
            entered.set()
            leave.wait()
            order.append("first ends")

    def second() -> None:
        entered.wait()
        with budget.taken(5):
            order.append("second")

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    entered.wait()
    leave.set()
    for thread in threads:
        thread.join()
    assert order == ["first", "first ends", "second"]
