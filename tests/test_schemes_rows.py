"""Schemes that make whole rows: convexity, exact sums, each row for itself, distributions, and what they refuse."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scheme_checks import (
    FOLDER,
    SAMPLES,
    SIGMAS,
    TABLE,
    Box,
    Slot,
    assert_same_on_any_number_of_threads,
    by_name,
    row_slot,
)

from hf_init import HfInitError, schemes
from hf_init.schemes import RowScheme, finish, from_json

ROWS = [scheme for scheme in SAMPLES if isinstance(scheme, RowScheme)]
KINDS = ("uniform", "characters", "characters_first", "exp_first", "exp_last", "first", "last")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


INDEPENDENT = [
    schemes.MeanRow(0.1, "table"),
    schemes.Gaussian(1.0, "table"),
    schemes.SubTokens("exp_first", norm="median", table="table"),
    schemes.Omp(FOLDER.name, 3, "donor", "table", (), tuple((row, row) for row in range(6))),
]


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
    others = [
        replace(scheme, keys=("b",))(slot),
        one(replace(slot, seed=1)),
        one(replace(slot, name="other.weight")),
    ]
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


# --- rows from outside ---


def test_rows_of_a_tensor_and_of_files_are_the_rows(tmp_path):
    values = normal(3, 6)
    np.save(tmp_path / "rows.npy", values.numpy())
    save_file({"rows": values, "other": values + 1}, tmp_path / "rows.safetensors")
    slot = row_slot((9, 10), (11, 6))
    for scheme in (
        schemes.FromTensor(values=values, rows=(2, 0)),
        schemes.FromFile(str(tmp_path / "rows.npy"), rows=(2, 0)),
        schemes.FromFile(str(tmp_path / "rows.safetensors"), "rows", (2, 0)).sealed(),
    ):
        assert torch.equal(finish(scheme, slot), values[[2, 0]])
    assert torch.equal(schemes.FromTensor(values=values[:2])(slot), values[:2])
    assert torch.equal(schemes.FromTensor(values=values[:2, 0])(row_slot((9, 10), (1, 11))), values[None, :2, 0])


def test_a_tensor_is_known_by_its_fingerprint_alone():
    values = normal(2, 6)
    scheme = schemes.FromTensor(values=values)
    assert "values" not in scheme.to_json() and str(values[0, 0].item()) not in json.dumps(scheme.to_json())
    again = from_json(json.loads(json.dumps(scheme.to_json())))
    assert again == scheme
    slot = row_slot((9, 10), (11, 6))
    with pytest.raises(HfInitError, match="handed over in memory and aren't at hand"):
        again(slot)
    assert torch.equal(replace(again, values=values)(slot), values)
    with pytest.raises(HfInitError, match="another tensor"):
        replace(again, values=values + 1)
    values += 1
    with pytest.raises(HfInitError, match="changed after they were handed over"):
        scheme(slot)


def test_a_sealed_file_is_recognised(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((2, 6), "float32"))
    sealed = schemes.FromFile(str(tmp_path / "rows.npy")).sealed()
    assert not sealed(row_slot((9, 10), (11, 6))).any()
    np.save(tmp_path / "rows.npy", np.ones((2, 6), "float32"))
    with pytest.raises(HfInitError, match=r"rows\.npy isn't the file it was when this was planned"):
        sealed(row_slot((9, 10), (11, 6)))


NAN = torch.tensor([[0.0] * 6, [0.0, math.nan, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (NAN, "1 of its rows are not finite, the first is number 1"),
        (torch.zeros(2, 5), "torch.float32 with 5 elements, expected 6"),
        (torch.zeros(2, 6, dtype=torch.int64), "rows are torch.int64"),
        (torch.zeros(3, 6), "has 3 rows, expected 2"),
        (torch.zeros(0, 6), "(holds no rows|has 0 rows)"),
    ],
)
def test_rows_that_can_t_be_used_are_refused(values, message, tmp_path):
    np.save(tmp_path / "rows.npy", values.numpy())
    for scheme in (schemes.FromTensor(values=values), schemes.FromFile(str(tmp_path / "rows.npy"))):
        with pytest.raises(HfInitError, match=f"{scheme.name}.*'embed.weight'.*{message}"):
            scheme(row_slot((9, 10), (11, 6)))


def test_a_file_that_can_t_be_read_is_refused(tmp_path):
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "two.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    slot = row_slot((9, 10), (11, 6))
    for name in ("two.safetensors", "bad.safetensors", "bad.npy", "objects.npy", "missing.npy", "missing.safetensors"):
        with pytest.raises(HfInitError, match=f"{name} can't be read"):
            schemes.FromFile(str(tmp_path / name))(slot)
    with pytest.raises(HfInitError, match=r"missing\.npy can't be read"):
        schemes.FromFile(str(tmp_path / "missing.npy")).sealed()
    with pytest.raises(HfInitError, match="no tensor 'c', but a, b"):
        schemes.FromFile(str(tmp_path / "two.safetensors"), "c")(slot)


# --- orthogonal matching pursuit ---


def pursued(folder: Path, atoms: torch.Tensor, targets: torch.Tensor, k: int) -> torch.Tensor:
    """The coefficients of each target: a base whose rows are those of the identity shows them as they are."""
    many, rows = len(atoms), range(len(atoms), len(atoms) + len(targets))
    save_file({"embed": torch.cat([atoms, targets])}, folder / "model.safetensors")
    scheme = schemes.Omp(str(folder), k, "embed", "table", tuple(rows), tuple((row, row) for row in range(many)))
    return scheme(row_slot(tuple(rows), (rows.stop, many), torch.eye(many)))


def test_an_exact_sparse_combination_is_found(tmp_path):
    wanted = torch.zeros(2, 200)
    wanted[0, [3, 50, 120]] = torch.tensor([2.0, -1.0, 0.5])
    wanted[1, [7, 8, 199]] = torch.tensor([1.0, 3.0, -2.0])
    atoms = normal(200, 64, seed=1)
    torch.testing.assert_close(pursued(tmp_path, atoms, wanted @ atoms, 64), wanted, atol=1e-4, rtol=0)


def test_the_coefficients_are_those_of_least_squares_and_more_atoms_leave_less(tmp_path):
    atoms, target, left = normal(300, 40, seed=2), normal(1, 40, seed=3), []
    for k in (1, 4, 16):
        (found,) = pursued(tmp_path, atoms, target, k).double()
        (chosen,) = found.nonzero(as_tuple=True)
        picked = atoms[chosen].double()
        best = torch.linalg.lstsq(picked.t(), target[0].double()).solution
        torch.testing.assert_close(found[chosen], best, atol=1e-4, rtol=1e-4)
        left.append(float((target[0] - best @ picked).norm()))
        assert len(chosen) == k
    assert left == sorted(left, reverse=True)


def test_repeated_and_empty_atoms_are_no_obstacle(tmp_path):
    atoms = torch.cat([torch.zeros(1, 4), torch.eye(4)[:2], torch.eye(4)[:2]])
    found = pursued(tmp_path, atoms, torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0]]), 5)
    assert found.flatten().tolist() == pytest.approx([0, 1, 2, 0, 0] + [0] * 5)


def test_the_base_s_rows_take_the_donor_s_coefficients(tmp_path):
    donor, base = normal(30, 16, seed=5), normal(40, 6, seed=6)
    donor[20] = 2 * donor[4] - donor[9]
    save_file({"embed": donor}, tmp_path / "model.safetensors")
    scheme = schemes.Omp(str(tmp_path), 8, "embed", "table", (20,), tuple((row, row + 10) for row in range(15)))
    made = scheme(row_slot((40,), (41, 6), base))
    torch.testing.assert_close(made[0], 2 * base[14] - base[19], atol=1e-4, rtol=0)
    sealed = scheme.sealed()
    assert torch.equal(sealed(row_slot((40,), (41, 6), base)), made)
    save_file({"embed": donor + 1}, tmp_path / "model.safetensors")
    with pytest.raises(HfInitError, match="isn't the donor it was"):
        sealed(row_slot((40,), (41, 6), base))
    with pytest.raises(HfInitError, match=r"the donor.*can't be read"):
        replace(scheme, donor=str(tmp_path / "none")).sealed()
    with pytest.raises(HfInitError, match=r"'embed.weight'.*the donor can't be read"):
        replace(scheme, donor=str(tmp_path / "none"))(row_slot((40,), (41, 6)))


# --- what is refused ---

BOUND = {"table": "table"}


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (schemes.SubTokens(), "say which rows it is made of: name tokens"),
        (schemes.Description(), "say which rows it is made of"),
        (schemes.CopyRow("word"), "say which rows"),
        (schemes.Interpolate(), "say which rows"),
        (schemes.FromTensor(), "hand a tensor over in Python"),
        (schemes.Omp("donor"), "the donor's tokens aren't known"),
        (schemes.Omp("donor", 64, "embed", "table", (1, 2)), "share no token: take a donor whose vocabulary overlaps"),
        (schemes.SubTokens(pieces=((1,),), **BOUND), "2 new rows, and pieces has 1"),
        (schemes.SubTokens("characters", pieces=((1,), (2,)), **BOUND), "needs the lengths of the pieces"),
        (schemes.CopyRow(rows=(1, 2, 3), **BOUND), "rows has 3"),
        (schemes.Interpolate(pairs=((1, 2),) * 3, **BOUND), "pairs has 3"),
        (schemes.MeanRow(keys=("a",), **BOUND), "keys has 1"),
        (schemes.Gaussian(keys=("a",), **BOUND), "keys has 1"),
    ],
    ids=lambda value: value.name if isinstance(value, RowScheme) else "",
)
def test_what_a_plan_must_bind_is_asked_for_when_planned(scheme, message):
    with pytest.raises(HfInitError, match=f"{scheme.name}.*'embed.weight'.*{message}"):
        scheme.check(row_slot((9, 10), (11, 6)))


@pytest.mark.parametrize("name", ["mean", "gaussian"])
def test_a_wholly_new_tensor_has_no_rows_to_read(name):
    with pytest.raises(HfInitError, match="nothing of it is pretrained: use normal"):
        schemes.build(name).check(schemes.whole_slot("w", (4, 6)))
    resized = Slot("w", Box((2, 0), (4, 6)), (4, 6))
    schemes.build(name).check(resized)
    with pytest.raises(HfInitError, match="pretrained elements aren't at hand"):
        schemes.build(name)(resized)
    with pytest.raises(HfInitError, match="rows have another width: use matched_normal"):
        schemes.build(name)(replace(resized, trained=lambda: iter([TABLE[:2, :4]])))
    with pytest.raises(HfInitError, match="no trained rows to read"):
        schemes.build(name)(replace(resized, trained=lambda: iter(())))


@by_name(ROWS)
def test_parts_of_rows_are_refused(scheme):
    with pytest.raises(HfInitError, match="isn't made of whole rows"):
        scheme.check(Slot("w", Box((2, 3), (6, 6)), (8, 8)))


READS = [scheme for scheme in ROWS if getattr(scheme, "table", "") and not scheme.needs_model]


@by_name(READS)
def test_a_table_that_can_t_be_read_is_refused(scheme):
    slot = row_slot((1, 7, 3, 4))
    for wrong, message in (
        (replace(slot, source=None), "the source, whose 'table' it reads, isn't at hand"),
        (replace(slot, source={}.__getitem__), "the source has no tensor 'table'"),
        (row_slot((1, 7, 3, 4), (8, 5)), "the rows of 'table' have 6 elements, expected 5"),
        (row_slot((1, 7, 3, 4), table=TABLE[0]), "'table' has 1 dimensions, expected 2"),
    ):
        with pytest.raises(HfInitError, match=f"{scheme.name}.*'embed.weight'.*{message}"):
            scheme(wrong)


@pytest.mark.parametrize(
    "scheme",
    [
        schemes.SubTokens(pieces=((1, 9),), **BOUND),
        schemes.CopyRow(rows=(9,), **BOUND),
        schemes.Interpolate(pairs=((9, 1),), **BOUND),
        schemes.FromTensor(values=torch.zeros(9, 6), rows=(9,)),
        schemes.Omp(FOLDER.name, 3, "donor", "table", (10,), ((1, 1),)),
        schemes.Omp(FOLDER.name, 3, "donor", "table", (1,), ((1, 9),)),
    ],
    ids=lambda scheme: scheme.name,
)
def test_a_row_beyond_the_table_is_refused(scheme):
    with pytest.raises(HfInitError, match=r"row (9|10) is asked for, and the table has (9|10)"):
        scheme(row_slot((9,), (10, 6)))


@pytest.mark.parametrize(
    "scheme",
    [schemes.SubTokens(norm="median", pieces=((1,),), **BOUND), INDEPENDENT[3]],
    ids=lambda scheme: scheme.name,
)
def test_a_bias_has_no_length(scheme):
    with pytest.raises(HfInitError, match="a bias has no"):
        scheme.check(row_slot((9,), (10,)))
