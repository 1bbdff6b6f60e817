"""What the tests of schemes share: one of every scheme, slots by hand, and checks that are proved able to fail."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hf_init import schemes
from hf_init._tensors import Box as Box
from hf_init._tensors import Geometry as Geometry
from hf_init._tensors import Rows as Rows
from hf_init._tensors import Slot as Slot
from hf_init.schemes import RowScheme, Scheme, finish, whole_slot

SIGMAS = 5.0

# A source's table, a file of rows and a donor's table for the schemes that make whole rows.
FOLDER = tempfile.TemporaryDirectory(prefix="hf_init-rows-")
TABLE = torch.randn(9, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
np.save(f"{FOLDER.name}/rows.npy", np.linspace(-1, 1, 24, dtype="float32").reshape(4, 6))
save_file({"donor": torch.randn(10, 5, generator=torch.Generator().manual_seed(2))}, f"{FOLDER.name}/model.safetensors")
PIECES = ((0, 1), (2,), (3, 4, 5), (8, 8))

# One of every scheme that draws, with settings that are not its defaults where it has any.
SAMPLES: list[Scheme] = [
    schemes.Zeros(),
    schemes.Ones(),
    schemes.Constant(0.5),
    schemes.Uniform(-1.0, 0.5),
    schemes.Normal(0.5, 0.02),
    schemes.TruncNormal(0.5, 0.02, -1.0, 2.0, True),
    schemes.TruncNormalAbsolute(0.5, 2.0, -1.0, 2.0),
    schemes.XavierUniform("relu"),
    schemes.XavierNormal(0.5),
    schemes.KaimingUniform(0.1, "fan_out"),
    schemes.KaimingNormal(nonlinearity="gelu"),
    schemes.LecunUniform(),
    schemes.SmallXavier(),
    schemes.LecunNormal(),
    schemes.VarianceScaling(2.0, "fan_avg", "uniform"),
    schemes.Orthogonal(0.5),
    schemes.Sparse(0.25, 0.1),
    schemes.Eye(),
    schemes.ScaledResidual(12, 0.01),
    schemes.DeltaOrthogonal(0.5),
    schemes.Dirac(2),
    schemes.Embedding(2, 0.5),
    schemes.LstmBias(2.0),
    schemes.GruBias(0.5),
    schemes.LogPrior((3, 1, 4, 1, 5, 9, 2, 6)),
    schemes.MatchedNormal(0.5),
    schemes.Etf(2.0),
    schemes.Fitted("lda", "ab" * 32),
    schemes.Model(),
    schemes.Auto(),
    schemes.Declared(),
    schemes.Skip(),
    schemes.NearIdentity("shift", "table", "table"),
    schemes.Resample("linear", 1, 0, (8,), (7,), "table"),
    schemes.PiResize((2, 3), (3, 3), "patches"),
    schemes.MixChannels("repeat", "patches"),
    schemes.MeanOfGroups(2, 0, 2, "rows"),
    schemes.Repeat((2, 2), scale=0.5, table="rows"),
    schemes.MeanRow(0.5),
    schemes.Gaussian(2.0, "table", ((0, 3), (4, 9)), ("a", "b", "c", "d")),
    schemes.SubTokens("exp_first", 2.0, "median", "table", PIECES),
    schemes.Description("characters", table="table", pieces=PIECES, lengths=((3, 1), (2,), (1, 1, 4), (0, 0))),
    schemes.CopyRow("word", "table", (3,)),
    schemes.Interpolate(0.25, "slerp", ("one", "two"), "table", ((0, 1), (1, 2), (2, 2), (8, 0))),
    schemes.FromFile(f"{FOLDER.name}/rows.npy"),
    schemes.FromTensor(values=torch.linspace(-1, 1, 24).reshape(4, 6)),
    schemes.Distilled("exp_first", 2.0, "median", "table", PIECES, steps=3, data="ab" * 32),
    schemes.Omp(FOLDER.name, 3, "donor", "table", (9, 8, 7, 6), tuple((row, row) for row in range(6))),
]
DRAWN = [scheme for scheme in SAMPLES if scheme.name not in ("auto", "skip")]


def slot_for(scheme: Scheme, name: str = "layer.weight", dtype: str = "float32") -> Slot:
    """A slot that the scheme can fill."""
    if scheme.name in ("lstm_bias", "gru_bias"):
        return whole_slot("rnn.bias_ih_l0", (12,), dtype=dtype)
    if scheme.name == "log_prior":
        return whole_slot("head.bias", (8,), dtype=dtype)
    if scheme.name == "matched_normal":
        rows = Slot(name, Box((4, 0), (8, 6)), (8, 6), dtype)
        return replace(
            rows, trained=lambda: iter([torch.linspace(-1, 1, 24, device="cpu", dtype=torch.float32).reshape(4, 6)])
        )
    if isinstance(scheme, RowScheme):
        return row_slot((1, 7, 3, 4), name=name, dtype=dtype, context=Architecture())
    if scheme.group == "derived":
        shapes = {"near_identity": (8,), "resample": (7, 6), "pi_resize": (2, 4, 3, 3), "mean_of_groups": (4, 6)}
        shape = {**shapes, "repeat": (16, 12)}.get(scheme.name, (2, 8, 2, 3))
        held = {
            "table": TABLE,
            "rows": TABLE[:8],
            "patches": torch.linspace(-1, 1, 48, device="cpu").reshape(2, 4, 2, 3),
        }
        return replace(whole_slot(name, shape, dtype=dtype), source=held.__getitem__)
    if scheme.name == "etf":
        return whole_slot(name, (6, 8), dtype=dtype)
    shape = (8, 4, 3) if scheme.name in ("dirac", "delta_orthogonal") else (8, 6)
    return replace(whole_slot(name, shape, dtype=dtype), context=Architecture())


def row_slot(rows: tuple[int, ...], shape: tuple[int, ...] = (8, 6), table: torch.Tensor = TABLE, **facts: Any) -> Slot:
    """A slot of new rows, along the last dimension of a ``(1, V)`` tensor, else along the first.

    Its source has the one tensor "table", and its pretrained rows are the first half of that.
    """
    dim = int(len(shape) == 2 and shape[0] == 1)
    return Slot(
        region=Rows(dim, rows, shape),
        whole=shape,
        trained=lambda: iter([table.narrow(dim, 0, table.shape[dim] // 2)]),
        source={"table": table}.__getitem__,
        **{"name": "embed.weight", **facts},
    )


class Architecture:
    """A context whose architecture fills every tensor with a quarter."""

    def architecture(self, slot: Slot) -> torch.Tensor:
        return torch.full(slot.shape, 0.25)

    def declared(self, slot: Slot) -> torch.Tensor:
        return torch.full(slot.shape, 0.5, device="cpu")

    def given(self, slot: Slot) -> torch.Tensor | None:
        return torch.full(slot.shape, 0.125, device="cpu")


def by_name(kinds: list[Any]) -> pytest.MarkDecorator:
    """The test runs with each of these schemes."""
    return pytest.mark.parametrize("scheme", kinds, ids=lambda scheme: scheme.name)


def assert_same_on_any_number_of_threads(make: Callable[[], torch.Tensor]) -> None:
    """The bytes don't change, and the number of threads neither."""
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.append(make())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


