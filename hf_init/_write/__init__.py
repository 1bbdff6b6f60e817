"""The disk executor: a plan becomes files, only those that change are written, and their folder appears whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_init._lazy import lazy_names
from hf_init._write.extension import prepare_extension as prepare_extension
from hf_init._write.extension import prepared as prepared

if TYPE_CHECKING:
    from hf_init._write.conversion import prepare_conversion as prepare_conversion

__getattr__ = lazy_names(__name__, {"prepare_conversion": "hf_init._write.conversion"})  # it needs torch
