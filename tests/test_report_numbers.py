"""The numbers under a report: statistics as numpy has them, and the distributions of schemes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file
from scheme_checks import Box, Geometry, Rows

import hf_init
from hf_init import schemes
from hf_init._block_names import name_pattern
from hf_init._checkpoint import numbers as _values
from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._checkpoint.header import DTYPES, dtype_bits
from hf_init._drift.grid import CHANGED, FAILED, STAYED, bars, grids
from hf_init._report import measure as _measure
from hf_init._report.expected import density, expected_distribution
from hf_init._report.measure import Measure, measure_values
from hf_init._report.neighbours import Candidate, nearest_neighbours
from hf_init._report.picture import chart, picture
from hf_init._statistics import Stats


def measured(folder: Path, values: np.ndarray, region: Box | Rows | None = None, stack: int = 0) -> Measure:
    save_file({"w": values}, folder / "model.safetensors")
    with Checkpoint.open(folder) as checkpoint:
        return measure_values(checkpoint, "w", region or Box.whole(values.shape), stack)[0]


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=3, max_side=6, min_side=0), elements=FLOATS), st.data())
def test_statistics_are_those_of_numpy(values, data):
    cuts = [data.draw(st.integers(0, values.size)) for _ in range(2)]
    flat = values.reshape(-1).astype(np.float64)
    stats = sum((Stats.of(part) for part in np.split(flat, sorted(cuts))), Stats())
    finite = flat[np.isfinite(flat)]
    assert stats.count == flat.size and stats.nans == np.isnan(flat).sum() and stats.infinite == np.isinf(flat).sum()
    assert stats.zeros == (finite == 0).sum()
    if finite.size:
        scale = np.abs(finite).max()
        assert (stats.low, stats.high) == (finite.min(), finite.max())
        assert stats.mean == pytest.approx(finite.mean(), rel=1e-12, abs=1e-15 * scale)
        assert stats.std == pytest.approx(finite.std(), rel=1e-9, abs=1e-14 * scale)
        assert stats.norm == pytest.approx(np.linalg.norm(finite), rel=1e-12)
        assert stats.farthest() == pytest.approx(np.abs(finite - finite.mean()).max(), rel=1e-9, abs=1e-14 * scale)


@pytest.mark.parametrize(
    "region",
    [
        Box((0, 0, 0), (7, 5, 6)),
        Box((2, 1, 0), (6, 5, 3)),
        Box((3, 0, 0), (3, 5, 6)),
        Rows(0, (6, 0, 3), (7, 5, 6)),
        Rows(2, (5, 1), (7, 5, 6)),
    ],
    ids=str,
)
def test_a_region_is_measured_in_small_pieces(tmp_path, monkeypatch, region):
    monkeypatch.setattr(_values, "_CHUNK", 4)
    values = np.random.default_rng(0).normal(size=(7, 5, 6)).astype(np.float32)
    part = values[region.slices] if isinstance(region, Box) else values.take(region.index, axis=region.dim)
    found = measured(tmp_path, values, region)
    assert found.stats is not None and found.stats.count == part.size
    assert found.stats.mean == pytest.approx(part.mean(dtype=np.float64) if part.size else 0.0, rel=1e-12)
    assert (found.rows is None) == (part.size == 0)
    if found.rows:
        assert (found.rows.total, found.rows.length) == (len(part), part[0].size)
        assert found.rows.rank == np.linalg.matrix_rank(part.reshape(len(part), -1))


def test_every_code_of_every_narrow_dtype_is_the_number_that_torch_reads():
    for dtype, width in DTYPES.values():
        if width not in (8, 16) or not _values.is_floating(dtype):
            continue
        codes = np.arange(1 << width).astype(f"uint{width}")
        due = torch.from_numpy(codes.view(f"int{width}").copy()).view(getattr(torch, dtype)).double().numpy()
        np.testing.assert_array_equal(_values.decode_values(codes, dtype), due, err_msg=dtype)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "uint64", "float16", "float32", "float64"])
def test_numpys_own_dtypes_are_read_as_numpy_reads_them(dtype):
    values = np.array([0, 1, 1, 0, 1], dtype)
    np.testing.assert_array_equal(_values.decode_values(values.view(f"uint{dtype_bits(dtype)}"), dtype), values)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=3), st.integers(1, 5000))
def test_a_sample_is_small_and_sees_every_column(shape, most):
    step = _values.sample_stride(tuple(shape), most)
    assert math.ceil(math.prod(shape) / step) <= most
    assert all(math.gcd(step, length) == 1 for length in shape)


def test_a_sample_is_the_same_in_any_pieces(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(50, 7))
    monkeypatch.setattr(_values, "_CHUNK", 10)
    monkeypatch.setattr(_measure, "sample_stride", lambda shape: 3)
    save_file({"w": values}, tmp_path / "model.safetensors")
    with Checkpoint.open(tmp_path) as checkpoint:
        _, sample = measure_values(checkpoint, "w", Box.whole((50, 7)))
    np.testing.assert_array_equal(sample, values.reshape(-1)[::3])


def test_rank_and_repeats(tmp_path):
    rng = np.random.default_rng(0)
    low = (rng.normal(size=(40, 3)) @ rng.normal(size=(3, 60))).astype(np.float32)
    low[7] = low[3]
    low[20:22] = 0
    rows = measured(tmp_path, low).rows
    assert rows is not None and rows.whole
    assert (rows.rank, rows.repeated, rows.seen) == (3, 1, 40)
    assert 1 < rows.effective <= 3
    eye = measured(tmp_path, np.eye(30, dtype=np.float32)).rows
    assert eye is not None and (eye.rank, round(eye.effective, 6)) == (30, 30)


def test_experts_are_a_stack_of_matrices(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)
    rows = measured(tmp_path, values, stack=1).rows
    assert rows is not None and (rows.total, rows.length, rows.rank) == (24, 5, 5)


GEOMETRIES = {
    "matrix": ((48, 32), None),
    "fused": ((96, 32), Geometry(32, None, parts=(64, 16, 16))),
    "conv1d": ((32, 96), Geometry(32, 96, order="in_out")),
    "conv": ((32, 16, 3, 3), None),
    "experts": ((3, 32, 16), Geometry(16, 32, stack=1)),
    "vector": ((256,), None),
}
SETTINGS = {
    "constant": {"val": 0.3},
    "sparse": {"sparsity": 0.4},
    "scaled_residual": {"layers": 4},
    "log_prior": {"pi": 0.01},
}
MORE = [
    schemes.VarianceScaling(2.0, "fan_out", "uniform"),
    schemes.TruncNormal(0.1, 0.5, -1.0, 2.5),
    schemes.TruncNormalAbsolute(0.1, 0.5, -0.2, 2.0),
    schemes.TruncNormal(std=0.02, correct=True),
    schemes.Normal(std=0.0),
    schemes.Orthogonal(gain=0.0),
    schemes.Sparse(0.0),
    schemes.Sparse(1.0),
]


def slots_and_schemes():
    drawn = [kind for name, kind in schemes.REGISTRY.items() if name not in ("model", "skip", "auto")]
    for scheme in [*(_made(kind) for kind in drawn), *MORE]:
        for shape, geometry in GEOMETRIES.values():
            slot = schemes.whole_slot("w", shape, geometry=geometry)
            if scheme is not None and not scheme.unsupported_reason(slot):
                yield scheme, slot


def _made(kind):
    try:
        return kind(**SETTINGS.get(kind.name, {}))
    except TypeError:  # a scheme with settings of its own, of which nothing is expected
        return None


def test_an_expected_distribution_has_the_moments_of_its_scheme_and_adds_up_to_one():
    seen = set()
    for scheme, slot in slots_and_schemes():
        due = expected_distribution(scheme, slot)
        if due is None:
            continue
        seen.add(scheme.name)
        moments = scheme.moments(slot)
        assert moments is not None
        assert (due.mean, due.std) == pytest.approx(moments, rel=1e-9, abs=1e-12), (scheme, slot.shape)
        assert area(due, -math.inf, math.inf) == pytest.approx(1.0, abs=2e-3), (scheme, slot.shape)
    assert {"normal", "uniform", "trunc_normal", "kaiming_uniform", "orthogonal", "sparse", "zeros"} <= seen
    assert {"delta_orthogonal", "variance_scaling", "lecun_normal", "scaled_residual", "constant"} <= seen


def area(due: schemes.Distribution, low: float, high: float) -> float:
    """The expected share of elements between two values."""
    reach = 9 * max(due.widest, 1e-9)
    x = np.linspace(max(low, due.mean - reach), min(high, due.mean + reach), 40_001)
    curve = density(due, x)
    share = float(((curve[1:] + curve[:-1]) / 2 * np.diff(x)).sum())
    return share + sum(weight for value, weight in due.atoms if low <= value <= high)


def misfit(values: np.ndarray, due: schemes.Distribution) -> float:
    """The greatest distance, at a few values, between shares seen and expected, in standard errors."""
    ends = np.quantile(values, [0.05, 0.2, 0.5, 0.8, 0.95])
    seen = [float((values <= end).mean()) for end in ends]
    errors = [abs(area(due, -math.inf, end) - share) for end, share in zip(ends, seen, strict=True)]
    return max(errors) * math.sqrt(values.size) * 2


def test_what_a_scheme_draws_has_the_expected_density():
    for scheme, slot in slots_and_schemes():
        due = expected_distribution(scheme, slot)
        if due is not None:
            assert misfit(scheme(slot).double().numpy().reshape(-1), due) < 5, (scheme, slot.shape)


def test_another_density_is_told_apart():
    slot = schemes.whole_slot("w", (96, 96))
    values = schemes.Uniform(-1.0, 1.0)(slot).double().numpy().reshape(-1)
    same_moments = expected_distribution(schemes.Normal(std=1 / math.sqrt(3)), slot)
    assert same_moments is not None and misfit(values, same_moments) > 5


def test_no_distribution_is_made_up():
    slot = schemes.whole_slot("w", (4, 4))
    assert expected_distribution(schemes.Model(), slot) is None
    assert expected_distribution(schemes.Eye(), slot) is None
    assert expected_distribution(schemes.KaimingNormal(), schemes.whole_slot("b", (4,))) is None, (
        "it doesn't fit a vector"
    )
    assert expected_distribution(schemes.Normal(), schemes.whole_slot("w", (0, 4))) is None


def test_neighbours_are_of_the_role_and_from_the_nearest_layers():
    def candidate(name: str, role: str, at: int) -> Candidate:
        return Candidate(name, role, Box((0,), (1,)), 1, at)

    kept = [candidate(f"h.{layer}.{part}", part, 2 * layer + at) for layer in range(6) for at, part in enumerate("ab")]
    assert [found.name for found in nearest_neighbours(candidate("h.3.a", "a", 99), kept)] == [
        "h.3.a",
        "h.4.a",
        "h.2.a",
    ]
    assert [found.name for found in nearest_neighbours(candidate("head", "b", 99), kept)] == ["h.5.b", "h.4.b", "h.3.b"]
    assert nearest_neighbours(candidate("head", "c", 99), kept) == []
    assert name_pattern("h.3.a2") == "h.*.a2"


# Pictures


def test_a_histogram_is_a_density_with_what_it_leaves_out():
    normal = np.random.default_rng(0).normal(size=4096) * 0.02
    sample = np.concatenate([normal, [50.0], np.zeros(1000)])
    (trace,) = chart([("w", sample)]).traces
    width = trace.edges[1] - trace.edges[0]
    assert trace.spike is not None and trace.spike[0] == 0 and trace.spike[1] == pytest.approx(1000 / sample.size)
    shown = float((trace.heights * width).sum())
    assert shown + trace.outside / sample.size + trace.spike[1] == pytest.approx(1)
    assert trace.edges[-1] < 1, "one extreme value doesn't make a line of the rest"


@given(st.lists(st.sampled_from([0.0, 1.0, -1e-300, 5e-324, 1e300, -1e300, 0.02]), max_size=6), st.booleans())
def test_any_values_have_a_picture(values, beside):
    sample = np.array(values)
    drawn = picture("w", sample, None, [("near", np.ones(3))] if beside else [])
    assert np.isfinite(drawn.new.span).all() and drawn.new.span[0] < drawn.new.span[1]
    assert (drawn.neighbours is not None) == beside


def test_the_picture_of_a_drift_has_a_cell_for_each_layer_and_kind(tmp_path):
    kept = {f"m.layer.{k}.{kind}": np.full(3, k + 1, "float32") for k in range(3) for kind in ("weight", "bias")}
    moved = {**kept, "m.layer.1.weight": kept["m.layer.1.weight"] * 2, "head.weight": np.ones(2, "float32")}
    for name, tensors in (("base", kept), ("trained", moved)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    folders = tmp_path / "base", tmp_path / "trained"
    (grid,), (other,) = (grids(hf_init.drift(*folders, frozen=frozen).tensors) for frozen in ("kept", "none"))
    assert (grid.stack, grid.layers, {*grid.kinds}) == ("m.layer", (0, 1, 2), {"weight", "bias"})
    row = grid.kinds.index("weight")
    assert grid.relative[row].tolist() == [0, 1, 0] and other.state[row].tolist() == [STAYED, CHANGED, STAYED]
    assert grid.state[row].tolist() == [STAYED, FAILED, STAYED] and (grid.state[1 - row] == STAYED).all()
    assert [bar.label for bar in bars(hf_init.drift(*folders).tensors) if bar.new] == ["head.weight"]
