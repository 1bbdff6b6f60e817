"""Schemes whose spread follows from a matrix's fans: Xavier, Kaiming, LeCun and the general variance scaling.

All are one computation: a distribution around 0 and a standard deviation for each logical matrix (``std_for``).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_init._errors import RecipeError
from hf_init._tensors import Slot, num_elements
from hf_init.schemes._base import Scheme
from hf_init.schemes._distribution import UNIT_SCALE, Distribution, Part
from hf_init.schemes._matrices import Fans, fans_of, geometry_of, misfit, out_axis
from hf_init.schemes._settings import GAINS, Above0, Activation, FanInOrOut, FanMode, Finite, Gain, Spread, gain_of

if TYPE_CHECKING:
    import torch

__all__ = [
    "KaimingNormal",
    "KaimingUniform",
    "LecunNormal",
    "LecunUniform",
    "SmallXavier",
    "VarianceScaling",
    "XavierNormal",
    "XavierUniform",
]


@dataclass(frozen=True)
class FanScheme(Scheme):
    """A scheme that reads fans: each logical matrix has a standard deviation of its own.

    Raises:
        RecipeError: the tensor has no fans, or is an embedding.
    """

    group: ClassVar[str] = "by fans"
    family: ClassVar[str] = "normal"

    @property
    def drawn_from(self) -> str:
        """Return ``"normal"``, ``"uniform"`` or ``"truncated_normal"``."""
        return self.family

    def std_for(self, fans: Fans) -> float:
        """Return the standard deviation of the elements of a matrix with these fans."""
        raise NotImplementedError(f"{type(self).__name__} has no std_for()")

    def unsupported_reason(self, slot: Slot) -> str:
        if slot.role.partition(".")[0] == "embedding":
            return (
                "fans have no meaning for an embedding, whose rows are read one at a time: "
                "use normal(std=...), with the std of its trained rows"
            )
        if slot.geometry is None and len(slot.whole) < 2:
            return "fans need a matrix, of 2 dimensions or more: use zeros, ones, uniform or normal"
        if reason := misfit(slot):
            return reason
        # Fans of 0 belong to tensors without elements; in another they can't be divided by.
        if num_elements(slot.shape) and any(fans.fan_in <= 0 or fans.fan_out <= 0 for fans in fans_of(slot)):
            return f"its geometry has a fan of 0 ({geometry_of(slot)}): use zeros or normal"
        return ""

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        if not num_elements(slot.shape):
            return _sample.empty_values(slot.shape)
        fans = fans_of(slot)
        scales = [self.std_for(each) * UNIT_SCALE[self.drawn_from] for each in fans]
        if len(set(scales)) == 1:
            return _sample.spread(self.drawn_from, slot.shape, scales[0], slot.generator())
        values = _sample.spread(self.drawn_from, slot.shape, 1.0, slot.generator())
        rows = values.transpose(0, out_axis(slot, geometry_of(slot)))
        for each, scale in zip(fans, scales, strict=True):
            rows[each.rows.at] *= scale
        return values

    def distribution_of(self, slot: Slot) -> Distribution | None:
        if not num_elements(slot.shape):
            return None
        rows: Counter[float] = Counter()
        for fans in fans_of(slot):
            rows[self.std_for(fans)] += len(fans.rows.inside)
        total = sum(rows.values())
        return Distribution.of(*(Part.around_zero(self.drawn_from, std, n / total) for std, n in rows.items()))


def _fan(fans: Fans, mode: str) -> float:
    return {"fan_in": fans.fan_in, "fan_out": fans.fan_out, "fan_avg": (fans.fan_in + fans.fan_out) / 2}[mode]


@dataclass(frozen=True)
class Xavier(FanScheme):
    """What the two Xavier schemes share: variance ``gain^2 * 2 / (fan_in + fan_out)``.

    Args:
        gain: factor on the spread: a number, or an activation's name (tanh 5/3; relu, gelu, silu sqrt(2); linear 1).
    """

    gain: Gain = 1.0

    def std_for(self, fans: Fans) -> float:
        return gain_of(self.gain) * math.sqrt(2.0 / (fans.fan_in + fans.fan_out))


@dataclass(frozen=True)
class XavierUniform(Xavier):
    """Uniform, balancing the scale of signals and of gradients.

    Formula: w ~ U(-b, b), b = gain * sqrt(6 / (fan_in + fan_out))
    Use: Layers before tanh or sigmoid, and linear ones: the scale of signals and of gradients is kept. Attention
        projections: gain = 1/sqrt(dim) starts attention nearly even.
    Torch: torch.nn.init.xavier_uniform_
    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.XavierUniform(gain="tanh")(schemes.whole_slot("proj.weight", (50, 100)))
        >>> print(f"{values.abs().max():.3f}")
        0.333
    """

    name: ClassVar[str] = "xavier_uniform"
    aliases: ClassVar[tuple[str, ...]] = ("glorot_uniform",)
    family: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class XavierNormal(Xavier):
    """Normal, balancing the scale of signals and of gradients.

    Formula: w ~ N(0, s^2), s = gain * sqrt(2 / (fan_in + fan_out))
    Use: Layers before tanh or sigmoid, and linear ones: the scale of signals and of gradients is kept.
    Torch: torch.nn.init.xavier_normal_
    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010.

    Example:
        >>> from hf_init import schemes
        >>> schemes.XavierNormal().moments(schemes.whole_slot("proj.weight", (50, 150)))
        (0.0, 0.1)
    """

    name: ClassVar[str] = "xavier_normal"
    aliases: ClassVar[tuple[str, ...]] = ("glorot_normal",)


@dataclass(frozen=True)
class SmallXavier(FanScheme):
    """Xavier uniform with a gain of 1 / sqrt(fan_in).

    Formula: w ~ U(-b, b), b = sqrt(6 / ((fan_in + fan_out) fan_in))
    Use: Query, key and value projections, separate or fused, of a new attention: scores start almost 0, so attention
        starts almost even.
    Torch: torch.nn.init.xavier_uniform_, with gain=1/sqrt(dim)
    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.SmallXavier()(schemes.whole_slot("q_proj.weight", (64, 64)))
        >>> print(f"{values.abs().max():.3f}")
        0.027
    """

    name: ClassVar[str] = "small_xavier"
    family: ClassVar[str] = "uniform"

    def std_for(self, fans: Fans) -> float:
        return math.sqrt(2.0 / (fans.fan_in + fans.fan_out) / fans.fan_in)


@dataclass(frozen=True)
class Kaiming(FanScheme):
    """What the two Kaiming schemes share: variance ``gain^2 / fan``, the gain being the nonlinearity's.

    Args:
        a: slope of leaky_relu below 0; 0 is relu.
        mode: fan_in keeps the signals' scale, fan_out the gradients'.
        nonlinearity: the activation that follows; its gain replaces leaky_relu's.
    """

    a: Finite = 0.0
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
        """Return ``sqrt(2 / (1 + a^2))`` for leaky_relu with slope ``a``, else the activation's."""
        return math.sqrt(2.0 / (1 + self.a**2)) if self.nonlinearity == "leaky_relu" else GAINS[self.nonlinearity]

    def std_for(self, fans: Fans) -> float:
        return self.gain / math.sqrt(_fan(fans, self.mode))


