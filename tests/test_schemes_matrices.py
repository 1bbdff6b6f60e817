"""Logical matrices: fans, orthogonality and spread go by the computation, not by the stored shape."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scheme_checks import Box, Geometry, Rows, Slot, assert_moments, assert_orthogonal

from hf_init import schemes
from hf_init.schemes import fans_of, whole_slot

# --- logical matrices ---

# Tensor, shape, its geometry, and the std that torch.nn.init reads off the shape over the one of the logical matrix,
# for Kaiming and for Xavier.


WRONG_IN_TORCH = {
    "Conv1D qkv": ((768, 2304), Geometry(768, 768, "in_out", parts=(768,) * 3), 0.577, 0.707),
    "Conv1D c_fc": ((768, 3072), Geometry(768, 3072, "in_out"), 0.500, 1.000),
    "Conv1D c_proj": ((3072, 768), Geometry(3072, 768, "in_out"), 2.000, 1.000),
    "Linear qkv": ((2304, 768), Geometry(768, 768, parts=(768,) * 3), 1.0, 0.707),
    "Linear gate_up": ((22016, 4096), Geometry(4096, 11008, parts=(11008,) * 2), 1.0, 0.761),
    "depthwise convolution": ((32, 1, 3, 3), Geometry(9, 9, groups=32), 1.0, 0.246),
    "grouped convolution": ((256, 64, 3, 3), Geometry(576, 576, groups=4), 1.0, 0.632),
    "transposed convolution": ((256, 64, 4, 4), Geometry(1024, 1024, "in_out"), 1.0, 0.632),
    "experts gate_up": ((8, 28672, 4096), Geometry(4096, 14336, stack=1, parts=(14336,) * 2), 0.006, 0.013),
    "experts down": ((8, 4096, 14336), Geometry(14336, 4096, stack=1), 0.016, 0.018),
    "experts stored in x out": ((32, 2880, 5760), Geometry(2880, 2880, "in_out", 1, (2880,) * 2), 0.013, 0.019),
    "LSTM hidden": ((4096, 1024), Geometry(1024, 1024, parts=(1024,) * 4), 1.0, 0.632),
}


def torch_fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """What torch.nn.init reads off a shape."""
    return torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape, device="meta"))


@pytest.mark.parametrize("tensor", WRONG_IN_TORCH)
def test_fans_are_the_logical_ones_where_torch_s_are_wrong(tensor):
    shape, geometry, kaiming, xavier = WRONG_IN_TORCH[tensor]
    slot = whole_slot(tensor, shape, geometry=geometry)
    fan_in, fan_out = torch_fans(shape)
    _, std = schemes.KaimingNormal().moments(slot)
    assert math.sqrt(2 / fan_in) / std == pytest.approx(kaiming, abs=6e-4)
    _, std = schemes.XavierNormal().moments(slot)
    assert math.sqrt(2 / (fan_in + fan_out)) / std == pytest.approx(xavier, abs=6e-4)


SMALL = {
    "Conv1D qkv": ((48, 144), Geometry(48, 48, "in_out", parts=(48,) * 3), (48, 48)),
    "Conv1D c_fc": ((48, 192), Geometry(48, 192, "in_out"), (48, 192)),
    "Conv1D c_proj": ((192, 48), Geometry(192, 48, "in_out"), (192, 48)),
    "Linear qkv": ((144, 48), Geometry(48, 48, parts=(48,) * 3), (48, 48)),
    "Linear gate_up": ((172, 64), Geometry(64, 86, parts=(86,) * 2), (64, 86)),
    "depthwise convolution": ((512, 1, 3, 3), Geometry(9, 9, groups=512), (9, 9)),
    "grouped convolution": ((64, 16, 3, 3), Geometry(144, 144, groups=4), (144, 144)),
    "transposed convolution": ((64, 16, 4, 4), Geometry(256, 256, "in_out"), (256, 256)),
    "experts gate_up": ((8, 112, 16), Geometry(16, 56, stack=1, parts=(56,) * 2), (16, 56)),
    "experts down": ((8, 16, 56), Geometry(56, 16, stack=1), (56, 16)),
    "experts stored in x out": ((8, 32, 64), Geometry(32, 32, "in_out", 1, (32,) * 2), (32, 32)),
    "LSTM hidden": ((128, 32), Geometry(32, 32, parts=(32,) * 4), (32, 32)),
    "a shape without geometry": ((32, 16, 3, 3), None, (144, 288)),
}


@pytest.mark.parametrize("tensor", SMALL)
def test_realised_std_is_that_of_the_logical_matrix(tensor):
    shape, geometry, (fan_in, fan_out) = SMALL[tensor]
    slot = whole_slot(tensor, shape, geometry=geometry)
    for scheme in (schemes.KaimingNormal(), schemes.KaimingUniform()):
        assert_moments(scheme(slot), 0.0, math.sqrt(2 / fan_in))
    for scheme in (schemes.XavierNormal(), schemes.XavierUniform()):
        assert_moments(scheme(slot), 0.0, math.sqrt(2 / (fan_in + fan_out)))
    assert_moments(schemes.LecunNormal()(slot), 0.0, math.sqrt(1 / fan_in))


@pytest.mark.parametrize("order", ["out_in", "in_out"])
@pytest.mark.parametrize("stack", [0, 1])
@pytest.mark.parametrize(
    "scheme", [schemes.XavierNormal(), schemes.XavierUniform(), schemes.VarianceScaling(2.0, "fan_out")], ids=str
)
def test_unequal_parts_have_a_spread_each(scheme, order, stack):
    parts = (96, 24, 24)
    geometry = Geometry(100, None, order, stack, parts)
    shape = (*(3,) * stack, *((144, 100) if order == "out_in" else (100, 144)))
    values = scheme(whole_slot("qkv", shape, geometry=geometry))
    for part, piece in zip(parts, values.split(parts, dim=-2 if order == "out_in" else -1), strict=True):
        fan = {"xavier_normal": 50 + part / 2, "xavier_uniform": 50 + part / 2, "variance_scaling": part / 2}[
            scheme.name
        ]
        assert_moments(piece, 0.0, math.sqrt(1 / fan))


def test_a_kernel_counts_to_the_fan_of_a_part():
    geometry = Geometry(36, None, parts=(6, 2))
    fans = fans_of(whole_slot("conv", (8, 4, 3, 3), geometry=geometry))
    assert [(each.fan_in, each.fan_out) for each in fans] == [(36, 54), (36, 18)]


def test_a_vector_with_a_geometry_has_fans():
    slot = whole_slot("linear.bias", (4096,), geometry=Geometry(64, 4096))
    assert_moments(schemes.LecunUniform()(slot), 0.0, 1 / 8)


# Layout, and how its logical matrices are cut from the stored tensor by hand.


MATRICES = {
    "plain": ((6, 9), None, lambda w: [w]),
    "tall": ((9, 6), None, lambda w: [w]),
    "in x out": ((6, 9), Geometry(6, 9, "in_out"), lambda w: [w.t()]),
    "fused": ((12, 5), Geometry(5, None, parts=(6, 4, 2)), lambda w: w.split((6, 4, 2))),
    "fused in x out": ((5, 12), Geometry(5, None, "in_out", parts=(6, 6)), lambda w: w.t().split((6, 6))),
    "gates": ((16, 4), Geometry(4, 4, parts=(4,) * 4), lambda w: w.split(4)),
    "experts": ((3, 6, 5), Geometry(5, 6, stack=1), lambda w: [*w]),
    "fused experts in x out": (
        (3, 5, 8),
        Geometry(5, 4, "in_out", 1, (4, 4)),
        lambda w: [part for expert in w for part in expert.t().split(4)],
    ),
    "convolution": ((6, 4, 3, 3), None, lambda w: [w.reshape(6, 36)]),
    "grouped": ((8, 2, 3), Geometry(6, 12, groups=2), lambda w: [part.reshape(4, 6) for part in w.split(4)]),
    "depthwise": ((5, 1, 3, 3), Geometry(9, 9, groups=5), lambda w: [row.reshape(1, 9) for row in w]),
    "grouped transposed": (
        (8, 3, 2),
        Geometry(8, 6, "in_out", groups=2),
        lambda w: [part.transpose(0, 1).reshape(3, 8) for part in w.split(4)],
    ),
}


@pytest.mark.parametrize("layout", MATRICES)
def test_each_logical_matrix_is_orthogonal(layout):
    shape, geometry, matrices = MATRICES[layout]
    slot = whole_slot(layout, shape, geometry=geometry)
    values = schemes.Orthogonal(0.5)(slot)
    assert values.is_contiguous()
    for matrix in matrices(values):
        assert_orthogonal(matrix, 0.5)
    _, std = schemes.Orthogonal(0.5).moments(slot)
    assert float(values.pow(2).mean()) == pytest.approx(std**2, rel=1e-5)


FLAT = ["plain", "tall", "in x out", "fused", "fused in x out", "gates", "experts", "fused experts in x out"]


@pytest.mark.parametrize("layout", FLAT)
@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.4, 1.0])
def test_each_column_of_a_logical_matrix_has_its_zeros(layout, sparsity):
    shape, geometry, matrices = MATRICES[layout]
    for matrix in matrices(schemes.Sparse(sparsity)(whole_slot(layout, shape, geometry=geometry))):
        assert ((matrix == 0).sum(0) == math.ceil(sparsity * matrix.shape[0])).all()


@pytest.mark.parametrize("layout", FLAT)
def test_each_logical_matrix_is_an_identity(layout):
    shape, geometry, matrices = MATRICES[layout]
    for matrix in matrices(schemes.Eye()(whole_slot(layout, shape, geometry=geometry))):
        assert torch.equal(matrix, torch.eye(*matrix.shape))


@pytest.mark.parametrize("shape", [(6, 4, 3), (4, 6, 3, 5), (4, 4, 2, 3, 4), (6, 2, 1, 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_dirac_is_torch_s(shape, groups):
    expected = torch.nn.init.dirac_(torch.empty(shape), groups)
    assert torch.equal(schemes.Dirac(groups)(whole_slot("conv", shape)), expected)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (4, 4), (1, 3)])
def test_eye_is_torch_s(shape):
    assert torch.equal(schemes.Eye()(whole_slot("w", shape)), torch.nn.init.eye_(torch.empty(shape)))


def test_dirac_passes_a_signal_through_every_convolution():
    x = torch.randn(1, 6, 7, 7, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.conv2d(x, schemes.Dirac()(whole_slot("conv", (6, 6, 3, 3))), padding=1)
    slot = whole_slot("conv", (6, 2, 3, 3), geometry=Geometry(18, 18, groups=3))
    grouped = torch.nn.functional.conv2d(x, schemes.Dirac()(slot), padding=1, groups=3)
    slot = whole_slot("conv", (6, 2, 3, 3), geometry=Geometry(18, 18, "in_out", groups=3))
    transposed = torch.nn.functional.conv_transpose2d(x, schemes.Dirac()(slot), padding=1, groups=3)
    assert torch.equal(plain, x) and torch.equal(grouped, x) and torch.equal(transposed, x)


@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((6, 4, 3, 3), None),
        ((6, 4, 5), None),
        ((4, 6, 3), Geometry(12, 18, "in_out")),
        ((8, 2, 3), Geometry(6, 12, groups=2)),
    ],
)
def test_delta_orthogonal_is_orthogonal_at_the_centre_and_zero_around(shape, geometry):
    values = schemes.DeltaOrthogonal(2.0)(whole_slot("conv", shape, geometry=geometry))
    middle = (..., *(size // 2 for size in shape[2:]))
    centre = values[middle].t() if geometry and geometry.order == "in_out" else values[middle]
    for matrix in centre.split(centre.shape[0] // (geometry.groups if geometry else 1)):
        assert_orthogonal(matrix, 2.0)
    assert int((values != 0).sum()) == centre.numel()


def test_orthogonal_matrices_are_spread_evenly():
    """Without the sign correction of the QR factors, the diagonal's mean would be far from 0."""
    stack = schemes.Orthogonal()(whole_slot("w", (4000, 2, 2), geometry=Geometry(2, 2, stack=1)))
    assert abs(float(stack.diagonal(dim1=1, dim2=2).mean())) < 5 * math.sqrt(0.5 / 8000) * 2
    assert abs(float(torch.det(stack).mean())) < 5 / math.sqrt(4000)


