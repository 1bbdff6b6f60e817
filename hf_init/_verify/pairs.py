"""Which tensor of one checkpoint is which of another: by name, by bytes, by prefix, and by the library's own word."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from hf_init._block_names import name_pattern, unwrapped_name
from hf_init._checkpoint import Checkpoint, dtype_bits, read_object
from hf_init._errors import CheckpointError
from hf_init._tensors import Shape
from hf_init._verify.regions import ReadBuffer

_BLOCK, _BLOCKS = 4096, 4


@dataclass(frozen=True)
class _Sample:
    """A few blocks of a tensor's bytes: as good as a digest to find it under another name, whatever its size.

    Attributes:
        telling: whether its elements differ; a tensor of nothing but zeros or ones is told by its name alone.
    """

    dtype: str
    shape: Shape
    digest: str
    telling: bool = field(compare=False)


class _Samples:
    """The samples of a checkpoint's tensors, each taken when it is first asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._buffer = ReadBuffer()
        self._known: dict[str, _Sample] = {}

    def __getitem__(self, name: str) -> _Sample:
        if name not in self._known:
            self._known[name] = self._take(name)
        return self._known[name]

    def close(self) -> None:
        self._buffer.files.close()

    def _take(self, name: str) -> _Sample:
        entry = self._checkpoint.entries[name]
        sha256, telling, first = hashlib.sha256(), False, np.empty(0, np.uint8)
        width = max(dtype_bits(entry.dtype) // 8, 1)
        starts = np.linspace(0, max(entry.nbytes - _BLOCK, 0), _BLOCKS).astype(np.int64) // width * width
        self._buffer.files.choose(self._checkpoint, entry.shard)
        for start in np.unique(starts).tolist() if entry.nbytes else ():
            block = self._buffer.take(entry.start + start, min(_BLOCK, entry.nbytes - start))
            sha256.update(block.data)
            elements = block.reshape(-1, width)
            first = first if first.size else elements[0].copy()
            telling = telling or bool((elements != first).any())
        return _Sample(entry.dtype, entry.shape, sha256.hexdigest(), telling)


def pair_names(before: Checkpoint, after: Checkpoint, *, moved: bool = False) -> dict[str, str]:
    """Return, for each tensor of ``after`` that is one of ``before``, its name there.

    Equal names belong together; then tensors of equal bytes; then names that differ by a prefix, either way, or by
    words of wrappers anywhere in them; last, what the library's own loader takes for one parameter (old spellings, as
    ``LayerNorm.gamma``), if both are models of one type. Headers and a few kilobytes of each tensor are read.

    Args:
        moved: a tensor that has changed under its name may be another one that has changed its place.
    """
    loose = _Loose(before.entries, after.entries)
    with closing(_Samples(after)) as seen, closing(_Samples(before)) as expected:
        common = [name for name in after.entries if name in before.entries]
        pairs = {name: name for name in common if not moved or seen[name] == expected[name]}
        loose.take(pairs)
        equal = _equal_bytes(loose, seen, expected)
    pairs |= loose.take(equal)
    pairs |= loose.take({name: name for name in loose.after if name in before.entries and name in loose.before})
    for old, new in _changed_prefixes(loose, before, after, equal):
        renamed = {new + was.removeprefix(old): was for was in loose.before if was.startswith(old)}
        pairs |= loose.take({name: was for name, was in renamed.items() if name in loose.after})
    plain = {unwrapped_name(was): was for was in loose.before}
    unwrapped = {unwrapped_name(name): name for name in loose.after}
    pairs |= loose.take({name: plain[short] for short, name in unwrapped.items() if short in plain})
    pairs |= loose.take(_same_parameters(loose, before, after))
    return pairs


class _Loose:
    """The names that no partner is known for yet, in the order of the files."""

    def __init__(self, before: Iterable[str], after: Iterable[str]) -> None:
        self.before, self.after = dict.fromkeys(before), dict.fromkeys(after)

    def take(self, pairs: Mapping[str, str]) -> Mapping[str, str]:
        """Take out names that belong together, and return them."""
        for name, was in pairs.items():
            del self.after[name], self.before[was]
        return pairs


def _equal_bytes(loose: _Loose, seen: _Samples, expected: _Samples) -> dict[str, str]:
    """Return tensors whose samples are equal; of several, those whose names end alike."""
    forms = Counter(expected[name] for name in loose.before)
    groups: dict[_Sample, tuple[list[str], list[str]]] = {each: ([], []) for each in forms if each.telling}
    for side, names, samples in ((0, loose.after, seen), (1, loose.before, expected)):
        for name in names:
            if samples[name] in groups:
                groups[samples[name]][side].append(name)
    pairs: dict[str, str] = {}
    for after, before in groups.values():
        free = set(before)
        for name, was in sorted(product(after, before), key=lambda pair: -len(common_ending(*pair))):
            if name not in pairs and was in free:
                pairs[name] = was
                free.remove(was)
    return pairs


def common_ending(name: str, other: str) -> str:
    """Return the parts between dots that two names have in common at their ends.

    Example:
        >>> common_ending("bert.pooler.dense.weight", "pooler.dense.weight"), common_ending("a.weight", "a.rweight")
        ('pooler.dense.weight', '')
    """
    parts: list[str] = []
    for part, same in zip(reversed(name.split(".")), reversed(other.split(".")), strict=False):
        if part != same:
            break
        parts.append(part)
    return ".".join(reversed(parts))


def changed_prefix(was: str, name: str) -> tuple[str, str] | None:
    """Return what a tensor's new name has at its beginning instead of what; None where the names end otherwise.

    Example:
        >>> changed_prefix("pooler.dense.weight", "bert.pooler.dense.weight")
        ('', 'bert.')
    """
    ending = common_ending(was, name)
    return (was.removesuffix(ending), name.removesuffix(ending)) if ending else None


def _changed_prefixes(
    loose: _Loose, before: Checkpoint, after: Checkpoint, equal: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return changes of prefixes: those first that equal bytes show, then those that most shapes bear out."""
    shown = Counter(change for name, was in equal.items() if (change := changed_prefix(was, name)))
    fitting: Counter[tuple[str, str]] = Counter()
    for was in loose.before:
        for prefix, rest in _prefixes(was):
            if rest in loose.after and before.entries[was].shape == after.entries[rest].shape:
                fitting[prefix, ""] += 1
    for name in loose.after:
        for prefix, rest in _prefixes(name):
            if rest in loose.before and after.entries[name].shape == before.entries[rest].shape:
                fitting["", prefix] += 1
    return sorted({*shown, *fitting}, key=lambda change: (-shown[change], -fitting[change], change))


def _prefixes(name: str) -> Iterator[tuple[str, str]]:
    """Yield a name cut in two behind each of its dots."""
    return ((name[: at + 1], name[at + 1 :]) for at, char in enumerate(name) if char == ".")


def _same_parameters(loose: _Loose, before: Checkpoint, after: Checkpoint) -> dict[str, str]:
    """Return what goes to one parameter of the library's class, which is asked only where shapes bear that out."""
    shapes = {before.entries[was].shape for was in loose.before}
    likely = any(after.entries[name].shape in shapes for name in loose.after)
    if not likely or not _model_type(after) or _model_type(after) != _model_type(before):
        return {}
    from hf_init._architecture import loader_addresses  # brings torch and transformers

    places = loader_addresses(after, list(before.entries))
    was_at = {places[was]: was for was in loose.before if was in places}
    now_at = loader_addresses(after, list(after.entries))
    return {name: was_at[now_at[name]] for name in loose.after if now_at.get(name) in was_at}


def _model_type(checkpoint: Checkpoint) -> object:
    try:
        return read_object(checkpoint.root / "config.json").get("model_type")
    except CheckpointError:  # none, or one that says nothing
        return None


def describe_renaming(was: str, name: str) -> tuple[str, str]:
    """Return the pattern of an old name and of the new one: the same for all that one change of names explains.

    Example:
        >>> describe_renaming("pooler.bias", "bert.pooler.bias"), describe_renaming("h.2.gamma", "h.2.weight")
        (('*', 'bert.*'), ('h.*.gamma', 'h.*.weight'))
    """
    change = changed_prefix(was, name)
    return (f"{change[0]}*", f"{change[1]}*") if change else (name_pattern(was), name_pattern(name))
