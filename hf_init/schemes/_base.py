"""What every scheme is: a frozen value with settings, called with a slot. No torch until a scheme is called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

from hf_init._errors import RecipeError
from hf_init._tensors import Box, Geometry, Shape, Slot

if TYPE_CHECKING:
    import torch

FLOATING = ("float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True)
class Scheme:
    """A rule that gives every element of a slot its value: ``scheme(slot) -> tensor``.

    The tensor is new, on the CPU, float32, contiguous and of ``slot.shape``. It depends on the settings and the slot
    alone: randomness comes from ``slot.generator()``, and torch's global generator is neither read nor advanced.
    Rounding to ``slot.dtype`` is done once, by ``finish``.

    Raises:
        RecipeError: when made, for a setting of a wrong type or value; when called, for a slot that doesn't allow it.
    """

    name: ClassVar[str] = ""
    # Whether a tensor of whole numbers or booleans can be filled: its values are exact.
    allows_integers: ClassVar[bool] = False
    # Whether the values come from the slot's context, which answers one call at a time.
    needs_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        problems = [text for setting in checks_of(type(self)) if (text := self._settle(setting))]
        if problems:
            raise RecipeError(f"{self.name}: {'; '.join(problems)}")

    def _settle(self, setting: str) -> str:
        """Put a setting into its canonical form; say what is wrong with it, if anything is."""
        value = getattr(self, setting)
        try:
            # The dataclass is frozen for its users; this is still its construction.
            object.__setattr__(self, setting, checks_of(type(self))[setting](value))
        except ValueError as expected:
            return f"{setting} is {value!r}, expected {expected}"
        return ""

    def __call__(self, slot: Slot) -> torch.Tensor:
        self.check(slot)
        return self.draw(slot)

    def check(self, slot: Slot) -> None:
        """Raise RecipeError if the slot can't be filled by this scheme; reads shapes only."""
        if slot.dtype not in FLOATING and not self.allows_integers:
            raise self.refusal(
                slot, f"its dtype is {slot.dtype}, which holds exact values: use zeros, ones or constant"
            )
        if why := self.unsupported_reason(slot):
            raise self.refusal(slot, why)

    def unsupported_reason(self, slot: Slot) -> str:
        """Why the slot's shape, role or place doesn't allow this scheme, and what to use; empty when it does."""
        return ""

    def draw(self, slot: Slot) -> torch.Tensor:
        """The values of a slot that ``check`` has passed."""
        raise NotImplementedError(f"{type(self).__name__} has no draw()")

    def moments(self, slot: Slot) -> tuple[float, float] | None:
        """Expected mean and standard deviation of the slot's elements; None where the scheme promises neither."""
        return None

    def refusal(self, slot: Slot, why: str) -> RecipeError:
        """The error that says which scheme can't fill which tensor, and why."""
        return RecipeError(f"{self} can't fill {slot.name!r} of shape {slot.whole}: {why}")

    def to_json(self) -> dict[str, Any]:
        """Name and all settings, as plain values."""
        return {"name": self.name, **{field.name: getattr(self, field.name) for field in fields(self)}}

    def __str__(self) -> str:
        shown = [
            f"{f.name}={format_scheme(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return f"{self.name}({', '.join(shown)})" if shown else self.name


@functools.cache
def checks_of(kind: type[Scheme]) -> dict[str, Callable[[Any], Any]]:
    """Each setting of a scheme's class with the check that its annotation carries."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in fields(kind)}


def settings_of(kind: type[Scheme]) -> dict[str, Any]:
    """Each setting of a scheme's class with its default; ``dataclasses.MISSING`` where it has none."""
    return {field.name: _default(field) for field in fields(kind)}


def _default(field: Field[Any]) -> Any:
    return MISSING if field.default is MISSING else field.default


def format_scheme(value: Any) -> str:
    """A setting's value as a recipe spells it."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else f"{value}"


def whole_slot(
    name: str,
    shape: Shape,
    *,
    dtype: str = "float32",
    seed: int = 0,
    parameter: str = "",
    role: str = "parameter",
    geometry: Geometry | None = None,
) -> Slot:
    """The slot that is a whole tensor of this shape.

    Example:
        >>> whole_slot("head.weight", (3, 4)).shape
        (3, 4)
    """
    return Slot(name, Box.whole(shape), tuple(shape), dtype, seed, parameter, role, geometry)