@pytest.mark.parametrize("order", ["out_in", "in_out"])
def test_new_rows_have_the_fans_of_the_whole(order):
    geometry = Geometry(400, 600, order)
    whole = (600, 400) if order == "out_in" else (400, 600)
    region = Box((590, 0), whole) if order == "out_in" else Box((0, 590), whole)
    slot = Slot("head.weight", region, whole, geometry=geometry)
    assert_moments(schemes.KaimingNormal()(slot), 0.0, math.sqrt(2 / 400))
    assert_moments(schemes.XavierUniform()(slot), 0.0, math.sqrt(2 / 1000))
    assert schemes.XavierNormal().moments(slot) == (0.0, math.sqrt(2 / 1000))


def test_new_rows_without_a_geometry_have_the_fans_of_the_whole():
    slot = Slot("head.weight", Rows(0, tuple(range(3, 600, 30)), (600, 400)), (600, 400))
    assert_moments(schemes.KaimingNormal()(slot), 0.0, math.sqrt(2 / 400))


@pytest.mark.parametrize("index", [(1, 2, 7, 9, 10), (9, 1, 10, 2), (0, 1, 2), (11,)])
def test_new_rows_of_fused_matrices_have_the_spread_of_their_own(index):
    geometry = Geometry(2000, None, parts=(8, 4))
    slot = Slot("qkv", Rows(0, index, (12, 2000)), (12, 2000), geometry=geometry)
    for row, values in zip(index, schemes.XavierUniform()(slot), strict=True):
        bound = math.sqrt(6 / (2000 + (8 if row < 8 else 4)))
        assert 0.99 * bound < float(values.abs().max()) <= bound * (1 + 1e-6)


