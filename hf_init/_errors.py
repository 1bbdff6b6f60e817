"""The errors of hf_init, as a tree:

HfInitError                 anything that hf_init refuses; the command line exits with 2
    CheckpointError         a checkpoint folder or file that can't be read, or isn't what it says
    RecipeError             a rule, a scheme or a setting that can't be used
    PlanError               source and target can't be brought together
    ProofError              bytes that should be equal are not

Every message says what was refused, which thing it was, what was seen and expected, and what to do.
"""

from __future__ import annotations


class HfInitError(Exception):
    """The root of every error that hf_init raises on purpose."""


class CheckpointError(HfInitError):
    """A checkpoint can't be read, or isn't what its headers say."""


class RecipeError(HfInitError):
    """A recipe, a rule, a scheme or one of its settings can't be used."""


class PlanError(HfInitError):
    """Source and target can't be brought together as asked."""


class ProofError(HfInitError):
    """Bytes that should have been equal are not."""
