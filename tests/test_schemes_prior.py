"""The bias that predicts how often each label occurs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_init._errors import RecipeError
from hf_init._plan.recipe import Rule
from hf_init._tensors import Box, Rows, Slot
from hf_init.schemes import LogPrior, build, finish, from_json, whole_slot

COUNTS = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=20)


@given(COUNTS)
def test_a_softmax_over_it_is_the_share_of_each_label(counts):
    bias = LogPrior(counts=counts)(whole_slot("b", (len(counts),)))
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    torch.testing.assert_close(bias.softmax(0), shares.float(), rtol=1e-5, atol=1e-7)


@given(st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=20))
def test_a_sigmoid_of_it_is_the_share_of_positives(shares):
    bias = LogPrior(pi=shares)(whole_slot("b", (len(shares),)))
    torch.testing.assert_close(bias.sigmoid(), torch.tensor(shares, dtype=torch.float32), rtol=1e-4, atol=1e-7)


def test_one_share_is_that_of_every_row():
    bias = LogPrior(pi=0.01)(whole_slot("b", (3,)))
    assert bias.tolist() == [pytest.approx(-math.log(0.99 / 0.01))] * 3
    assert torch.equal(bias, LogPrior(pi=[0.01] * 3)(whole_slot("b", (3,))))


def test_a_mean_is_itself():
    assert LogPrior(mean=-2.5)(whole_slot("b", (2,))).tolist() == [-2.5, -2.5]
    assert LogPrior(mean=(1, 0))(Slot("b", Box((1,), (2,)), (2,))).tolist() == [0.0]


@given(COUNTS)
def test_its_first_loss_is_the_entropy(counts):
    bias = LogPrior(counts=counts)(whole_slot("b", (len(counts),))).double()
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    loss = -(shares * bias.log_softmax(0)).sum()
    assert float(loss) == pytest.approx(float(-(shares * shares.log()).sum()), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("region", [Rows(0, (3, 1), (4,)), Box((1,), (3,))])
def test_a_part_of_a_bias_has_the_shares_among_all_rows(region):
    counts = (1, 2, 3, 4)
    rows = region.index if isinstance(region, Rows) else range(region.start[0], region.stop[0])
    values = LogPrior(counts=counts)(Slot("b", region, (4,)))
    assert values.tolist() == [pytest.approx(math.log(counts[row] / 10)) for row in rows]


def test_a_row_that_is_kept_needs_no_count():
    scheme = LogPrior(counts=(0, 3, 1))
    assert scheme(Slot("b", Box((1,), (3,)), (3,))).tolist() == [pytest.approx(math.log(x)) for x in (0.75, 0.25)]
    with pytest.raises(RecipeError, match="row 0 has a count of 0, whose logarithm is infinite"):
        scheme(whole_slot("b", (3,)))


@pytest.mark.parametrize(
    "scheme", [LogPrior(counts=(1, 2.5)), LogPrior(pi=0.01), LogPrior(pi=(0.5, 0.25)), LogPrior(mean=-3)]
)
def test_it_is_spelled_and_stored_as_it_is(scheme):
    assert from_json(scheme.to_json()) == scheme == Rule(str(scheme), name="b").scheme
    assert hash(scheme) == hash(from_json(scheme.to_json()))


def test_many_numbers_are_counted_instead_of_spelled():
    assert str(LogPrior(counts=[1] * 1000)) == "log_prior(counts=1000 numbers)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"give counts .for a softmax over the labels., pi"),
        ({"counts": [1], "pi": 0.1}, "give counts"),
        ({"mean": 0, "pi": 0.1}, "give counts"),
        ({"mean": "a"}, "expected a finite number, a list"),
        ({"mean": [1, math.inf]}, "expected a finite number, a list"),
        ({"counts": []}, "expected a list of numbers of at least 0, not all of them 0"),
        ({"counts": [0, 0]}, "not all of them 0"),
        ({"counts": [1, -1]}, "expected a list of numbers of at least 0"),
        ({"counts": "12"}, "expected a list of numbers"),
        ({"counts": 3}, "expected a list of numbers"),
        ({"counts": [1, math.nan]}, "expected a list of numbers"),
        ({"counts": [True]}, "expected a list of numbers"),
        ({"pi": 0}, "expected a number between 0 and 1"),
        ({"pi": 1.0}, "expected a number between 0 and 1"),
        ({"pi": [0.5, 2]}, "expected a number between 0 and 1"),
        ({"pi": "0.5"}, "expected a number between 0 and 1"),
        ({"pi": []}, "expected a number between 0 and 1"),
    ],
)
def test_settings_that_can_t_be_used(settings, message):
    with pytest.raises(RecipeError, match=f"^log_prior: .*{message}"):
        build("log_prior", settings)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 8), "needs a bias, one number a label"), ((), "needs a bias"), ((3,), "it has 3 rows, and 2 numbers")],
)
def test_a_tensor_that_does_not_fit(shape, message):
    with pytest.raises(RecipeError, match=rf"'b'.*{message}"):
        finish(LogPrior(counts=(1, 2)), whole_slot("b", shape))


def test_whole_numbers_are_no_logarithms():
    with pytest.raises(RecipeError, match="dtype is int64"):
        finish(LogPrior(pi=0.5), whole_slot("b", (2,), dtype="int64"))
