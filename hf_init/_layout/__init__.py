"""A module on the meta device, read: the shape, role and logical matrices of every tensor of its state dict."""

from __future__ import annotations

from hf_init._layout._describe import buffers as buffers
from hf_init._layout._describe import describe as describe
from hf_init._layout._describe import shared as shared
