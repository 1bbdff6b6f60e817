"""A module on the meta device, read: the shape, role and logical matrices of every tensor of its state dict."""

from __future__ import annotations

from hf_init._layout._describe import buffers, describe, shared
from hf_init._layout._roles import RESIDUAL, ROLES, matches

__all__ = ["RESIDUAL", "ROLES", "buffers", "describe", "matches", "shared"]
