"""The arguments of PEFT that go with an extended checkpoint."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TypedDict

from torch import nn

from hf_init._errors import PlanError
from hf_init._plan import Plan, TensorPlan
from hf_init._roles import matches
from hf_init._shards import packed_names
from hf_init._tensors import Box, Region, Status
from hf_init._text import join_names

REWRITING = {
    "pissa": "PiSSA takes the principal singular values out of the base weights",
    "olora": "OLoRA takes the first columns of a QR decomposition out of the base weights",
    "corda": "CorDA takes context-oriented components out of the base weights",
    "loftq": "LoftQ quantizes the base weights and fits the adapter to the error",
    "lora_ga": "LoRA-GA subtracts its initial adapter from the base weights",
}
"""The initialisations of PEFT that write to the base weights, and what they do."""


class PeftArguments(TypedDict, total=False):
    """Arguments of ``peft.LoraConfig``."""

    modules_to_save: list[str]
    trainable_token_indices: dict[str, list[int]]
    exclude_modules: str


def peft_arguments(plan: Plan, model: nn.Module | None = None) -> PeftArguments:
    """Return the arguments of ``peft.LoraConfig`` by which an adapter trains and saves exactly what is new.

    ``modules_to_save``: modules that are new as a whole, by full name; ``trainable_token_indices``: the new rows of
    resized embeddings; ``exclude_modules``: a pattern that keeps LoRA off both. Absent where there is nothing to say.

    Args:
        model: the one that they are for, where a quantizer may have packed something of it.

    Raises:
        PlanError: something new that PEFT can't train without training what is kept: a module that is half new, new
            regions that aren't rows of an embedding; it names all of them. Or a module that is packed in the model.

    Example::

        config = LoraConfig(r=8, target_modules="all-linear", **peft_arguments(Plan.load("sentiment")))
        check_rewriting(config)
    """
    kept = {_peft_module(tensor) for tensor in plan.tensors if tensor.kept and tensor.status is Status.KEPT}
    new = list(dict.fromkeys(_peft_module(tensor) for tensor in plan.tensors if tensor.status is Status.NEW))
    rows: defaultdict[str, set[int]] = defaultdict(set)
    for tensor in plan.tensors:
        if tensor.status is Status.RESIZED and _is_table(tensor):
            for fill in tensor.new:
                rows[_peft_module(tensor)].update(_rows_of_region(fill.region, tensor.shape) or ())
    tables = {name: sorted(numbers) for name, numbers in rows.items()}
    faults = [*_peft_faults(plan, new, {*kept, *tables})]
    if faults:
        raise PlanError(
            "PEFT can't train what is new here and nothing else:\n  " + "\n  ".join(faults) + "\n"
            "Use hf_init.finetune.train_only_new, put new parameters in modules of their own, or train these modules "
            "as a whole by your own modules_to_save"
        )
    modules = () if model is None else dict.fromkeys(name.rpartition(".")[0] for name in packed_names(model))
    if packed := [module for module in modules if module in {*new, *tables}]:
        raise PlanError(
            f"{join_names(packed)}: packed by the quantizer, and what is new can't be trained there. Load the model "
            "with these left alone: quantization_arguments(plan) is for its quantization config"
        )
    arguments: PeftArguments = {}
    if new:
        arguments["modules_to_save"] = new
    if tables:
        arguments["trainable_token_indices"] = tables
    if names := [re.escape(name) for name in (*new, *tables)]:
        arguments["exclude_modules"] = rf"(.*\.)?({'|'.join(names)})(\..*)?"
    return arguments


def check_rewriting(config: object) -> None:
    """Raise PlanError if a PEFT configuration rewrites base weights when it is applied: nothing could be proved then.

    Args:
        config: a ``LoraConfig``, or a mapping with its arguments.

    Raises:
        PlanError: its ``init_lora_weights`` is one of PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA.

    Example:
        >>> check_rewriting({"init_lora_weights": "gaussian"})
        >>> check_rewriting({"init_lora_weights": "pissa_niter_16"})
        Traceback (most recent call last):
        ...
        hf_init._errors.PlanError: init_lora_weights='pissa_niter_16': PiSSA takes ...
    """
    name = "init_lora_weights"
    setting = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    method = re.sub(r"_niter_\d+$", "", setting.lower()) if isinstance(setting, str) else ""
    if method in REWRITING:
        raise PlanError(
            f"init_lora_weights={setting!r}: {REWRITING[method]}, so the kept bytes would move and the base "
            "couldn't be proved any more. Use True, 'gaussian', 'orthogonal' or 'eva', which leave the base as it is"
        )


def _peft_module(tensor: TensorPlan) -> str:
    return tensor.parameter.rpartition(".")[0]


def _is_table(tensor: TensorPlan) -> bool:
    return matches(tensor.role, "embedding") or tensor.role == "output_embedding.weight"


def _rows_of_region(region: Region, shape: tuple[int, ...]) -> Iterable[int] | None:
    """Return the rows that a region is made of; None where it is made of parts of rows."""
    if not isinstance(region, Box):
        return region.index if region.dim == 0 else None
    whole = region.start[1:] == (0,) * (len(shape) - 1) and region.stop[1:] == shape[1:]
    return range(region.start[0], region.stop[0]) if whole else None


def _peft_faults(plan: Plan, new: Iterable[str], kept_in_part: set[str]) -> Iterator[str]:
    for module in new:
        if module in kept_in_part or not module:
            mine = (t.parameter for t in plan.tensors if t.status is Status.NEW and _peft_module(t) == module)
            yield (
                f"{module or 'the model itself'} is new in part ({join_names(list(mine))}): modules_to_save would "
                "train what is kept of it too"
            )
    modules = {_peft_module(tensor) for tensor in plan.tensors}
    for module in filter(None, new):
        others = sorted(each for each in modules if each.endswith(module) and each != module)
        if others:  # PEFT takes a name for every module that ends in it
            yield f"{module}: PEFT would take {join_names(others)} for it too"
    for tensor in plan.tensors:
        by_rows = _is_table(tensor) and all(_rows_of_region(f.region, tensor.shape) is not None for f in tensor.new)
        if tensor.status is Status.RESIZED and not by_rows:
            yield f"{tensor.parameter} ({tensor.role}): its new part isn't rows of an embedding"
