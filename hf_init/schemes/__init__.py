"""Every scheme by name. A scheme is a frozen value that is called with a slot: ``scheme(slot) -> tensor``, float32.

Importing this package doesn't import torch; drawing values does. ``hf_init.schemes.catalogue`` describes every scheme.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any

from hf_init._errors import RecipeError
from hf_init.schemes._base import Scheme, settings_of, whole_slot
from hf_init.schemes._classes import Etf, Fitted
from hf_init.schemes._elementwise import (
    Constant,
    Normal,
    Ones,
    ScaledResidual,
    TruncNormal,
    TruncNormalAbsolute,
    Uniform,
    Zeros,
)
from hf_init.schemes._fans import FanScheme as FanScheme
from hf_init.schemes._fans import (
    KaimingNormal,
    KaimingUniform,
    LecunNormal,
    LecunUniform,
    SmallXavier,
    VarianceScaling,
    XavierNormal,
    XavierUniform,
)
from hf_init.schemes._finish import finish
from hf_init.schemes._matrices import Fans, fans_of
from hf_init.schemes._matrices import block_shape as block_shape
from hf_init.schemes._matrices import centre as centre
from hf_init.schemes._matrices import geometry_of as geometry_of
from hf_init.schemes._matrices import matrix_blocks as matrix_blocks
from hf_init.schemes._prior import LogPrior
from hf_init.schemes._row_base import RowScheme as RowScheme
from hf_init.schemes._rows import BY_LENGTH as BY_LENGTH
from hf_init.schemes._rows import CopyRow, Description, Interpolate, SubTokens
from hf_init.schemes._rows_donor import Omp
from hf_init.schemes._rows_drawn import Gaussian, MeanRow
from hf_init.schemes._rows_given import FromFile, FromTensor
from hf_init.schemes._settings import GAINS, closest_name
from hf_init.schemes._settings import gain_of as gain_of
from hf_init.schemes._special import Auto, Declared, Embedding, GruBias, LstmBias, MatchedNormal, Model, Skip
from hf_init.schemes._structured import DeltaOrthogonal, Dirac, Eye, Orthogonal, Sparse
from hf_init.schemes._truncation import mass as mass
from hf_init.schemes._truncation import truncated_moments as truncated_moments

__all__ = [
    "ALIASES",
    "GAINS",
    "REGISTRY",
    "Auto",
    "Constant",
    "CopyRow",
    "Declared",
    "DeltaOrthogonal",
    "Description",
    "Dirac",
    "Embedding",
    "Etf",
    "Eye",
    "Fans",
    "Fitted",
    "FromFile",
    "FromTensor",
    "Gaussian",
    "GruBias",
    "Interpolate",
    "KaimingNormal",
    "KaimingUniform",
    "LecunNormal",
    "LecunUniform",
    "LogPrior",
    "LstmBias",
    "MatchedNormal",
    "MeanRow",
    "Model",
    "Normal",
    "Omp",
    "Ones",
    "Orthogonal",
    "ScaledResidual",
    "Scheme",
    "Skip",
    "SmallXavier",
    "Sparse",
    "SubTokens",
    "TruncNormal",
    "TruncNormalAbsolute",
    "Uniform",
    "VarianceScaling",
    "XavierNormal",
    "XavierUniform",
    "Zeros",
    "build",
    "fans_of",
    "find",
    "finish",
    "from_json",
    "whole_slot",
]

REGISTRY: dict[str, type[Scheme]] = {
    "zeros": Zeros,
    "ones": Ones,
    "constant": Constant,
    "uniform": Uniform,
    "normal": Normal,
    "trunc_normal": TruncNormal,
    "trunc_normal_absolute": TruncNormalAbsolute,
    "xavier_uniform": XavierUniform,
    "xavier_normal": XavierNormal,
    "small_xavier": SmallXavier,
    "kaiming_uniform": KaimingUniform,
    "kaiming_normal": KaimingNormal,
    "lecun_uniform": LecunUniform,
    "lecun_normal": LecunNormal,
    "variance_scaling": VarianceScaling,
    "orthogonal": Orthogonal,
    "delta_orthogonal": DeltaOrthogonal,
    "sparse": Sparse,
    "eye": Eye,
    "dirac": Dirac,
    "scaled_residual": ScaledResidual,
    "embedding": Embedding,
    "lstm_bias": LstmBias,
    "gru_bias": GruBias,
    "matched_normal": MatchedNormal,
    "model": Model,
    "declared": Declared,
    "auto": Auto,
    "skip": Skip,
    "log_prior": LogPrior,
    "etf": Etf,
    "fitted": Fitted,
    "mean": MeanRow,
    "gaussian": Gaussian,
    "subtokens": SubTokens,
    "description": Description,
    "copy": CopyRow,
    "interpolate": Interpolate,
    "from_file": FromFile,
    "from_tensor": FromTensor,
    "omp": Omp,
}

ALIASES: dict[str, str] = {
    "glorot_uniform": "xavier_uniform",
    "glorot_normal": "xavier_normal",
    "he_uniform": "kaiming_uniform",
    "he_normal": "kaiming_normal",
    "truncated_normal": "trunc_normal",
    "identity": "eye",
}


def find(name: Any) -> type[Scheme]:
    """The class of the scheme of this name, or of this alias.

    Raises:
        RecipeError: there is no such scheme; it names the closest and all.

    Example:
        >>> find("identity").__name__
        'Eye'
    """
    kind = REGISTRY.get(ALIASES.get(name, name)) if isinstance(name, str) else None
    if kind is None:
        near = closest_name(name, [*REGISTRY, *ALIASES])
        raise RecipeError(f"unknown scheme {name!r}{near}; schemes: {', '.join(REGISTRY)}")
    return kind


def build(name: str, settings: Mapping[str, Any] | None = None, /, **named: Any) -> Scheme:
    """The scheme of this name, or of this alias, with these settings.

    Raises:
        RecipeError: there is no such scheme or setting, one is missing, or a value can't be used.

    Example:
        >>> build("he_normal", mode="fan_out") == build("kaiming_normal", {"mode": "fan_out"})
        True
    """
    kind = find(name)
    given = {**(settings or {}), **named}
    if problems := _wrong_names(kind, given):
        known = ", ".join(settings_of(kind)) or "none"
        raise RecipeError(f"{kind.name}: {'; '.join(problems)}; its settings: {known}")
    return kind(**given)


def from_json(data: Any) -> Scheme:
    """The scheme that ``to_json`` wrote.

    Raises:
        RecipeError: it isn't ``{"name": ..., **settings}`` of a known scheme.

    Example:
        >>> from_json({"name": "normal", "mean": 0.0, "std": 0.02})
        Normal(mean=0.0, std=0.02)
    """
    if not isinstance(data, Mapping) or "name" not in data:
        raise RecipeError(f"a scheme is written as {{'name': ..., settings}}, seen {data!r}")
    return build(data["name"], {key: value for key, value in data.items() if key != "name"})


def _wrong_names(kind: type[Scheme], given: Mapping[str, Any]) -> list[str]:
    """What is wrong with the names of the settings, leaving their values to the scheme."""
    settings = settings_of(kind)
    unknown = [f"no setting {name!r}{closest_name(name, settings)}" for name in given if name not in settings]
    missing = [f"{name} is missing" for name, default in settings.items() if default is MISSING and name not in given]
    return unknown + missing
