"""`auto`: which scheme for which tensor, and why: a table of roles, and what surroundings decide. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from hf_init import schemes
from hf_init._block_names import stack_blocks, stack_of
from hf_init._plan.recipe import Choice, Recipe
from hf_init._roles import matches
from hf_init._tensors import TensorSpec
from hf_init.schemes import Scheme

CLOSED_BY_NORM = "zero gain: the new branch is closed, by its norm"
CLOSING = ("gate", "norm.residual.weight", "norm_plus_one.residual.weight")
CLOSED = "zero, weight and bias: the new branch is closed"


@dataclass(frozen=True)
class Surroundings:
    """What a tensor's own description doesn't say.

    Attributes:
        std: the architecture's own standard deviation (``initializer_range``).
        depth: blocks of the extended model, for the scaled residual.
        grown: prefixes of new blocks in a stack whose other blocks are pretrained (``"h.12."``).
        closed_otherwise: those of them with a last norm or a gate in each branch, closed instead of the projection.
        resized: names of tensors of which a part is kept.
    """

    std: float = 0.02
    depth: int | None = None
    grown: frozenset[str] = frozenset()
    closed_otherwise: frozenset[str] = frozenset()
    resized: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, new: Iterable[TensorSpec], kept: Iterable[TensorSpec], std: float = 0.02, depth: int | None = None
    ) -> Surroundings:
        """Read the blocks off the names: ``h.12.`` is grown where ``h.0.`` to ``h.11.`` are kept and it is all new."""
        old = {block for tensor in kept for block in stack_blocks(tensor.parameter)}
        stacks = {stack_of(block) for block in old}
        mine = list(new)
        grown = {b for tensor in mine for b in stack_blocks(tensor.parameter) if b not in old and stack_of(b) in stacks}
        closing = [tensor for tensor in mine if any(matches(tensor.role, role) for role in CLOSING)]
        ends = {b for tensor in closing for b in stack_blocks(tensor.parameter)}
        return cls(std, depth, frozenset(grown), frozenset(grown & ends))

    def grows(self, tensor: TensorSpec) -> bool:
        """Return whether the tensor lies in a new block of a pretrained stack."""
        return any(block in self.grown for block in stack_blocks(tensor.parameter))

    def closes_otherwise(self, tensor: TensorSpec) -> bool:
        """Return whether something else than the projection closes the branches of its block."""
        return any(block in self.closed_otherwise for block in stack_blocks(tensor.parameter))


def auto_scheme(tensor: TensorSpec, around: Surroundings) -> Choice:
    """Return the scheme for a tensor from its role, its activation, its fans and what surrounds it.

    Example:
        >>> auto_scheme(TensorSpec("norm.weight", (8,), "float32", role="norm.weight"), Surroundings())
        Choice(scheme=Ones(), why='a norm starts by changing nothing: gain 1')
    """
    return next(advisor for pattern, advisor in TABLE if matches(tensor.role, pattern))(tensor, around)


def choose_auto(
    recipe: Recipe,
    fill: Sequence[TensorSpec],
    rest: Sequence[TensorSpec] = (),
    std: float = 0.02,
    depth: int | None = None,
    resized: Iterable[str] = (),
) -> dict[str, Choice]:
    """Return a recipe's scheme for every tensor of ``fill``, with the advised one where it says `auto`.

    ``rest`` is kept, and of the tensors named in ``resized`` a part is.

    Raises:
        RecipeError: as ``Recipe.assign``.
    """
    around = replace(Surroundings.of(fill, rest, std, depth), resized=frozenset(resized))
    chosen = recipe.assign(fill, rest)
    return {tensor.name: settle(chosen[tensor.name], tensor, around) for tensor in fill}


def settle(choice: Choice, tensor: TensorSpec, around: Surroundings) -> Choice:
    """Return a choice with the advised scheme, where it was `auto`."""
    return replace(auto_scheme(tensor, around), advised=True) if isinstance(choice.scheme, schemes.Auto) else choice


def _fixed(scheme: Scheme, why: str) -> Callable[[TensorSpec, Surroundings], Choice]:
    return lambda tensor, around: Choice(scheme, why)


def _last_norm(tensor: TensorSpec, around: Surroundings) -> Choice:
    plus_one = matches(tensor.role, "norm_plus_one")
    if around.grows(tensor):
        return Choice(schemes.Constant(val=-1.0) if plus_one else schemes.Zeros(), CLOSED_BY_NORM)
    if plus_one:
        return _PLUS_ONE(tensor, around)
    if "BatchNorm" in "".join(tensor.module[:1]):
        return Choice(schemes.Zeros(), "the last norm of a residual branch: zero gamma (Goyal et al., 2017)")
    return _NORM(tensor, around)


def _residual(tensor: TensorSpec, around: Surroundings) -> Choice:
    if around.grows(tensor) and not around.closes_otherwise(tensor):
        return Choice(schemes.Zeros(), CLOSED)
    if around.depth:
        scheme = schemes.ScaledResidual(layers=around.depth, std=around.std)
        return Choice(scheme, f"writes into the residual stream, 2 branches in each of {around.depth} blocks")
    return _linear(tensor, around)


def _residual_bias(tensor: TensorSpec, around: Surroundings) -> Choice:
    closed = around.grows(tensor) and not around.closes_otherwise(tensor)
    return Choice(schemes.Zeros(), CLOSED if closed else "biases start at 0")


def _linear(tensor: TensorSpec, around: Surroundings) -> Choice:
    if tensor.activation is None:
        why = "no activation follows that is known: small and normal, with the architecture's own spread"
        return Choice(schemes.Normal(std=around.std), why)
    return _before(tensor.activation, mode="fan_in")


def _conv(tensor: TensorSpec, around: Surroundings) -> Choice:
    if tensor.activation is None:
        return Choice(schemes.LecunNormal(), "a convolution before no known activation: keeps the signal's variance")
    return _before(tensor.activation, mode="fan_out")


def _before(activation: str, mode: str) -> Choice:
    """Choose Kaiming before the rectifiers, LeCun before SELU, Xavier with the activation's gain before the rest."""
    if activation in SATURATING:
        gain = schemes.GAINS[activation]
        return Choice(schemes.XavierUniform(gain=activation), f"{activation} follows: Xavier with its gain {gain:.3g}")
    if activation == "selu":
        return Choice(schemes.LecunNormal(), "selu follows: LeCun normal, as its derivation asks")
    if activation in schemes.GAINS:
        why = f"{activation} follows: Kaiming, {mode}, keeps the variance through a rectifier"
        return Choice(schemes.KaimingNormal(mode=mode, nonlinearity=activation), why)
    return Choice(schemes.XavierUniform(), f"{activation} follows, whose gain isn't known: Xavier")


