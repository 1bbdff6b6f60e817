"""Schemes that give every element its value alone: constants, uniform, normal and truncated normal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_init._errors import RecipeError
from hf_init._tensors import Slot
from hf_init.schemes._base import Scheme
from hf_init.schemes._distribution import Distribution, Part, mass, truncated_moments
from hf_init.schemes._settings import FLOAT32_MAX, Above0, AtLeast0, Finite, YesNo

if TYPE_CHECKING:
    import torch

__all__ = ["Constant", "Normal", "Ones", "TruncNormal", "TruncNormalAbsolute", "Uniform", "Zeros"]


@dataclass(frozen=True)
class Elementwise(Scheme):
    """A scheme whose elements are independent of each other, each from the one distribution that ``part`` is."""

    group: ClassVar[str] = "one spread"

    @property
    def part(self) -> Part:
        """Return the distribution of every element."""
        raise NotImplementedError(f"{type(self).__name__} has no part")

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        return _sample.independent(self.part, slot.shape, slot.generator())

    def distribution_of(self, slot: Slot) -> Distribution:
        return Distribution.of(self.part)

    def check_order(self, a: float, b: float) -> None:
        """Raise RecipeError unless ``a`` is below ``b``."""
        if not a < b:
            raise RecipeError(f"{self.name}: a is {a:g} and b is {b:g}, expected a below b")

    def check_mass(self, a: float, b: float) -> None:
        """Raise RecipeError if no normal value lies between these, in standard deviations."""
        if not mass(a, b) > 0:
            raise RecipeError(
                f"{self}: a normal has no measurable share between {a:g} and {b:g} standard deviations from its mean; "
                "widen a and b, or use uniform"
            )


@dataclass(frozen=True)
class Zeros(Elementwise):
    """Every element is 0.

    Formula: w = 0
    Use: Biases; the last projection of a new residual branch, weight and bias, so that the branch starts as nothing; a
        classification head whose first loss should be exactly that of guessing. Never two in a row on one path: both
        gradients would stay 0.
    Torch: torch.nn.init.zeros_
    Source: Goyal et al., Accurate, Large Minibatch SGD, 2017; Zhang et al., ControlNet, 2023, for branches.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Zeros()(schemes.whole_slot("head.bias", (3,)))
        tensor([0., 0., 0.])
    """

    name: ClassVar[str] = "zeros"
    group: ClassVar[str] = "constant"
    allows_integers: ClassVar[bool] = True

    @property
    def part(self) -> Part:
        return Part.constant(0.0)


@dataclass(frozen=True)
class Ones(Elementwise):
    """Every element is 1.

    Formula: w = 1
    Use: The scale of a LayerNorm, a BatchNorm or an RMSNorm that multiplies by w. Norms that multiply by 1 + w (Gemma)
        want zeros.
    Torch: torch.nn.init.ones_
    Source: Ioffe and Szegedy, Batch Normalization, 2015.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Ones()(schemes.whole_slot("norm.weight", (3,)))
        tensor([1., 1., 1.])
    """

    name: ClassVar[str] = "ones"
    group: ClassVar[str] = "constant"
    allows_integers: ClassVar[bool] = True

    @property
    def part(self) -> Part:
        return Part.constant(1.0)


@dataclass(frozen=True)
class Constant(Elementwise):
    """Every element is one value.

    Formula: w = val
    Use: A detection head's bias at -log((1 - p) / p) for a share p of positives; LayerScale at 1e-5; a gate.
    Torch: torch.nn.init.constant_
    Source: Lin et al., Focal Loss (RetinaNet), 2017; Touvron et al., Going deeper with Image Transformers, 2021.

    Args:
        val: the value.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Constant(0.5)(schemes.whole_slot("gate", (3,)))
        tensor([0.5000, 0.5000, 0.5000])
    """

    name: ClassVar[str] = "constant"
    group: ClassVar[str] = "constant"
    allows_integers: ClassVar[bool] = True
    val: Finite

    @property
    def part(self) -> Part:
        return Part.constant(self.val)


@dataclass(frozen=True)
class Uniform(Elementwise):
    """Uniform between two values.

    Formula: w ~ U(a, b)
    Use: Reproducing a published initialization; torch's own Linear bias is U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
    Torch: torch.nn.init.uniform_

    Args:
        a: lower end.
        b: upper end, above ``a``.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Uniform(-0.1, 0.1).moments(schemes.whole_slot("w", (3, 4)))
        (0.0, 0.05773502691896258)
    """

    name: ClassVar[str] = "uniform"
    a: Finite = 0.0
    b: Finite = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_order(self.a, self.b)
        if self.b - self.a > FLOAT32_MAX:
            raise RecipeError(
                f"{self}: b - a is {self.b - self.a:g}, expected at most float32's maximum {FLOAT32_MAX:g}"
            )

    @property
    def part(self) -> Part:
        return Part.uniform(self.a, self.b)


@dataclass(frozen=True)
class Normal(Elementwise):
    """Normal with one standard deviation.

    Formula: w ~ N(mean, std^2)
    Use: Heads and new layers of a pretrained transformer, with the std that its other layers were given (often 0.02);
        embeddings, with the std of the trained rows.
    Torch: torch.nn.init.normal_
    Source: Radford et al., Improving Language Understanding by Generative Pre-Training, 2018, for 0.02.

    Args:
        mean: its mean.
        std: its standard deviation.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.Normal(std=0.02)(schemes.whole_slot("head.weight", (100, 100)))
        >>> print(f"{values.std():.3f}")
        0.020
    """

    name: ClassVar[str] = "normal"
    mean: Finite = 0.0
    std: AtLeast0 = 1.0

    @property
    def part(self) -> Part:
        return Part.normal(self.mean, self.std)


@dataclass(frozen=True)
class TruncNormal(Elementwise):
    """Normal without its tails, cut in standard deviations.

    Truncation shrinks the spread: with the default bounds the values have 0.8796 ``std``. ``correct=True`` widens the
    normal, and the bounds with it, so that they have ``std``.

    Formula: w = mean + std * z, z ~ N(0, 1) given a <= z <= b; realised std 0.8796 std for a, b = -2, 2
    Use: As normal, where a rare large value would hurt; vision transformers and BERT.
    Torch: torch.nn.init.trunc_normal_, whose bounds are absolute
    Source: Robert, Simulation of truncated normal variables, 1995; Devlin et al., BERT, 2018.

    Args:
        mean: of the normal before it is cut.
        std: of the normal before it is cut.
        a: lower bound, in standard deviations from the mean.
        b: upper bound, in standard deviations from the mean; the normal must have mass between the two.
        correct: True: widen the normal so that the realised standard deviation is std.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.TruncNormal(std=0.02)(schemes.whole_slot("head.weight", (100, 100)))
        >>> bool(values.abs().max() <= 0.04)
        True
    """

    name: ClassVar[str] = "trunc_normal"
    aliases: ClassVar[tuple[str, ...]] = ("truncated_normal",)
    mean: Finite = 0.0
    std: AtLeast0 = 1.0
    a: Finite = -2.0
    b: Finite = 2.0
    correct: YesNo = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_order(self.a, self.b)
        self.check_mass(self.a, self.b)

    @property
    def part(self) -> Part:
        scale = self.std / truncated_moments(self.a, self.b)[1] if self.correct else self.std
        return Part.truncated(self.mean, scale, self.a, self.b)


@dataclass(frozen=True)
class TruncNormalAbsolute(Elementwise):
    """Normal without its tails, cut at values.

    Formula: w ~ N(mean, std^2) given a <= w <= b
    Use: Reproducing torch and timm; with std=0.02 the default bounds are at 100 std and cut nothing.
    Torch: torch.nn.init.trunc_normal_
    Source: Robert, Simulation of truncated normal variables, 1995.

    Args:
        mean: of the normal before it is cut.
        std: of the normal before it is cut.
        a: lower bound, a value.
        b: upper bound, a value; the normal must have mass between the two.

    Example:
        >>> from hf_init import schemes
        >>> scheme = schemes.TruncNormalAbsolute(std=0.02, a=-0.04, b=0.04)
        >>> print(f"{scheme.moments(schemes.whole_slot('w', (3, 4)))[1]:.5f}")
        0.01759
    """

    name: ClassVar[str] = "trunc_normal_absolute"
    mean: Finite = 0.0
    std: Above0 = 1.0
    a: Finite = -2.0
    b: Finite = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_order(self.a, self.b)
        self.check_mass(*self._relative)

    @property
    def _relative(self) -> tuple[float, float]:
        """Return the bounds in standard deviations from the mean."""
        return (self.a - self.mean) / self.std, (self.b - self.mean) / self.std

    @property
    def part(self) -> Part:
        return Part.truncated(self.mean, self.std, *self._relative)
