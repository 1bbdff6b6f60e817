"""The proof, made from the files alone: a result against its manifest and its base, and any two checkpoints.

Shares no code with what fills and writes; reads into memory of its own, on all cores, and needs no torch.
"""

from __future__ import annotations

from hf_init._verify._diff import DiffReport, diff
from hf_init._verify._digests import Digests, digests
from hf_init._verify._proof import open_base, verify
from hf_init._verify._report import VerifyReport

__all__ = ["DiffReport", "Digests", "VerifyReport", "diff", "digests", "open_base", "verify"]
