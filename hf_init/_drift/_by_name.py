"""Without a plan: tensors brought together by their names."""

from __future__ import annotations

from collections.abc import Iterator

from hf_init._checkpoint import Entry, bits
from hf_init._drift._frozen import KEPT
from hf_init._drift._subject import ALL, NEW, Scene, Subject, apart, pair, stranger
from hf_init._spec import Box, count, subtract


def by_name(scene: Scene) -> Iterator[Subject]:
    for name, before in scene.base.entries.items():
        after = scene.trained.entries.get(name)
        if after is not None:
            yield from _named(scene, before, after)
        else:
            frozen, size = scene.frozen.holds((name,), KEPT), count(before.shape)
            yield Subject(name, KEPT, frozen, before.shape, before.dtype, size, stored=False, ignored=True)
    strangers = (entry for name, entry in scene.trained.entries.items() if name not in scene.base.entries)
    yield from (stranger(scene, entry) for entry in strangers)


def _named(scene: Scene, before: Entry, after: Entry) -> Iterator[Subject]:
    """A tensor that both have: as a whole, or its common leading rows."""
    common = _common(before, after)
    fault = apart(before, after) if common else f"its shape was {list(before.shape)}, is {list(after.shape)}"
    box = common or Box.whole(after.shape)
    region = box.to_json()
    whole = box.shape == after.shape
    remark = "" if before.shape == after.shape or fault else f"{box.shape[0]} common rows, taken to be the same ones"
    yield Subject(
        after.name,
        KEPT,
        scene.frozen.holds((after.name,), KEPT),
        after.shape,
        after.dtype,
        count(box.shape),
        ALL if whole else KEPT,
        before.dtype,
        () if fault else (pair(scene, after, region, before.name, region),),
        fault=fault,
        remark=remark,
    )
    if not whole:
        rest = sum(count(piece.shape) for piece in subtract(after.shape, [box]))
        frozen = scene.frozen.holds((after.name,), NEW)
        yield Subject(after.name, NEW, frozen, after.shape, after.dtype, rest, NEW)


def _common(before: Entry, after: Entry) -> Box | None:
    """What two tensors of one name have in common: all of it, or leading rows."""
    if before.shape == after.shape:
        return Box.whole(after.shape)
    if not before.shape or not after.shape or before.shape[1:] != after.shape[1:] or bits(after.dtype) < 8:
        return None
    return Box((0,) * len(after.shape), (min(before.shape[0], after.shape[0]), *after.shape[1:]))
