"""Last layers from labelled features: closed forms, logistic regression, and the scale of their logits. Pure."""

from __future__ import annotations

from hf_init._heads._beside import beside as beside
from hf_init._heads._calibrate import calibrated as calibrated
from hf_init._heads._labelled import Kind as Kind
from hf_init._heads._labelled import Labelled as Labelled
from hf_init._heads._solutions import METHODS as METHODS
from hf_init._heads._solutions import Layer as Layer
from hf_init._heads._solutions import solve as solve
