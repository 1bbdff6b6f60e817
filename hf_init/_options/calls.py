"""What functions and commands take: groups of options put together."""

from hf_init._options.changes import GrowthOptions, HeadsOptions, LabelOptions, TokenOptions
from hf_init._options.checks import BatchOptions, DiffOptions, DriftOptions, VerifyOptions
from hf_init._options.output import FileOptions, MemoryOptions
from hf_init._options.target import CacheOptions, ClassOption, CodeOptions, HubOptions, TargetOptions


class PlanOptions(
    TargetOptions, HubOptions, CodeOptions, LabelOptions, HeadsOptions, TokenOptions, GrowthOptions, total=False
):
    """What ``plan`` takes."""


class ExtendOptions(PlanOptions, FileOptions, total=False):
    """What ``extend`` takes."""


class LoadOptions(PlanOptions, MemoryOptions, total=False):
    """What ``from_pretrained`` takes."""


class ResultOptions(VerifyOptions, HubOptions, ClassOption, CodeOptions, total=False):
    """What ``verify`` takes."""


class DiffCallOptions(DiffOptions, CacheOptions, total=False):
    """What ``diff`` takes."""


class DriftCallOptions(DriftOptions, CacheOptions, total=False):
    """What ``drift`` takes."""


class CheckOptions(BatchOptions, HubOptions, ClassOption, CodeOptions, total=False):
    """What ``hf-init check`` takes."""
