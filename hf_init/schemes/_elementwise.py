"""Schemes that give every element its value alone: constants, uniform, normal and truncated normal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_init._errors import RecipeError
from hf_init._tensors import Slot
from hf_init.schemes._base import Scheme
from hf_init.schemes._settings import FLOAT32_MAX, Above0, AtLeast0, Layers, Plain, YesNo
from hf_init.schemes._truncation import mass, truncated_moments

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Constant(Scheme):
    """Every element is ``val``.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Constant(0.5)(schemes.whole_slot("gate", (3,)))
        tensor([0.5000, 0.5000, 0.5000])
    """

    name: ClassVar[str] = "constant"
    allows_integers: ClassVar[bool] = True
    val: Plain

    def draw(self, slot: Slot) -> torch.Tensor:
        return _full(slot, self.val)

    def moments(self, slot: Slot) -> tuple[float, float]:
        return self.val, 0.0


@dataclass(frozen=True)
class Zeros(Scheme):
    """Every element is 0.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Zeros()(schemes.whole_slot("head.bias", (3,)))
        tensor([0., 0., 0.])
    """

    name: ClassVar[str] = "zeros"
    allows_integers: ClassVar[bool] = True

    def draw(self, slot: Slot) -> torch.Tensor:
        return _full(slot, 0.0)

    def moments(self, slot: Slot) -> tuple[float, float]:
        return 0.0, 0.0


@dataclass(frozen=True)
class Ones(Scheme):
    """Every element is 1.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Ones()(schemes.whole_slot("norm.weight", (3,)))
        tensor([1., 1., 1.])
    """

    name: ClassVar[str] = "ones"
    allows_integers: ClassVar[bool] = True

    def draw(self, slot: Slot) -> torch.Tensor:
        return _full(slot, 1.0)

    def moments(self, slot: Slot) -> tuple[float, float]:
        return 1.0, 0.0


@dataclass(frozen=True)
class Uniform(Scheme):
    """Uniform between ``a`` and ``b``: torch.nn.init.uniform_.

    Raises:
        RecipeError: ``a`` isn't below ``b``.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Uniform(-0.1, 0.1).moments(schemes.whole_slot("w", (3, 4)))
        (0.0, 0.05773502691896258)
    """

    name: ClassVar[str] = "uniform"
    a: Plain = 0.0
    b: Plain = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_disorder(self, self.a, self.b)
        if self.b - self.a > FLOAT32_MAX:
            raise RecipeError(
                f"{self}: b - a is {self.b - self.a:g}, expected at most float32's maximum {FLOAT32_MAX:g}"
            )

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        return _sample.uniform(slot.shape, self.a, self.b, slot.generator())

    def moments(self, slot: Slot) -> tuple[float, float]:
        return (self.a + self.b) / 2, (self.b - self.a) / math.sqrt(12)


@dataclass(frozen=True)
class Normal(Scheme):
    """Normal with this mean and standard deviation: torch.nn.init.normal_.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.Normal(std=0.02)(schemes.whole_slot("head.weight", (100, 100)))
        >>> print(f"{values.std():.3f}")
        0.020
    """

    name: ClassVar[str] = "normal"
    mean: Plain = 0.0
    std: AtLeast0 = 1.0

    def draw(self, slot: Slot) -> torch.Tensor:
        return _normal(slot, self.mean, self.std)

    def moments(self, slot: Slot) -> tuple[float, float]:
        return self.mean, self.std


@dataclass(frozen=True)
class ScaledResidual(Scheme):
    """Normal with standard deviation ``std / sqrt(2 layers)``, for the last projection of a residual branch.

    ``layers`` counts all blocks of the extended model, each with two branches that add to the stream.

    Example:
        >>> from hf_init import schemes
        >>> schemes.ScaledResidual(layers=8).moments(schemes.whole_slot("c_proj.weight", (4, 4)))
        (0.0, 0.005)

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019.
    """

    name: ClassVar[str] = "scaled_residual"
    layers: Layers
    std: AtLeast0 = 0.02

    @property
    def scaled(self) -> float:
        """The standard deviation after scaling."""
        return self.std / math.sqrt(2 * self.layers)

    def draw(self, slot: Slot) -> torch.Tensor:
        return _normal(slot, 0.0, self.scaled)

    def moments(self, slot: Slot) -> tuple[float, float]:
        return 0.0, self.scaled


@dataclass(frozen=True)
class TruncNormal(Scheme):
    """Normal, redrawn outside of ``[a, b]`` standard deviations from the mean.

    Truncation shrinks the spread: with the default bounds the values have 0.8796 ``std``. ``correct=True`` widens the
    normal, and the bounds with it, so that they have ``std``.

    Raises:
        RecipeError: ``a`` isn't below ``b``, or the normal has no mass between them.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.TruncNormal(std=0.02)(schemes.whole_slot("head.weight", (100, 100)))
        >>> bool(values.abs().max() <= 0.04)
        True

    Source: Robert, "Simulation of truncated normal variables", 1995; Devlin et al., "BERT", 2018, for its use.
    """

    name: ClassVar[str] = "trunc_normal"
    mean: Plain = 0.0
    std: AtLeast0 = 1.0
    a: Plain = -2.0
    b: Plain = 2.0
    correct: YesNo = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_disorder(self, self.a, self.b)
        _check_massless(self, self.a, self.b)

    @property
    def scale(self) -> float:
        """The standard deviation of the normal that is truncated."""
        return self.std / truncated_moments(self.a, self.b)[1] if self.correct else self.std

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        return _sample.truncated(slot.shape, self.a, self.b, slot.generator(), self.mean, self.scale)

    def moments(self, slot: Slot) -> tuple[float, float]:
        mean, std = truncated_moments(self.a, self.b)
        return self.mean + self.scale * mean, self.scale * std


@dataclass(frozen=True)
class TruncNormalAbsolute(Scheme):
    """Normal, redrawn outside of the values ``a`` and ``b``: the bounds of torch.nn.init.trunc_normal_.

    With ``std=0.02`` the default bounds are at a hundred standard deviations and cut nothing;
    ``trunc_normal``'s cut at two.

    Raises:
        RecipeError: ``a`` isn't below ``b``, or the normal has no mass between them.

    Example:
        >>> from hf_init import schemes
        >>> scheme = schemes.TruncNormalAbsolute(std=0.02, a=-0.04, b=0.04)
        >>> print(f"{scheme.moments(schemes.whole_slot('w', (3, 4)))[1]:.5f}")
        0.01759
    """

    name: ClassVar[str] = "trunc_normal_absolute"
    mean: Plain = 0.0
    std: Above0 = 1.0
    a: Plain = -2.0
    b: Plain = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_disorder(self, self.a, self.b)
        _check_massless(self, *self.relative)

    @property
    def relative(self) -> tuple[float, float]:
        """The bounds in standard deviations from the mean."""
        return (self.a - self.mean) / self.std, (self.b - self.mean) / self.std

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        return _sample.truncated(slot.shape, *self.relative, slot.generator(), self.mean, self.std)

    def moments(self, slot: Slot) -> tuple[float, float]:
        mean, std = truncated_moments(*self.relative)
        return self.mean + self.std * mean, self.std * std


def _full(slot: Slot, value: float) -> torch.Tensor:
    from hf_init.schemes import _sample

    return _sample.full_values(slot.shape, value)


def _normal(slot: Slot, mean: float, std: float) -> torch.Tensor:
    from hf_init.schemes import _sample

    return _sample.normal(slot.shape, mean, std, slot.generator())


def _check_disorder(scheme: Scheme, a: float, b: float) -> None:
    if not a < b:
        raise RecipeError(f"{scheme.name}: a is {a:g} and b is {b:g}, expected a below b")


def _check_massless(scheme: Scheme, a: float, b: float) -> None:
    if not mass(a, b) > 0:
        raise RecipeError(
            f"{scheme}: a normal has no measurable share between {a:g} and {b:g} standard deviations from its mean; "
            "widen a and b, or use uniform"
        )
