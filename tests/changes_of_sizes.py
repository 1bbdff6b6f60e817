"""Rows of the table of changes: shapes that change for another reason, and growth."""

from __future__ import annotations

from typing import Any

import numpy as np
from change import CLASSIFIER, Along, Boxes, Change, Origins, below, grown, instead

from hf_init import Recipe, Rule


def _prefix(source: Origins) -> Origins:
    """Of a table of positions the class token's row, in one for 6 x 6 patches."""
    return np.concatenate([source[:, :1], np.full((1, 36, source.shape[2]), -1)], 1)


def _doubled(source: Origins) -> Origins:
    return grown(len(source), len(source))(source)


def _doubled_in(source: Origins) -> Origins:
    return grown(source.shape[1], source.shape[1], 1)(source)


LONGER = {"config": {"max_position_embeddings": 96}}

MATCHED = Recipe([Rule("matched_normal", role="embedding.position")], seed=4)

HALF = slice(0, 32), slice(32, 64), slice(64, 96)

WIDER: dict[str, Any] = {
    "*intermediate.dense.weight": {"boxes": [
        ([[0, 32], [0, 32]], [[0, 32], [0, 32]]), ([[64, 96], [0, 32]], [[32, 64], [0, 32]]),
    ]},
    "*intermediate.dense.bias": [*range(32), *[None] * 32, *range(32, 64)],
    "*layer.?.output.dense.weight": {"boxes": [
        ([[0, 32], [0, 32]], [[0, 32], [0, 32]]), ([[0, 32], [64, 96]], [[0, 32], [32, 64]]),
    ]},
}  # fmt: skip

MIDDLE = slice(0, 32)


EXPERTS = tuple(f"model.layers.{layer}.block_sparse_moe.experts.{expert}.*" for layer in (0, 1) for expert in (4, 5))


SIZE_CHANGES: dict[str, Change] = {
    # Shapes that change for another reason.
    "more positions, matched": Change(
        "bert", "BertForSequenceClassification",
        {"keep": {"*position_embeddings.weight": "leading"}, "recipe": MATCHED, **LONGER}, below("bert."), CLASSIFIER,
        {"bert.embeddings.position_embeddings.weight": grown(64, 32)},
    ),
    "more positions, as the library draws them": Change(
        "bert", options={"keep": {"*position_embeddings.weight": "leading"}, **LONGER},
        moved={"embeddings.position_embeddings.weight": grown(64, 32)},
    ),
    "positions made anew": Change(
        "bert", options={"keep": {"*position_embeddings*": "none"}, **LONGER},
        new=("embeddings.position_embeddings.weight",), gone=("embeddings.position_embeddings.weight",),
    ),
    "wider in the middle, by boxes": Change(
        "sentiment", options={"keep": WIDER, "config": {"intermediate_size": 96}},
        moved={
            "*intermediate.dense.weight": Boxes((96, 32), [((HALF[0],), (HALF[0],)), ((HALF[2],), (HALF[1],))]),
            "*intermediate.dense.bias": Along([*range(32), *[None] * 32, *range(32, 64)]),
            "*layer.?.output.dense.weight": Boxes(
                (32, 96), [((MIDDLE, HALF[0]), (MIDDLE, HALF[0])), ((MIDDLE, HALF[2]), (MIDDLE, HALF[1]))]
            ),
        },
    ),
    "more experts, new ones on disk and rows of one tensor in memory": Change(
        "mixtral", options={"keep": {"*.gate.weight": "leading"}, "config": {"num_local_experts": 6}, "seed": 2},
        new=EXPERTS, moved={"*.gate.weight": grown(4, 2)},
    ),
    # Growth.
    "llama, a layer inserted": Change(
        "llama", options={"layers": "0,new,1", "seed": 3}, names=instead(("model.layers.1.", "model.layers.2.")),
        new=("model.layers.1.*",),
    ),
    "mixtral, a layer twice": Change(
        "mixtral", options={"layers": [0, 1, 1]},
        taken={"mixtral": lambda name: name.replace(".layers.1.", ".layers.2.") if ".layers.1." in name else None},
    ),
    "bert, a layer inserted that nothing closes": Change(
        "bert", options={"layers": "0,new,1"}, names=instead(("encoder.layer.1.", "encoder.layer.2.")),
        new=("encoder.layer.1.*",),
    ),
    "bert, a student": Change(
        "bert", options={"layers": [1]}, names=instead(("encoder.layer.1.", "encoder.layer.0.")),
        gone=("encoder.layer.0.*",),
    ),
    "vit, a larger image": Change(
        "vit", options={"image_size": 48}, moved={"embeddings.position_embeddings": _prefix}, by_class_name=True,
    ),
    "llama, more neurons": Change(
        "llama", options={"widen": {"intermediate_size": "x2"}},
        moved={"*.gate_proj.weight": _doubled, "*.up_proj.weight": _doubled, "*.down_proj.weight": _doubled_in},
    ),
}  # fmt: skip
