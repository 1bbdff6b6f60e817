"""What a class does when it is made that transformers can't load: said in words, with the line to change."""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel
from transformers import initialization as library_init

from hf_init._architecture.library import building_on_meta, is_the_librarys, without_drawing
from hf_init._errors import PlanError
from hf_init._text import join_names, one_line

UNBUILDABLE = (ImportError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError,
               AssertionError)  # fmt: skip
"""What the constructors of models raise for values that they can't use."""

_NOT_THE_USERS = frozenset(["transformers", "torch", "hf_init", "huggingface_hub", "safetensors", "contextlib"])
_LOADERS = frozenset(["transformers.modeling_utils", "transformers.models.auto.auto_factory"])
_WITHOUT_VALUES = "transformers builds a model without values (on the meta device) before it loads it"


def constructor_fault(cls: type, error: Exception) -> PlanError:
    """Return what to raise where a class can't be built: what failed, in which line of the user's, and what to do."""
    frames = [
        (str(frame.f_globals.get("__name__")), frame.f_code, number)
        for frame, number in traceback.walk_tb(error.__traceback__)
    ]
    users = [at for at, (module, _, _) in enumerate(frames) if module.partition(".")[0] not in _NOT_THE_USERS]
    inner = frames[users[-1] + 1 :] if users else []
    line, what = "", one_line(error).partition(". ")[0].rstrip(".")
    what = f"it knows no {what}" if type(error) is KeyError else what
    if users:
        _, code, number = frames[users[-1]]
        text = linecache.getline(code.co_filename, number).strip()
        line = f" (at {code.co_filename}:{number}" + (f": `{text}`)" if text else ")")
    advice = "Give values that fit together"
    if any(module in _LOADERS and code.co_name == "from_pretrained" for module, code, _ in inner):
        what = "its constructor loads another model"
        advice = (
            f"{_WITHOUT_VALUES}, and can load no other one then. Make it from its config there "
            "(`AutoModel.from_config(config)`), and give its folder as the base: the values come from there"
        )
    elif "meta" in what:
        advice = (
            f"{_WITHOUT_VALUES}, so no tensor has a value to be read in the constructor. Compute it from plain numbers "
            "(math, numpy), or in forward"
        )
    return PlanError(f"{cls.__name__} can't be built with this config: {what}{line}. {advice}")


def initialization_fault(model: PreTrainedModel) -> str:
    """Return what ``_init_weights`` raises for a model on meta, and in which line; empty where it raises nothing.

    The loader calls it for every module, also where each tensor comes from a file: such a config can't be loaded. Not
    so of code that isn't the library's own; there it leaves out what was loaded.
    """
    if model.is_custom_code():
        return ""
    with building_on_meta(), library_init.meta_device_safe_creation_ops(), torch.no_grad(), without_drawing():
        failure = next(_initialized(model, model), None)
    if failure is None:
        return ""
    at = traceback.extract_tb(failure.__traceback__)[-1]
    return f"{one_line(failure)} (at {at.filename}:{at.lineno}: `{at.line}`)"


def _initialized(owner: PreTrainedModel, module: nn.Module) -> Iterator[Exception]:
    """Initialize a module after those in it, and yield what is raised, but for want of values."""
    for child in module.children():
        yield from _initialized(child if isinstance(child, PreTrainedModel) else owner, child)
    try:
        owner._init_weights(module)
    except UNBUILDABLE as error:
        if "meta" not in str(error):
            yield error


def check_not_lazy(model: nn.Module) -> None:
    """Raise PlanError if layers wait for their first batch to get a shape."""
    named = (*model.named_parameters(), *model.named_buffers())
    lazy = [name for name, tensor in named if is_lazy(tensor)]
    if lazy:
        raise PlanError(
            f"{type(model).__name__}: {join_names(lazy)} are of lazy modules, which have no shape before their first "
            "batch, so nothing can be planned or loaded for them; give the sizes (`nn.Linear(in, out)`, not "
            "`nn.LazyLinear(out)`)"
        )


def plain_attributes(model: nn.Module) -> Iterator[str]:
    """Yield what the user's own modules hold as plain attributes and has tensors, each with the line that sets it.

    The library's loader knows parameters, buffers and modules only: these stay on meta, without a value, and no one
    says so.
    """
    registered = set(model.modules())
    for path, module in model.named_modules():
        if is_the_librarys(type(module)):
            continue
        for attribute, value in vars(module).items():
            held = () if attribute in ("_parameters", "_buffers", "_modules") else tree_leaves(value)
            if any(_is_valueless(leaf) for leaf in held if not (isinstance(leaf, nn.Module) and leaf in registered)):
                yield f"{path}.{attribute}".lstrip(".") + _line_that_sets(type(module), attribute)


def _is_valueless(value: object) -> bool:
    """Return whether a value is a tensor on meta, or a module that has one."""
    tensors = (*value.parameters(), *value.buffers()) if isinstance(value, nn.Module) else (value,)
    return any(isinstance(tensor, torch.Tensor) and tensor.device.type == "meta" for tensor in tensors)


def _line_that_sets(cls: type, attribute: str) -> str:
    """Return where a class sets an attribute, in brackets; empty where its source isn't there or doesn't tell."""
    for base in cls.__mro__:
        try:
            lines, first = inspect.getsourcelines(base)
        except (OSError, TypeError):
            continue
        for number, line in enumerate(lines, first):
            if re.search(rf"\.{re.escape(attribute)}\s*=[^=]", line):
                return f" ({inspect.getsourcefile(base)}:{number}: `{line.strip()}`)"
    return ""
