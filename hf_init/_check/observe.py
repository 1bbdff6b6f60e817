"""One batch through a model, forward and backward, and everything that it tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hf_init._check.facts import Facts, Logits, Reference
from hf_init._check.keep import model_untouched
from hf_init._check.reference import reference_loss, span_reference
from hf_init._check.watch import LayerRecord, watch_layers
from hf_init._check.weights import foreign_shapes, weight_facts
from hf_init._checkpoint import as_bytes
from hf_init._errors import HfInitError, PlanError
from hf_init._tensors import Region, num_elements

New = Mapping[str, Sequence[Region]]


def observe(
    model: nn.Module,
    batch: Mapping[str, object],
    optimizer: torch.optim.Optimizer | None,
    new: New | None,
) -> Facts:
    """Return the facts of one batch; the model is left as it was.

    Args:
        batch: what the model's forward takes, with labels.
        new: regions of parameters that are new; None where nobody knows.

    Raises:
        PlanError: the batch is none, or the model makes no loss of it.
    """
    if not isinstance(batch, Mapping) or not batch:
        raise PlanError(f"batch: expected the keyword arguments of the model's forward, not {type(batch).__name__}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    given = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    sums = _checksums(model)
    with model_untouched(model), torch.enable_grad(), watch_layers(model) as record:
        output = model(**given)
        loss = _loss_of(output)
        gradients = _parameter_gradients(model, loss)
    facts = {} if new is None else new
    logits, found = _observe_head(model, output, given, record, new)
    return Facts(
        loss=float(loss.detach()),
        reference=found,
        logits=logits,
        layers=record.layers(lambda name: any(parameter.rpartition(".")[0] == name for parameter in facts)),
        units=record.all_units(lambda name: _new_feeds(model, name, facts)),
        weights=weight_facts(model, facts, gradients, optimizer),
        planned=new is not None,
        training=model.training,
        optimizer="" if optimizer is None else type(optimizer).__name__,
        strange=foreign_shapes(model, optimizer),
        written=tuple(name for name, total in _checksums(model).items() if total != sums[name]),
    )


def _checksums(model: nn.Module) -> dict[str, int]:
    """Return a number for each parameter that changes with its bits."""
    sums = {}
    for name, parameter in model.named_parameters():
        if parameter.device.type != "meta":
            flat = as_bytes(parameter.detach())
            words = len(flat) // 8 * 8
            sums[name] = int(flat[:words].view(torch.int64).sum()) ^ int(flat[words:].sum())
    return sums


def _loss_of(output: object) -> torch.Tensor:
    found = _output_field(output, "loss")
    if found is None and isinstance(output, tuple) and output and isinstance(output[0], torch.Tensor):
        found = output[0] if output[0].numel() == 1 else None
    if not isinstance(found, torch.Tensor) or found.numel() != 1:
        raise PlanError(
            f"the model's output ({type(output).__name__}) has no loss: give the batch with its labels, under the name "
            "that the model's forward has for them"
        )
    return found.reshape(())


def _output_field(output: object, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _parameter_gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Return gradients by name, without touching ``grad`` or the hooks that wait for it."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained or not loss.requires_grad:
        return {}
    try:
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise HfInitError(
            "the model checkpoints its activations with use_reentrant=True, by which gradients can't be asked for "
            "without storing them: switch gradient checkpointing off for the check"
        ) from error
    return dict(zip(trained, found, strict=True))


def _new_feeds(model: nn.Module, name: str, new: New) -> bool:
    """Tell whether the nearest enclosing module with parameters has new ones; of the model itself, whether all are."""
    path = name
    while path and next(model.get_submodule(path).parameters(), None) is None:
        path = path.rpartition(".")[0]
    inside = [n for n, _ in model.named_parameters() if not path or n.startswith(f"{path}.")]
    return any(n in new for n in inside) if path else bool(inside) and all(n in new for n in inside)


def _observe_head(
    model: nn.Module, output: object, batch: Mapping[str, object], record: LayerRecord, new: New | None
) -> tuple[Logits | None, Reference | None]:
    """Return the logits' scale and what the loss should be."""
    logits, starts = _output_field(output, "logits"), _output_field(output, "start_logits")
    if isinstance(starts, torch.Tensor) and starts.ndim == 2:
        return _logit_scale(starts, "", None), span_reference(starts.shape[1])
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point() or not logits.numel() or not logits.ndim:
        return None, None
    head = next((name for name, sums in reversed(record.modules.items()) if sums.width == logits.shape[-1]), "")
    known = bias = None
    if head:
        module = model.get_submodule(head)
        bias = getattr(module, "bias", None)
        if new is not None:  # the head is new if it has no pretrained element
            own = module.named_parameters(head, recurse=False)
            known = all(sum(num_elements(region.shape) for region in new.get(name, ())) == p.numel() for name, p in own)
    fits = isinstance(bias, torch.Tensor) and bias.shape == logits.shape[-1:]
    problem = getattr(getattr(model, "config", None), "problem_type", None) or ""
    return _logit_scale(logits, head, known), reference_loss(logits.detach(), batch, bias if fits else None, problem)


def _logit_scale(logits: torch.Tensor, head: str, new: bool | None) -> Logits:
    values = logits.detach().float()
    flat = values.reshape(-1, values.shape[-1])
    std = flat.std(dim=1, unbiased=False).mean() if flat.shape[1] > 1 else torch.zeros(())
    return Logits(
        head=head,
        new=new,
        shape=tuple(values.shape),
        mean=float(values.mean()),
        std=float(values.std(unbiased=False)),
        largest=float(values.abs().max()),
        spread=float(std),
        between=float(flat.std(dim=0, unbiased=False).max()),
    )
