"""From a scheme's float32 values to those of the tensor: checked, and rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_init._tensors import Slot
from hf_init.schemes._base import FLOATING, Scheme

if TYPE_CHECKING:
    import torch


def finish(scheme: Scheme, slot: Slot) -> torch.Tensor:
    """Return the slot's values as they will be stored: in ``slot.dtype``, contiguous, of ``slot.shape``.

    Raises:
        RecipeError: the slot doesn't allow the scheme, a value is not finite or too large for the dtype, or every value
            would round to 0 though the scheme's distribution has others.

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
    if scheme.as_given:
        return _rounded(scheme, slot, values, dtype)
    if (values.dtype, values.shape, values.device.type) != (torch.float32, slot.shape, "cpu"):
        raise scheme.refusal(
            slot,
            f"the scheme gave {values.dtype} of shape {tuple(values.shape)} on {values.device.type}, expected "
            f"torch.float32 of shape {tuple(slot.shape)} on cpu",
        )
    if not values.numel():
        return values.to(dtype)
    ends = torch.stack(torch.aminmax(values))
    if not ends.isfinite().all():
        raise scheme.refusal(slot, "it gives values that are not finite: make its settings smaller")
    stored = values.to(dtype).contiguous()
    if slot.dtype not in FLOATING:
        mean = (scheme.moments(slot) or (None,))[0]
        if torch.equal(stored.to(torch.float32), values) and mean in (None, float(values.reshape(-1)[0])):
            return stored
        raise scheme.refusal(slot, f"{slot.dtype} can't hold its values exactly: use a whole number that it holds")
    # Rounding keeps order, so the smallest and the largest value speak for all.
    largest = float(ends.abs().max())
    if largest > torch.finfo(dtype).max:
        raise scheme.refusal(slot, f"it gives {largest:g}, and {slot.dtype} ends at {torch.finfo(dtype).max:g}")
    # The scheme's own float32 values may already have rounded to 0, though its distribution has others.
    if not ends.to(dtype).to(torch.float32).any() and (largest > 0 or any(scheme.moments(slot) or ())):
        raise scheme.refusal(
            slot,
            f"all its values, at most {largest:g}, round to 0 in {slot.dtype}: use zeros, or make its settings larger",
        )
    return stored


def _rounded(scheme: Scheme, slot: Slot, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return values that the class itself gives, whatever they are: infinite, false and 0 are its own business."""
    if values.dtype == dtype:
        return values.contiguous()
    stored = values.to(dtype).contiguous()
    if not (values.is_floating_point() and dtype.is_floating_point):
        if stored.to(values.dtype).equal(values):
            return stored
        raise scheme.refusal(slot, f"{slot.dtype} can't hold the class's own values, which are {values.dtype}")
    if values.dtype.itemsize == 1:  # float8, in which little can be asked
        values = values.float()
    kept = stored.to(values.dtype)
    lost = values[~kept.isfinite() & values.isfinite()]
    if lost.numel():
        raise scheme.refusal(
            slot,
            f"the class gives {float(lost[0]):g}, which {slot.dtype} can't hold; write in the class what the model's "
            f"dtype holds (torch.finfo(config.dtype).min), or keep the model in {str(values.dtype)[6:]}",
        )
    if bool(values.any()) and not bool(kept.any()):
        raise scheme.refusal(slot, f"all its values round to 0 in {slot.dtype}: use zeros, or make its settings larger")
    return stored