def assert_moments(values: torch.Tensor, mean: float, std: float) -> None:
    """The sample's mean and standard deviation are within their sampling error of these.

    Of n independent values with a kurtosis of at most 3 (normal, truncated normal, uniform), the mean has the standard
    error ``std / sqrt(n)`` and the standard deviation at most ``std / sqrt(2 n)``. Rounding to the dtype moves each by
    at most half of its epsilon, relatively.
    """
    sample, slack = values.to(torch.float64), torch.finfo(values.dtype).eps * (abs(mean) + std)
    error = SIGMAS * std / math.sqrt(sample.numel())
    assert abs(float(sample.mean()) - mean) <= error + slack
    assert abs(float(sample.std()) - std) <= error / math.sqrt(2) + slack


def assert_distribution(scheme: Scheme, slot: Slot) -> None:
    """What the scheme gives, rounded to the slot's dtype, has the moments of the distribution that it states."""
    moments = scheme.moments(slot)
    assert moments is not None
    assert_moments(finish(scheme, slot), *moments)


def assert_same_distribution(first: torch.Tensor, second: torch.Tensor, level: float = 1e-5) -> None:
    """The two-sample Kolmogorov-Smirnov test doesn't tell them apart at this level."""
    a, b = (np.sort(values.to(torch.float64).numpy().ravel()) for values in (first, second))
    both = np.concatenate([a, b])
    shares = [np.searchsorted(side, both, side="right") / len(side) for side in (a, b)]
    distance = np.abs(shares[0] - shares[1]).max()
    assert distance <= math.sqrt(-math.log(level / 2) / 2 * (len(a) + len(b)) / (len(a) * len(b)))


def assert_orthogonal(matrix: torch.Tensor, gain: float = 1.0) -> None:
    """Its rows, or its columns if they are fewer, are orthonormal times the gain, to 1e-5."""
    fewer = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
    gram = fewer.to(torch.float64) @ fewer.to(torch.float64).t()
    torch.testing.assert_close(gram, gain**2 * torch.eye(len(fewer), dtype=torch.float64), atol=1e-5, rtol=0)


def assert_uncorrelated(first: torch.Tensor, second: torch.Tensor) -> None:
    """The sample correlation is within its sampling error, ``1 / sqrt(n)``, of 0."""
    correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).to(torch.float64))[0, 1]
    assert abs(float(correlation)) <= SIGMAS / math.sqrt(first.numel())
