"""Heads of every kind on a trunk, and what each is asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multihead_trunks import LABELS, TEXTS, multi

from hf_init import MultiHead

MultiHeadConfig: Any = MultiHead.config_class
LABELLED = ("sequence", "image", "audio", "token", "frame")
KINDS = (
    *(f"{each}-classification" for each in LABELLED), "multi-label", "regression", "per-patch", "question-answering",
    "multiple-choice", "language-model", "similarity", "reward", "value",
)  # fmt: skip
NAMED = (*(f"{each}-classification" for each in LABELLED), "multi-label", "per-patch")
THREE = {
    "topic": {"kind": "sequence-classification", "labels": LABELS},
    "entities": {"kind": "token-classification", "labels": LABELS},
    "meaning": "similarity",
}


def every_kind(trunk: Any) -> dict[str, Any]:
    """A head of every kind that a trunk can have."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        given = {"kind": kind, "labels": LABELS} if kind in NAMED else {"kind": kind}
        try:
            found |= MultiHeadConfig(trunk=trunk, heads={kind.replace("-", "_"): given}).heads
        except ValueError:
            continue
    return found


def asked(model: Any, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The input of a head: of a multiple choice, each row with another as its second choice."""
    if model.specs[name].kind != "multiple-choice":
        return given
    return {key: torch.stack([value, value.flip(0)], 1) for key, value in given.items()}


@pytest.fixture(scope="module")
def bert() -> Any:
    return multi(TEXTS["bert"](), every_kind(TEXTS["bert"]()))
