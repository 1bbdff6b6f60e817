"""Models of tensors of any names, shapes and dtypes, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from small_model import save_base

import hf_init

NORMAL = {"default": "normal(std=0.02)"}


class ShapesConfig(transformers.PreTrainedConfig):
    model_type = "shapes_of_tests"
    shapes: dict[str, Any] | None = None


class Shapes(transformers.PreTrainedModel):
    """Tensors of any names, shapes and dtypes."""

    config_class, base_model_prefix = ShapesConfig, "shapes"

    def __init__(self, config):
        super().__init__(config)
        for name, (shape, dtype) in (config.shapes or {}).items():
            tensor = torch.zeros(shape, dtype=getattr(torch, dtype))
            if tensor.is_floating_point():
                self.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(name, tensor)
        self.post_init()


def values(*shape: int, dtype: str = "float32") -> torch.Tensor:
    """Random bytes: every bit pattern is as good as another."""
    generator, kind = torch.Generator().manual_seed(0), getattr(torch, dtype)
    nbytes = torch.Size(shape).numel() * kind.itemsize
    high = 2 if kind == torch.bool else 256
    data = torch.randint(0, high, (nbytes,), generator=generator, dtype=torch.uint8)
    return data.view(kind).reshape(shape)


def shapes_of(tensors: dict[str, torch.Tensor], **others: Any) -> dict[str, Any]:
    own = {name: (list(each.shape), str(each.dtype).removeprefix("torch.")) for name, each in tensors.items()}
    return {**own, **others}


def base_of(folder: Path, *files: dict[str, torch.Tensor]) -> Path:
    shapes = {name: each for tensors in files for name, each in shapes_of(tensors).items()}
    return save_base(folder, ShapesConfig(shapes=shapes), *files)


def extend(base: Path, out: Path, shapes: dict[str, Any], **options: Any) -> dict[str, list[str]]:
    """Extend to these shapes; give the tensors in each file of the result."""
    config = ShapesConfig(shapes=shapes)
    hf_init.extend(base, out, Shapes, config=config, **{"recipe": NORMAL, **options}).raise_if_failed()
    return {path.name: sorted(load_file(path)) for path in sorted(out.glob("*.safetensors"))}


# What is written at all.


THREE = {"a": values(4, 4), "b": values(5, 4), "c": values(3), "d": values(9)}


@pytest.fixture
def three(tmp_path) -> Path:
    return base_of(tmp_path / "base", {"a": THREE["a"]}, {"b": THREE["b"], "c": THREE["c"]}, {"d": THREE["d"]})
