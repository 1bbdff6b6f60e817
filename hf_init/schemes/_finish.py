"""From a scheme's float32 values to those of the tensor: checked, and rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_init._tensors import Slot
from hf_init.schemes._base import FLOATING, Scheme

if TYPE_CHECKING:
    import torch


def finish(scheme: Scheme, slot: Slot) -> torch.Tensor:
    """The slot's values as they will be stored: the scheme's, in ``slot.dtype``, contiguous, of ``slot.shape``.

    Raises:
        RecipeError: the slot doesn't allow the scheme, a value is not finite or too large for the dtype, or every value
            would round to 0 though the scheme promises others.

    Example:
        >>> from hf_init import schemes
        >>> finish(schemes.Normal(std=0.02), schemes.whole_slot("w", (3, 4), dtype="bfloat16")).dtype
        torch.bfloat16
    """
    import torch

    dtype = getattr(torch, slot.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise scheme.refusal(slot, f"its dtype {slot.dtype!r} is none of torch's, such as float32 or bfloat16")
    values = scheme(slot)
    _check_another_kind(scheme, slot, values)
    if not values.numel():
        return values.to(dtype)
    ends = torch.stack(torch.aminmax(values))
    if not ends.isfinite().all():
        raise scheme.refusal(slot, "it gives values that are not finite: make its settings smaller")
    return (
        _rounded(scheme, slot, values, ends, dtype) if slot.dtype in FLOATING else _exact(scheme, slot, values, dtype)
    )


def _check_another_kind(scheme: Scheme, slot: Slot, values: torch.Tensor) -> None:
    seen = (str(values.dtype), tuple(values.shape), values.device.type)
    expected = ("torch.float32", tuple(slot.shape), "cpu")
    if seen != expected:
        raise scheme.refusal(slot, f"the scheme gave {_kind(*seen)}, expected {_kind(*expected)}")


def _kind(dtype: str, shape: tuple[int, ...], device: str) -> str:
    return f"{dtype} of shape {shape} on {device}"


def _rounded(scheme: Scheme, slot: Slot, values: torch.Tensor, ends: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values in a floating dtype; rounding keeps order, so the smallest and the largest speak for all."""
    import torch

    largest = float(ends.abs().max())
    if largest > torch.finfo(dtype).max:
        raise scheme.refusal(slot, f"it gives {largest:g}, and {slot.dtype} ends at {torch.finfo(dtype).max:g}")
    if not ends.to(dtype).to(torch.float32).any() and _promises_values(scheme, slot, largest):
        raise scheme.refusal(
            slot,
            f"all its values, at most {largest:g}, round to 0 in {slot.dtype}: use zeros, or make its settings larger",
        )
    return values.to(dtype).contiguous()


def _promises_values(scheme: Scheme, slot: Slot, largest: float) -> bool:
    """Whether the scheme promises anything but zeros; its own float32 values may already have rounded to them."""
    return largest > 0 or any(scheme.moments(slot) or ())


def _exact(scheme: Scheme, slot: Slot, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values in a dtype of whole numbers or booleans, if it holds them exactly."""
    import torch

    stored = values.to(dtype)
    mean = (scheme.moments(slot) or (None,))[0]
    if torch.equal(stored.to(torch.float32), values) and mean in (None, float(values.reshape(-1)[0])):
        return stored.contiguous()
    raise scheme.refusal(slot, f"{slot.dtype} can't hold its values exactly: use a whole number that it holds")