def test_new_rows_of_fused_matrices_are_orthogonal_apart():
    slot = Slot("qkv", Box((6, 0), (12, 9)), (16, 9), geometry=Geometry(9, 8, parts=(8, 8)))
    values = schemes.Orthogonal()(slot)
    assert_orthogonal(values[:2])
    assert_orthogonal(values[2:])
    assert float((values[:2] @ values[2:].t()).abs().max()) > 1e-3


geometries = st.sampled_from(
    [
        ((8, 6), None),
        ((6, 8), Geometry(6, 8, "in_out")),
        ((9, 4), Geometry(4, None, parts=(4, 3, 2))),
        ((3, 4, 8), Geometry(4, 4, "in_out", 1, (4, 4))),
        ((6, 4, 3), Geometry(12, 18)),
        ((6, 2, 4), Geometry(8, 12, groups=3)),
        ((6, 2, 3), Geometry(18, 6, "in_out", groups=3)),
    ]
)


@st.composite
def regions(draw: st.DrawFn) -> tuple[Slot, Box | Rows]:
    """A slot that is a whole tensor, and a region of it."""
    shape, geometry = draw(geometries)
    slot = whole_slot("w", shape, geometry=geometry)
    if draw(st.booleans()):
        dim = draw(st.integers(0, len(shape) - 1))
        index = draw(st.lists(st.integers(0, shape[dim] - 1), unique=True, max_size=shape[dim]))
        return slot, Rows(dim, tuple(index), shape)
    corners = [sorted(draw(st.tuples(st.integers(0, size), st.integers(0, size)))) for size in shape]
    return slot, Box(tuple(low for low, _ in corners), tuple(high for _, high in corners))


