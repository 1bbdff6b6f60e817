"""The facts of each parameter: its gradient, its new rows, and whether an optimizer can move it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hf_init._check.facts import WeightFacts
from hf_init._checkpoint import region_of
from hf_init._tensors import Region

_BITS = {torch.bfloat16: 7, torch.float16: 10}
"""Stored bits of the significand of the dtypes that lose small updates."""

_BLOCK = 1 << 22
"""Elements looked at at a time."""


@dataclass(frozen=True)
class OptimizerEntry:
    """An optimizer's parameters: learning rates by id, and whether its updates are as large as the rate, as Adam's."""

    rates: Mapping[int, float]
    parameters: Mapping[int, torch.Tensor]
    normalised: bool

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer | None) -> OptimizerEntry:
        groups = [] if optimizer is None else optimizer.param_groups
        # Where a schedule begins at a low rate, the one that it leads to counts.
        rates = [max(float(group.get("lr") or 0.0), float(group.get("initial_lr") or 0.0)) for group in groups]
        pairs = [(p, rate) for group, rate in zip(groups, rates, strict=True) for p in group["params"]]
        word = type(getattr(optimizer, "optimizer", optimizer)).__name__.lower()
        return cls(
            {id(p): rate for p, rate in pairs},
            {id(p): p for p, _ in pairs},
            any(name in word for name in ("adam", "lion", "adafactor", "rmsprop")),
        )


def weight_facts(
    model: nn.Module,
    new: Mapping[str, Sequence[Region]],
    gradients: Mapping[str, torch.Tensor | None],
    optimizer: torch.optim.Optimizer | None,
) -> tuple[WeightFacts, ...]:
    """Return the facts of each parameter of a model, shared ones once."""
    held, facts = OptimizerEntry.of(optimizer), []
    for name, parameter in model.named_parameters():
        value, regions, gradient = parameter.detach(), new.get(name, ()), gradients.get(name)
        size, rate = None if gradient is None else _tensor_norm(gradient), held.rates.get(id(parameter))
        twins, rows = _repeated_rows(value, regions)
        # The first update of an element: of Adam's kind the rate itself (Kingma and Ba, 2015).
        update = rate if rate is None or held.normalised else rate * (size or 0.0) / max(value.numel(), 1) ** 0.5
        lost, least = _lost_updates(value, regions, update)
        facts.append(
            WeightFacts(
                name=name,
                new=bool(regions),
                shape=tuple(value.shape),
                dtype=str(value.dtype).removeprefix("torch."),
                trains=parameter.requires_grad,
                norm=_tensor_norm(value),
                gradient=size,
                leftover=parameter.grad is not None,
                finite=bool(torch.isfinite(value).all()),
                gradient_finite=gradient is None or bool(torch.isfinite(gradient).all()),
                twins=twins,
                rows=rows,
                held=id(parameter) in held.rates,
                rate=rate,
                lost=lost,
                least=least,
            )
        )
    return tuple(facts)


def _tensor_norm(values: torch.Tensor) -> float:
    values = values.coalesce().values() if values.is_sparse else values
    return float(torch.linalg.vector_norm(values.detach().float(), dtype=torch.float64))


def _lost_updates(value: torch.Tensor, new: Sequence[Region], update: float | None) -> tuple[float, float]:
    """Return the share of elements whose half unit in the last place exceeds an update, and that half's median."""
    bits = _BITS.get(value.dtype)
    if bits is None or not value.numel():
        return 0.0, 0.0
    found = torch.cat([region_of(value, region).reshape(-1) for region in new]) if new else value.reshape(-1)
    found = found[:: max(found.numel() // _BLOCK, 1)].float()
    _, exponent = torch.frexp(found)  # found = m 2^exponent with m in [1/2, 1)
    halves = torch.where(found == 0, 0.0, torch.ldexp(torch.ones_like(found), exponent - bits - 2))
    share = 0.0 if update is None else float((halves > update).float().mean())
    return share, float(halves.median())


def _repeated_rows(value: torch.Tensor, new: Sequence[Region]) -> tuple[int, int]:
    """Return how many new rows repeat another one, and how many are new; no repeats where all are of one value."""
    if value.ndim < 2 or not new:
        return 0, 0
    pieces = [region_of(value, region) for region in new]
    if len({piece.shape[1:] for piece in pieces}) > 1 or not pieces[0][0:1].numel():
        return 0, 0
    rows = torch.cat([piece.reshape(piece.shape[0], -1) for piece in pieces])
    if bool((rows == rows[0, 0]).all()):
        return 0, len(rows)
    # Each row gets a number that equal rows share, and others hardly ever.
    weights = torch.cos(torch.arange(rows.shape[1], dtype=torch.float64, device=rows.device) ** 2 + 1.0)
    step = max(_BLOCK // rows.shape[1], 1)
    keys = torch.cat([(rows[at : at + step].double() * weights).sum(1) for at in range(0, len(rows), step)])
    _, inverse, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    groups = (torch.nonzero(inverse == at).reshape(-1) for at in torch.nonzero(counts > 1).reshape(-1))
    return sum(int((rows[group] == rows[group[0]]).all(dim=1).sum()) - 1 for group in groups), len(rows)


def foreign_shapes(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of an optimizer's parameters that aren't the model's."""
    own = {id(parameter) for parameter in model.parameters()}
    return tuple(tuple(p.shape) for key, p in OptimizerEntry.of(optimizer).parameters.items() if key not in own)
