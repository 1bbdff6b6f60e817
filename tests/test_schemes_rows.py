"""Schemes that make whole rows: convexity, exact sums, each row for itself, distributions, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from row_tables import INDEPENDENT, normal
from scheme_checks import SIGMAS, TABLE, Box, Slot, assert_same_on_any_number_of_threads, by_name, row_slot

from hf_init import HfInitError, schemes
from hf_init.schemes import RowScheme, finish

KINDS = ("uniform", "characters", "characters_first", "exp_first", "exp_last", "first", "last")


# --- convex combinations ---


@pytest.mark.parametrize("kind", KINDS)
@given(lengths=st.lists(st.integers(0, 10**6), min_size=1, max_size=40), alpha=st.floats(0, 50))
def test_every_kind_of_weights_adds_up_to_exactly_one(kind, lengths, alpha):
    pieces = tuple(range(len(lengths)))
    shares = schemes.SubTokens(kind, alpha, table="t", pieces=(pieces,), lengths=(tuple(lengths),)).shares(0)
    assert len(shares) == len(pieces) and sum(map(Fraction, shares)) == 1 and min(shares) >= 0
    if kind == "characters" and any(lengths):
        assert all(abs(share - each / sum(lengths)) < 2**-24 for share, each in zip(shares, lengths, strict=True))


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_a_convex_row_never_scores_above_every_old_row_and_another_does(kind):
    table = normal(50, 16, seed=3)
    pieces = torch.randint(50, (40, 3), generator=torch.Generator().manual_seed(1)).tolist()
    convex = {"table": "table", "pieces": tuple(map(tuple, pieces)), "lengths": ((2, 1, 5),) * 40}
    scheme = schemes.SubTokens(kind, **convex) if kind else schemes.Gaussian(2.0, "table")
    made = scheme(row_slot(tuple(range(50, 90)), (90, 16), table))
    states = normal(500, 16, seed=4).double()
    above = (states @ made.double().t()).amax(1) > (states @ table.double().t()).amax(1) + 1e-5
    assert bool(above.any()) == (kind is None)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("uniform", [1 / 3, 1 / 3, 1 / 3]),
        ("characters", [4 / 8, 1 / 8, 3 / 8]),
        ("characters_first", [4 / 5.25, 0.5 / 5.25, 0.75 / 5.25]),
        ("exp_first", [1 / 1.75, 0.5 / 1.75, 0.25 / 1.75]),
        ("exp_last", [0.25 / 1.75, 0.5 / 1.75, 1 / 1.75]),
        ("first", [1, 0, 0]),
        ("last", [0, 0, 1]),
    ],
)
def test_weights_are_what_they_are_called(kind, expected):
    scheme = schemes.SubTokens(kind, math.log(2), table="table", pieces=((4, 0, 7),), lengths=((4, 1, 3),))
    assert scheme.shares(0) == pytest.approx(expected, abs=1e-7)
    made = scheme(row_slot((9,), (10, 6)))
    wanted = torch.tensor(expected, dtype=torch.float64) @ TABLE[[4, 0, 7]].double()
    torch.testing.assert_close(made[0].double(), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_token_of_one_row_is_that_row_bit_for_bit(kind, dtype):
    table = TABLE.to(getattr(torch, dtype))
    table[5, :2] = torch.tensor([-0.0, 0.0])
    scheme = schemes.SubTokens(kind, table="table", pieces=((5, 5, 5),) * 2, lengths=((1, 0, 7),) * 2)
    for row in finish(scheme, row_slot((6, 7), table=table, dtype=dtype)):
        assert torch.equal(row.view(torch.uint8), table[5].view(torch.uint8))


def test_weight_and_bias_share_the_weights():
    bias = normal(1, 9, seed=8)
    scheme = schemes.SubTokens("exp_first", table="table", pieces=((4, 0, 7), (1,)))
    alone = scheme(row_slot((9, 10), (1, 11), bias))
    assert alone.shape == (1, 2) and alone[0, 1] == bias[0, 1]
    joint = torch.cat([TABLE, bias.t()], 1)
    both = scheme(row_slot((9, 10), (11, 7), joint))
    assert torch.equal(both[:, 6], alone[0])
    flat = scheme(row_slot((9, 10), (11,), bias[0]))
    assert torch.equal(flat, alone[0])


@pytest.mark.parametrize("norm", ["median", "mean"])
def test_norm_gives_every_row_the_trained_rows_length(norm):
    scheme = schemes.SubTokens(norm=norm, table="table", pieces=((0, 1, 2), (3,)), trained=((0, 3), (5, 9)))
    lengths = TABLE[[0, 1, 2, 5, 6, 7, 8]].double().norm(dim=1)
    wanted = float(lengths.median() if norm == "median" else lengths.mean())
    assert scheme(row_slot((9, 10), (11, 6))).norm(dim=1).tolist() == pytest.approx([wanted] * 2, rel=1e-6)


def test_a_centred_norm_scales_the_distance_from_the_mean_and_nothing_else():
    table = TABLE + torch.tensor([5.0, -3.0, 0, 0, 40.0, 1.0])
    scheme = schemes.SubTokens(table="table", pieces=((0, 1, 2), (3, 5)), trained=((0, 3), (5, 9)))
    trained = table[[0, 1, 2, 5, 6, 7, 8]].double()
    mean, slot = trained.mean(0), row_slot((9, 10), (11, 6), table)
    plain, made = scheme(slot).double() - mean, replace(scheme, norm="centred")(slot).double() - mean
    wanted = float((trained - mean).norm(dim=1).median())
    assert made.norm(dim=1).tolist() == pytest.approx([wanted] * 2, rel=1e-5)
    torch.testing.assert_close(torch.cosine_similarity(made, plain), torch.ones(2).double(), rtol=0, atol=1e-6)


# --- copies and points between ---


@pytest.mark.parametrize("rows", [(3,), (3, 0)])
def test_a_copy_is_the_row(rows):
    made = finish(schemes.CopyRow(table="table", rows=rows), row_slot((9, 10), (11, 6)))
    assert torch.equal(made, TABLE[[rows[0], rows[-1]]])


@pytest.mark.parametrize(("t", "row"), [(0.0, 2), (1.0, 4)])
@pytest.mark.parametrize("way", ["linear", "slerp"])
def test_the_ends_are_the_rows_themselves(way, t, row):
    made = schemes.Interpolate(t, way, table="table", pairs=((2, 4),))(row_slot((9,), (10, 6)))
    torch.testing.assert_close(made[0], TABLE[row], atol=1e-6, rtol=0)


def test_an_arc_keeps_the_length_and_a_line_does_not():
    table = torch.eye(4)
    slot = row_slot((4,), (5, 4), table)
    assert schemes.Interpolate(0.25, table="table", pairs=((0, 1),))(slot).tolist() == [[0.75, 0.25, 0, 0]]
    arc = schemes.Interpolate(0.25, "slerp", table="table", pairs=((0, 1),))(slot)
    torch.testing.assert_close(arc, torch.tensor([[math.cos(math.pi / 8), math.sin(math.pi / 8), 0, 0]]))


@pytest.mark.parametrize("second", [[1.0, 0], [2.0, 0], [-1.0, 0], [0.0, 0]])
def test_an_arc_without_an_angle_is_a_line(second):
    table = torch.tensor([[1.0, 0], second])
    made = schemes.Interpolate(0.5, "slerp", table="table", pairs=((0, 1),))(row_slot((2,), (3, 2), table))
    torch.testing.assert_close(made, table.mean(0, keepdim=True))


# --- each row for itself ---


MANY = tuple(f"token {number}" for number in range(150))


def made_of(scheme: RowScheme, texts: tuple[str, ...], dtype: str = "float32") -> dict[str, torch.Tensor]:
    """The rows of some tokens, by their texts, made together as a plan would bind them."""
    numbers = [MANY.index(text) for text in texts]
    bound = {
        "keys": texts,
        "pieces": tuple((number % 9, number % 4, 1) for number in numbers),
        "rows": tuple(number % 10 for number in numbers),
    }
    scheme = replace(scheme, **{name: value for name, value in bound.items() if hasattr(scheme, name)})
    slot = row_slot(tuple(range(9, 9 + len(texts))), (300, 6), dtype=dtype, seed=5)
    return dict(zip(texts, finish(scheme, slot), strict=True))


@by_name(INDEPENDENT)
def test_a_row_depends_on_its_own_token_alone(scheme):
    together = made_of(scheme, MANY)
    for texts in (MANY[::-1], MANY[:1], MANY[70:90]):
        for text, row in made_of(scheme, texts).items():
            assert torch.equal(row, together[text])


@by_name(INDEPENDENT[:2])
def test_another_text_or_seed_or_tensor_gives_another_row(scheme):
    one = replace(scheme, keys=("a",))
    slot = row_slot((9,), (10, 6))
    others = [replace(scheme, keys=("b",))(slot), one(replace(slot, seed=1)), one(replace(slot, name="other.weight"))]
    assert not any(bool((one(slot) == other).any()) for other in others)


@by_name([*INDEPENDENT[:2], INDEPENDENT[3]])
def test_bytes_do_not_depend_on_the_number_of_threads(scheme):
    assert_same_on_any_number_of_threads(lambda: torch.stack([*made_of(scheme, MANY).values()]))


# --- the distribution of the trained rows ---


def correlated(rows: int, seed: int = 0) -> torch.Tensor:
    """Rows with correlated columns of unlike spread and far means."""
    mixing = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 0.2], [0.0, 0.0, 0.1]])
    return normal(rows, 3, seed=seed) @ mixing + torch.tensor([5.0, -3.0, 100.0])


@pytest.mark.parametrize(("scale", "wrong"), [(1.0, False), (0.5, False), (1.1, True)])
def test_gaussian_rows_have_the_mean_and_the_covariance_and_others_would_be_seen(scale, wrong):
    table, many = correlated(700), 20_000
    made = schemes.Gaussian(scale, "table")(row_slot(tuple(range(700, 700 + many)), (700 + many, 3), table)).double()
    covariance = (1.0 if wrong else scale**2) * torch.cov(table.double().t(), correction=0)
    spread = covariance.diagonal().sqrt()
    error = torch.sqrt((covariance**2 + torch.outer(spread, spread) ** 2) / many)
    near = (torch.cov(made.t(), correction=0) - covariance).abs() <= SIGMAS * error
    assert bool(near.all()) != wrong
    assert wrong or bool(((made.mean(0) - table.double().mean(0)).abs() <= SIGMAS * spread / math.sqrt(many)).all())


def test_a_covariance_without_full_rank_is_no_obstacle():
    table = normal(4, 64)
    made = schemes.Gaussian(1.0, "table")(row_slot((4, 5, 6), (7, 64), table)).double()
    centred = made - table.double().mean(0)
    basis = torch.linalg.qr((table.double() - table.double().mean(0)).t()[:, :3])[0]
    torch.testing.assert_close(centred @ basis @ basis.t(), centred, atol=1e-5, rtol=0)


def test_the_mean_is_that_of_the_trained_rows_alone():
    table = torch.cat([correlated(30), torch.full((5, 3), 1e6), correlated(20, seed=1)])
    scheme = schemes.MeanRow(table="table", trained=((0, 30), (35, 55)))
    made = scheme(row_slot((60, 61), (62, 3), table))
    wanted = table[[*range(30), *range(35, 55)]].double().mean(0).float()
    torch.testing.assert_close(made, wanted.expand(2, 3), rtol=1e-6, atol=0)
    assert torch.equal(made[0], made[1])


def test_new_rows_at_the_mean_take_at_most_their_share_of_the_probability():
    table, new = normal(60, 16, seed=3), 12
    made = schemes.MeanRow(table="table")(row_slot(tuple(range(60, 60 + new)), (60 + new, 16), table))
    logits = normal(400, 16, seed=4).double() @ torch.cat([table, made]).double().t() * 3
    assert float(logits.softmax(1)[:, 60:].sum(1).max()) <= new / (60 + new) + 1e-6


def test_noise_is_a_share_of_each_column_s_spread():
    table, many = correlated(500), 20_000
    made = schemes.MeanRow(0.1, "table")(row_slot(tuple(range(500, 500 + many)), (500 + many, 3), table)).double()
    wanted = 0.1 * table.double().std(0, correction=0)
    assert bool(((made.std(0) - wanted).abs() <= SIGMAS * wanted / math.sqrt(2 * many)).all())


@by_name([schemes.MeanRow(0.02), schemes.Gaussian()])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rows_are_distinct_after_rounding(scheme, dtype):
    table = (normal(300, 24) * 0.1).to(getattr(torch, dtype))
    made = finish(replace(scheme, table="table"), row_slot(tuple(range(300, 700)), (700, 24), table, dtype=dtype))
    assert len(torch.unique(made.float(), dim=0)) == 400


@by_name([schemes.MeanRow(1e-9), schemes.Gaussian(1e-9)])
def test_rows_that_round_to_one_are_refused(scheme):
    table = (normal(300, 24) + 1).bfloat16()
    scheme = replace(scheme, table="table", keys=("one", "two"))
    with pytest.raises(HfInitError, match=r"'embed.weight'.*'one' and 'two' are the same in bfloat16.*larger"):
        finish(scheme, row_slot((300, 301), (302, 24), table, dtype="bfloat16"))


@by_name([schemes.MeanRow(0.1), schemes.Gaussian()])
def test_without_a_table_the_tensor_s_own_pretrained_rows_are_read(scheme):
    longer = Slot("position.weight", Box((9, 0), (12, 6)), (12, 6), trained=lambda: iter([TABLE[:4], TABLE[4:]]))
    made = scheme(longer)
    assert made.shape == (3, 6) and torch.equal(made, scheme(longer))
    keyed = replace(scheme, table="table", keys=("row 9", "row 10", "row 11"))
    named = keyed(replace(longer, source={"table": TABLE}.__getitem__))
    torch.testing.assert_close(made, named, atol=1e-5, rtol=1e-5)


def test_a_big_table_is_read_in_blocks_and_never_written_to(monkeypatch):
    table = normal(1000, 8)
    before, slot = table.clone(), row_slot((1000, 1001), (1002, 8), table)
    both = schemes.Gaussian(1.0, "table"), schemes.MeanRow(0.1, "table")
    whole = [scheme(slot) for scheme in both]
    monkeypatch.setattr("hf_init.schemes._row_math.BLOCK", 8 * 64)
    # Draws follow the rows of the table, however it is cut into blocks of 16 rows or more.
    for scheme, wanted in zip(both, whole, strict=True):
        torch.testing.assert_close(scheme(slot), wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(table, before)


@pytest.mark.parametrize(
    ("scheme", "table", "expected"),
    [
        # Single numbers may be the same, and a row of zeros has no direction to scale.
        (schemes.Gaussian(1.0, "table"), torch.ones(9), [1.0, 1.0]),
        (schemes.SubTokens(norm="median", table="table", pieces=((0,),) * 2), torch.eye(9)[:, 1:], [[0.0] * 8] * 2),
    ],
)
def test_what_has_no_spread_or_no_length_stays(scheme, table, expected):
    assert scheme(row_slot((9, 10), (11, *table.shape[1:]), table)).tolist() == expected
