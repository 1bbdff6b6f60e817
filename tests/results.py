"""What the laws look at: each row of the table done once, and files read by safetensors and numpy alone."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from change import Change
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from watched import seeded, world

import hf_init


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file: the name of its dtype, and the bits of each element as an unsigned integer."""

    dtype: str
    bits: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stored) and self.dtype == other.dtype and np.array_equal(self.bits, other.bits)

    @property
    def places(self) -> np.ndarray:
        """The flat place of each element."""
        return np.arange(self.bits.size, dtype=np.int32).reshape(self.bits.shape)

    def number(self, place: int) -> Any:
        """The number that the bits at a flat place stand for."""
        kind = getattr(torch, self.dtype.removeprefix("torch."))
        bits = torch.tensor([int(self.bits.reshape(-1)[place])], dtype=torch.int64)
        return bits.view(torch.uint8)[: kind.itemsize].view(kind).item()


def stored(tensor: torch.Tensor) -> Stored:
    """The bits of a tensor."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return Stored(str(tensor.dtype), flat.view(f"<u{tensor.element_size()}").reshape(tensor.shape).copy())


def tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor in a folder's files, as the safetensors library reads it."""
    found: dict[str, Stored] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            names = opened.keys()
            assert not found.keys() & set(names), "a tensor in two files"
            found |= {name: stored(opened.get_tensor(name)) for name in names}
    return found


def digests(found: Mapping[str, Stored]) -> dict[str, str]:
    """The SHA-256 of each tensor's bytes."""
    return {name: hashlib.sha256(tensor.bits.tobytes()).hexdigest() for name, tensor in found.items()}


@dataclass(frozen=True)
class Expected:
    """What a tensor of a result must hold.

    Attributes:
        origins: for each element its flat place in the source, or -1 where it is new.
        source: the tensor that is kept; None where nothing is.
        folder, key: of the source, and its name there.
    """

    origins: np.ndarray
    source: Stored | None = None
    folder: Path | None = None
    key: str = ""

    @property
    def status(self) -> str:
        """The word of plans for it."""
        if self.source is None:
            return "new"
        return "kept" if np.array_equal(self.origins, self.source.places) else "resized"


@dataclass(frozen=True)
class Place:
    """An element to flip: its tensor, its flat place, and where it is kept, the same of its source."""

    name: str
    place: int
    expected: Expected
    origin: int = -1


def matches(name: str, globs: Any) -> str | None:
    """The first glob that a name has."""
    return next((glob for glob in globs if fnmatchcase(name, glob)), None)


