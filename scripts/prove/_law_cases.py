"""Checkpoints with one thing wrong, and what hf_init plans for them: headers alone, of tiny models of any type."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import torch
import transformers
from _sweep_pairs import _options, classes, saved_base
from _sweep_shrink import Unreachable

import hf_init

TYPES = (
    "albert bart beit bert bigbird_pegasus blenderbot bloom clip convnext deberta deberta-v2 deit dinov2 distilbert "
    "electra ernie falcon gemma gpt2 gpt_neo gpt_neox hubert layoutlm llama longt5 mbart mixtral modernbert mpnet opt "
    "pegasus phi qwen2 qwen3_moe resnet roberta segformer siglip swin t5 vit wav2vec2 whisper xlnet"
)
"""Model types of many kinds, between spaces."""

Header: TypeAlias = "dict[str, tuple[str, tuple[int, ...]]]"
"""By name the code of a dtype, as a safetensors file has it, and the shape."""
BYTES = {"BOOL": 1, "I8": 1, "U8": 1, "I64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Fault:
    """What is wrong with a checkpoint.

    Attributes:
        names: for each tensor of the good one its name now, or None where it is gone.
        header: of the bad one.
        named: names of which a refusal must give one.
    """

    kind: str
    names: Mapping[str, str | None]
    header: Header
    named: tuple[str, ...]


def faults(good: Header, random: Random) -> Iterator[Fault]:
    """Yield a fault of each kind."""
    same: dict[str, str | None] = {name: name for name in good}
    gone = random.choice(sorted(good))
    yield Fault("removed", {**same, gone: None}, {n: e for n, e in good.items() if n != gone}, (gone,))
    words = random.choice([name for name in sorted(good) if "." in name]).split(".")
    at = random.randrange(len(words) - 1)
    before, after = ".".join(words[: at + 1]) + ".", ".".join([*words[:at], f"{words[at]}_x"]) + "."
    yield _renamed("renamed", good, lambda name: after + name[len(before) :] if name.startswith(before) else name)
    wrapper = random.choice(["_orig_mod.", "module.", "_fsdp_wrapped_module.", "student.encoder."])
    yield _renamed("wrapped", good, lambda name: wrapper + name)
    more = random.choice(["extra.weight", f"{gone.rpartition('.')[0]}.gate_x".lstrip("."), f"mtp.{gone}"])
    yield Fault("foreign", same, {**good, more: ("F32", (2, 3))}, (more,))
    matrices = [name for name, (code, shape) in sorted(good.items()) if code.startswith("F") and len(shape) > 1]
    packed = random.choice(matrices)
    yield Fault("packed", same, {**good, packed: (random.choice(["I8", "U8"]), good[packed][1])}, (packed,))


def _renamed(kind: str, good: Header, rename: Callable[[str], str]) -> Fault:
    names: dict[str, str | None] = {name: rename(name) for name in good}
    changed = [(name, new) for name, new in names.items() if new and new != name]
    named = tuple(each for pair in changed for each in pair[::-1])
    return Fault(kind, names, {names[name] or name: entry for name, entry in good.items()}, named)


def write_header(folder: Path, header: Header) -> None:
    """Write a weights file of zeros with these tensors; none of them takes room on the disk."""
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (code, shape) in header.items():
        start, end = end, end + torch.Size(shape).numel() * BYTES[code]
        document[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(document).encode()
    path = folder / "model.safetensors"
    path.unlink(missing_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)


def read_header(folder: Path) -> Header:
    """Read the tensors of a weights file."""
    data = (folder / "model.safetensors").read_bytes()
    document = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name: (e["dtype"], tuple(e["shape"])) for name, e in document.items() if name != "__metadata__"}


@dataclass(frozen=True)
class Pair:
    """A good base and a class that it can be extended to.

    Attributes:
        drop: what a user has to give up for it; plan: as it then is.
    """

    base: Path
    cls: Any
    options: dict[str, Any]
    header: Header
    drop: tuple[str, ...]
    plan: hf_init.Plan

    @classmethod
    def of(cls, base: Path, head: Any) -> Pair | None:
        """Plan the extension, giving up what has no place; None where it is refused for another reason."""
        options, drop = _options(head, base), ()
        try:
            return cls(base, head, options, read_header(base), drop, hf_init.plan(base, head, **options))
        except hf_init.HfInitError as error:
            advised = re.search(r"say that they go: drop=(\[.*?\])", str(error))
            drop = tuple(ast.literal_eval(advised[1])) if advised else ()
        try:
            plan = hf_init.plan(base, head, drop=drop, **options)
            return cls(base, head, options, read_header(base), drop, plan) if drop else None
        except hf_init.HfInitError:
            return None

    def outcome(self, fault: Fault) -> str:
        """Return ``refused``, ``right``, or what is wrong."""
        drop = [name for name in fault.header if name in {each.name for each in self.plan.unused}]
        write_header(self.base, fault.header)
        try:
            plan = hf_init.plan(self.base, self.cls, drop=drop, **self.options)
        except hf_init.HfInitError as error:
            named = any(name in str(error) for name in fault.named)
            return "refused" if named else f"refused, and none of {fault.named[:3]} is named: {str(error)[:300]}"
        finally:
            write_header(self.base, self.header)
        return "; ".join(self.wrongs(fault, plan)) or "right"

    def wrongs(self, fault: Fault, plan: hf_init.Plan) -> Iterator[str]:
        """Yield what a plan loses or draws that the good one doesn't."""
        known = {tensor.name: tensor for tensor in self.plan.tensors}
        used = {t.source for t in plan.tensors if t.source} | {c.source for t in plan.tensors for c in t.kept}
        gone = {unused.name for unused in self.plan.unused}
        yield from (f"{name} is lost" for name in fault.header if name not in used and name not in gone)
        for tensor in plan.tensors:
            before = known.get(tensor.name)
            if tensor.new and not (before and before.new) and not tensor.dtype.startswith(("int", "bool")):
                yield f"{tensor.name} is drawn"
            if before and before.source and tensor.source not in (None, fault.names[before.source]):
                yield f"{tensor.name} is {tensor.source}, and was {before.source}"
            if tensor.source and fault.kind == "packed" and fault.header[tensor.source][0] in ("I8", "U8"):
                yield f"{tensor.name} is of packed numbers"


def pairs(model_type: str, folder: Path, random: Random) -> Iterator[Pair]:
    """Yield a type's base with each class that it can be extended to, its own among them, in any order."""
    names = classes()[model_type]
    try:
        saved_base(model_type, names, folder)
    except Unreachable:
        return
    for name in random.sample(names, len(names)):
        try:
            pair = Pair.of(folder, getattr(transformers, name))
        except Unreachable:
            continue
        if pair is not None:
            yield pair


def trials(model_type: str, rounds: int, seed: int, most: int = 99) -> Iterator[tuple[str, str, str]]:
    """Yield for some faults of each kind: the class, the kind, and the outcome."""
    folder = Path(tempfile.mkdtemp(prefix="hf_init-law-"))
    try:
        random = Random(f"{seed} {model_type}")
        for pair in islice(pairs(model_type, folder / "base", random), most):
            for _ in range(rounds):
                for fault in faults(pair.header, random):
                    yield pair.cls.__name__, f"{fault.kind} {fault.named[0]}", pair.outcome(fault)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
