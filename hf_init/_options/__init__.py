"""Every option, once: its name, type, default and help, and the functions and commands that take it.

A group of options is a ``TypedDict``: the type checker reads its annotations, the command line and the docstrings its
``Option``s. A function takes a group by ``**options: Unpack[Group]``, a command by naming it in ``cli/_commands.py``.
An option that the command line can't say (a device, a dtype) stands in a group that no command names.
"""

from hf_init._options.calls import CheckOptions as CheckOptions
from hf_init._options.calls import DiffCallOptions as DiffCallOptions
from hf_init._options.calls import DriftCallOptions as DriftCallOptions
from hf_init._options.calls import ExtendOptions as ExtendOptions
from hf_init._options.calls import LoadOptions as LoadOptions
from hf_init._options.calls import PlanOptions as PlanOptions
from hf_init._options.calls import ResultOptions as ResultOptions
from hf_init._options.changes import GrowthOptions as GrowthOptions
from hf_init._options.changes import HeadsOptions as HeadsOptions
from hf_init._options.changes import LabelOptions as LabelOptions
from hf_init._options.changes import TokenOptions as TokenOptions
from hf_init._options.checks import BaseOption as BaseOption
from hf_init._options.checks import BatchOptions as BatchOptions
from hf_init._options.checks import ComparisonOptions as ComparisonOptions
from hf_init._options.checks import DiffOptions as DiffOptions
from hf_init._options.checks import DriftOptions as DriftOptions
from hf_init._options.checks import ProbeOption as ProbeOption
from hf_init._options.checks import TrainingOption as TrainingOption
from hf_init._options.checks import VerifyOptions as VerifyOptions
from hf_init._options.option import Form as Form
from hf_init._options.option import Option as Option
from hf_init._options.option import chosen_options as chosen_options
from hf_init._options.option import options_of as options_of
from hf_init._options.output import FileOptions as FileOptions
from hf_init._options.output import MemoryOptions as MemoryOptions
from hf_init._options.output import OutputOptions as OutputOptions
from hf_init._options.output import PageOption as PageOption
from hf_init._options.output import PictureOption as PictureOption
from hf_init._options.target import CacheOptions as CacheOptions
from hf_init._options.target import ClassOption as ClassOption
from hf_init._options.target import CodeOptions as CodeOptions
from hf_init._options.target import HubOptions as HubOptions
from hf_init._options.target import TargetOptions as TargetOptions
from hf_init._options.target import TowerOption as TowerOption
from hf_init._options.upcycle import Upcycle as Upcycle
from hf_init._options.upcycle import parse_experts as parse_experts


def option_group(name: str) -> type:
    """Return a group of options by its name."""
    return globals()[name]
