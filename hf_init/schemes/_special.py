"""Schemes that know a tensor's place: a residual branch's end, a padding row, gates, the architecture's own values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_init._errors import RecipeError
from hf_init._tensors import Slot, num_elements
from hf_init.schemes._base import Scheme
from hf_init.schemes._distribution import Distribution, Part
from hf_init.schemes._elementwise import Elementwise
from hf_init.schemes._matrices import coordinates
from hf_init.schemes._settings import AtLeast0, AtLeast1, Finite, RowNumber, Text

if TYPE_CHECKING:
    import torch

__all__ = [
    "Auto",
    "Declared",
    "Embedding",
    "GruBias",
    "LstmBias",
    "MatchedNormal",
    "Model",
    "ScaledResidual",
    "Skip",
]


@dataclass(frozen=True)
class PlaceScheme(Scheme):
    """What the schemes share that go by a tensor's place in the network."""

    group: ClassVar[str] = "by place"


@dataclass(frozen=True)
class ScaledResidual(Elementwise):
    """Normal, smaller the deeper the network.

    Formula: w ~ N(0, s^2), s = std / sqrt(2 * layers)
    Use: The projection that ends a residual branch (attention's and the MLP's output), where it should not be zeros.
    Source: Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), 2019.

    Args:
        layers: blocks of the whole extended model, of two residual branches each.
        std: before scaling.

    Example:
        >>> from hf_init import schemes
        >>> schemes.ScaledResidual(layers=8).moments(schemes.whole_slot("c_proj.weight", (4, 4)))
        (0.0, 0.005)
    """

    name: ClassVar[str] = "scaled_residual"
    group: ClassVar[str] = PlaceScheme.group
    layers: AtLeast1
    std: AtLeast0 = 0.02

    @property
    def part(self) -> Part:
        return Part.normal(0.0, self.std / math.sqrt(2 * self.layers))


@dataclass(frozen=True)
class Embedding(PlaceScheme):
    """Normal rows, but for a padding row of zeros.

    Formula: w[i] ~ N(0, std^2) for i != padding; w[padding] = 0
    Use: A new embedding table with a padding row, with the std of the model's other embeddings.
    Source: torch.nn.Embedding, whose padding row is 0.

    Args:
        padding: the row that stands for padding.
        std: of the other rows.

    Example:
        >>> from hf_init import schemes
        >>> values = schemes.Embedding(padding=1)(schemes.whole_slot("embed.weight", (3, 4)))
        >>> (values == 0).all(1).tolist()
        [False, True, False]
    """

    name: ClassVar[str] = "embedding"
    padding: RowNumber
    std: AtLeast0 = 0.02

    def unsupported_reason(self, slot: Slot) -> str:
        rows = slot.whole[0] if slot.whole else 0
        return "" if self.padding < rows else f"it has {rows} rows, and padding is {self.padding}: name one of them"

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        values = _sample.normal(slot.shape, 0.0, self.std, slot.generator())
        values[self._padding_in(slot)] = 0.0
        return values

    def distribution_of(self, slot: Slot) -> Distribution | None:
        if not slot.shape[0]:
            return None
        share = len(self._padding_in(slot)) / slot.shape[0]
        return Distribution.of(Part.constant(0.0, share), Part.normal(0.0, self.std, 1 - share))

    def _padding_in(self, slot: Slot) -> list[int]:
        return [at for at, row in enumerate(coordinates(slot, 0)) if row == self.padding]


