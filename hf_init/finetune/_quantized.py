"""The arguments of quantizers that go with an extended checkpoint: what is new stays in full precision."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from hf_init._checkpoint import SKIP_LISTS
from hf_init._errors import PlanError
from hf_init._plan import Plan
from hf_init._tensors import Status, num_elements

QUANTIZERS = ("bitsandbytes", "quanto", "torchao")


def quantization_arguments(
    plan: Plan, method: Literal["bitsandbytes", "quanto", "torchao"] = "bitsandbytes"
) -> dict[str, list[str]]:
    """Return the arguments of a quantization config by which no module with something new in it is packed.

    A packed matrix can't be trained, and a new one is worth nothing untrained. A list of one's own replaces the
    library's, so the modules that it would leave alone are named, too: what is tied, and what lies outside the
    backbone (the head of a language model, trained classifiers).

    Args:
        method: whose config: ``BitsAndBytesConfig``, ``QuantoConfig`` or ``TorchAoConfig`` of transformers.

    Raises:
        PlanError: another method.

    Example::

        skip = quantization_arguments(Plan.load("sentiment"))
        config = BitsAndBytesConfig(load_in_4bit=True, **skip)
        model = AutoModelForSequenceClassification.from_pretrained("sentiment", quantization_config=config)
    """
    if method not in QUANTIZERS:
        raise PlanError(f"method is {method!r}, expected one of {', '.join(map(repr, QUANTIZERS))}")
    tensors = [tensor for tensor in plan.tensors if tensor.status is not Status.CARRIED]
    tied = {name for tensor in tensors if tensor.tied_to for name in (tensor.name, tensor.tied_to)}
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.parameter.partition(".")[0]] += num_elements(tensor.shape)
    ((backbone, _),) = sizes.most_common(1)
    names = [
        tensor.parameter
        for tensor in tensors
        if tensor.new or tensor.name in tied or tensor.parameter.partition(".")[0] != backbone
    ]
    return {SKIP_LISTS[method]: list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))}
