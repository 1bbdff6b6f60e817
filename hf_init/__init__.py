"""Load a pretrained checkpoint into a larger architecture: what is kept is proved, what is new follows a named scheme.

Importing this package imports neither torch nor transformers nor matplotlib: each public name brings its module at
first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_init import finetune, schemes
    from hf_init._api import diff, drift, extend, plan, verify
    from hf_init._check import check
    from hf_init._errors import HfInitError
    from hf_init._plan import Plan
    from hf_init._recipe import Recipe, Rule
    from hf_init.hf import InitMixin, from_pretrained
    from hf_init.hf._multihead import MultiHead
    from hf_init.hf._probe import probe_vocabulary

from hf_init import _register
from hf_init._version import __version__ as __version__

__all__ = [
    "HfInitError",
    "InitMixin",
    "MultiHead",
    "Plan",
    "Recipe",
    "Rule",
    "check",
    "diff",
    "drift",
    "extend",
    "finetune",
    "from_pretrained",
    "plan",
    "probe_vocabulary",
    "schemes",
    "verify",
]

_HOME = {
    "HfInitError": "hf_init._errors",
    "InitMixin": "hf_init.hf",
    "MultiHead": "hf_init.hf._multihead",
    "Plan": "hf_init._plan",
    "Recipe": "hf_init._recipe",
    "Rule": "hf_init._recipe",
    "check": "hf_init._check",
    "diff": "hf_init._api",
    "drift": "hf_init._api",
    "extend": "hf_init._api",
    "finetune": "hf_init.finetune",
    "from_pretrained": "hf_init.hf",
    "plan": "hf_init._api",
    "probe_vocabulary": "hf_init.hf._probe",
    "schemes": "hf_init.schemes",
    "verify": "hf_init._api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_HOME[name])
    return module if name in ("finetune", "schemes") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_register.arrange()  # so that AutoModel loads a saved MultiHead wherever hf_init is imported
