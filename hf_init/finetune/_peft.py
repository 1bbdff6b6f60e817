"""What PEFT is to be told of an extended checkpoint."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hf_init._errors import PlanError
from hf_init._plan import Plan, TensorPlan
from hf_init._roles import matches
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


def peft_arguments(plan: Plan) -> dict[str, Any]:
    """The arguments of ``peft.LoraConfig`` by which an adapter trains and saves exactly what is new.

    ``modules_to_save``: modules that are new as a whole, by full name; ``trainable_token_indices``: the new rows of
    resized embeddings; ``exclude_modules``: a pattern that keeps LoRA off both. Absent where there is nothing to say.

    Raises:
        PlanError: something new that PEFT can't train without training what is kept: a module that is half new, new
            regions that aren't rows of an embedding; it names all of them.

    Example::

        config = LoraConfig(r=8, target_modules="all-linear", **peft_arguments(Plan.load("sentiment")))
        refuse_rewriting(config)
    """
    kept = {_module(tensor) for tensor in plan.tensors if tensor.kept and tensor.status is Status.KEPT}
    new = list(dict.fromkeys(_module(tensor) for tensor in plan.tensors if tensor.status is Status.NEW))
    tables = _tables(plan)
    faults = [*_half(new, kept, tables), *_unclear(new, plan), *_not_rows(plan)]
    if faults:
        raise PlanError(
            "PEFT can't train what is new here and nothing else:\n  " + "\n  ".join(faults) + "\n"
            "Use hf_init.finetune.train_only_new, or train these modules as a whole by your own modules_to_save"
        )
    names = [re.escape(name) for name in (*new, *tables)]
    return {
        **({"modules_to_save": new} if new else {}),
        **({"trainable_token_indices": tables} if tables else {}),
        **({"exclude_modules": rf"(.*\.)?({'|'.join(names)})(\..*)?"} if names else {}),
    }


def check_rewriting(config: Any) -> None:
    """Refuses a PEFT configuration that rewrites base weights when it is applied, so that nothing could be proved.

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
    own = config.get if isinstance(config, Mapping) else lambda name: getattr(config, name, None)
    asked = own("init_lora_weights")
    word = re.sub(r"_niter_\d+$", "", asked.lower()) if isinstance(asked, str) else ""
    if word in REWRITING:
        raise PlanError(
            f"init_lora_weights={asked!r}: {REWRITING[word]}, so the kept bytes would move and the base couldn't be "
            "proved any more. Use True, 'gaussian', 'orthogonal' or 'eva', which leave the base as it is"
        )


def _module(tensor: TensorPlan) -> str:
    return tensor.parameter.rpartition(".")[0]


def _tables(plan: Plan) -> dict[str, list[int]]:
    """The new rows of every resized embedding, and of a head over the vocabulary that isn't tied to one."""
    rows: defaultdict[str, set[int]] = defaultdict(set)
    for tensor in plan.tensors:
        if tensor.status is Status.RESIZED and _is_table(tensor):
            for fill in tensor.new:
                rows[_module(tensor)].update(_rows(fill.region, tensor.shape) or ())
    return {name: sorted(found) for name, found in rows.items()}


def _is_table(tensor: TensorPlan) -> bool:
    return matches(tensor.role, "embedding") or tensor.role == "output_embedding.weight"


def _rows(region: Region, shape: tuple[int, ...]) -> Iterable[int] | None:
    """The rows that a region is made of; None where it is made of parts of rows."""
    if not isinstance(region, Box):
        return region.index if region.dim == 0 else None
    whole = region.start[1:] == (0,) * (len(shape) - 1) and region.stop[1:] == shape[1:]
    return range(region.start[0], region.stop[0]) if whole else None


def _half(new: Iterable[str], kept: set[str], tables: Mapping[str, Any]) -> Iterator[str]:
    for module in new:
        if module in kept or module in tables or not module:
            yield f"{module or 'the model itself'} is new in part: modules_to_save would train what is kept of it too"


def _unclear(new: Iterable[str], plan: Plan) -> Iterator[str]:
    """PEFT takes a name for every module that ends in it."""
    modules = {_module(tensor) for tensor in plan.tensors}
    for module in new:
        others = sorted(each for each in modules if each.endswith(f"{module}") and each != module)
        if module and others:
            yield f"{module}: PEFT would take {join_names(others)} for it too"


def _not_rows(plan: Plan) -> Iterator[str]:
    for tensor in plan.tensors:
        if tensor.status is not Status.RESIZED:
            continue
        if not _is_table(tensor) or any(_rows(fill.region, tensor.shape) is None for fill in tensor.new):
            yield f"{tensor.parameter} ({tensor.role}): its new part isn't rows of an embedding"
