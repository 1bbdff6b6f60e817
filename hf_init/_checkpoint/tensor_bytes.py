"""Regions of tensors, and tensors as bytes: digests and comparisons, bit for bit."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from hf_init._tensors import Region, Rows


def tensor_digest(tensor: torch.Tensor) -> str:
    """Return the SHA-256, in hex, of a tensor's bytes, row by row."""
    return hashlib.sha256(as_bytes(tensor).numpy().data).hexdigest()


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's bytes as a flat ``uint8`` tensor; no copy where it is contiguous on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def region_of(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    """Return the elements of a region, as a tensor of the region's shape."""
    if isinstance(region, Rows):
        return tensor.index_select(region.dim, torch.tensor(region.index))
    return tensor[region.slices]


def equal_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two tensors hold the same bytes; eight at a time, as integers.

    Floating point would take -0.0 for 0.0 and would not take NaN for itself. By numpy, since torch's comparison wakes
    every thread it has for each call.
    """
    left, right = as_bytes(a).numpy(), as_bytes(b).numpy()
    words = left.size // 8 * 8
    return (
        left.size == right.size
        and np.array_equal(left[:words].view(np.uint64), right[:words].view(np.uint64))
        and np.array_equal(left[words:], right[words:])
    )