@dataclass(frozen=True)
class KaimingUniform(Kaiming):
    """Uniform, making up for what a rectifier cuts off.

    Formula: w ~ U(-b, b), b = gain * sqrt(3 / fan), gain = sqrt(2 / (1 + a^2)) for leaky_relu
    Use: Layers before relu and the like (gelu, silu): half of the signal is lost, and the factor 2 puts it back.
        torch's own Linear and convolution weights have a = sqrt(5), that is U(+-1/sqrt(fan_in)).
    Torch: torch.nn.init.kaiming_uniform_
    Source: He, Zhang, Ren and Sun, Delving Deep into Rectifiers, 2015.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.KaimingUniform()(schemes.whole_slot("conv.weight", (64, 6, 5, 5)))
        >>> print(f"{values.abs().max():.3f}")
        0.200
    """

    name: ClassVar[str] = "kaiming_uniform"
    aliases: ClassVar[tuple[str, ...]] = ("he_uniform",)
    family: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class KaimingNormal(Kaiming):
    """Normal, making up for what a rectifier cuts off.

    Formula: w ~ N(0, s^2), s = gain / sqrt(fan), gain = sqrt(2 / (1 + a^2)) for leaky_relu
    Use: Layers before relu and the like (gelu, silu): half of the signal is lost, and the factor 2 puts it back.
        Residual convolutions with batch norm take mode=fan_out.
    Torch: torch.nn.init.kaiming_normal_
    Source: He, Zhang, Ren and Sun, Delving Deep into Rectifiers, 2015.

    Example:
        >>> from hf_init import schemes
        >>> schemes.KaimingNormal(nonlinearity="linear").moments(schemes.whole_slot("proj.weight", (3, 16)))
        (0.0, 0.25)
    """

    name: ClassVar[str] = "kaiming_normal"
    aliases: ClassVar[tuple[str, ...]] = ("he_normal",)


