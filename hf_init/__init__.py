"""Load a pretrained checkpoint into a larger architecture: what is kept is proved, what is new follows a named scheme.

Importing this package imports neither torch nor transformers nor matplotlib: each public name brings its module at
first use.
"""

import typing as _typing  # with a line before its name, as completion would list it

if _typing.TYPE_CHECKING:
    from hf_init import finetune, schemes
    from hf_init._api import convert, diff, drift, extend, heads, plan, report, same_function, verify
    from hf_init._check import check
    from hf_init._errors import HfInitError
    from hf_init._load import InitMixin, from_pretrained, initialize
    from hf_init._multihead import MultiHead
    from hf_init._options import Upcycle
    from hf_init._plan import Plan, Recipe, Rule
    from hf_init._probe import compare_schemes, probe_vocabulary

from hf_init import _register
from hf_init._lazy import lazy_names as _lazy_names
from hf_init._version import __version__ as __version__

__all__ = [
    "HfInitError",
    "InitMixin",
    "MultiHead",
    "Plan",
    "Recipe",
    "Rule",
    "Upcycle",
    "check",
    "compare_schemes",
    "convert",
    "diff",
    "drift",
    "extend",
    "finetune",
    "from_pretrained",
    "heads",
    "initialize",
    "plan",
    "probe_vocabulary",
    "report",
    "same_function",
    "schemes",
    "verify",
]

_HOME = {
    "HfInitError": "hf_init._errors",
    "InitMixin": "hf_init._load",
    "MultiHead": "hf_init._multihead",
    "Plan": "hf_init._plan",
    "Recipe": "hf_init._plan",
    "Rule": "hf_init._plan",
    "Upcycle": "hf_init._options",
    "check": "hf_init._check",
    "compare_schemes": "hf_init._probe",
    "convert": "hf_init._api",
    "diff": "hf_init._api",
    "drift": "hf_init._api",
    "extend": "hf_init._api",
    "finetune": "hf_init.finetune",
    "from_pretrained": "hf_init._load",
    "heads": "hf_init._api",
    "initialize": "hf_init._load",
    "plan": "hf_init._api",
    "probe_vocabulary": "hf_init._probe",
    "report": "hf_init._api",
    "same_function": "hf_init._api",
    "schemes": "hf_init.schemes",
    "verify": "hf_init._api",
}

__getattr__ = _lazy_names(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("_"))})


_register.arrange()  # so that AutoModel loads a saved MultiHead wherever hf_init is imported