def cut(values: torch.Tensor, region: Box | Rows) -> torch.Tensor:
    if isinstance(region, Rows):
        return values.index_select(region.dim, torch.tensor(region.index, dtype=torch.int64))
    return values[region.slices]


@hypothesis_settings(max_examples=80)
@given(regions())
def test_an_identity_s_region_is_the_region_of_the_identity(slot_and_region):
    slot, region = slot_and_region
    scheme = schemes.Dirac() if len(slot.whole) == 3 and not (slot.geometry and slot.geometry.stack) else schemes.Eye()
    assert torch.equal(scheme(replace(slot, region=region)), cut(scheme(slot), region))


@hypothesis_settings(max_examples=80)
@given(regions(), st.sampled_from([schemes.XavierNormal(), schemes.Orthogonal(), schemes.KaimingUniform()]))
def test_every_region_of_every_layout_can_be_drawn(slot_and_region, scheme):
    slot, region = slot_and_region
    values = scheme(replace(slot, region=region))
    assert (
        values.shape == replace(slot, region=region).shape and values.is_contiguous() and bool(values.isfinite().all())
    )
    assert not values.numel() or bool((values != 0).any())


@hypothesis_settings(max_examples=60)
@given(regions())
def test_a_region_s_spread_is_that_of_its_place(slot_and_region):
    """The promised variances of a tensor's rows, one by one, average to the promise for the rows together."""
    slot, region = slot_and_region
    together = schemes.XavierNormal().moments(replace(slot, region=region))
    assume(isinstance(region, Box) and together is not None)
    rows = [
        Box((row, *region.start[1:]), (row + 1, *region.stop[1:])) for row in range(region.start[0], region.stop[0])
    ]
    variances = [schemes.XavierNormal().moments(replace(slot, region=row))[1] ** 2 for row in rows]
    assert together[1] ** 2 == pytest.approx(sum(variances) / len(variances))


@pytest.mark.parametrize("region", [Box((0, 0), (90, 60)), Box((40, 0), (90, 60)), Rows(0, (70, 50, 2), (90, 60))])
def test_a_padding_row_is_zero_wherever_it_is(region):
    slot = Slot("embed.weight", region, (90, 60), role="embedding.token")
    values = schemes.Embedding(padding=50, std=0.1)(slot)
    place = region.index.index(50) if isinstance(region, Rows) else 50 - region.start[0]
    assert [place] == (values == 0).all(1).nonzero().flatten().tolist()
    assert_moments(torch.cat([values[:place], values[place + 1 :]]), 0.0, 0.1)
    assert float(values.pow(2).mean()) == pytest.approx(schemes.Embedding(50, 0.1).moments(slot)[1] ** 2, rel=0.2)
