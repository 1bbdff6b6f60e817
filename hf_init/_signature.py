"""Functions whose keywords are a group of options: they refuse what isn't one, and their help lists them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import ParamSpec, TypeVar

from hf_init._errors import PlanError
from hf_init._options import Option, options_of
from hf_init._text import closest

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def check_options_known(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise a PlanError that names every option that a function doesn't take, each with the closest that it does."""
    names = list(known)
    strange = [f"{name!r}{closest(name, names)}" for name in given if name not in names]
    if strange:
        raise PlanError(
            f"{function} takes no {', '.join(strange)}; values of the model's config go in config={{NAME: VALUE}}"
        )


def takes(group: type, *, others: bool = False) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Return a decorator for a function with ``**options: Unpack[group]``: its docstring and signature list them.

    Args:
        others: whether other keywords are the function's own business; else they are refused here.
    """
    options = options_of(group)

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        bare = inspect.signature(function)
        named = [p for p in bare.parameters.values() if p.kind is not p.VAR_KEYWORD]
        keywords = [inspect.Parameter(o, inspect.Parameter.KEYWORD_ONLY, default=options[o].default) for o in options]

        @wraps(function)
        def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            if not others:
                check_options_known(function.__name__, kwargs, [*bare.parameters, *options])
            return function(*args, **kwargs)

        vars(called)["__signature__"] = bare.replace(parameters=[*named, *keywords])
        called.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n{list_options(options)}"
        return called

    return decorate


def list_options(options: Mapping[str, Option]) -> str:
    """Return the options as lines of a docstring."""
    return "\n".join(f"    {name}: {option.help}." for name, option in options.items())
