"""Results that share their blocks with the base, on real filesystems: is every byte right, and every change found?

XFS and Btrfs, each in a file that is mounted for the time. On each one a random Llama in several files gets 100 rows
more, and all-MiniLM-L6-v2 a head, which renames every tensor: with `--link copy`, both have to take no more of the disk
than what is new, hold the base's bytes (by safetensors, not by hf_init), and be proved by the blocks that they share.
Then the Llama's result, or its base, is changed at random again and again, without a flush: bytes flipped, by a write
or by a mapping, blocks punched out, the end cut off and put back as zeros, or the same bytes written once more. Each
time the proof by blocks, as `extend` ends with it, and `verify`, which reads all, have to tell what a comparison of all
bytes tells. Exits 1 where one doesn't.

Needs root, loop devices, mkfs.xfs and mkfs.btrfs (Debian: xfsprogs, btrfs-progs).

    python scripts/prove/shared.py [--filesystems xfs btrfs] [--changes 100] [--seed 0]
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import hf_init
from hf_init import _verify
from hf_init._verify.report import VerifyReport

MINILM = Path(__file__).resolve().parents[2] / ".cache" / "all-MiniLM-L6-v2"
ROOM = "1536M"
BLOCK = 4096
ROWS = 100
SLACK = 4 << 20  # the filesystem's own books, and what is at the edges of blocks
PUNCH = 0x1 | 0x2  # linux/falloc.h: keep the size, punch a hole

LLAMA = """
import sys, torch, transformers
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
config = transformers.LlamaConfig(
    vocab_size=8000, hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8,
    tie_word_embeddings=True, dtype="bfloat16",
)
transformers.LlamaForCausalLM(config).save_pretrained(sys.argv[1], max_shard_size="20MB")
"""


@contextmanager
def mounted(kind: str, work: Path) -> Iterator[Path]:
    """An empty filesystem."""
    image, place = work / f"{kind}.img", work / kind
    subprocess.run(["truncate", "-s", ROOM, image], check=True)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, stdout=subprocess.DEVNULL)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        image.unlink()


def used(place: Path) -> int:
    os.sync()
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def extended(base: Path, out: Path, *target: Any, **options: Any) -> tuple[VerifyReport, int]:
    """An extension's proof, and the bytes of the disk that it took."""
    before = used(out.parent)
    report = hf_init.extend(base, out, *target, **options)
    return report, used(out.parent) - before


def arrays(folder: Path) -> dict[str, bytes]:
    """Every tensor's bytes, read by safetensors."""
    tensors = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    return {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}


def judge(what: str, base: Path, out: Path, report: VerifyReport, taken: int, prefix: str = "") -> bool:
    theirs, ours = arrays(base), arrays(out)
    right = all(ours[prefix + name][: len(data)] == data for name, data in theirs.items() if prefix + name in ours)
    kept, fresh = sum(map(len, theirs.values())), sum(map(len, ours.values())) - sum(map(len, theirs.values()))
    good = right and report.ok and report.bytes_shared > 0.9 * kept and taken < max(fresh, 0) + SLACK
    print(
        f"  {what}: {kept / 2**20:.1f} MiB kept, {report.bytes_shared / 2**20:.1f} of them proved by their blocks, "
        f"{report.bytes_compared / 2**20:.1f} by reading; {taken / 2**20:.1f} MiB of the disk taken; "
        f"{'right' if right else 'WRONG'}{'' if good else '  FAILED'}"
    )
    return good


Change = Callable[[Path, int, random.Random], None]


def flip(path: Path, at: int, chance: random.Random) -> None:
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << chance.randrange(8)]), at)


def flip_mapped(path: Path, at: int, chance: random.Random) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[at] ^= 1 << chance.randrange(8)


def punch(path: Path, at: int, chance: random.Random) -> None:
    with path.open("r+b") as file:
        call = ctypes.CDLL(None, use_errno=True).fallocate
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        if call(file.fileno(), PUNCH, at // BLOCK * BLOCK, BLOCK * chance.randint(1, 3)):
            raise OSError(ctypes.get_errno(), "fallocate")


def cut(path: Path, at: int, chance: random.Random) -> None:
    size = path.stat().st_size
    os.truncate(path, at)
    os.truncate(path, size)


def rewrite(path: Path, at: int, chance: random.Random) -> None:
    with path.open("r+b") as file:
        data = os.pread(file.fileno(), chance.randint(1, 1 << 20), at)
        os.pwrite(file.fileno(), data, at)


CHANGES: dict[str, Change] = {
    "flipped": flip, "flipped, mapped": flip_mapped, "punched": punch, "cut, put back": cut, "written again": rewrite
}  # fmt: skip


def restored(folder: Path, from_: Path) -> None:
    """A folder again as it was: every file shares its blocks with the copy that was put aside."""
    shutil.rmtree(folder)
    subprocess.run(["cp", "-r", "--reflink=always", from_, folder], check=True)


def same(folder: Path, other: Path) -> bool:
    """Whether all files hold the same bytes, read whole."""
    pairs = ((path, other / path.name) for path in folder.glob("*.safetensors"))
    return all(np.array_equal(np.fromfile(a, np.uint8), np.fromfile(b, np.uint8)) for a, b in pairs)


def changed(place: Path, base: Path, out: Path, many: int, chance: random.Random) -> bool:
    for folder in (base, out):
        subprocess.run(["cp", "-r", "--reflink=always", folder, place / f"{folder.name}.aside"], check=True)
    table: Counter[str] = Counter()
    wrong = []
    for _ in range(many):
        folder = chance.choice([base, out])
        path = chance.choice(sorted(folder.glob("*.safetensors")))
        how = chance.choice(sorted(CHANGES))
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        at = chance.randrange(header + BLOCK, path.stat().st_size - 1)
        CHANGES[how](path, at, chance)
        report = _verify.verify_result(out, base, blocks=True)
        as_before = same(folder, place / f"{folder.name}.aside")
        if not report.ok == hf_init.verify(out, base).ok == as_before:
            wrong.append(f"{folder.name}/{path.name}, byte {at}, {how}: verify says {report}")
        table[f"{how}: {'found' if not report.ok else 'equal, and proved'}"] += 1
        restored(folder, place / f"{folder.name}.aside")
    for what, times in sorted(table.items()):
        print(f"  {times:4} {what}")
    for each in wrong:
        print(f"  WRONG  {each}")
    return not wrong


def proved(kind: str, work: Path, many: int, chance: random.Random) -> bool:
    print(kind)
    with mounted(kind, work) as place:
        base = place / "llama"
        subprocess.run([sys.executable, "-c", LLAMA, base], check=True, stderr=subprocess.DEVNULL)
        config, keep = {"vocab_size": 8000 + ROWS}, {"*embed_tokens.weight": "leading"}
        report, taken = extended(base, place / "out", config=config, keep=keep, recipe="auto")
        good = [judge("new rows", base, place / "out", report, taken)]
        shutil.copytree(MINILM, place / "minilm")
        report, taken = extended(place / "minilm", place / "head", "BertForSequenceClassification", num_labels=3)
        good.append(judge("a head, names changed", place / "minilm", place / "head", report, taken, "bert."))
        good.append(changed(place, base, place / "out", many, chance))
    return all(good)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--filesystems", nargs="*", default=["xfs", "btrfs"])
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begun, chance = time.monotonic(), random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        good = [proved(kind, Path(folder), args.changes, chance) for kind in args.filesystems]
    print(f"{time.monotonic() - begun:.0f} s, seed {args.seed}: {'every change found' if all(good) else 'FAILED'}")
    return 0 if good and all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