def _recurrent_bias(tensor: TensorSpec, around: Surroundings) -> Choice:
    if "LSTM" in "".join(tensor.module):
        return Choice(schemes.LstmBias(), "an LSTM: forget gate open by 1, in one of the two biases only")
    if "GRU" in "".join(tensor.module):
        return Choice(schemes.Zeros(), "a GRU: both biases start at 0")
    return Choice(schemes.Zeros(), "biases start at 0")


def _embedding(tensor: TensorSpec, around: Surroundings) -> Choice:
    if tensor.name in around.resized:
        return Choice(schemes.MatchedNormal(), "new rows of a trained table: mean and spread of the trained ones")
    why = "an embedding is a table, its fans mean nothing: the architecture's own spread"
    if tensor.padding is None:
        return Choice(schemes.Normal(std=around.std), why)
    return Choice(schemes.Embedding(std=around.std, padding=tensor.padding), f"{why}; the padding row is 0")


def _bare(tensor: TensorSpec, around: Surroundings) -> Choice:
    return Choice(schemes.Model(), f"nothing general is known of a {tensor.role}: the architecture's own value")


_NORM = _fixed(schemes.Ones(), "a norm starts by changing nothing: gain 1")
_PLUS_ONE = _fixed(schemes.Zeros(), "this norm multiplies by 1 + weight: 0 changes nothing")
_ATTENTION = _fixed(
    schemes.XavierUniform(gain=0.7071),
    "attention scores start small: Xavier with gain 1/sqrt(2), each projection with its own fans",
)
_NO_BIAS = _fixed(schemes.Zeros(), "biases start at 0")
SATURATING = ("tanh", "sigmoid", "linear", "identity")

TABLE: tuple[tuple[str, Callable[[TensorSpec, Surroundings], Choice]], ...] = (
    ("norm.running_mean", _fixed(schemes.Zeros(), "running mean of a standardized signal")),
    ("norm.running_var", _fixed(schemes.Ones(), "running variance of a standardized signal")),
    ("norm.num_batches_tracked", _fixed(schemes.Zeros(), "no batch seen yet")),
    ("norm.bias", _NO_BIAS),
    ("norm_plus_one.bias", _NO_BIAS),
    ("norm.residual.weight", _last_norm),
    ("norm_plus_one.residual.weight", _last_norm),
    ("norm.weight", _NORM),
    ("norm_plus_one.weight", _PLUS_ONE),
    ("recurrent.hidden.weight", _fixed(schemes.Orthogonal(), "hidden to hidden: orthogonal, gate by gate")),
    ("recurrent.input.weight", _fixed(schemes.XavierUniform(), "input to hidden: Xavier, gate by gate")),
    ("recurrent.projection.weight", _fixed(schemes.XavierUniform(), "a projection of the state: Xavier")),
    ("recurrent.input.bias", _recurrent_bias),
    ("recurrent.hidden.bias", _fixed(schemes.Zeros(), "the second of two biases that are added: 0")),
    ("attention.output.weight", _residual),
    ("mlp.down.weight", _residual),
    ("expert.down.weight", _residual),
    ("mixer.output.weight", _residual),
    ("attention.output.bias", _residual_bias),
    ("mlp.down.bias", _residual_bias),
    ("expert.down.bias", _residual_bias),
    ("mixer.output.bias", _residual_bias),
    ("attention.sink", _fixed(schemes.Zeros(), "a sink starts level with the other logits")),
    ("attention.bias", _NO_BIAS),
    ("attention.weight", _ATTENTION),
    ("router.weight", _fixed(schemes.Normal(std=0.02), "experts start almost equally likely")),
    ("output_embedding.weight", _fixed(schemes.Normal(std=0.02), "logits start almost equal")),
    ("embedding", _embedding),
    ("token", _fixed(schemes.TruncNormal(std=0.02), "a learned token: truncated normal .02, as in ViT")),
    ("layer_scale", _fixed(schemes.Constant(val=1e-5), "LayerScale: the branch opens slowly (Touvron et al., 2021)")),
    ("gate", _fixed(schemes.Zeros(), "a closed gate: the branch starts as the identity")),
    ("conv.weight", _conv),
    ("conv_transpose.weight", _conv),
    *(
        (f"{layer}.bias", _NO_BIAS)
        for layer in ("linear", "conv", "conv_transpose", "mlp", "expert", "router", "output_embedding")
    ),
    *((f"{layer}.weight", _linear) for layer in ("linear", "mlp", "expert")),
    *((role, _bare) for role in ("logit_scale", "weight_norm", "buffer", "parameter")),
)
"""From the particular to the general; every role is covered, which a test checks."""
