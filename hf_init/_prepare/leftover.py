"""What has no place in the target: why it may go, and the globs that say that it does."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from hf_init._architecture import Target, ignored_by_own
from hf_init._globs import exact_glob
from hf_init._plan import DROPPED, NO_PLACE, Unused

IGNORED = "its own class doesn't load it"


def unused_with_reasons(target: Target, unused: Sequence[Unused], given_up: Collection[str]) -> tuple[Unused, ...]:
    """Return what is unused, in the order of the source, with the reason why it may be.

    Args:
        unused: what was matched and found no place.
        given_up: names of what changes drop.
    """
    spare = {tensor.name for tensor in unused if tensor.reason == NO_PLACE} - set(given_up)
    reasons = {
        **dict.fromkeys(given_up, DROPPED),
        **dict.fromkeys(ignored_by_own(target, spare) if spare else (), IGNORED),
    }
    known = {tensor.name: replace(tensor, reason=reasons.get(tensor.name, tensor.reason)) for tensor in unused}
    known |= {tensor.name: Unused(tensor.name, DROPPED) for tensor in target.dropped}
    return tuple(known[name] for name in target.base.source.entries if name in known)


def shortest_globs(names: Collection[str], others: Iterable[str]) -> list[str]:
    """Return few globs that name these and none of the others.

    Example:
        >>> shortest_globs(["cls.bias", "cls.dense.weight", "h.0.bias", "h.1.bias"], ["h.0.weight", "h.1.weight"])
        ['cls.*', 'h.*.bias']
    """
    rest = list(others)

    def without_numbers(glob: str) -> str:
        wider = re.sub(r"(?<![^.])\d+(?![^.])", "*", glob)
        return glob if any(fnmatchcase(name, wider) for name in rest) else wider

    globs = _module_globs(sorted(names), {*names, *rest}, 0)
    return list(dict.fromkeys(map(without_numbers, globs)))


def _module_globs(names: Sequence[str], known: Collection[str], depth: int) -> Iterator[str]:
    """Yield a glob for each module of which all that is known is among the names; a name where that is none."""
    modules: dict[str, list[str]] = defaultdict(list)
    for name in names:
        modules[".".join(name.split(".")[: depth + 1])].append(name)
    for module, inside in modules.items():
        if inside == [module]:
            yield exact_glob(module)
        elif sum(name.startswith(f"{module}.") for name in known) == len(inside):
            yield exact_glob(module) + ".*"
        else:
            yield from _module_globs(inside, known, depth + 1)
