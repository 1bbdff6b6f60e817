"""Tables of trained rows, and schemes that make new ones."""

from __future__ import annotations

import torch
from scheme_checks import FOLDER

from hf_init import schemes


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


INDEPENDENT = [
    schemes.MeanRow(0.1, "table"),
    schemes.Gaussian(1.0, "table"),
    schemes.SubTokens("exp_first", norm="median", table="table"),
    schemes.Omp(FOLDER.name, 3, "donor", "table", (), tuple((row, row) for row in range(6))),
]
