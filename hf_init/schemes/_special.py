"""Schemes that know a tensor's place: a padding row, the gates of a recurrent bias, the architecture's own values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_init._errors import RecipeError
from hf_init._tensors import Slot, num_elements
from hf_init.schemes._base import Scheme
from hf_init.schemes._matrices import coordinates
from hf_init.schemes._settings import AtLeast0, Place, Plain

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GateBias(Scheme):
    """What the biases of recurrent layers share: zeros, but for one gate's in the bias of the inputs.

    torch keeps two biases and adds them; a value in both would count twice, so ``bias_hh`` stays at 0.
    """

    gates: ClassVar[int] = 4
    raised: ClassVar[int] = 1

    @property
    def value(self) -> float:
        """What the raised gate's bias is."""
        raise NotImplementedError(f"{type(self).__name__} has no value")

    def unsupported_reason(self, slot: Slot) -> str:
        if not _leaf(slot).startswith(("bias_ih", "bias_hh")):
            return f"it is named {_leaf(slot)!r}, expected bias_ih or bias_hh as in torch's recurrent layers: use zeros"
        if len(slot.whole) != 1 or slot.whole[0] % self.gates:
            return f"it needs a vector of {self.gates} gates of one size: use zeros"
        return ""

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        values = _sample.full_values(slot.shape, 0.0)
        if _leaf(slot).startswith("bias_ih"):
            values[self._raised(slot)] = self.value
        return values

    def _raised(self, slot: Slot) -> list[int]:
        """The positions of the raised gate in the slot."""
        size = slot.whole[0] // self.gates
        return [at for at, place in enumerate(coordinates(slot, 0)) if place // size == self.raised]


def _leaf(slot: Slot) -> str:
    return (slot.parameter or slot.name).rpartition(".")[2]


@dataclass(frozen=True)
class LstmBias(GateBias):
    """An LSTM's bias: 0, but ``forget`` for the forget gate (the second of input, forget, cell, output) of ``bias_ih``.

    Raises:
        RecipeError: the tensor isn't named ``bias_ih`` or ``bias_hh``, or its size isn't four gates.

    Example:
        >>> from hf_init import schemes
        >>> schemes.LstmBias()(schemes.whole_slot("lstm.bias_ih_l0", (8,)))
        tensor([0., 0., 1., 1., 0., 0., 0., 0.])

    Source: Gers et al., "Learning to Forget", 2000; Jozefowicz et al., "An Empirical Exploration of Recurrent Network
    Architectures", 2015.
    """

    name: ClassVar[str] = "lstm_bias"
    forget: Plain = 1.0

    @property
    def value(self) -> float:
        return self.forget


@dataclass(frozen=True)
class GruBias(GateBias):
    """A GRU's bias: 0, but ``update`` for the update gate (the second of reset, update, new) of ``bias_ih``.

    The update gate says how much of its state torch's GRU keeps: a positive one remembers, like an LSTM's forget gate.

    Raises:
        RecipeError: the tensor isn't named ``bias_ih`` or ``bias_hh``, or its size isn't three gates.

    Example:
        >>> from hf_init import schemes
        >>> schemes.GruBias()(schemes.whole_slot("gru.bias_ih_l0", (6,)))
        tensor([0., 0., 1., 1., 0., 0.])

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, for the gates.
    """

    name: ClassVar[str] = "gru_bias"
    gates: ClassVar[int] = 3
    update: Plain = 1.0

    @property
    def value(self) -> float:
        return self.update


@dataclass(frozen=True)
class Embedding(Scheme):
    """Normal rows with this standard deviation, but for the padding row, which is 0 as torch.nn.Embedding keeps it.

    Raises:
        RecipeError: the tensor has no dimensions, or no row ``padding``.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.Embedding(padding=1)(schemes.whole_slot("embed.weight", (3, 4)))
        >>> (values == 0).all(1).tolist()
        [False, True, False]
    """

    name: ClassVar[str] = "embedding"
    padding: Place
    std: AtLeast0 = 0.02

    def unsupported_reason(self, slot: Slot) -> str:
        rows = slot.whole[0] if slot.whole else 0
        return "" if self.padding < rows else f"it has {rows} rows, and padding is {self.padding}: name one of them"

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        values = _sample.normal(slot.shape, 0.0, self.std, slot.generator())
        values[self._padded(slot)] = 0.0
        return values

    def _padded(self, slot: Slot) -> list[int]:
        """The padding row's position in the slot, if it is there."""
        return [at for at, row in enumerate(coordinates(slot, 0)) if row == self.padding]

    def moments(self, slot: Slot) -> tuple[float, float] | None:
        rows = slot.shape[0]
        return (0.0, self.std * math.sqrt(1 - len(self._padded(slot)) / rows)) if rows else None


@dataclass(frozen=True)
class MatchedNormal(Scheme):
    """Normal with the mean and standard deviation of the same tensor's pretrained elements, as new embedding rows want.

    Args:
        scale: factor on the standard deviation.

    Raises:
        RecipeError: nothing of the tensor is pretrained.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.MatchedNormal(scale=0.5))
        'matched_normal(scale=0.5)'
    """

    name: ClassVar[str] = "matched_normal"
    scale: AtLeast0 = 1.0

    def unsupported_reason(self, slot: Slot) -> str:
        return (
            "nothing of it is pretrained: use normal" if slot.shape == slot.whole and num_elements(slot.whole) else ""
        )

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        if not num_elements(slot.shape):
            return _sample.empty_values(slot.shape)
        if slot.trained is None:
            raise self.refusal(slot, "its pretrained elements aren't at hand: use normal")
        mean, std = _sample.sample_moments(slot.trained())
        return _sample.normal(slot.shape, mean, std * self.scale, slot.generator())


@dataclass(frozen=True)
class Model(Scheme):
    """What the architecture's own ``_init_weights`` gives the tensor, asked of ``slot.context``.

    Raises:
        RecipeError: the slot has no context, that is, no architecture to ask.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Model()
        Model()
    """

    name: ClassVar[str] = "model"
    allows_integers: ClassVar[bool] = True
    needs_model: ClassVar[bool] = True

    def draw(self, slot: Slot) -> torch.Tensor:
        if slot.context is None:
            raise self.refusal(slot, "no architecture is at hand to ask: name a scheme, such as normal(std=0.02)")
        return slot.context.architecture(slot)


@dataclass(frozen=True)
class Auto(Scheme):
    """A mark, not a scheme: the plan chooses one for each tensor from its role, activation, fans and surroundings.

    Raises:
        RecipeError: it is called.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Auto())
        'auto'
    """

    name: ClassVar[str] = "auto"
    allows_integers: ClassVar[bool] = True

    def draw(self, slot: Slot) -> torch.Tensor:
        raise RecipeError(f"{slot.name!r} is marked auto, which only a plan can resolve; name a scheme for it")


@dataclass(frozen=True)
class Declared(Scheme):
    """What the class's constructor gives the tensor, before ``_init_weights``; asked of ``slot.context``.

    A layer that is zeroed in ``__init__`` stays zero, a scale of 0.1 stays 0.1.

    Raises:
        RecipeError: the slot has no context, that is, no class to ask; or the constructor leaves the tensor without
            a value.

    Example:
        >>> from hf_init import schemes
        >>> schemes.Declared()
        Declared()
    """

    name: ClassVar[str] = "declared"
    allows_integers: ClassVar[bool] = True
    needs_model: ClassVar[bool] = True

    def draw(self, slot: Slot) -> torch.Tensor:
        if slot.context is None:
            raise self.refusal(slot, "no architecture is at hand to ask: name a scheme, such as zeros")
        return slot.context.declared(slot)


@dataclass(frozen=True)
class Skip(Scheme):
    """A mark, not a scheme: the tensor is left to its owner, and hf_init neither fills nor proves it.

    Raises:
        RecipeError: it is called.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Skip())
        'skip'
    """

    name: ClassVar[str] = "skip"
    allows_integers: ClassVar[bool] = True

    def draw(self, slot: Slot) -> torch.Tensor:
        raise RecipeError(
            f"{slot.name!r} is marked skip: hf_init gives it no values; fill it yourself, or name a scheme for it"
        )
