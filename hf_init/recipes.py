"""Recipes that people know: ``recipe="classic"``, ``--recipe vision``, or ``recipes.transformer(std=0.01)``.

Their rules are optional: one that finds no tensor of its kind is no mistake here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hf_init._errors import RecipeError
from hf_init._paths import user_path
from hf_init._plan import Recipe, RecipeLike, Rule, SchemeLike
from hf_init._text import closest
from hf_init.schemes import KaimingNormal, Normal, Orthogonal, ScaledResidual, XavierUniform


def auto(seed: int = 0) -> Recipe:
    """Choose for every tensor by its role, activation, fans and what surrounds it; the plan says why for each.

    Example:
        >>> auto().default
        Auto()
    """
    return Recipe(default="auto", seed=seed)


def classic(nonlinearity: str = "relu", seed: int = 0) -> Recipe:
    """Do what the composite example of every tutorial does, module by module.

    Linear: Kaiming by fan_in, biases 0. Convolutions: Xavier; their biases stay the architecture's own. LSTM, GRU and
    RNN: every weight orthogonal as one matrix, as ``torch.nn.init.orthogonal_`` sees it, biases 0. Norms start at 1 and
    0. Embeddings, which no tutorial gives fans, are normal(0, 0.02); what is left is the architecture's own.

    Example:
        >>> print(classic().rules[0].scheme)
        orthogonal(fused=whole)

    Source: He et al., 2015; Glorot and Bengio, 2010; Saxe et al., 2013.
    """
    return _recipe(
        [
            ("recurrent.weight", Orthogonal(fused="whole")),
            *_NORMS,
            *((f"{kind}.weight", "xavier_uniform") for kind in _CONVOLUTIONS),
            ("embedding", Normal(std=0.02)),
            *((f"{layer}.weight", KaimingNormal(nonlinearity=nonlinearity)) for layer in _DENSE),
            *((role, scheme) for role, scheme in _BIASES if not role.startswith(_CONVOLUTIONS)),
        ],
        seed,
    )


def transformer(std: float = 0.02, layers: int | None = None, seed: int = 0) -> Recipe:
    """Draw truncated normals, cut at two standard deviations, as BERT and ViT; scale residual projections by depth.

    Args:
        std: of the weights.
        layers: blocks of the extended model; with it, what writes into the residual stream is
            ``normal(0, std / sqrt(2 layers))``, as GPT-2's.

    Example:
        >>> print(transformer(layers=12).rules[0].scheme)
        scaled_residual(layers=12)

    Source: Devlin et al., 2018; Radford et al., 2019.
    """
    residual = [] if layers is None else [(role, ScaledResidual(layers=layers, std=std)) for role in _RESIDUAL]
    spread = {"trunc_normal": {"std": std}}
    weights = [f"{layer}.weight" for layer in (*_DENSE, *_CONVOLUTIONS)]
    return _recipe(
        [*residual, *_NORMS, *((role, spread) for role in ("embedding", "token", *weights)), *_BIASES],
        seed,
    )


def vision(seed: int = 0) -> Recipe:
    """Start convolutions as ResNet: Kaiming by fan_out, zero gamma for a block's last norm; the rest as ViT.

    Example:
        >>> print(vision().rules[0].scheme, vision().rules[1].scheme)
        zeros kaiming_normal(mode=fan_out, nonlinearity=relu)

    Source: He et al., 2015; Goyal et al., 2017; Dosovitskiy et al., 2020.
    """
    spread = {"trunc_normal": {"std": 0.02}}
    return _recipe(
        [
            ("norm.residual.weight", "zeros"),
            *((f"{kind}.weight", KaimingNormal(mode="fan_out", nonlinearity="relu")) for kind in _CONVOLUTIONS),
            *((role, spread) for role in ("embedding", "token")),
            *_NORMS,
            ("layer_scale", {"constant": {"val": 1e-5}}),
            ("attention.qkv.weight", XavierUniform(gain=0.7071)),
            *((f"{layer}.weight", spread) for layer in _DENSE),
            *_BIASES,
        ],
        seed,
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "auto": auto,
    "classic": classic,
    "transformer": transformer,
    "vision": vision,
}


def find_recipe(recipe: RecipeLike) -> Recipe:
    """Return the recipe that a user means: an object, a mapping, a known one's name, a YAML file's path, or None.

    Example:
        >>> find_recipe("classic") == classic()
        True
    """
    if isinstance(recipe, str) and not user_path(recipe).exists():
        if recipe not in RECIPES:
            known = f"known recipes are {', '.join(RECIPES)}"
            raise RecipeError(f"recipe {recipe!r}: there is no such file{closest(recipe, RECIPES)}; {known}")
        return RECIPES[recipe]()
    return Recipe.of(recipe)


_DENSE = ("linear", "attention", "mlp", "expert", "router", "output_embedding")
_CONVOLUTIONS = ("conv", "conv_transpose")
_RESIDUAL = ("attention.output.weight", "mlp.down.weight", "expert.down.weight")
_NORMS: tuple[tuple[str, SchemeLike], ...] = (
    ("norm_plus_one.weight", "zeros"),
    ("norm.weight", "ones"),
    ("norm.running_var", "ones"),
    ("norm", "zeros"),
    ("norm_plus_one", "zeros"),
)
_BIASES: tuple[tuple[str, SchemeLike], ...] = tuple(
    (f"{layer}.bias", "zeros") for layer in (*_DENSE, *_CONVOLUTIONS, "recurrent")
)


def _recipe(rules: list[tuple[str, SchemeLike]], seed: int) -> Recipe:
    return Recipe([Rule(scheme, role=role, optional=True) for role, scheme in rules], seed=seed)