@dataclass(frozen=True)
class Lecun(FanScheme):
    """What the two LeCun schemes share: variance ``1 / fan_in``."""

    def std_for(self, fans: Fans) -> float:
        return 1 / math.sqrt(fans.fan_in)


@dataclass(frozen=True)
class LecunUniform(Lecun):
    """Uniform, keeping the scale of signals.

    Formula: w ~ U(-b, b), b = sqrt(3 / fan_in)
    Use: Linear layers, and layers before selu.
    Source: LeCun, Bottou, Orr and Mueller, Efficient BackProp, 1998.

    Example:
        >>> from hf_init import schemes
        >>> schemes.LecunUniform().moments(schemes.whole_slot("proj.weight", (3, 16)))
        (0.0, 0.25)
    """

    name: ClassVar[str] = "lecun_uniform"
    family: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class LecunNormal(Lecun):
    """Truncated normal, keeping the scale of signals.

    Formula: w = s * z / 0.8796..., z ~ N(0, 1) given |z| <= 2, s = 1 / sqrt(fan_in)
    Use: Linear layers, and layers before selu; what Flax gives a Dense layer.
    Source: LeCun, Bottou, Orr and Mueller, Efficient BackProp, 1998; Klambauer et al., Self-Normalizing Neural
        Networks, 2017.

    Example:
        >>> from hf_init import schemes
        >>> schemes.LecunNormal().moments(schemes.whole_slot("proj.weight", (3, 16)))
        (0.0, 0.25)
    """

    name: ClassVar[str] = "lecun_normal"
    family: ClassVar[str] = "truncated_normal"


@dataclass(frozen=True)
class VarianceScaling(FanScheme):
    """Any variance that is a number over a fan.

    Formula: Var w = scale / fan; truncated_normal: w = s * z / 0.8796..., |z| <= 2; uniform: b = sqrt(3 scale / fan)
    Use: Reproducing TensorFlow, Keras and JAX, whose initializers are all cases of it.
    Source: TensorFlow, Keras and JAX (jax.nn.initializers.variance_scaling); He et al., 2015.

    Args:
        scale: the numerator: 1 LeCun and Xavier, 2 Kaiming.
        mode: the denominator: fan_in, fan_out, or their mean fan_avg.
        distribution: truncated_normal, normal or uniform.

    Example:
        >>> from hf_init import schemes
        >>> scheme = schemes.VarianceScaling(scale=2.0, mode="fan_avg", distribution="uniform")
        >>> scheme.moments(schemes.whole_slot("proj.weight", (3, 13)))
        (0.0, 0.5)
    """

    name: ClassVar[str] = "variance_scaling"
    scale: Above0 = 1.0
    mode: FanMode = "fan_in"
    distribution: Spread = "truncated_normal"

    @property
    def drawn_from(self) -> str:
        return self.distribution

    def std_for(self, fans: Fans) -> float:
        return math.sqrt(self.scale / _fan(fans, self.mode))
