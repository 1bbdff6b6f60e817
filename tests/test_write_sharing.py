"""Files that share blocks of the disk with the source: which bytes can, and where they have to lie."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
from safetensors.torch import save_file
from write_checks import contents, expected, extend, grown, kept, new, plan_of, read, save_base, values

from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._checkpoint.tensor_bytes import equal_bytes
from hf_init._plan.plan import Plan
from hf_init._write import copying as _copying
from hf_init._write import writing as _writing
from hf_init._write.copying import LONG
from hf_init._write.files import OutputFile, bytes_written, plan_files
from hf_init._write.filling import kept_in, kept_runs
from hf_init._write.sharing import aligned, block_shared
from hf_init._write.writing import room_needed

FICLONE, FICLONERANGE = 0x40049409, 0x4020940D
BLOCK = os.statvfs("/").f_bsize
WIDE = 3 * BLOCK  # floats in a row


class Sharing:
    """A filesystem with reflinks, played: bytes are copied at one call, whole blocks only."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.ranges: list[tuple[str, int]] = []
        self.refused = False

    def __call__(self, number: int, request: int, argument: int | bytes) -> None:
        path = os.readlink(f"/proc/self/fd/{number}")
        if isinstance(argument, int):
            assert request == FICLONE
            os.pwrite(number, os.pread(argument, 1 << 30, 0), 0)
            if "deleted" not in path:
                self.files.append(Path(path).name)
            return
        assert request == FICLONERANGE
        old, start, nbytes, place = struct.unpack("=qQQQ", argument)
        assert not start % BLOCK and not place % BLOCK and not nbytes % BLOCK and nbytes > 0
        assert start + nbytes <= os.fstat(old).st_size and place + nbytes <= os.fstat(number).st_size
        if self.refused:
            raise OSError(errno.EINVAL, "Invalid argument")
        os.pwrite(number, os.pread(old, nbytes, start), place)
        self.ranges.append((Path(path).name, nbytes))


@pytest.fixture
def sharing(monkeypatch) -> Sharing:
    played = Sharing()
    monkeypatch.setattr(_copying.fcntl, "ioctl", played)
    return played


@pytest.fixture
def source(tmp_path) -> Checkpoint:
    """Three files: one with tensors before and behind the one that grows, one that stays, one whose names change."""
    first = {"a": values(4, WIDE), "b": values(3, WIDE), "c": values(5, WIDE), "d": values(6)}
    last = {"old.x": values(2, WIDE), "old.y": values(9)}
    return save_base(tmp_path / "base", first, {"stays": values(3, WIDE)}, last)


def plan_for(source: Checkpoint, rows: int = 2) -> Plan:
    return plan_of(
        *(kept(source, name) for name in "acd"),
        grown(source, "b", rows),
        kept(source, "stays"),
        kept(source, "new.x", "old.x"),
        kept(source, "new.y", "old.y"),
        new("head", 4, 5),
    )


def test_files_share_what_they_keep_and_hold_what_they_did(source, tmp_path, sharing):
    plan = plan_for(source)
    extend(source, tmp_path / "out", plan)
    assert sharing.files == ["model-00002-of-00003.safetensors"]
    found = read(tmp_path / "out")
    due = expected(source, plan)
    assert found.keys() == due.keys() and all(equal_bytes(found[name], due[name]) for name in due)
    assert {name for name, _ in sharing.ranges} == {f"model-0000{k}-of-00003.safetensors" for k in (1, 3)}
    sizes = {file.name: (file.form.size, file.shared) for file in files_of(plan, source)}
    for name in {name for name, _ in sharing.ranges}:
        size, shared = sizes[name]
        assert sum(many for which, many in sharing.ranges if which == name) == shared > 0
        assert (tmp_path / "out" / name).stat().st_size == size
    assert len(sharing.ranges) == 3, "neighbours are one range: before the new rows, behind them, the renamed"


