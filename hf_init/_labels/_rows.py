"""Which trained row each label gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

from hf_init._labels._names import MOST, Names, close, generic, listed
from hf_init._text import several

Index: TypeAlias = tuple[int | None, ...]
"""For each label the source's row that it gets, or None where it is new."""

MODES = ("names", "leading", "none")


def follow(before: Names, after: Names, mode: str | None = None) -> Index:
    """The trained row of every label.

    Args:
        before: the labels of the source, already renamed.
        after: those asked for.
        mode: ``"names"``: by name; ``"leading"``: by position; ``"none"``: none is kept; None: by name where both
            sides have names, or nothing changes.

    Raises:
        ValueError: names that say nothing, or not which row; it reads on from "the checkpoint's head".

    Example:
        >>> follow(("neg", "neu", "pos"), ("pos", "mixed", "neg"))
        (2, None, 0)
    """
    if mode == "none":
        return (None,) * len(after)
    if mode == "leading" or before == after:
        return tuple(row if row < len(before) else None for row in range(len(after)))
    _refuse_unnamed(before, after)
    _refuse_ambiguous(before, after)
    row_of = {name: row for row, name in enumerate(before)}
    index = tuple(row_of.get(name) for name in after)
    if not any(row is not None for row in index):
        raise ValueError(_strangers(before, after))
    return index


def _refuse_unnamed(before: Names, after: Names) -> None:
    if not (generic(before) or generic(after)):
        return
    without = "neither side names them" if generic(before) and generic(after) else "only one side names them"
    raise ValueError(
        f"was trained for the labels {listed(before)}, not {listed(after)}, and {without}: which row is whose would be "
        "guessed. Give the names (labels=[...], --labels; rename_labels={'LABEL_0': NAME}, --rename-label, names the "
        "trained ones), or say labels_keep='leading' (--labels-keep leading: each row stays where it is, what is "
        "beyond them is new) or 'none' (the head is new)"
    )


def _refuse_ambiguous(before: Names, after: Names) -> None:
    for what, names in (("has", before), ("would have", after)):
        many = Counter(names)
        twice = [name for name in sorted(set(before) & set(after)) if many[name] > 1]
        if twice:
            raise ValueError(
                f"{what} more than one label named {', '.join(map(repr, twice))}: give each a name of its own, or say "
                "labels_keep='leading' or a list of rows with keep"
            )


def _strangers(before: Names, after: Names) -> str:
    hints = [f"{name!r}{hint}" for name in after if (hint := close(name, before))]
    return (
        f"was trained for the labels {listed(before)}, and none of {listed(after)} is among them"
        f"{': ' + several(hints) if hints else ''}. Say what becomes of its rows: labels_keep='none' (--labels-keep "
        "none) makes the head new, 'leading' keeps each row where it is, under the new name, and "
        "rename_labels={OLD: NEW} (--rename-label OLD=NEW) names them one by one"
    )


def said(before: Names, after: Names, index: Index) -> Iterator[str]:
    """Sentences for the plan: where each row comes from, which labels are new, which are gone.

    Args:
        before: the labels of the source under their own names.
    """
    kept = [_move(before[at], name, at, row) for row, (name, at) in enumerate(zip(after, index, strict=True))
            if at is not None]  # fmt: skip
    new = [name for name, at in zip(after, index, strict=True) if at is None]
    gone = [name for at, name in enumerate(before) if at not in index]
    if kept:
        yield f"labels kept, {len(kept)} of {len(before)}: {several(kept, MOST)}"
    if new:
        yield f"labels new, {len(new)} of {len(after)}: {several(new, MOST)}"
    if gone:
        yield f"labels removed with their rows, {len(gone)} of {len(before)}: {several(gone, MOST)}"


def _move(old: str, new: str, at: int, row: int) -> str:
    where = f"row {at}" if at == row else f"row {at} -> {row}"
    return f"{new} ({where})" if old == new else f"{new} ({where}, was {old})"
