"""Source against target: every target tensor one status, every source tensor one place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_init._errors import PlanError
from hf_init._plan.match import match_tensors
from hf_init._tensors import Box, Layout, SourceTensor, Status, TensorSpec, Tie, num_elements, subtract_boxes


def target(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, shape, "float32", name, address=(name,))


def source(
    name: str, *shape: int, address: str | None = None, dtype: str = "float32", ignored: bool = False
) -> SourceTensor:
    return SourceTensor(name, shape, dtype, (address or name,), ignored)


def statuses(diff):
    return {match.target.name: match.status for match in diff.matches}


def test_a_tensor_set_against_itself_is_all_kept():
    names = ["a", "b.c", "d"]
    diff = match_tensors([source(n, 2, 3) for n in names], Layout("X", tuple(target(n, 2, 3) for n in names)))
    assert set(statuses(diff).values()) == {Status.KEPT} and not diff.unused and not diff.aliases


def test_kept_new_and_unused():
    diff = match_tensors([source("w", 2), source("old", 2)], Layout("X", (target("w", 2), target("head", 3))))
    assert statuses(diff) == {"w": Status.KEPT, "head": Status.NEW}
    assert [unused.name for unused in diff.unused] == ["old"]


def test_an_address_is_what_counts_and_the_source_keeps_its_dtype():
    layout = Layout("X", (target("bert.w", 2),))
    diff = match_tensors([source("w", 2, address="bert.w", dtype="bfloat16")], layout)
    assert diff.matches[0].copies[0].source == "w" and diff.matches[0].dtype == "bfloat16"


def test_a_tied_tensor_may_be_in_the_source_under_either_name():
    layout = Layout("X", (target("embed", 4, 2),), (Tie("head", "embed", (("head",),)),))
    only_head = match_tensors([source("head", 4, 2)], layout)
    assert only_head.matches[0].copies[0].source == "head" and only_head.aliases[0].source is None
    both = match_tensors([source("head", 4, 2), source("embed", 4, 2)], layout)
    assert both.matches[0].copies[0].source == "embed" and both.aliases[0].source == "head"
    assert not both.unused


def test_what_the_class_ignores_is_carried():
    diff = match_tensors([source("mtp.w", 2, ignored=True)], Layout("X", (target("w", 2),)))
    assert [tensor.name for tensor in diff.carried] == ["mtp.w"] and not diff.unused


def test_leading_keeps_every_element_at_its_index():
    diff = match_tensors([source("w", 2, 3)], Layout("X", (target("w", 4, 5),)), {"w": "leading"})
    (match,) = diff.matches
    assert match.status is Status.RESIZED
    assert match.copies[0].region == Box((0, 0), (2, 3))
    assert num_elements(match.copies[0].region.shape) + sum(num_elements(box.shape) for box in match.new) == 20


def test_none_makes_the_tensor_new_and_says_why_the_old_one_is_unused():
    diff = match_tensors([source("w", 2, 3)], Layout("X", (target("w", 4, 3),)), {"w": "none"})
    assert diff.matches[0].status is Status.NEW and diff.unused[0].reason == "dropped as asked"


def test_every_undeclared_change_of_shape_is_named_at_once():
    layout = Layout("X", (target("w", 4, 3), target("b", 4), target("k", 1)))
    with pytest.raises(PlanError) as caught:
        match_tensors([source("w", 2, 3), source("b", 2), source("k", 1)], layout)
    message = str(caught.value)
    assert "w: 2x3 in the checkpoint, 4x3 asked for" in message and "b: 2 in" in message and "k:" not in message


def test_leading_never_loses_an_element():
    with pytest.raises(PlanError, match="would lose elements of 4x3 in 2x3"):
        match_tensors([source("w", 4, 3)], Layout("X", (target("w", 2, 3),)), {"w": "leading"})


@pytest.mark.parametrize(("keep", "message"), [({"w": "tail"}, "'tail'"), ({"v*": "leading"}, "names no tensor")])
def test_a_correspondence_that_means_nothing_is_refused(keep, message):
    with pytest.raises(PlanError, match=message):
        match_tensors([source("w", 2)], Layout("X", (target("w", 2),)), keep)


boxes = st.integers(1, 3).flatmap(
    lambda dims: st.tuples(
        st.lists(st.integers(0, 5), min_size=dims, max_size=dims),
        st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=dims, max_size=dims), max_size=3),
    )
)


@given(boxes)
def test_what_subtract_leaves_tiles_the_rest_exactly_once(case):
    shape, holes = case
    cut = [
        Box(
            tuple(min(a, n) for (a, _), n in zip(h, shape, strict=True)),
            tuple(min(max(p), n) for p, n in zip(h, shape, strict=True)),
        )
        for h in holes
    ]
    hit = {index for box in cut for index in elements(box)}
    rest = [index for box in subtract_boxes(tuple(shape), cut) for index in elements(box)]
    assert len(rest) == len(set(rest))
    assert set(rest) == set(elements(Box.whole(tuple(shape)))) - hit


def elements(box: Box) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for start, stop in zip(box.start, box.stop, strict=True):
        found = [(*index, k) for index in found for k in range(start, stop)]
    return found
