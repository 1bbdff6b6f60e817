"""Heads and their labels: the rows that follow label names, priors, and last layers solved from examples."""

from __future__ import annotations

from hf_init._heads.examples import Examples as Examples
from hf_init._heads.label_change import LabelChange as LabelChange
from hf_init._heads.label_change import names_of as names_of
from hf_init._heads.solved_change import FittedHeadChange as FittedHeadChange
from hf_init._heads.solved_change import solve_last_layer as solve_last_layer
from hf_init._heads.solved_change import solved_layer as solved_layer
from hf_init._heads.verbalizer_change import VerbalizerChange as VerbalizerChange
