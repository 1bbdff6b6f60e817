"""The arguments of quantizers that go with an extended checkpoint: what is new stays in full precision."""

from __future__ import annotations

from typing import Literal

from hf_init._errors import PlanError
from hf_init._plan import Plan
from hf_init._roles import matches

_SKIP = {
    "bitsandbytes": "llm_int8_skip_modules",
    "quanto": "modules_to_not_convert",
    "torchao": "modules_to_not_convert",
}


def quantization_arguments(
    plan: Plan, method: Literal["bitsandbytes", "quanto", "torchao"] = "bitsandbytes"
) -> dict[str, list[str]]:
    """Return the arguments of a quantization config by which no module with something new in it is packed.

    A packed matrix can't be trained, and a new one is worth nothing untrained. A list of one's own replaces the
    library's, so the modules that it would leave alone are named, too: those that score the vocabulary, those that are
    tied, and the last one.

    Args:
        method: whose config: ``BitsAndBytesConfig``, ``QuantoConfig`` or ``TorchAoConfig`` of transformers.

    Raises:
        PlanError: another method.

    Example::

        skip = quantization_arguments(Plan.load("sentiment"))
        config = BitsAndBytesConfig(load_in_4bit=True, **skip)
        model = AutoModelForSequenceClassification.from_pretrained("sentiment", quantization_config=config)
    """
    if method not in _SKIP:
        raise PlanError(f"method is {method!r}, expected one of {', '.join(map(repr, _SKIP))}")
    tensors = [tensor for tensor in plan.tensors if tensor.role != "ignored"]
    tied = {name for tensor in tensors if tensor.tied_to for name in (tensor.name, tensor.tied_to)}
    names = [
        tensor.parameter
        for tensor in tensors
        if tensor.new or tensor.name in tied or matches(tensor.role, "output_embedding") or tensor is tensors[-1]
    ]
    return {_SKIP[method]: list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))}
