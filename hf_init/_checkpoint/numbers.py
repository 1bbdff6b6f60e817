"""The numbers in a checkpoint's bytes, a few megabytes at a time, with numpy alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np

from hf_init._checkpoint.header import NUMPY, dtype_bits
from hf_init._tensors import Box, Region, num_elements

_CHUNK = 1 << 20  # elements decoded at once: 8 MiB of float64

SAMPLE = 1 << 18
"""The most elements of a region that a histogram is made of: a bin of 80 is then off by 2% of its height at most."""

# Bits of the exponent and of the mantissa, the exponent's bias, and the codes that stand for no number.
_MINIFLOATS = {
    "float8_e4m3fn": (4, 3, 7, (0x7F, 0xFF)),
    "float8_e4m3fnuz": (4, 3, 8, (0x80,)),
    "float8_e5m2fnuz": (5, 2, 16, (0x80,)),
}


def is_floating(dtype: str) -> bool:
    """Return whether a dtype is one that weights are drawn in."""
    return dtype.startswith(("float", "bfloat"))


def is_decoded(dtype: str) -> bool:
    """Return whether the elements of a dtype are single numbers that ``decode_values`` knows."""
    return dtype_bits(dtype) >= 8 and dtype != "complex64"


def decode_values(codes: np.ndarray, dtype: str) -> np.ndarray:
    """Return the numbers, in float64, that elements read as unsigned integers of their width stand for.

    Example:
        >>> decode_values(np.array([0x3F80, 0xC000], "uint16"), "bfloat16").tolist()
        [1.0, -2.0]
    """
    codes = np.ascontiguousarray(codes)
    if dtype in ("bfloat16", "float8_e5m2"):  # the upper half of a float32, of a float16
        wide, half = (np.uint32, "float32") if dtype == "bfloat16" else (np.uint16, "float16")
        codes, dtype = codes.astype(wide) << (8 * codes.itemsize), half
    if dtype not in NUMPY:
        return _codebook(dtype)[codes]
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
        return codes.view(dtype).astype(np.float64)


@functools.cache
def _codebook(dtype: str) -> np.ndarray:
    """Return the number of each of the 256 codes of a dtype of one byte."""
    code = np.arange(256)
    if dtype == "float8_e8m0fnu":
        return np.where(code == 255, np.nan, np.ldexp(1.0, code - 127))
    exponent, mantissa, bias, nothing = _MINIFLOATS[dtype]
    power, fraction = (code >> mantissa) & ((1 << exponent) - 1), code & ((1 << mantissa) - 1)
    normal = np.ldexp(fraction + float(1 << mantissa), power - bias - mantissa)
    values = np.where(power == 0, np.ldexp(fraction.astype(float), 1 - bias - mantissa), normal)
    values[list(nothing)] = np.nan
    return np.where(code & 0x80, -values, values)


def value_pieces(array: np.ndarray, region: Region) -> Iterator[np.ndarray]:
    """Yield a region of an array as flat pieces of at most ``_CHUNK`` elements; a box comes in row-major order."""
    if isinstance(region, Box):
        yield from _flat_pieces(array[(*region.slices, ...)])
        return
    each = num_elements(region.shape) // max(len(region.index), 1)
    step = max(_CHUNK // max(each, 1), 1)
    for start in range(0, len(region.index), step):
        yield from _flat_pieces(array.take(region.index[start : start + step], axis=region.dim))


def _flat_pieces(part: np.ndarray) -> Iterator[np.ndarray]:
    if part.size <= _CHUNK:
        if part.size:
            yield part.reshape(-1)
        return
    row = part.size // len(part)
    if row > _CHUNK:
        for each in part:
            yield from _flat_pieces(each)
        return
    step = _CHUNK // row
    for start in range(0, len(part), step):
        yield part[start : start + step].reshape(-1)


def sample_stride(shape: tuple[int, ...], most: int = SAMPLE) -> int:
    """Return the least step that takes at most ``most`` elements and shares no divisor with a dimension.

    A step that divides the length of a row would see the same few columns of every row.

    Example:
        >>> sample_stride((1000, 768), 400_000), sample_stride((10, 10), 1000)
        (7, 1)
    """
    step = max(math.ceil(num_elements(shape) / most), 1)
    while any(math.gcd(step, length) > 1 for length in shape):
        step += 1
    return step


def value_rows(array: np.ndarray, region: Region, stack: int, most_rows: int, most_elements: int) -> np.ndarray:
    """Return up to ``most_rows`` rows of a region with elements, evenly spaced and whole unless huge; as integers.

    A row is what one index of the first dimension holds; of a stack of matrices, one index of a matrix's first.
    """
    shape = region.shape
    length = num_elements(shape[stack + 1 :])
    total = num_elements(shape[: stack + 1])
    most = max(min(most_rows, most_elements // max(length, 1)), 2)
    chosen = np.unique(np.linspace(0, max(total - 1, 0), min(total, most)).astype(int))
    step = max(math.ceil(length / most_elements), 1)
    indices = np.stack(np.unravel_index(chosen, shape[: stack + 1]), axis=1).tolist()
    return np.stack([_region_row(array, region, tuple(index)).reshape(-1)[::step] for index in indices])


def _region_row(array: np.ndarray, region: Region, index: tuple[int, ...]) -> np.ndarray:
    """Return what a region has at the first few indices."""
    if isinstance(region, Box):
        return array[(*region.slices, ...)][index]
    if region.dim < len(index):
        return array[(*index[: region.dim], region.index[index[region.dim]], *index[region.dim + 1 :])]
    return array[index].take(region.index, axis=region.dim - len(index))
