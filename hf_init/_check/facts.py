"""What one batch tells about a model, as numbers; gathered by hooks, judged elsewhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerFacts:
    """The output of one module over the batch.

    Attributes:
        name, kind: of the module.
        new: it holds new elements.
        calls: how often it ran.
        mean, std, rms: of its output's finite elements.
        zeros: the share of them that is exactly zero.
        not_finite: how many are NaN or infinite.
        gradient: the root mean square of the loss's gradient by its output; None where there is none.
    """

    name: str
    kind: str
    new: bool
    calls: int
    mean: float
    std: float
    rms: float
    zeros: float
    not_finite: int
    gradient: float | None

    def to_json(self) -> dict[str, object]:
        return dict(vars(self))


@dataclass(frozen=True)
class Units:
    """The units of one activation function over the batch.

    Attributes:
        name: of the module that calls the function.
        function: ``relu``, ``gelu``, ``silu``, ``tanh`` or ``sigmoid``.
        new: new parameters feed it.
        count: units.
        dead: units whose gradient vanishes for everything in the batch: a ReLU's input never above 0, a GELU's never
            above -3.5, a SiLU's never above -8.
        saturated: units whose tanh is always beyond .99 in size, whose sigmoid is never between .01 and .99.
        share: of all outputs, those that are zero (ReLU), in the flat tail (GELU, SiLU) or saturated (tanh, sigmoid).
    """

    name: str
    function: str
    new: bool
    count: int
    dead: int
    saturated: int
    share: float

    def to_json(self) -> dict[str, object]:
        return dict(vars(self))


@dataclass(frozen=True)
class WeightFacts:
    """One parameter.

    Attributes:
        trains: it requires gradients.
        norm: Euclidean.
        gradient: the norm of the loss's gradient; None where the loss doesn't depend on it.
        leftover: a gradient of an earlier step lies on it.
        finite, gradient_finite: whether all of it is a number.
        twins: of its new rows, how many are the same as another new row, bit for bit; 0 where all of it is one value.
        rows: how many new rows it has.
        held: an optimizer has it.
        rate: its learning rate there.
        lost: the share of its elements that the first update of the optimizer is too small to change, in its dtype.
        least: the learning rate below which AdamW's updates don't change half of its elements.
    """

    name: str
    new: bool
    shape: tuple[int, ...]
    dtype: str
    trains: bool
    norm: float
    gradient: float | None
    leftover: bool
    finite: bool
    gradient_finite: bool
    twins: int = 0
    rows: int = 0
    held: bool = False
    rate: float | None = None
    lost: float = 0.0
    least: float = 0.0

    def to_json(self) -> dict[str, object]:
        return {**vars(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class Reference:
    """What the loss should be before the head has learned anything: that of its bias alone, on the batch's labels.

    Attributes:
        kind: ``classes``, ``several labels``, ``span`` or ``regression``.
        value: the loss on these labels of logits that are the bias, of zeros where there is none.
        formula: where that comes from, in words.
        floor: of a regression, the variance of the labels: what the best constant reaches.
    """

    kind: str
    value: float
    formula: str
    floor: float | None = None

    def to_json(self) -> dict[str, object]:
        return dict(vars(self))


@dataclass(frozen=True)
class Logits:
    """The scale of the logits: over all of them, within an example, and between examples.

    Attributes:
        head: the name of the module that they come from.
        new: whether all of it is new; None where no plan tells.
        spread: the mean over examples of the standard deviation over the classes.
        between: the greatest standard deviation of one logit over the examples.
    """

    head: str
    new: bool | None
    shape: tuple[int, ...]
    mean: float
    std: float
    largest: float
    spread: float
    between: float

    def to_json(self) -> dict[str, object]:
        return {**vars(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class Facts:
    """Everything that was seen.

    Attributes:
        planned: a plan said what is new.
        optimizer: an optimizer was given, of this class.
        strange: shapes of parameters in the optimizer that aren't the model's.
        written: parameters that the forward pass itself wrote to.
        training: the model was in training mode, and dropout at work.
    """

    loss: float
    reference: Reference | None
    logits: Logits | None
    layers: tuple[LayerFacts, ...]
    units: tuple[Units, ...]
    weights: tuple[WeightFacts, ...]
    planned: bool
    training: bool
    optimizer: str = ""
    strange: tuple[tuple[int, ...], ...] = ()
    written: tuple[str, ...] = ()

    @property
    def new(self) -> tuple[WeightFacts, ...]:
        return tuple(weight for weight in self.weights if weight.new)
