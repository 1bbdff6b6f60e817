"""The report: warnings where they are due, a safe page that needs nothing else, the same twice."""

from __future__ import annotations

import html
import math
import re

import numpy as np
import pytest
from reported_results import SCHEME, normal, planned, put, result, saved, text_of

from hf_init import schemes


def drawn(scheme, shape=(64, 64)) -> np.ndarray:
    return scheme(schemes.whole_slot("w", shape)).numpy()


FULL = np.full((64, 64), 0.5, np.float32)
WRONG = {
    "nan": (put(normal(), (3, 3), math.nan), SCHEME, (), "not finite", "1 of its 4,096 values are NaN"),
    "infinite": (put(normal(), (3, 3), math.inf), SCHEME, (), "not finite", "1 are infinite"),
    "dead": (np.zeros((64, 64), np.float32), SCHEME, (), "constant", "dead: all of its 4,096 values are 0"),
    "dead, unknown": (np.zeros((64, 64), np.float32), None, (), "constant", "dead"),
    "dead vector": (np.zeros(64, np.float32), SCHEME, (), "constant", "dead"),
    "constant": (FULL, SCHEME, (), "constant", "all of its 4,096 values are 0.5"),
    "hundred sigma": (put(normal(), (9, 9), 2.0), SCHEME, (), "extreme value", "2 lies 100 standard deviations"),
    "far, unknown": (put(normal(), (9, 9), -2.0), None, (), "extreme value", "-2 lies"),
    "rows": (put(normal(), 5, normal()[2]), SCHEME, (), "identical rows", "1 of its 64 rows equal an earlier one"),
    "alike": (normal((1, 64)) + normal(std=1e-5), None, (), "identical rows", "practically one vector"),
    "wide": (normal(std=0.3), None, [normal(std=0.02)], "unlike its neighbours", "times that of tensors"),
    "narrow": (normal(std=0.001), None, [normal()] * 3, "unlike its neighbours", "1/20"),
    "std": (normal(std=0.03), SCHEME, (), "unlike its scheme", "distribution has 0.02"),
    "mean": (normal() + np.float32(0.01), SCHEME, (), "unlike its scheme", "its mean is"),
    "zeros": (normal(), schemes.Zeros(), (), "unlike its scheme", "distribution is constant 0"),
    "another constant": (FULL, schemes.Ones(), (), "unlike its scheme", "go from 0.5 to 0.5"),
}
HEALTHY = {
    "normal": (normal(), SCHEME, [normal(seed=1)]),
    "unknown": (normal(), None, [normal(seed=1, std=0.1)]),
    "model": (normal(), schemes.Model(), ()),
    "bias of the model": (np.zeros(64, np.float32), schemes.Model(), [normal((64,))]),
    "norm of the model": (np.ones(64, np.float32), schemes.Model(), [normal((64,)) + np.float32(1)]),
    "zeros": (np.zeros((64, 64), np.float32), schemes.Zeros(), [normal()]),
    "constant": (FULL, schemes.Constant(0.5), ()),
    "one element": (np.zeros((1, 1), np.float32), SCHEME, ()),
    "two elements": (drawn(SCHEME, (2,)), SCHEME, ()),
    "no elements": (np.zeros((0, 8), np.float32), SCHEME, ()),
    "eye": (np.eye(512, dtype=np.float32), schemes.Eye(), ()),
    "sparse": (drawn(schemes.Sparse(0.98)), schemes.Sparse(0.98), ()),
    "orthogonal": (drawn(schemes.Orthogonal()), schemes.Orthogonal(), ()),
    "delta": (drawn(schemes.DeltaOrthogonal(), (64, 64, 9, 9)), schemes.DeltaOrthogonal(), ()),
    "uniform": (drawn(schemes.Uniform()), schemes.Uniform(), ()),
    "half precision": (drawn(schemes.Normal(std=0.02)).astype(np.float16), SCHEME, ()),
    "numbers": (np.zeros((8, 8), np.int64), None, ()),
    "short rows": (np.ones((90, 2), np.float32) * normal((90, 1)).round(2), None, ()),
    "complex": (np.zeros((4, 4), np.complex64), None, ()),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list[tuple[str, str]]]:
    """The findings of all of them together, by kind: each the name of a tensor and a sentence."""
    folder, kinds = tmp_path_factory.mktemp("report"), {}
    plain, made, entries = {}, {}, []
    for case, (values, scheme, others, *_) in {**WRONG, **{f"right {case}": HEALTHY[case] for case in HEALTHY}}.items():
        near = {f"{case}.{at}.w": each for at, each in enumerate(others, 1)}
        own = {f"{case}.0.w": values, **near}
        (plain if scheme is None else made).update(own)
        if scheme is not None:
            entries += [planned(name, each.shape, None if name in near else scheme, case) for name, each in own.items()]
    for entry in entries:
        entry["dtype"] = str(made[entry["name"]].dtype)
    for kind, where in (("plain", saved(folder / "plain", plain)), ("made", result(folder / "made", made, entries))):
        with pytest.MonkeyPatch.context() as patch:
            for most in ("PICTURES", "GROUPS"):  # pictures, which take most of the time, have tests of their own
                patch.setattr(f"hf_init._report.survey.{most}", 0)
            text = text_of(where, folder / f"{kind}.html")
        for heading, items in re.findall(r"<strong>([a-z ]+) \(\d+\)</strong>(.*?)</div>", text, re.DOTALL):
            lines = [html.unescape(re.sub("<[^>]+>", "", item)) for item in re.findall(r"<li>(.*?)</li>", items)]
            kinds.setdefault(heading, []).extend(tuple(line.split(": ", 1)) for line in lines)
    return kinds


@pytest.mark.parametrize("case", WRONG)
def test_what_looks_wrong_is_said(found, case):
    *_, kind, words = WRONG[case]
    assert words in dict(found[kind])[f"{case}.0.w"]


@pytest.mark.parametrize("case", HEALTHY)
def test_what_is_right_is_not_warned_of(found, case):
    assert f"right {case}.0.w" not in [name for findings in found.values() for name, _ in findings]
