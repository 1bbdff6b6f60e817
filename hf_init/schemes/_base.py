"""What every scheme is: a frozen value with settings, called with a slot. No torch until a scheme is called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, cast, get_type_hints

from hf_init._errors import RecipeError
from hf_init._tensors import Box, Geometry, Shape, Slot
from hf_init.schemes._distribution import Distribution

if TYPE_CHECKING:
    import torch

FLOATING = ("float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True)
class Scheme:
    """A rule that gives every element of a slot its value: ``scheme(slot) -> tensor``.

    The tensor is new, on the CPU, float32, contiguous and of ``slot.shape``. It depends on the settings and the slot
    alone: randomness comes from ``slot.generator()``, and torch's global generator is neither read nor advanced.
    Rounding to ``slot.dtype`` is done once, by ``finish``.

    A scheme's docstring is what the catalogue says about it: the idea in one line of at most 59 characters, then the
    sections ``Formula`` (``fan`` is that of the logical matrix, however it is stored), ``Use``, ``Torch`` (the function
    that it corresponds to), ``Source`` and ``Args`` (settings that a base class explains are found there).

    Raises:
        RecipeError: when made, for a setting of a wrong type or value; when called, for a slot that doesn't allow it.
    """

    name: ClassVar[str] = ""
    # Under which heading the catalogue lists it, and by which other names it is found.
    group: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    # Settings that a plan fills in from the tokenizer or the files; a recipe doesn't spell them.
    bound: ClassVar[tuple[str, ...]] = ()
    # Whether a tensor of whole numbers or booleans can be filled: its values are exact.
    allows_integers: ClassVar[bool] = False
    # Whether the values are the class's own, in their own dtype: no value that the slot's dtype holds is wrong.
    as_given: ClassVar[bool] = False
    # Whether the values come from the slot's context, which answers one call at a time.
    needs_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        problems: list[str] = []
        for setting, check in checks_of(type(self)).items():
            value: object = getattr(self, setting)
            try:
                # The dataclass is frozen for its users; this is still its construction.
                object.__setattr__(self, setting, check(value))
            except ValueError as expected:
                problems.append(f"{setting} is {value!r}, expected {expected}")
        if problems:
            raise RecipeError(f"{self.name}: {'; '.join(problems)}")

    def __call__(self, slot: Slot) -> torch.Tensor:
        self.check(slot)
        return self.draw(slot)

    def check(self, slot: Slot) -> None:
        """Raise RecipeError if the slot can't be filled by this scheme; reads shapes only."""
        if slot.dtype not in FLOATING and not self.allows_integers:
            raise self.refusal(
                slot, f"its dtype is {slot.dtype}, which holds exact values: use zeros, ones or constant"
            )
        if reason := self.unsupported_reason(slot):
            raise self.refusal(slot, reason)

    def unsupported_reason(self, slot: Slot) -> str:
        """Return why the slot's shape, role or place doesn't allow this scheme, and what to use; empty if it does."""
        return ""

    def draw(self, slot: Slot) -> torch.Tensor:
        """Return the values of a slot that ``check`` has passed."""
        raise NotImplementedError(f"{type(self).__name__} has no draw()")

    def distribution_of(self, slot: Slot) -> Distribution | None:
        """Return how the elements of a slot that ``check`` has passed are distributed; None where nothing is said.

        ``distribution`` is the name of a setting of ``variance_scaling``.
        """
        return None

    def moments(self, slot: Slot) -> tuple[float, float] | None:
        """Return the expected mean and standard deviation of the slot's elements; None where nothing is said."""
        expected = self.distribution_of(slot)
        return None if expected is None else (expected.mean, expected.std)

    def refusal(self, slot: Slot, why: str) -> RecipeError:
        """Return the error that says which scheme can't fill which tensor, and why."""
        return RecipeError(f"{self} can't fill {slot.name!r} of shape {slot.whole}: {why}")

    def to_json(self) -> dict[str, object]:
        """Return name and all settings, as plain values."""
        settings = {field.name: _json_value(getattr(self, field.name)) for field in fields(self) if field.compare}
        return {"name": self.name, **settings}

    def __str__(self) -> str:
        shown = [
            f"{field.name}={format_setting(getattr(self, field.name))}"
            for field in fields(self)
            if field.name not in self.bound and getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(shown)})" if shown else self.name


@functools.cache
def checks_of(kind: type[Scheme]) -> Mapping[str, Callable[[object], object]]:
    """Return the check that the annotation of each setting carries, for a scheme's class."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in fields(kind)}


def settings_of(kind: type[Scheme]) -> dict[str, object]:
    """Return each setting of a scheme's class with its default; ``dataclasses.MISSING`` where it has none."""
    return {field.name: field.default for field in fields(kind)}


def format_setting(value: object) -> str:
    """Return a setting's value as a recipe spells it: a word bare, any other text in quotes.

    Example:
        >>> format_setting(0.5), format_setting("fan_in"), format_setting("a.npy")
        ('0.5', 'fan_in', "'a.npy'")
    """
    if isinstance(value, str):
        return value if value.isidentifier() else repr(value)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else f"{value}"


def _json_value(value: object) -> object:
    return [_json_value(each) for each in cast("tuple[object, ...]", value)] if isinstance(value, tuple) else value


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
    """Return the slot that is a whole tensor of this shape.

    Example:
        >>> whole_slot("head.weight", (3, 4)).shape
        (3, 4)
    """
    return Slot(name, Box.whole(shape), tuple(shape), dtype, seed, parameter, role, geometry)
