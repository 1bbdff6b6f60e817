"""The disk executor: a plan becomes files, only those that change are written, and their folder appears whole."""

from __future__ import annotations

from hf_init._write.extension import prepare_extension as prepare_extension
from hf_init._write.extension import prepared as prepared
