"""The vocabulary of roles: what a tensor does in its network."""

from __future__ import annotations

from collections.abc import Mapping

# Each is a pair of roles, ``.weight`` and ``.bias``.
_LAYERS = {
    "linear": "a dense layer that none of the other names fits",
    "conv": "a convolution, grouped and depthwise ones included",
    "conv_transpose": "a transposed convolution",
    "attention.query": "the query projection of an attention",
    "attention.key": "the key projection of an attention",
    "attention.value": "the value projection of an attention",
    "attention.qkv": "the query, key and value projections of an attention, fused in one tensor",
    "attention.kv": "the key and value projections of an attention, fused in one tensor",
    "attention.latent": "the projection of an attention into a low-rank latent, from which queries or keys are made",
    "attention.output": "the projection of an attention that writes into the residual stream",
    "mlp.up": "the first layer of a feed-forward block",
    "mlp.gate": "the layer of a gated feed-forward block that the activation is applied to",
    "mlp.gate_up": "the gate and up layers of a gated feed-forward block, fused in one tensor",
    "mlp.down": "the last layer of a feed-forward block, which writes into the residual stream",
    "mixer.output": "the projection of a convolution or state space that writes into the residual stream",
    "expert.up": "the first layer of the experts of a mixture",
    "expert.gate": "the gate layer of the experts of a mixture",
    "expert.gate_up": "the gate and up layers of the experts of a mixture, fused in one tensor",
    "expert.down": "the last layer of the experts of a mixture, which writes into the residual stream",
    "router": "the layer that chooses or weighs the experts of a mixture",
    "output_embedding": "the layer that scores the vocabulary (the head of a language model)",
    "norm": "a normalization that multiplies by its weight",
    "norm.residual": "a normalization that ends a residual branch and multiplies by its weight",
    "norm_plus_one": "a normalization that multiplies by one plus its weight",
    "norm_plus_one.residual": "a normalization that ends a residual branch and multiplies by one plus its weight",
    "recurrent.input": "a recurrent layer, from its input, all gates in one tensor",
    "recurrent.hidden": "a recurrent layer, from its own last state, all gates in one tensor",
}

_SINGLE = {
    "recurrent.projection.weight": "the projection of an LSTM's state (its proj_size)",
    "norm.running_mean": "the running mean of a batch normalization",
    "norm.running_var": "the running variance of a batch normalization",
    "norm.num_batches_tracked": "how many batches a batch normalization has seen",
    "embedding": "an embedding table that none of the other names fits",
    "embedding.token": "the embeddings of the vocabulary",
    "embedding.position": "learned absolute positions",
    "embedding.relative": "learned relative positions, or the biases made of them",
    "embedding.token_type": "the embeddings of token types (segments)",
    "attention.sink": "a learned logit for each head that attends to nothing",
    "token": "a learned vector that stands for a token (class, mask, register, query)",
    "layer_scale": "a vector that scales a residual branch, channel by channel",
    "gate": "a number or vector that lets a branch through, closed at 0",
    "logit_scale": "a learned temperature of logits",
    "weight_norm.direction": "the direction of a weight-normalized matrix",
    "weight_norm.magnitude": "the norms of a weight-normalized matrix",
    "buffer": "a stored buffer that isn't trained",
    "parameter": "a parameter of which nothing else is known",
}

ROLES: Mapping[str, str] = {
    **{f"{layer}.weight": f"the weight of {text}" for layer, text in _LAYERS.items()},
    **{f"{layer}.bias": f"the bias of {text}" for layer, text in _LAYERS.items()},
    **_SINGLE,
}
"""Every role that a tensor can have, and what it says about it."""

RESIDUAL: tuple[str, ...] = (
    "attention.output",
    "mlp.down",
    "expert.down",
    "mixer.output",
    "norm.residual",
    "norm_plus_one.residual",
    "layer_scale",
    "gate",
)
"""Patterns of the roles that can close a residual branch. Where two of them are on one path, zero only the last."""


def matches(role: str, pattern: str) -> bool:
    """Tell whether a pattern covers a role: its words are among the role's, in their order, from the first.

    Example:
        >>> matches("norm.weight", "norm"), matches("norm.residual.weight", "norm.weight")
        (True, True)
        >>> matches("norm_plus_one.weight", "norm"), matches("attention.query.weight", "query.weight")
        (False, False)
    """
    first, *words = pattern.split(".")
    rest = iter(role.split("."))
    return next(rest) == first and all(word in rest for word in words)