@dataclass(frozen=True)
class Result:
    """One row of the table, done.

    Attributes:
        base: what ``base`` was; ``parts``: the folder of each checkpoint that anything comes from, by its prefix.
        out: the folder that was written; ``model``: the same in memory; ``plan``: made before both.
        report: of the proof that ``extend`` ended with; ``recomputed``: of a later one, from the manifest alone.
        worlds: what a verb must leave alone, before the first and after each.
    """

    change: Change
    bases: Callable[[str], Path]
    base: Any
    parts: dict[str, Path]
    out: Path
    options: dict[str, Any]
    plan: hf_init.Plan
    report: Any
    recomputed: Any
    model: Any
    worlds: dict[str, tuple[dict[str, Any], dict[str, Any]]]

    @property
    def cls(self) -> Any:
        """The class of the result; what the user gave, where it was a class."""
        return type(self.model)

    def extend(self, out: Path, base: Any = None, **options: Any) -> Path:
        """The same again into another folder, with another base or other options."""
        options = {**self.options, **options}
        hf_init.extend(self.base if base is None else base, out, self.change.target, **options).raise_if_failed()
        return out

    def load(self, cls: Any = None, **options: Any) -> Any:
        """The same again into memory, with another class or other options."""
        return hf_init.from_pretrained(cls or self.cls, self.base, **{**self.options, **options})

    def plainly(self, **options: Any) -> Any:
        """What transformers itself loads of the folder, by the nearest class that isn't one of ours."""
        cls = self.cls
        if issubclass(cls, hf_init.MultiHead):
            return transformers.AutoModel.from_pretrained(self.out, **options)
        plain = next(each for each in cls.__mro__ if not issubclass(each, hf_init.InitMixin))
        return plain.from_pretrained(self.out, **options)

    @property
    def compared(self) -> Any:
        """What the result is proved against: the base; all that it is made of, where that is more."""
        return recorded(self.out, self.base, [*self.parts.values(), *map(self.bases, self.change.taken)])

    def skips(self, name: str) -> bool:
        """Whether it is left to the library."""
        return matches(name, self.change.skipped) is not None

    def ignores(self, name: str) -> bool:
        """Whether the files keep it, and no model of the class has it."""
        return matches(name, self.change.ignored) is not None

    def gone(self) -> set[str]:
        """The tensors of the base that have no place."""
        names = {prefix + name for prefix, folder in self.parts.items() for name in tensors(folder)}
        return {name for name in names if matches(name, self.change.gone)}

    def regions(self) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
        """Every region that the plan calls new: the tensor, a mask of its elements, the scheme."""
        for entry in self.plan.to_json()["tensors"]:
            for fill in entry.get("new", ()):
                mask, region = np.zeros(entry["shape"], bool), fill["region"]
                if "index" in region:
                    mask[(slice(None),) * region["dim"] + (region["index"],)] = True
                else:
                    mask[tuple(map(slice, region["start"], region["stop"]))] = True
                yield entry["name"], mask, fill["scheme"]

    def places(self) -> Iterator[Place]:
        """An element of each kind to flip: of a kept tensor, of a new one, and of both parts of a resized one."""
        met: set[tuple[str, bool]] = set()
        for name, tensor in self.expected.items():
            flat = tensor.origins.reshape(-1)
            for kept in (True, False):
                places = np.flatnonzero((flat >= 0) == kept)
                if places.size and (tensor.status, kept) not in met:
                    met.add((tensor.status, kept))
                    place = int(places[places.size // 2])
                    yield Place(name, place, tensor, int(flat[place]))

    def forget(self) -> None:
        """Let go of what is read from files again when it is asked for: of a real checkpoint that is much."""
        self.__dict__.pop("written", None)
        self.__dict__.pop("expected", None)

    @cached_property
    def written(self) -> dict[str, Stored]:
        """What is in the result's files."""
        return tensors(self.out)

    @cached_property
    def expected(self) -> dict[str, Expected]:
        """What every tensor must be, from the row of the table alone."""
        result = dict(self._kept())
        for name, tensor in self.written.items():
            if matches(name, self.change.new):
                assert name not in result, f"{name} is new and kept"
                result[name] = Expected(np.full(tensor.bits.shape, -1))
        return result

    def _kept(self) -> Iterator[tuple[str, Expected]]:
        """All that is kept, by its name in the result."""
        change = self.change
        for prefix, folder in self.parts.items():
            for key, source in tensors(folder).items():
                if not matches(prefix + key, change.gone):
                    name = change.names(prefix + key)
                    moved = matches(name, change.moved)
                    origins = change.moved[moved](source.places) if moved else source.places
                    yield name, Expected(origins, source, folder, key)
        for base, rename in change.taken.items():
            for key, source in tensors(self.bases(base)).items():
                if name := rename(key):
                    yield name, Expected(source.places, source, self.bases(base), key)


def asked(
    change: Change, bases: Callable[[str], Path], scratch: Path
) -> tuple[Any, dict[str, Path], dict[str, Any], dict[str, Any]]:
    """What a row asks for: the base, the folders of its parts, the options, and those with the class's own recipe."""
    several = isinstance(change.base, Mapping)
    parts = {prefix: bases(name) for prefix, name in (change.base.items() if several else [("", change.base)])}
    options = {**change.options, **(change.places(bases, scratch) if change.places else {})}
    recipe = getattr(change.target, "init_recipe", None)  # which a class's own from_pretrained knows
    return dict(parts) if several else parts[""], parts, options, {"recipe": recipe, **options} if recipe else options


def done(change: Change, bases: Callable[[str], Path], scratch: Path) -> Result:
    """A row of the table, planned, written, proved and loaded, each after another random state."""
    (base, parts, options, said), out = asked(change, bases, scratch), scratch / "out"
    worlds: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    def run(name: str, verb: Callable[[], Any]) -> Any:
        with seeded(len(worlds)):
            last = next(reversed(worlds.values()), None)
            before = world(parts, said, last and last[1]["files"])
            answer = verb()
            worlds[name] = before, world(parts, said)
        return answer

    plan = run("plan", lambda: hf_init.plan(base, change.target, **said))
    report = run("extend", lambda: hf_init.extend(base, out, change.target, **said))
    cls = class_of(change.target, options, out)
    model = run("from_pretrained", lambda: loaded(cls, base, options))
    data = {name: options[name] for name in ("examples", "texts") if name in options}
    known = recorded(out, base, [*parts.values(), *map(bases, change.taken)])
    recomputed = run("verify", lambda: hf_init.verify(out, known, recompute=True, **data))
    return Result(change, bases, base, parts, out, said, plan, report, recomputed, model, worlds)


def recorded(out: Path, base: Any, known: Sequence[Path]) -> Any:
    """What a manifest says that its result is made of, by the names of folders: the base, or several by prefix."""
    parts = json.loads((out / "hf_init.json").read_text())["base"].get("parts", {})
    folders = {folder.name: folder for folder in known}
    return {prefix: folders[part["name"]] for prefix, part in parts.items()} or base


def class_of(target: Any, options: Mapping[str, Any], out: Path) -> Any:
    """The class that a result is made in memory with: the user's, or what its config names."""
    if isinstance(target, type):
        return target
    (name,) = json.loads((out / "config.json").read_text())["architectures"]
    several = name == "MultiHead" or "export_head" in options
    return hf_init.MultiHead if several else getattr(transformers, name)


def loaded(cls: Any, base: Any, options: Mapping[str, Any]) -> Any:
    """The same in memory, by a class's own method where it is one of ours."""
    if issubclass(cls, hf_init.InitMixin):
        return cls.from_pretrained(base, **options)
    return hf_init.from_pretrained(cls, base, **options)


def spread(folder: Path, out: Path) -> Path:
    """The same checkpoint with its tensors backwards, in three files."""
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    values = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    files, index = [{}, {}, {}], {}
    for k, name in enumerate(reversed(list(values))):
        files[k % 3][name] = values[name]
        index[name] = f"model-{k % 3 + 1:05}-of-00003.safetensors"
    for k, held in enumerate(files):
        save_file(held, out / f"model-{k + 1:05}-of-00003.safetensors", {"format": "pt"})
    size = sum(tensor.nbytes for tensor in values.values())
    document = {"metadata": {"total_size": size}, "weight_map": index}
    (out / "model.safetensors.index.json").write_text(json.dumps(document))
    return out


def flipped(folder: Path, out: Path, name: str, place: int) -> Path:
    """A copy in which one element has another lowest bit, found by the format's own words: length, header, data."""
    shutil.copytree(folder, out)
    for file in sorted(out.glob("*.safetensors")):
        data = bytearray(file.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        if entry := json.loads(data[8:start]).get(name):
            begin, end = entry["data_offsets"]
            data[start + begin + place * ((end - begin) // math.prod(entry["shape"]))] ^= 1
            file.chmod(0o644)
            file.write_bytes(data)
            return out
    raise AssertionError(f"{folder} holds no {name}")
