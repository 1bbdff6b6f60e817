"""Rows from tensors, files and donors, and what is refused of schemes of rows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from row_tables import INDEPENDENT, normal
from safetensors.torch import save_file
from scheme_checks import FOLDER, SAMPLES, TABLE, Box, Slot, by_name, row_slot

from hf_init import HfInitError, schemes
from hf_init.schemes import RowScheme, finish, from_json

ROWS = [scheme for scheme in SAMPLES if isinstance(scheme, RowScheme)]


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
