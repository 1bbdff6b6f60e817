"""The one exact cast between two floating dtypes, on bits and with numpy: to nearest, ties to even, as torch rounds."""

from __future__ import annotations

import numpy as np

from hf_init._checkpoint import decode_values, is_decoded, is_floating

_TARGETS = ("float64", "float32", "float16", "bfloat16")


def castable(before: str, after: str) -> bool:
    """Return whether what a tensor of one dtype becomes in another one is known."""
    return is_floating(before) and is_decoded(before) and after in _TARGETS


def cast_values(codes: np.ndarray, before: str, after: str) -> np.ndarray:
    """Return elements of one dtype in another one; both as unsigned integers of their width.

    Example:
        >>> hex(cast_values(np.array([0x3F80], "uint16"), "bfloat16", "float32")[0])
        '0x3f800000'
    """
    values = decode_values(codes, before)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if after == "bfloat16":
            return _bfloat16_bits(values.astype(np.float32)).reshape(codes.shape)
        cast = values.astype(after)
    return cast.view(f"<u{cast.itemsize}").reshape(codes.shape)


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def with_nans_of(seen: np.ndarray, expected: np.ndarray, dtype: str) -> np.ndarray:
    """Return ``expected``, with each NaN that is one in ``seen``, too, taken from there: no cast carries its bits."""
    both = np.isnan(decode_values(seen, dtype)) & np.isnan(decode_values(expected, dtype))
    return np.where(both.reshape(seen.shape), seen, expected)
