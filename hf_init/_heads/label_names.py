"""Label names: read from a config, given by number, renamed, made of entity types."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from hf_init._errors import PlanError
from hf_init._text import join_names

LabelNames: TypeAlias = tuple[str, ...]
"""Label names in the order of their rows."""

OUTSIDE = "O"
MOST = 8  # names that a message lists


def numbered_labels(num_labels: int) -> LabelNames:
    """Return the names that the library gives labels without any.

    Example:
        >>> numbered_labels(2)
        ('LABEL_0', 'LABEL_1')
    """
    return tuple(f"LABEL_{k}" for k in range(num_labels))


def generic_names(names: LabelNames) -> bool:
    """Return whether names say nothing but their rows' numbers."""
    return names == numbered_labels(len(names))


def read_labels(id2label: Mapping[int, str] | Mapping[str, str]) -> LabelNames:
    """Read the names of a config's ``id2label``; numbered names where its keys are not 0, 1, 2...

    Example:
        >>> read_labels({"1": "pos", "0": "neg"}), read_labels({1: "a", 2: "b"})
        (('neg', 'pos'), ('LABEL_0', 'LABEL_1'))
    """
    by_row = {str(row): str(name) for row, name in id2label.items()}
    rows = [str(row) for row in range(len(by_row))]
    return tuple(by_row[row] for row in rows) if set(rows) == set(by_row) else numbered_labels(len(by_row))


def rename_labels(names: LabelNames, renames: Mapping[str, str]) -> LabelNames:
    """Rename labels; two may swap their names.

    Raises:
        PlanError: a label that isn't there or is there twice, a new name that is empty, or that two would share.

    Example:
        >>> rename_labels(("neg", "pos"), {"pos": "good"})
        ('neg', 'good')
    """
    after = tuple(renames.get(name, name) for name in names)
    counts = Counter(after)
    twice = sorted({str(name) for name in renames.values() if counts[name] > 1})
    known, problems = Counter(names), list[str]()
    for old, new in renames.items():
        if not isinstance(new, str) or not new.strip():
            problems.append(f"{old!r} -> {new!r}: expected a name")
        if not known[old]:
            hint = closest_labels(str(old), names)
            problems.append(f"the checkpoint has no label {old!r}{hint}; its labels: {list_labels(names)}")
        if known[old] > 1:
            problems.append(f"{old!r} is the name of {known[old]} labels, so it doesn't say which")
    problems += [f"{counts[new]} labels would be named {new!r}; give each a name of its own" for new in twice]
    if problems:
        raise PlanError("rename_labels: " + "; ".join(problems))
    return after


def tag_labels(entities: Sequence[str], like: LabelNames = ()) -> LabelNames:
    """Return labels of token classification for these entity types: one outside, then the tags of each type.

    Args:
        like: names whose tags (``B``, ``I``, or more) and order of them are taken over; B and I where it has none.

    Raises:
        PlanError: no list of names, a name twice, or one that is a tag already.

    Example:
        >>> tag_labels(["PER", "DRUG"])
        ('O', 'B-PER', 'I-PER', 'B-DRUG', 'I-DRUG')
    """
    types = list(entities) if not isinstance(entities, str) else []
    if not types or not all(isinstance(name, str) and name.strip() for name in types):
        raise PlanError(f"entities: expected a list of entity types, such as ['PER', 'DRUG'], not {entities!r}")
    wrong = sorted({name for name in types if types.count(name) > 1 or name == OUTSIDE or _tag(name)})
    if wrong:
        raise PlanError(f"entities: {list_labels(tuple(wrong))}: name each type once, without its tags")
    tags = list(dict.fromkeys(tag for name in like if (tag := _tag(name)))) or ["B", "I"]
    return (OUTSIDE, *(f"{tag}-{name}" for name in types for tag in tags))


def unpaired_tags(names: LabelNames) -> tuple[str, ...]:
    """Return the labels that a type lacks, where most types have that tag.

    Example:
        >>> unpaired_tags(("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-DRUG"))
        ('I-DRUG',)
    """
    tags: dict[str, set[str]] = {}
    for name in names:
        if tag := _tag(name):
            tags.setdefault(name[2:], set()).add(tag)
    counts = Counter(tag for known in tags.values() for tag in known)
    usual = [tag for tag in counts if 2 * counts[tag] > len(tags)]
    return tuple(f"{tag}-{kind}" for kind, known in tags.items() for tag in usual if tag not in known)


def _tag(name: str) -> str:
    """Return the tag of a name such as ``B-PER``; empty where it has none."""
    return name[0] if len(name) > 2 and name[0] in "BIESLU" and name[1] == "-" else ""


def list_labels(names: LabelNames) -> str:
    """Format names for a message: the first few of many.

    Example:
        >>> list_labels(("neg", "pos"))
        "['neg', 'pos']"
    """
    return repr(list(names)) if len(names) <= MOST else f"[{join_names([repr(name) for name in names], MOST)}]"


def closest_labels(name: str, names: Sequence[str]) -> str:
    """Return `` (did you mean 'x'?)``, ignoring case, or nothing where no name is close."""
    by_case = {other.casefold(): other for other in names}
    close = difflib.get_close_matches(name.casefold(), list(by_case), n=1)
    return f" (did you mean {by_case[close[0]]!r}?)" if close else ""
