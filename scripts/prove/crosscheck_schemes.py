"""The schemes against JAX's and timm's initializers: the same distribution on the same fans.

Two-sample Kolmogorov-Smirnov on a million elements each, fixed seeds, at a level of 0.001 over all comparisons
(Bonferroni). JAX is told its axes, since it stores matrices (in, out). Run by scripts/crosscheck, which installs both.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import torch
from scipy.stats import ks_2samp

from hf_init import schemes
from hf_init._tensors import Geometry
from hf_init.schemes import Scheme, whole_slot

OUT, IN = 1250, 800
LEVEL = 0.001
INIT = jax.nn.initializers
AXES = {"in_axis": -1, "out_axis": -2}


def _timms_file() -> ModuleType:
    """timm's file of initializers alone: its package wants torchvision, which isn't needed for it."""
    package = importlib.util.find_spec("timm")
    assert package is not None and package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "layers" / "weight_init.py"
    spec = importlib.util.spec_from_file_location("timm_weight_init", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


weight_init = _timms_file()


def ours(scheme: Scheme) -> np.ndarray:
    return scheme(whole_slot("check.weight", (OUT, IN), geometry=Geometry(fan_in=IN, fan_out=OUT))).numpy().ravel()


def jaxs(initializer: Callable[..., jax.Array]) -> np.ndarray:
    return np.asarray(initializer(jax.random.key(7), (OUT, IN), "float32")).ravel()


def timms(initializer: Callable[[torch.Tensor], object]) -> np.ndarray:
    torch.manual_seed(7)
    tensor = torch.empty(OUT, IN)
    initializer(tensor)
    return tensor.numpy().ravel()


def cases() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    jax_cases = {
        schemes.XavierUniform(): INIT.glorot_uniform(**AXES),
        schemes.LecunUniform(): INIT.lecun_uniform(**AXES),
        schemes.LecunNormal(): INIT.lecun_normal(**AXES),
        schemes.KaimingUniform(): INIT.he_uniform(**AXES),
        schemes.VarianceScaling(2.0, "fan_in", "truncated_normal"): INIT.he_normal(**AXES),
        schemes.VarianceScaling(1.0, "fan_avg", "truncated_normal"): INIT.glorot_normal(**AXES),
        schemes.VarianceScaling(0.5, "fan_out", "uniform"): INIT.variance_scaling(0.5, "fan_out", "uniform", **AXES),
        schemes.VarianceScaling(3.0, "fan_avg", "normal"): INIT.variance_scaling(3.0, "fan_avg", "normal", **AXES),
        schemes.TruncNormal(std=0.02): INIT.truncated_normal(0.02),
        schemes.Normal(std=0.02): INIT.normal(0.02),
        schemes.Orthogonal(): INIT.orthogonal(column_axis=-2),
    }
    for scheme, peer in jax_cases.items():
        yield f"{scheme} ~ jax", ours(scheme), jaxs(peer)
    timm_cases = {
        schemes.TruncNormal(std=0.02): lambda t: weight_init.trunc_normal_tf_(t, std=0.02),
        schemes.TruncNormalAbsolute(std=0.02, a=-0.03, b=0.05): lambda t: weight_init.trunc_normal_(
            t, std=0.02, a=-0.03, b=0.05
        ),
        schemes.LecunNormal(): weight_init.lecun_normal_,
        schemes.VarianceScaling(2.0, "fan_out", "uniform"): lambda t: weight_init.variance_scaling_(
            t, 2.0, "fan_out", "uniform"
        ),
    }
    for scheme, peer in timm_cases.items():
        yield f"{scheme} ~ timm", ours(scheme), timms(peer)


def main() -> int:
    compared = list(cases())
    bound = LEVEL / len(compared)
    print(f"jax {jax.__version__}, two-sample KS, {OUT * IN} elements each, refused where p < {bound:.1e}")
    wrong = 0
    for name, a, b in compared:
        p = ks_2samp(a, b).pvalue
        wrong += p < bound
        print(f"{name:78} p = {p:.3f}{'  WRONG' if p < bound else ''}")
    control = ks_2samp(ours(schemes.Normal(std=0.02)), ours(schemes.Normal(std=0.0204))).pvalue
    print(f"{'control: normal(std=0.02) ~ normal(std=0.0204) must be refused':78} p = {control:.1e}")
    print(f"{len(compared) - wrong} of {len(compared)} agree")
    return 1 if wrong or control >= bound else 0


if __name__ == "__main__":
    raise SystemExit(main())
