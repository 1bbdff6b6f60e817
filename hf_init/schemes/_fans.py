"""Schemes whose spread follows from a matrix's fans: Xavier, Kaiming, LeCun and the general variance scaling.

All are one computation: a distribution around 0 and a standard deviation for each logical matrix (``std_for``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_init._errors import RecipeError
from hf_init._tensors import Slot, num_elements
from hf_init.schemes._base import Scheme
from hf_init.schemes._matrices import Fans, fans_of, geometry_of, misfit, out_axis
from hf_init.schemes._settings import GAINS, Above0, Activation, Distribution, FanInOrOut, FanMode, Gain, Plain, gain_of

if TYPE_CHECKING:
    import torch

# What gives a distribution the standard deviation 1: a uniform's bound, and the std of a normal that is then truncated
# at two of it (0.8796... is the standard deviation of a standard normal truncated to [-2, 2]).
_WIDTH = {"normal": 1.0, "uniform": math.sqrt(3.0), "truncated_normal": 1 / 0.87962566103423978}


@dataclass(frozen=True)
class FanScheme(Scheme):
    """A scheme that reads fans: each logical matrix has a standard deviation of its own."""

    family: ClassVar[str] = "normal"

    @property
    def drawn_from(self) -> str:
        """``"normal"``, ``"uniform"`` or ``"truncated_normal"``."""
        return self.family

    def std_for(self, fans: Fans) -> float:
        """The standard deviation of the elements of a matrix with these fans."""
        raise NotImplementedError(f"{type(self).__name__} has no std_for()")

    def unsupported_reason(self, slot: Slot) -> str:
        if slot.role.partition(".")[0] == "embedding":
            return (
                "fans have no meaning for an embedding, whose rows are read one at a time: "
                "use normal(std=...), with the std of its trained rows"
            )
        if slot.geometry is None and len(slot.whole) < 2:
            return "fans need a matrix, of 2 dimensions or more: use zeros, ones, uniform or normal"
        return misfit(slot) or _unfit_fans(slot)

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        if not num_elements(slot.shape):
            return _sample.empty_values(slot.shape)
        fans = fans_of(slot)
        scales = [self.std_for(each) * _WIDTH[self.drawn_from] for each in fans]
        if len(set(scales)) == 1:
            return _sample.spread(self.drawn_from, slot.shape, scales[0], slot.generator())
        values = _sample.spread(self.drawn_from, slot.shape, 1.0, slot.generator())
        rows = values.transpose(0, out_axis(slot, geometry_of(slot)))
        for each, scale in zip(fans, scales, strict=True):
            rows[each.rows.at] *= scale
        return values

    def moments(self, slot: Slot) -> tuple[float, float] | None:
        if not num_elements(slot.shape):
            return None
        return 0.0, math.sqrt(_mean([(len(each.rows.inside), self.std_for(each) ** 2) for each in fans_of(slot)]))


def _mean(weighted: list[tuple[int, float]]) -> float:
    return math.fsum(weight * value for weight, value in weighted) / sum(weight for weight, _ in weighted)


def _unfit_fans(slot: Slot) -> str:
    """Fans of 0 belong to tensors without elements; in another they can't be divided by."""
    if not num_elements(slot.shape) or all(fans.fan_in > 0 and fans.fan_out > 0 for fans in fans_of(slot)):
        return ""
    return f"its geometry has a fan of 0 ({geometry_of(slot)}): use zeros or normal"


def _fan(fans: Fans, mode: str) -> float:
    return {"fan_in": fans.fan_in, "fan_out": fans.fan_out, "fan_avg": (fans.fan_in + fans.fan_out) / 2}[mode]


@dataclass(frozen=True)
class Xavier(FanScheme):
    """What the two Xavier schemes share: variance ``gain^2 * 2 / (fan_in + fan_out)``."""

    gain: Gain = 1.0

    def std_for(self, fans: Fans) -> float:
        return gain_of(self.gain) * math.sqrt(2.0 / (fans.fan_in + fans.fan_out))


@dataclass(frozen=True)
class XavierUniform(Xavier):
    """Uniform within ``gain * sqrt(6 / (fan_in + fan_out))`` of 0 (Glorot): torch.nn.init.xavier_uniform_.

    Raises:
        RecipeError: the tensor has no fans, or is an embedding.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.XavierUniform(gain="tanh")(schemes.whole_slot("proj.weight", (50, 100)))
        >>> print(f"{values.abs().max():.3f}")
        0.333

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
    """

    name: ClassVar[str] = "xavier_uniform"
    family: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class SmallXavier(FanScheme):
    """Xavier uniform with the gain ``1 / sqrt(fan_in)``: query, key and value projections whose scores start almost 0.

    Raises:
        RecipeError: the tensor has no fans, or is an embedding.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.SmallXavier()(schemes.whole_slot("q_proj.weight", (64, 64)))
        >>> print(f"{values.abs().max():.3f}")
        0.027

    Source: the common practice of Xavier with a gain of 1/sqrt(dim) for attention; Glorot and Bengio, 2010.
    """

    name: ClassVar[str] = "small_xavier"
    family: ClassVar[str] = "uniform"

    def std_for(self, fans: Fans) -> float:
        return math.sqrt(2.0 / (fans.fan_in + fans.fan_out) / fans.fan_in)