def files_of(plan: Plan, source: Checkpoint) -> tuple[OutputFile, ...]:
    return aligned(plan_files(plan, source), source, BLOCK)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_the_spaces_bring_the_most_bytes_to_their_place_in_a_block(source, rows):
    """New rows that aren't whole blocks: what is behind them is more than what is before, and takes its place."""
    narrow = values(7, LONG // 4 + 6)
    first = {"a": values(2, WIDE), "b": narrow, "c": values(50, WIDE)}
    other = save_base(source.root.parent / "narrow", first)
    (file,) = files_of(plan_of(kept(other, "a"), grown(other, "b", rows), kept(other, "c")), other)
    starts = {each.source.starts(0, 1).item(): each.target.starts(0, 1).item() for each in kept_runs(file, other)}
    shifts = {here: (there - here) % BLOCK for here, there in starts.items()}
    (before, behind) = sorted(shifts)
    assert shifts[behind] == 0 != shifts[before], shifts
    assert file.spaces % 8 == 0 and 0 < file.spaces < BLOCK
    assert file.form.header.endswith(b" " * file.spaces) and len(file.form.header) % 8 == 0
    length = other.entries["c"].nbytes - -behind % BLOCK
    assert file.shared == length // BLOCK * BLOCK


def test_neighbours_in_both_files_are_one_stretch(source):
    first, _, third = files_of(plan_for(source), source)
    assert len(list(kept_in(first, source))) == 4 and len(list(kept_runs(first, source))) == 2
    (renamed,) = kept_runs(third, source)
    assert renamed.source.size == sum(source.entries[name].nbytes for name in ("old.x", "old.y"))
    for file in (first, third):
        pairs = [
            [(k.shard, *map(int, (k.source.starts(0, 1)[0], k.target.starts(0, 1)[0])), k.source.size) for k in found]
            for found in (kept_in(file, source), kept_runs(file, source))
        ]
        assert [byte for piece in pairs[0] for byte in spread(piece)] == [
            byte for piece in pairs[1] for byte in spread(piece)
        ]


def spread(piece: tuple[str, int, int, int]) -> list[tuple[str, int, int]]:
    shard, here, there, size = piece
    return [(shard, here + k, there + k) for k in range(0, size, 4)]


def test_a_part_that_the_system_refuses_is_copied(source, tmp_path, sharing):
    sharing.refused = True
    plan = plan_for(source)
    extend(source, tmp_path / "out", plan)
    due = expected(source, plan)
    assert not sharing.ranges and all(equal_bytes(value, due[name]) for name, value in read(tmp_path / "out").items())


def test_where_nothing_is_shared_the_file_is_that_of_safetensors(tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(_copying.fcntl, "ioctl", refused)
    source = save_base(tmp_path / "one", {"a": values(4, WIDE), "b": values(3, WIDE), "c": values(5, WIDE)})
    plan = plan_of(kept(source, "a"), kept(source, "z", "c"), grown(source, "b", 2))
    extend(source, tmp_path / "out", plan)
    save_file(expected(source, plan), tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert block_shared(plan_files(plan, source), source, tmp_path) == 0


def test_what_shares_its_blocks_needs_no_room(source, tmp_path, sharing):
    plan = plan_for(source)
    files = files_of(plan, source)
    own = sum(file.form.size - file.shared for file in files if file.carried is None)
    assert room_needed(plan_files(plan, source), source, "copy", tmp_path / "out") == own
    assert own < bytes_written(plan_files(plan, source), source, "hard") / 2


def test_nothing_kept_or_nothing_long_changes_nothing(source):
    fresh = plan_files(plan_of(new("head", 3, 5)), source)
    assert block_shared(fresh, source, source.root) == 0 and aligned(fresh, source, BLOCK) == fresh
    short = plan_files(plan_of(kept(source, "other", "d")), source)
    assert aligned(short, source, BLOCK) == short


def test_only_what_will_be_shared_is_counted(source, tmp_path, sharing):
    """Runs that are long, and whose whole blocks aren't: they are copied, and need their room."""
    rows = {f"{k}.w": values(LONG // 4) for k in range(3)}
    other = save_base(tmp_path / "short", {**rows, **{f"{k}.x": values(2) for k in range(3)}})
    plan = plan_of(*(kept(other, f"{2 - k}.new", f"{k}.w") for k in range(3)))
    files = plan_files(plan, other)
    assert aligned(files, other, BLOCK) == files
    extend(other, tmp_path / "out", plan_of(*plan.tensors, *(kept(other, f"{k}.x") for k in range(3))))
    assert not sharing.ranges


def test_spaces_are_worth_what_they_cost(source):
    """A filesystem with large blocks: more spaces than bytes to share would only make the file longer."""
    files = plan_files(plan_for(source), source)
    for block in (1 << 17, 1 << 20):
        made = aligned(files, source, block)
        assert all(file.shared > file.spaces or file.spaces == file.shared == 0 for file in made)
    assert any(file.spaces for file in aligned(files, source, BLOCK))


def test_no_header_has_an_odd_length(source):
    """What is kept is four bytes off: no number of spaces, eight at a time, brings it to its place."""
    files = plan_files(plan_of(kept(source, "stays"), kept(source, "new.x", "old.x"), new("head", 3, 5)), source)
    assert [file.how for file in files] == ["carried", "written"] and aligned(files, source, BLOCK) == files


def test_a_trial_that_fails_is_a_copy(source, tmp_path, sharing, monkeypatch):
    """No descriptor is left for it, say: the work itself will tell."""
    real = os.open

    def refused(path: object, flags: int, *rest: int, **options: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, *rest, **options)  # type: ignore[arg-type]  # a path

    monkeypatch.setattr(os, "open", refused)
    assert block_shared(plan_files(plan_for(source), source), source, tmp_path) == 0


def test_a_run_is_resumed_on_a_filesystem_that_shares(source, tmp_path, sharing, monkeypatch):
    plan = plan_for(source)
    extend(source, tmp_path / "whole", plan)
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(_writing, "index_text", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extend(source, tmp_path / "out", plan, resume=True)
    sharing.ranges.clear()
    extend(source, tmp_path / "out", plan, resume=True, say=said.append)
    assert said == ["resumed: 3 files are there from the interrupted run; each is checked"] and not sharing.ranges
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def interrupted(*_: object) -> str:
    raise KeyboardInterrupt
