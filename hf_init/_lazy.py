"""Names of a package that bring their module at first use, so that importing the package stays light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a module's ``__getattr__`` (PEP 562) for names that live elsewhere.

    Args:
        package: the name of the module that gets it.
        homes: name to the module that defines it; a module in the package stands for itself.

    Example:
        >>> get = lazy_names("hf_init", {"Number": "numbers"})
        >>> get("Number").__name__
        'Number'
    """

    def __getattr__(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(homes[name])
        return module if module.__name__ == f"{package}.{name}" else getattr(module, name)

    return __getattr__