@dataclass(frozen=True)
class XavierNormal(Xavier):
    """Normal with standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (Glorot): torch.nn.init.xavier_normal_.

    Raises:
        RecipeError: the tensor has no fans, or is an embedding.

    Example:
        >>> from hf_init import schemes
        >>> schemes.XavierNormal().moments(schemes.whole_slot("proj.weight", (50, 150)))
        (0.0, 0.1)

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
    """

    name: ClassVar[str] = "xavier_normal"


@dataclass(frozen=True)
class Kaiming(FanScheme):
    """What the two Kaiming schemes share: variance ``gain^2 / fan``, the gain being the nonlinearity's."""

    a: Plain = 0.0
    mode: FanInOrOut = "fan_in"
    nonlinearity: Activation = "leaky_relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.a and self.nonlinearity != "leaky_relu":
            raise RecipeError(
                f"{self.name}: a is {self.a:g}, the slope of leaky_relu, but nonlinearity is {self.nonlinearity}; "
                "leave one of the two out"
            )

    @property
    def gain(self) -> float:
        """``sqrt(2 / (1 + a^2))`` for leaky_relu with slope ``a``, else the activation's."""
        return math.sqrt(2.0 / (1 + self.a**2)) if self.nonlinearity == "leaky_relu" else GAINS[self.nonlinearity]

    def std_for(self, fans: Fans) -> float:
        return self.gain / math.sqrt(_fan(fans, self.mode))


@dataclass(frozen=True)
class KaimingUniform(Kaiming):
    """Uniform within ``gain * sqrt(3 / fan)`` of 0 (He): torch.nn.init.kaiming_uniform_.

    Raises:
        RecipeError: the tensor has no fans, or is an embedding.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.KaimingUniform()(schemes.whole_slot("conv.weight", (64, 6, 5, 5)))
        >>> print(f"{values.abs().max():.3f}")
        0.200

    Source: He et al., "Delving Deep into Rectifiers", 2015.
    """

    name: ClassVar[str] = "kaiming_uniform"
    family: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class KaimingNormal(Kaiming):
    """Normal with standard deviation ``gain / sqrt(fan)`` (He): torch.nn.init.kaiming_normal_.

    Raises:
        RecipeError: the tensor has no fans, or is an embedding.

    Example:
        >>> from hf_init import schemes
        >>> schemes.KaimingNormal(nonlinearity="linear").moments(schemes.whole_slot("proj.weight", (3, 16)))
        (0.0, 0.25)

    Source: He et al., "Delving Deep into Rectifiers", 2015.
    """

    name: ClassVar[str] = "kaiming_normal"


@dataclass(frozen=True)
class LecunNormal(FanScheme):
    """Truncated normal with standard deviation ``1 / sqrt(fan_in)``: what variance_scaling gives by default.

    Raises:
        RecipeError: the tensor has no fans, or is an embedding.

    Example:
        >>> from hf_init import schemes
        >>> schemes.LecunNormal().moments(schemes.whole_slot("proj.weight", (3, 16)))
        (0.0, 0.25)

    Source: LeCun et al., "Efficient BackProp", 1998; Klambauer et al., "Self-Normalizing Neural Networks", 2017.
    """

    name: ClassVar[str] = "lecun_normal"
    family: ClassVar[str] = "truncated_normal"

    def std_for(self, fans: Fans) -> float:
        return 1 / math.sqrt(fans.fan_in)


@dataclass(frozen=True)
class LecunUniform(LecunNormal):
    """Uniform within ``sqrt(3 / fan_in)`` of 0.

    Raises:
        RecipeError: the tensor has no fans, or is an embedding.

    Example:
        >>> from hf_init import schemes
        >>> schemes.LecunUniform().moments(schemes.whole_slot("proj.weight", (3, 16)))
        (0.0, 0.25)

    Source: LeCun et al., "Efficient BackProp", 1998.
    """

    name: ClassVar[str] = "lecun_uniform"
    family: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class VarianceScaling(FanScheme):
    """A distribution around 0 with variance ``scale / fan``: what Xavier, Kaiming and LeCun are cases of.

    Raises:
        RecipeError: the tensor has no fans, or is an embedding.

    Example:
        >>> from hf_init import schemes
        >>> scheme = schemes.VarianceScaling(scale=2.0, mode="fan_avg", distribution="uniform")
        >>> scheme.moments(schemes.whole_slot("proj.weight", (3, 13)))
        (0.0, 0.5)

    Source: as in TensorFlow, Keras and JAX; He et al., 2015 and Glorot and Bengio, 2010 for its cases.
    """

    name: ClassVar[str] = "variance_scaling"
    scale: Above0 = 1.0
    mode: FanMode = "fan_in"
    distribution: Distribution = "truncated_normal"

    @property
    def drawn_from(self) -> str:
        return self.distribution

    def std_for(self, fans: Fans) -> float:
        return math.sqrt(self.scale / _fan(fans, self.mode))
