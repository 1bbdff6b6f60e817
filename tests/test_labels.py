"""Labels without a model: names, rows that follow them, dimensions that grow with them, counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_init._errors import PlanError
from hf_init._heads.label_names import (
    generic_names,
    numbered_labels,
    read_labels,
    rename_labels,
    tag_labels,
    unpaired_tags,
)
from hf_init._heads.label_priors import counts_by_row, label_numbers
from hf_init._heads.label_rows import LabelAxis, follow_labels, label_axes, label_row_map
from hf_init._heads.label_rows import describe_rows as sentences
from hf_init._plan.mapping import Boxes, Nothing, RowMap
from hf_init._tensors import Box

NAMES = st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=8, unique=True).map(tuple)


# Rows.


@given(NAMES, NAMES)
def test_rows_follow_names(before, after):
    if not set(before) & set(after):
        with pytest.raises(ValueError, match="none of"):
            follow_labels(before, after)
        return
    index = follow_labels(before, after)
    assert [None if at is None else before[at] for at in index] == [name if name in before else None for name in after]


@given(NAMES, NAMES)
def test_leading_rows_stay_whatever_the_names(before, after):
    index = follow_labels(before, after, "leading")
    assert index == tuple(k if k < len(before) else None for k in range(len(after)))
    assert follow_labels(before, after, "none") == (None,) * len(after)


@given(NAMES)
def test_the_same_labels_stay(names):
    assert follow_labels(names, names) == follow_labels(names, names, "names") == tuple(range(len(names)))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (numbered_labels(3), numbered_labels(4), "neither side names them"),
        (numbered_labels(3), ("a", "b", "c"), "only one side names them"),
        (("a", "b"), numbered_labels(3), "only one side names them"),
        (("a", "N/A", "N/A"), ("N/A", "a"), "has more than one label named 'N/A'"),
        (("Neg", "Pos"), ("neg", "x"), r"'neg' \(did you mean 'Neg'\?\)"),
    ],
)
def test_names_that_do_not_say_which_row(before, after, message):
    with pytest.raises(ValueError, match=message):
        follow_labels(before, after)
    assert follow_labels(before, after, "leading")[0] == 0


def test_a_name_that_several_rows_have_is_no_matter_where_it_isn_t_asked_for():
    assert follow_labels(("a", "N/A", "b", "N/A"), ("b", "a")) == (2, 0)


def test_numbers_of_the_same_count_are_names():
    assert follow_labels(numbered_labels(3), numbered_labels(3)) == (0, 1, 2)
    assert generic_names(numbered_labels(3)) and not generic_names(("LABEL_1", "LABEL_0"))


def test_the_plan_says_where_each_row_comes_from():
    before, after = ("neg", "neu", "pos"), ("pos", "mixed", "bad")
    told = list(sentences(before, after, (2, None, 0)))
    assert told == [
        "labels kept, 2 of 3: pos (row 2 -> 0), bad (row 0 -> 2, was neg)",
        "labels new, 1 of 3: mixed",
        "labels removed with their rows, 1 of 3: neu",
    ]
    assert len(list(sentences(before, before, (0, 1, 2)))) == 1


# Names.


def test_two_labels_may_change_places():
    assert rename_labels(("a", "b"), {"a": "b", "b": "a"}) == ("b", "a")


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"ng": "x"}, r"no label 'ng' \(did you mean 'neg'\?\); its labels: \['neg', 'pos', 'N/A', 'N/A'\]"),
        ({"neg": "x", "pos": "x"}, "2 labels would be named 'x'"),
        ({"neg": "pos"}, "2 labels would be named 'pos'"),
        ({"neg": " "}, "'neg' -> ' ': expected a name"),
        ({"neg": 3}, "expected a name"),
        ({"N/A": "x"}, "'N/A' is the name of 2 labels"),
    ],
)
def test_a_rename_that_can_t_be_done(renames, message):
    with pytest.raises(PlanError, match=f"^rename_labels: .*{message}"):
        rename_labels(("neg", "pos", "N/A", "N/A"), renames)


def test_names_are_read_in_the_order_of_their_rows():
    assert read_labels({"10": "k", **{str(k): "abcdefghij"[k] for k in range(10)}})[-2:] == ("j", "k")
    assert read_labels({0: 7, 1: "b"}) == ("7", "b")


def test_entity_types_take_over_the_tags_that_are_there():
    like = ("O", "B-PER", "I-PER", "E-PER", "S-PER")
    assert tag_labels(["PER", "DRUG"], like)[5:] == ("B-DRUG", "I-DRUG", "E-DRUG", "S-DRUG")
    assert follow_labels(like, tag_labels(["DRUG", "PER"], like)) == (0, None, None, None, None, 1, 2, 3, 4)
    assert tag_labels(["X"], ("cat", "dog")) == ("O", "B-X", "I-X")


@pytest.mark.parametrize("entities", ["PER", [], [""], [1], ["PER", "PER"], ["B-PER"], ["O"]])
def test_what_is_no_list_of_entity_types(entities):
    with pytest.raises(PlanError, match="entities"):
        tag_labels(entities)


def test_a_type_without_a_tag_that_the_others_have_is_noticed():
    assert unpaired_tags(("O", "B-A", "I-A", "B-B")) == ()  # half of them have it: nobody knows
    assert unpaired_tags(("O", "B-A", "I-A", "B-C", "I-C", "B-B")) == ("I-B",)
    assert unpaired_tags(("neg", "pos")) == ()


# Dimensions.


@given(st.integers(1, 9), st.integers(0, 2), st.integers(1, 3))
def test_a_dimension_that_grows_is_found_with_what_it_has_beyond_the_labels(labels, extra, each):
    found = label_axes((5, each * labels + extra), (5, each * (labels + 1) + extra), labels)
    assert found == (LabelAxis(1, each, extra),)
    assert found[0].size(labels) == each * labels + extra


def test_the_row_for_no_object_stays_last():
    how = label_row_map((2, None, 0), [LabelAxis(0, 1, 1)], (4, 8), (4, 8), 3)
    assert how == RowMap((2, None, 0, 3), 0, True)
    grown = label_row_map((0, 1, None), [LabelAxis(0, 1, 1)], (3, 8), (4, 8), 2)
    assert grown == RowMap((0, 1, None, 2), 0, False)


def test_what_stays_needs_no_map_and_what_is_new_keeps_nothing():
    assert label_row_map((0, 1), [LabelAxis(0)], (2, 8), (2, 8), 2) is None
    assert label_row_map((None, None), [LabelAxis(0)], (7, 3), (2, 8), 2) == Nothing()


@given(st.permutations(range(4)).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(0, 3))))
def test_a_matrix_of_labels_moves_in_both_directions(case):
    rows, new = case
    index = tuple(None if row == new else row for row in rows)
    before = np.arange(16).reshape(4, 4)
    how = label_row_map(index, [LabelAxis(0), LabelAxis(1)], (4, 4), (4, 4), 4)
    assert isinstance(how, Boxes)
    after = np.full((4, 4), -1)
    for target, origin in how.pairs:
        after[target.slices] = before[origin.slices]
    expected = [[-1 if None in (r, c) else 4 * r + c for c in index] for r in index]
    assert after.tolist() == expected
    copies, fresh = how.regions("w", (4, 4), (4, 4))
    tiles = np.zeros((4, 4), int)
    for region in (*(copy.region for copy in copies), *fresh):
        assert isinstance(region, Box)
        tiles[region.slices] += 1
    assert (tiles == 1).all()


@pytest.mark.parametrize(
    ("found", "before", "after", "message"),
    [
        ([LabelAxis(0, 3)], (6, 8), (9, 8), "9x8 has not one slice for each of 3 labels"),
        ([LabelAxis(0, 1, -1)], (1, 8), (2, 8), "2x8 has not one slice"),
        ([LabelAxis(0)], (2, 16), (3, 8), "2x16 in the checkpoint, 2x8 expected for its 2 labels"),
        ([LabelAxis(0)], (5, 8), (3, 8), "5x8 in the checkpoint, 2x8 expected"),
        ([LabelAxis(0)], (8,), (3, 8), "8 in the checkpoint"),
    ],
)
def test_a_tensor_that_is_no_head_of_so_many_labels(found, before, after, message):
    with pytest.raises(ValueError, match=message):
        label_row_map((0, 1, None), found, before, after, 2)


# Counts.


def test_counts_by_name_and_in_order_are_the_same():
    names = ("a", "b", "c")
    assert counts_by_row("label_counts", {"c": 3.0, "a": 1.0, "b": 2.0}, names) == (1.0, 2.0, 3.0)
    assert counts_by_row("label_counts", (1.0, 2.0, 3.0), names) == (1.0, 2.0, 3.0)
    assert counts_by_row("label_counts", (1.0, 2.0, 3.0), names, ["no object"]) == (1.0, 2.0, 3.0, 0.0)
    assert (
        counts_by_row("label_counts", {"a": 1.0, "b": 1.0, "c": 1.0, "no object": 9.0}, names, ["no object"])[3] == 9.0
    )


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ((1.0,), r"1 numbers for 2 labels \(\['neg', 'pos'\]\)"),
        ((1.0, 2.0, 3.0), "3 numbers for 2 labels"),
        ({"neg": 1.0}, r"\['pos'\] have no number"),
        ({"neg": 1.0, "poss": 2.0}, r"no label is named 'poss' \(did you mean 'pos'\?\)"),
    ],
)
def test_counts_that_do_not_match_the_labels(given_, message):
    with pytest.raises(PlanError, match=message):
        counts_by_row("label_counts", given_, ("neg", "pos"))


@pytest.mark.parametrize("given_", ["12", 3, [], [True], [float("nan")], [float("inf")], ["1"], [-1], {"a": None}])
def test_what_are_no_counts(given_):
    with pytest.raises(PlanError, match="label_counts: expected"):
        label_numbers("label_counts", given_, least=0.0)
