"""Tensors that a checkpoint holds under other names: found by shape and ending, with the cure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from hf_init._block_names import WRAPPERS
from hf_init._errors import PlanError, option
from hf_init._tensors import Shape

MOST_RULES, MOST_TRIES = 32, 20

NameRule: TypeAlias = tuple[str, str]
"""A regular expression and its replacement."""


@dataclass(frozen=True)
class Renaming:
    """What is held under other names.

    Attributes:
        pairs: names in the checkpoint, with the target's.
        rules: regular expressions and replacements, in order, that make of the first the second and leave all else.
    """

    pairs: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[NameRule, ...] = ()

    @property
    def wrappers(self) -> dict[str, str]:
        """Return the words of wrappers in the checkpoint's names, with the wrapper."""
        return {word: by for word, by in WRAPPERS.items() if any(word in old.split(".") for old in self.pairs)}


def find_renaming(
    spare: Mapping[str, Shape],
    lacking: Mapping[str, Shape],
    placed: Sequence[str],
    *,
    common: Mapping[str, int] = MappingProxyType({}),
    rows: bool = False,
) -> Renaming:
    """Find the spare tensors that are lacking ones under another name: of one shape, and with one last word.

    Args:
        spare: what a checkpoint holds without a place. placed: its other names, which stay as they are.
        lacking: what the target has and the checkpoint doesn't.
        common: spare names with the number of words that they must share with the target's, where that isn't one.
        rows: whether the first dimension may differ, as that of a head with other labels.

    Example:
        >>> find_renaming({"bert.pooler.weight": (2, 2)}, {"trunk.pooler.weight": (2, 2)}, []).rules
        (('^bert\\\\.', 'trunk.'),)
    """

    def solved(rules: tuple[NameRule, ...]) -> Renaming:
        new_names = {old: apply_rules(old, rules) for old in spare}
        pairs = {old: new for old, new in new_names.items() if new in lacking and alike(old, new)}
        if len(set(pairs.values())) < len(pairs) or any(apply_rules(name, rules) != name for name in placed):
            return Renaming()
        return Renaming(pairs, rules)

    def alike(old: str, new: str) -> bool:
        return spare[old][rows:] == lacking[new][rows:]

    found, hopeless = solved(tuple(unwrapping(spare))), set[str]()
    by_ending, known = _by_ending(lacking), {*spare, *placed}
    while len(found.rules) < MOST_RULES and len(hopeless) < MOST_TRIES:
        taken, closest = set(found.pairs.values()), []
        for old in spare.keys() - found.pairs.keys() - hopeless:
            name = apply_rules(old, found.rules)
            there = [new for new in _of_longest_ending(name, by_ending) if new not in taken and alike(old, new)]
            if partner := _partner(name, there, known, common.get(old, 1)):
                closest.append((*_differing(name, partner), old))
        if not closest:
            break
        _, rules, old = min(closest)
        better = max((solved((*found.rules, rule)) for rule in rules), key=lambda each: len(each.pairs))
        if len(better.pairs) > len(found.pairs):
            found = better
        else:
            hopeless.add(old)
    for rule in found.rules:  # those that others made superfluous go
        fewer = solved(tuple(other for other in found.rules if other != rule))
        found = fewer if fewer.pairs == found.pairs else found
    return found


def apply_rules(name: str, rules: Iterable[NameRule]) -> str:
    """Return a name as the library's loader renames it: each rule once, at the first place that it fits."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name, count=1)
    return name


def parse_renamings(given: object) -> dict[str, str]:
    """Return the regular expressions of ``key_mapping`` with their replacements.

    Raises:
        PlanError: they are none.
    """
    if not isinstance(given, Mapping) or not all(isinstance(text, str) for pair in given.items() for text in pair):
        raise PlanError(f"{option('key_mapping')}: expected names by patterns, {{'^encoder': 'bert'}}, not {given!r}")
    for pattern, text in given.items():
        try:
            re.sub(pattern, text, "")
        except (re.error, IndexError) as error:
            fault = f"{option('key_mapping', {pattern: text})}: this is no regular expression with its replacement"
            raise PlanError(f"{fault}: {error}. A backslash before a sign takes it as it is") from None
    return dict(given)


def _by_ending(names: Iterable[str]) -> Mapping[str, list[str]]:
    """Return names by each of their endings."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        words = name.split(".")
        for start in range(len(words)):
            found[".".join(words[start:])].append(name)
    return found


def _of_longest_ending(name: str, by_ending: Mapping[str, list[str]]) -> list[str]:
    words = name.split(".")
    endings = (".".join(words[start:]) for start in range(len(words)))
    return next((by_ending[ending] for ending in endings if ending in by_ending), [])


def _partner(name: str, candidates: Sequence[str], known: Collection[str], least: int) -> str | None:
    """Return the one name that begins most like another, and has at least so many words in common with it.

    None where two do; or where they differ in one number, and the one before the first is there: all may have moved.
    """
    old = name.split(".")
    lengths = {new: _words_in_common(old, new.split(".")) for new in candidates}
    best = [new for new in candidates if lengths[new] == max(lengths.values())]
    if len(best) != 1:
        return None
    new = best[0].split(".")
    moved = [k for k, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
    if len(old) == len(new) and len(moved) == 1 and old[moved[0]].isdecimal() and new[moved[0]].isdecimal():
        before = str(int(old[moved[0]]) - 1)
        if ".".join([*old[: moved[0]], before, *old[moved[0] + 1 :]]) in known:
            return None
    shared = _words_in_common(old, new) + _words_in_common(old[::-1], new[::-1])
    return best[0] if shared >= least else None


def _words_in_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many words two names begin with together."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((k for k, (a, b) in pairs if a != b), min(len(first), len(second)))


def _differing(old: str, new: str) -> tuple[int, list[NameRule]]:
    """Return how many words two names differ by, and rules that make the first the second, the widest first."""
    before, after = old.split("."), new.split(".")
    head = _words_in_common(before, after)
    tail = min(_words_in_common(before[::-1], after[::-1]), len(before) - head, len(after) - head)
    removed, added = before[head : len(before) - tail], after[head : len(after) - tail]
    difference = len(removed) + len(added)
    if not removed:  # what follows shows the place, and stays
        tail -= 1
        removed, added = [before[len(before) - tail - 1]], [*added, before[len(before) - tail - 1]]
    end = r"\." if tail else "$"
    pattern, text = re.escape(".".join(removed)) + end, "".join(f"{word}." for word in added)
    text = text if tail else text.removesuffix(".")
    if not head:
        return difference, [(f"^{pattern}", text)]
    around = re.sub(r"(?<![^.])\d+(?![^\\.])", r"\\d+", re.escape(".".join(before[:head])))
    group, back = (f"({around})", r"\1") if r"\d+" in around else (around, ".".join(before[:head]))
    return difference, [(rf"\.{pattern}", f".{text}"), (rf"^{group}\.{pattern}", f"{back}.{text}")]


def unwrapping(names: Iterable[str]) -> Iterator[NameRule]:
    """Yield rules that take the words of wrappers out of names, as often as they come in one."""
    left = set(names)
    for word in WRAPPERS:
        for pattern, text in ((rf"^{word}\.", ""), (rf"\.{word}\.", ".")):
            while any(re.search(pattern, name) for name in left):
                yield pattern, text
                left = {apply_rules(name, [(pattern, text)]) for name in left}
                pattern += "(?:)"  # a mapping holds a pattern once