@dataclass(frozen=True)
class GateBias(PlaceScheme):
    """What the biases of recurrent layers share: zeros, but for one gate's in the bias of the inputs.

    torch keeps two biases and adds them; a value in both would count twice, so ``bias_hh`` stays at 0.
    """

    gates: ClassVar[int] = 4

    @property
    def value(self) -> float:
        """Return the bias of the second gate."""
        raise NotImplementedError(f"{type(self).__name__} has no value")

    def unsupported_reason(self, slot: Slot) -> str:
        leaf = (slot.parameter or slot.name).rpartition(".")[2]
        if not leaf.startswith(("bias_ih", "bias_hh")):
            return f"it is named {leaf!r}, expected bias_ih or bias_hh as in torch's recurrent layers: use zeros"
        if len(slot.whole) != 1 or slot.whole[0] % self.gates:
            return f"it needs a vector of {self.gates} gates of one size: use zeros"
        return ""

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        values = _sample.full_values(slot.shape, 0.0)
        if (slot.parameter or slot.name).rpartition(".")[2].startswith("bias_ih"):
            size = slot.whole[0] // self.gates
            values[[at for at, row in enumerate(coordinates(slot, 0)) if row // size == 1]] = self.value
        return values


@dataclass(frozen=True)
class LstmBias(GateBias):
    """Zeros, but the forget gate open.

    Formula: gates input, forget, cell, output: bias_ih = (0, forget, 0, 0), bias_hh = 0 (the two are added)
    Use: The biases of torch's LSTM.
    Source: Gers, Schmidhuber and Cummins, Learning to Forget, 2000; Jozefowicz, Zaremba and Sutskever, An Empirical
        Exploration of Recurrent Network Architectures, 2015.

    Args:
        forget: the forget gate's bias.

    Example:
        >>> from hf_init import schemes
        >>> schemes.LstmBias()(schemes.whole_slot("lstm.bias_ih_l0", (8,)))
        tensor([0., 0., 1., 1., 0., 0., 0., 0.])
    """

    name: ClassVar[str] = "lstm_bias"
    forget: Finite = 1.0

    @property
    def value(self) -> float:
        return self.forget


@dataclass(frozen=True)
class GruBias(GateBias):
    """Zeros, but the update gate towards remembering.

    Formula: gates reset, update, new: bias_ih = (0, update, 0), bias_hh = 0 (the two are added)
    Use: The biases of torch's GRU, whose update gate says how much of the state is kept.
    Source: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014, for the gates.

    Args:
        update: the update gate's bias; positive remembers.

    Example:
        >>> from hf_init import schemes
        >>> schemes.GruBias()(schemes.whole_slot("gru.bias_ih_l0", (6,)))
        tensor([0., 0., 1., 1., 0., 0.])
    """

    name: ClassVar[str] = "gru_bias"
    gates: ClassVar[int] = 3
    update: Finite = 1.0

    @property
    def value(self) -> float:
        return self.update


@dataclass(frozen=True)
class MatchedNormal(PlaceScheme):
    """Normal, like the tensor's pretrained elements.

    Formula: w ~ N(m, (scale s)^2), m and s of the pretrained elements of the same tensor
    Use: New rows of a trained embedding, or of any tensor that grew: they start with the spread of their neighbours.

    Args:
        scale: factor on the standard deviation.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.MatchedNormal(scale=0.5))
        'matched_normal(scale=0.5)'
    """

    name: ClassVar[str] = "matched_normal"
    scale: AtLeast0 = 1.0

    def unsupported_reason(self, slot: Slot) -> str:
        whole = slot.shape == slot.whole and num_elements(slot.whole)
        return "nothing of it is pretrained: use normal" if whole else ""

    def draw(self, slot: Slot) -> torch.Tensor:
        from hf_init.schemes import _sample

        if not num_elements(slot.shape):
            return _sample.empty_values(slot.shape)
        if slot.trained is None:
            raise self.refusal(slot, "its pretrained elements aren't at hand: use normal")
        mean, std = _sample.sample_moments(slot.trained())
        return _sample.normal(slot.shape, mean, std * self.scale, slot.generator())


@dataclass(frozen=True)
class Model(PlaceScheme):
    """What the architecture itself would give the tensor.

    Formula: the values of its own _init_weights
    Use: The default: new tensors are as the model's authors would have started them.

    Args:
        then: the name of a function of the user's own that is run over every module after that; a recipe doesn't spell
            it, and is the function.

    Raises:
        RecipeError: the slot has no context, that is, no architecture to ask.

    Example:
        >>> from hf_init import schemes
        >>> str(schemes.Model())
        'model'
    """

    name: ClassVar[str] = "model"
    allows_integers: ClassVar[bool] = True
    needs_model: ClassVar[bool] = True
    as_given: ClassVar[bool] = True
    bound: ClassVar[tuple[str, ...]] = ("then",)
    then: Text = ""

    def draw(self, slot: Slot) -> torch.Tensor:
        if slot.context is None:
            raise self.refusal(slot, "no architecture is at hand to ask: name a scheme, such as normal(std=0.02)")
        return slot.context.architecture(slot)


@dataclass(frozen=True)
class Declared(PlaceScheme):
    """What the class's constructor gives the tensor.

    Formula: the values that __init__ sets
    Use: Classes of your own that set their parameters themselves: a layer zeroed in __init__ stays zero.

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
    as_given: ClassVar[bool] = True

    def draw(self, slot: Slot) -> torch.Tensor:
        if slot.context is None:
            raise self.refusal(slot, "no architecture is at hand to ask: name a scheme, such as zeros")
        return slot.context.declared(slot)


@dataclass(frozen=True)
class Auto(PlaceScheme):
    """Chosen for each tensor, with the reason in the plan.

    A mark, not a scheme: calling it raises RecipeError.

    Formula: the scheme that fits the role, the activation, the fans and the surroundings
    Use: When you want advice: `default: auto`, then read the plan's column of reasons.

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
class Skip(PlaceScheme):
    """Leave the tensor out.

    A mark, not a scheme: hf_init neither fills nor proves the tensor, and calling it raises RecipeError.

    Formula: no values
    Use: Tensors that something else fills: an adapter library, your own code.

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
