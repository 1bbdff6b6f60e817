"""The report: numbers as numpy has them, promises that schemes keep, warnings where they are due, a safe page."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file

import hf_init
from hf_init import schemes
from hf_init._block_names import name_pattern
from hf_init._checkpoint import numbers as _values
from hf_init._checkpoint.checkpoint import Checkpoint
from hf_init._checkpoint.header import DTYPES, dtype_bits
from hf_init._errors import CheckpointError, HfInitError
from hf_init._html import Html, dotted, html_table, tag
from hf_init._plan.manifest import BaseRecord, Manifest
from hf_init._plan.match import Unused
from hf_init._plan.plan import Plan
from hf_init._plan.tensor_plan import Fill, TensorPlan
from hf_init._report import measure as _measure
from hf_init._report.judge import ReportFinding, judge_report
from hf_init._report.measure import Measure, Stats, measure_values
from hf_init._report.neighbours import Candidate, nearest_neighbours
from hf_init._report.picture import chart, picture
from hf_init._report.promise import density, expected_distribution
from hf_init._report.report import write_report
from hf_init._tensors import Box, Copy, Geometry, Rows, Status
from hf_init._verify.diff import DiffReport
from hf_init._verify.report import VerifyReport

NASTY = "<script>alert(1)</script>&\"'$x_1$"


# Numbers


def saved(folder: Path, **tensors: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def measured(folder: Path, values: np.ndarray, region: Box | Rows | None = None, stack: int = 0) -> Measure:
    with Checkpoint.open(saved(folder, w=values)) as checkpoint:
        return measure_values(checkpoint, "w", region or Box.whole(values.shape), stack)[0]


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=3, max_side=6, min_side=0), elements=FLOATS), st.data())
def test_statistics_are_those_of_numpy(values, data):
    cuts = [data.draw(st.integers(0, values.size)) for _ in range(2)]
    flat = values.reshape(-1).astype(np.float64)
    stats = sum((Stats.of(part) for part in np.split(flat, sorted(cuts))), Stats())
    finite = flat[np.isfinite(flat)]
    assert stats.count == flat.size and stats.nans == np.isnan(flat).sum() and stats.infinite == np.isinf(flat).sum()
    assert stats.zeros == (finite == 0).sum()
    if finite.size:
        scale = np.abs(finite).max()
        assert (stats.low, stats.high) == (finite.min(), finite.max())
        assert stats.mean == pytest.approx(finite.mean(), rel=1e-12, abs=1e-15 * scale)
        assert stats.std == pytest.approx(finite.std(), rel=1e-9, abs=1e-14 * scale)
        assert stats.norm == pytest.approx(np.linalg.norm(finite), rel=1e-12)
        assert stats.farthest() == pytest.approx(np.abs(finite - finite.mean()).max(), rel=1e-9, abs=1e-14 * scale)


@pytest.mark.parametrize(
    "region",
    [
        Box((0, 0, 0), (7, 5, 6)),
        Box((2, 1, 0), (6, 5, 3)),
        Box((3, 0, 0), (3, 5, 6)),
        Rows(0, (6, 0, 3), (7, 5, 6)),
        Rows(2, (5, 1), (7, 5, 6)),
    ],
    ids=str,
)
def test_a_region_is_measured_in_small_pieces(tmp_path, monkeypatch, region):
    monkeypatch.setattr(_values, "_CHUNK", 4)
    values = np.random.default_rng(0).normal(size=(7, 5, 6)).astype(np.float32)
    part = values[region.slices] if isinstance(region, Box) else values.take(region.index, axis=region.dim)
    found = measured(tmp_path, values, region)
    assert found.stats is not None and found.stats.count == part.size
    assert found.stats.mean == pytest.approx(part.mean(dtype=np.float64) if part.size else 0.0, rel=1e-12)
    assert (found.rows is None) == (part.size == 0)
    if found.rows:
        assert (found.rows.total, found.rows.length) == (len(part), part[0].size)
        assert found.rows.rank == np.linalg.matrix_rank(part.reshape(len(part), -1))


def test_every_code_of_every_narrow_dtype_is_the_number_that_torch_reads():
    import torch

    for dtype, width in DTYPES.values():
        if width not in (8, 16) or not _values.is_floating(dtype):
            continue
        codes = np.arange(1 << width).astype(f"uint{width}")
        due = torch.from_numpy(codes.view(f"int{width}").copy()).view(getattr(torch, dtype)).double().numpy()
        np.testing.assert_array_equal(_values.decode_values(codes, dtype), due, err_msg=dtype)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "uint64", "float16", "float32", "float64"])
def test_numpys_own_dtypes_are_read_as_numpy_reads_them(dtype):
    values = np.array([0, 1, 1, 0, 1], dtype)
    np.testing.assert_array_equal(_values.decode_values(values.view(f"uint{dtype_bits(dtype)}"), dtype), values)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=3), st.integers(1, 5000))
def test_a_sample_is_small_and_sees_every_column(shape, most):
    step = _values.sample_stride(tuple(shape), most)
    assert math.ceil(math.prod(shape) / step) <= most
    assert all(math.gcd(step, length) == 1 for length in shape)


def test_a_sample_is_the_same_in_any_pieces(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(50, 7))
    monkeypatch.setattr(_values, "_CHUNK", 10)
    with Checkpoint.open(saved(tmp_path, w=values)) as checkpoint:
        _, sample = _measure._stats_and_sample(checkpoint.array("w"), Box.whole((50, 7)), "float64", 3)
    np.testing.assert_array_equal(sample, values.reshape(-1)[::3])


def test_rank_and_repeats(tmp_path):
    rng = np.random.default_rng(0)
    low = (rng.normal(size=(40, 3)) @ rng.normal(size=(3, 60))).astype(np.float32)
    low[7] = low[3]
    low[20:22] = 0
    rows = measured(tmp_path, low).rows
    assert rows is not None and rows.whole
    assert (rows.rank, rows.repeated, rows.seen) == (3, 1, 40)
    assert 1 < rows.effective <= 3
    eye = measured(tmp_path, np.eye(30, dtype=np.float32)).rows
    assert eye is not None and (eye.rank, round(eye.effective, 6)) == (30, 30)


def test_experts_are_a_stack_of_matrices(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)
    rows = measured(tmp_path, values, stack=1).rows
    assert rows is not None and (rows.total, rows.length, rows.rank) == (24, 5, 5)


# Promises

GEOMETRIES = {
    "matrix": ((48, 32), None),
    "fused": ((96, 32), Geometry(32, None, parts=(64, 16, 16))),
    "conv1d": ((32, 96), Geometry(32, 96, order="in_out")),
    "conv": ((32, 16, 3, 3), None),
    "experts": ((3, 32, 16), Geometry(16, 32, stack=1)),
    "vector": ((256,), None),
}
SETTINGS = {
    "constant": {"val": 0.3},
    "sparse": {"sparsity": 0.4},
    "scaled_residual": {"layers": 4},
    "log_prior": {"pi": 0.01},
}
MORE = [
    schemes.VarianceScaling(2.0, "fan_out", "uniform"),
    schemes.TruncNormal(0.1, 0.5, -1.0, 2.5),
    schemes.TruncNormalAbsolute(0.1, 0.5, -0.2, 2.0),
    schemes.TruncNormal(std=0.02, correct=True),
    schemes.Normal(std=0.0),
    schemes.Orthogonal(gain=0.0),
    schemes.Sparse(0.0),
    schemes.Sparse(1.0),
]


def slots_and_schemes():
    drawn = [kind for name, kind in schemes.REGISTRY.items() if name not in ("model", "skip", "auto")]
    for scheme in [*(_made(kind) for kind in drawn), *MORE]:
        for shape, geometry in GEOMETRIES.values():
            slot = schemes.whole_slot("w", shape, geometry=geometry)
            if scheme is not None and not scheme.unsupported_reason(slot):
                yield scheme, slot


def _made(kind):
    try:
        return kind(**SETTINGS.get(kind.name, {}))
    except TypeError:  # a scheme with settings of its own, that promises nothing
        return None


def test_a_promise_has_the_moments_of_its_scheme_and_adds_up_to_one():
    seen = set()
    for scheme, slot in slots_and_schemes():
        due = expected_distribution(scheme, slot)
        if due is None:
            continue
        seen.add(scheme.name)
        moments = scheme.moments(slot)
        assert moments is not None
        assert (due.mean, due.std) == pytest.approx(moments, rel=1e-9, abs=1e-12), (scheme, slot.shape)
        assert area(due, -math.inf, math.inf) == pytest.approx(1.0, abs=2e-3), (scheme, slot.shape)
    assert {"normal", "uniform", "trunc_normal", "kaiming_uniform", "orthogonal", "sparse", "zeros"} <= seen
    assert {"delta_orthogonal", "variance_scaling", "lecun_normal", "scaled_residual", "constant"} <= seen


def area(due: schemes.Distribution, low: float, high: float) -> float:
    """The promised share of elements between two values."""
    reach = 9 * max(due.widest, 1e-9)
    x = np.linspace(max(low, due.mean - reach), min(high, due.mean + reach), 40_001)
    curve = density(due, x)
    share = float(((curve[1:] + curve[:-1]) / 2 * np.diff(x)).sum())
    return share + sum(weight for value, weight in due.atoms if low <= value <= high)


def misfit(values: np.ndarray, due: schemes.Distribution) -> float:
    """The greatest distance, at a few values, between shares seen and promised, in standard errors."""
    ends = np.quantile(values, [0.05, 0.2, 0.5, 0.8, 0.95])
    seen = [float((values <= end).mean()) for end in ends]
    errors = [abs(area(due, -math.inf, end) - share) for end, share in zip(ends, seen, strict=True)]
    return max(errors) * math.sqrt(values.size) * 2


def test_what_a_scheme_draws_has_the_promised_density():
    for scheme, slot in slots_and_schemes():
        due = expected_distribution(scheme, slot)
        if due is not None:
            assert misfit(scheme(slot).double().numpy().reshape(-1), due) < 5, (scheme, slot.shape)


def test_another_density_is_told_apart():
    slot = schemes.whole_slot("w", (96, 96))
    values = schemes.Uniform(-1.0, 1.0)(slot).double().numpy().reshape(-1)
    same_moments = expected_distribution(schemes.Normal(std=1 / math.sqrt(3)), slot)
    assert same_moments is not None and misfit(values, same_moments) > 5


def test_no_promise_is_made_up():
    slot = schemes.whole_slot("w", (4, 4))
    assert expected_distribution(schemes.Model(), slot) is None
    assert expected_distribution(schemes.Eye(), slot) is None
    assert expected_distribution(schemes.KaimingNormal(), schemes.whole_slot("b", (4,))) is None, (
        "it doesn't fit a vector"
    )
    assert expected_distribution(schemes.Normal(), schemes.whole_slot("w", (0, 4))) is None


# Neighbours


def test_neighbours_are_of_the_role_and_from_the_nearest_layers():
    def candidate(name: str, role: str, at: int) -> Candidate:
        return Candidate(name, role, Box((0,), (1,)), 1, at)

    kept = [candidate(f"h.{layer}.{part}", part, 2 * layer + at) for layer in range(6) for at, part in enumerate("ab")]
    assert [found.name for found in nearest_neighbours(candidate("h.3.a", "a", 99), kept)] == [
        "h.3.a",
        "h.4.a",
        "h.2.a",
    ]
    assert [found.name for found in nearest_neighbours(candidate("head", "b", 99), kept)] == ["h.5.b", "h.4.b", "h.3.b"]
    assert nearest_neighbours(candidate("head", "c", 99), kept) == []
    assert name_pattern("h.3.a2") == "h.*.a2"


# Warnings


def normal(shape=(64, 64), std=0.02, seed=0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * std).astype(np.float32)


def judged(folder: Path, values: np.ndarray, scheme=None, others=()) -> dict[str, str]:
    """Kinds of the findings, with their texts."""
    due = expected_distribution(scheme, schemes.whole_slot("w", values.shape)) if scheme else None
    near = [replace(measured(folder, each), name=f"near.{at}") for at, each in enumerate(others)]
    return {each.kind: each.text for each in judge_report(measured(folder, values), scheme, due, near)}


def put(values: np.ndarray, at, value: float) -> np.ndarray:
    changed = values.copy()
    changed[at] = value
    return changed


def repeated(values: np.ndarray) -> np.ndarray:
    return put(values, 5, values[2])  # type: ignore[arg-type]


SCHEME = schemes.Normal(std=0.02)
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
    "rows": (repeated(normal()), SCHEME, (), "identical rows", "1 of its 64 rows equal an earlier one"),
    "alike": (normal((1, 64)) + normal(std=1e-5), None, (), "identical rows", "practically one vector"),
    "wide": (normal(std=0.3), None, [normal(std=0.02)], "unlike its neighbours", "times that of tensors"),
    "narrow": (normal(std=0.001), None, [normal()] * 3, "unlike its neighbours", "1/20"),
    "std": (normal(std=0.03), SCHEME, (), "unlike its scheme", "promises 0.02"),
    "mean": (normal() + np.float32(0.01), SCHEME, (), "unlike its scheme", "its mean is"),
    "zeros": (normal(), schemes.Zeros(), (), "unlike its scheme", "promises constant 0"),
    "another constant": (FULL, schemes.Ones(), (), "unlike its scheme", "go from 0.5 to 0.5"),
}


@pytest.mark.parametrize(("values", "scheme", "others", "kind", "words"), WRONG.values(), ids=WRONG)
def test_what_looks_wrong_is_said(tmp_path, values, scheme, others, kind, words):
    found = judged(tmp_path, values, scheme, others)
    assert words in found[kind]


def drawn(scheme, shape=(64, 64)) -> np.ndarray:
    return scheme(schemes.whole_slot("w", shape)).numpy()


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


@pytest.mark.parametrize(("values", "scheme", "others"), HEALTHY.values(), ids=HEALTHY)
def test_what_is_right_is_not_warned_of(tmp_path, values, scheme, others):
    assert judged(tmp_path, values, scheme, others) == {}


# Pictures


def test_a_histogram_is_a_density_with_what_it_leaves_out():
    sample = np.concatenate([normal().reshape(-1).astype(float), [50.0], np.zeros(1000)])
    (trace,) = chart([("w", sample)]).traces
    width = trace.edges[1] - trace.edges[0]
    assert trace.spike is not None and trace.spike[0] == 0 and trace.spike[1] == pytest.approx(1000 / sample.size)
    shown = float((trace.heights * width).sum())
    assert shown + trace.outside / sample.size + trace.spike[1] == pytest.approx(1)
    assert trace.edges[-1] < 1, "one extreme value doesn't make a line of the rest"


@given(st.lists(st.sampled_from([0.0, 1.0, -1e-300, 5e-324, 1e300, -1e300, 0.02]), max_size=6), st.booleans())
def test_any_values_have_a_picture(values, beside):
    sample = np.array(values)
    drawn = picture("w", sample, None, [("near", np.ones(3))] if beside else [])
    assert np.isfinite(drawn.new.span).all() and drawn.new.span[0] < drawn.new.span[1]
    assert (drawn.neighbours is not None) == beside


# Pages


def result(folder: Path, tensors: dict[str, np.ndarray], plan: Plan, base: str = "base") -> Path:
    saved(folder, **tensors)
    digests = {tensor.name: ["0" * 64] * len(tensor.new) for tensor in plan.tensors if tensor.new}
    Manifest(plan, BaseRecord(base, "f" * 64), digests, "hf_init 0").save(folder)
    return folder


def planned(name: str, values: np.ndarray, scheme=None, role: str = "linear.weight", why: str = "") -> TensorPlan:
    shape, all_of_it = values.shape, Box.whole(values.shape)
    if scheme is None:
        return TensorPlan(
            name, Status.KEPT, shape, "float32", (Copy(all_of_it, name, all_of_it),), source=name, role=role
        )
    return TensorPlan(name, Status.NEW, shape, "float32", new=(Fill(all_of_it, scheme, why),), role=role)


def grown(folder: Path, nasty: str = "") -> Path:
    """A small result with every status, its names and words hostile if asked."""
    kept, new, embedding = normal(seed=1), normal(seed=2), normal((30, 16), seed=3)
    rows = Box((0, 0), (20, 16))
    resized = TensorPlan(
        f"embedding{nasty}",
        Status.RESIZED,
        (30, 16),
        "float32",
        kept=(Copy(rows, "embedding", rows),),
        new=(Fill(Box((20, 0), (30, 16)), SCHEME, nasty),),
        role="embedding.token",
    )
    tied = TensorPlan(f"tied{nasty}", Status.TIED, (30, 16), "float32", tied_to=resized.name)
    tensors = (
        planned(f"h.0.w{nasty}", kept, role=f"linear.weight{nasty}"),
        planned(f"h.1.w{nasty}", new, SCHEME, f"linear.weight{nasty}", nasty),
        planned(f"gate{nasty}", np.zeros(8), schemes.Zeros()),
        resized,
        tied,
    )
    values = (kept, new, np.zeros(8, np.float32), embedding)
    plan = Plan(f"Model{nasty}", 0, tensors, (Unused(f"old{nasty}", f"no place{nasty}"),))
    names = [tensor.name for tensor in tensors]
    return result(folder, dict(zip(names[:4], values, strict=True)), plan, f"base{nasty}")


class Page(HTMLParser):
    """What a page is made of, and what is wrong with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.elements: Counter[str] = Counter()
        self.text = ""
        self.feed(text)
        self.close()
        self.faults += [f"<{name}> is never closed" for name in self.open]
        self.faults += [f"the id {name} occurs twice" for name, many in self.ids.items() if many > 1]
        self.faults += [f"{link} leads nowhere" for link in self.links if link[0] == "#" and link[1:] not in self.ids]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        if tag not in ("img", "link", "meta", "source", "wbr"):
            self.open.append(tag)
        for key, value in attrs:
            self._attribute(tag, key, value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        for key, value in attrs:
            self._attribute(tag, key, value or "")

    def _attribute(self, tag: str, key: str, value: str) -> None:
        if key == "id":
            self.ids[value] += 1
        if key in ("href", "src", "srcset"):
            self.links.append(value)
            self.faults += [] if value.startswith(("#", "data:")) else [f"{tag} needs {value}"]
        if key.startswith("on") or "http" in value or "url(" in value:
            self.faults.append(f"{tag} has {key}={value}")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<p>", "never closed"),
        ("<b><i></b></i>", "closes something else"),
        ('<a href="https://example.org"></a>', "needs https"),
        ('<img src="x.png"/>', "needs x.png"),
        ('<p onclick="x()"></p>', "onclick"),
        ('<p id="a"></p><p id="a"></p>', "occurs twice"),
        ('<a href="#b"></a>', "leads nowhere"),
    ],
)
def test_the_checker_of_pages_finds_faults(text, fault):
    assert fault in " ".join(Page(text).faults)


def test_a_page_is_whole_safe_and_needs_nothing_else(tmp_path):
    out = write_report(grown(tmp_path / "out", NASTY), tmp_path / "page.html")
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.faults == []
    assert page.elements["script"] == 0 and "<script" not in text
    assert "http" not in text.replace(NASTY, "")
    assert page.elements["img"] == 5
    for words in (f"Model{NASTY}", f"h.1.w{NASTY}", f"base{NASTY}", f"no place{NASTY}", f"linear.weight{NASTY}"):
        assert words in page.text
    assert "@import" not in text and "url(" not in text


def test_a_page_says_what_there_is_to_say(tmp_path):
    page = Page(write_report(grown(tmp_path / "out"), tmp_path / "page.html").read_text(encoding="utf-8"))
    for words in ("Model", "with seed 0", "1 resized", "1 unused", "rows 20 to 29 of 30", "normal(std=0.02)"):
        assert words in page.text
    assert "Nothing looks wrong" in page.text
    assert "promises normal, mean 0, std 0.02" in page.text
    assert "No pretrained tensor has the role linear.weight" not in page.text.split("gate")[0]


def test_warnings_lead_to_their_tensor(tmp_path):
    values = put(normal(), (9, 9), 2.0)
    plan = Plan("Model", 0, (planned("w", values, SCHEME),))
    page = Page(
        write_report(result(tmp_path / "out", {"w": values}, plan), tmp_path / "a.html").read_text(encoding="utf-8")
    )
    assert page.faults == [] and "#new-0" in page.links
    assert "2 lies 100 standard deviations" in page.text and "Nothing looks wrong" not in page.text


def test_many_findings_are_folded(tmp_path):
    from hf_init._report.cells import findings_list

    text = findings_list(ReportFinding(f"w{at}", "constant", "all the same") for at in range(30))
    page = Page(text)
    assert page.faults == [] and page.elements["details"] == 1
    assert "constant (30)" in page.text and "10 more" in page.text


def test_a_plain_checkpoint_has_statistics_and_warnings(tmp_path):
    layers = {f"h.{at}.w": normal(seed=at) for at in range(4)}
    odd = {
        "h.4.w": normal(std=0.5),
        "big": np.zeros((3, 0), np.float32),
        "step": np.array(7),
        "mask": np.array([True]),
        "c": np.zeros(2, np.complex64),
    }
    folder = saved(tmp_path / "plain", **layers, **odd, **{NASTY: normal((16,))})
    page = Page(write_report(folder, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.faults == [] and page.elements["script"] == 0
    assert NASTY in page.text and "without a manifest" in page.text
    assert "h.4.w: its standard deviation" in page.text
    assert "h.*.w (5)" in page.text
    assert f"{normal(seed=2).std(dtype=np.float64):.4g}" in page.text


def test_what_has_no_values_has_a_page(tmp_path):
    empty = np.zeros((0, 4), np.float32)
    plan = Plan("Model", 0, (planned("w", empty, SCHEME), planned("left", normal(), schemes.Skip())))
    folder = saved(tmp_path / "out", w=empty)
    Manifest(plan, BaseRecord("b", "f"), {"w": ["0" * 64]}, "hf_init 0").save(folder)
    page = Page(write_report(folder, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.faults == [] and page.elements["img"] == 0
    with pytest.raises(HfInitError, match="no new values to draw"):
        write_report(folder, tmp_path / "page.png")


def test_a_real_result_is_healthy(tiny, tmp_path):
    hf_init.extend(tiny("bert"), tmp_path / "out", "BertForSequenceClassification", labels=["a", "b", "c"])
    page = Page(write_report(tmp_path / "out", tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.faults == []
    assert "Nothing looks wrong" in page.text and "classifier.weight" in page.text


def test_a_png_is_a_png(tmp_path):
    for folder in (grown(tmp_path / "out", NASTY + "\u540d\n"), saved(tmp_path / "plain", w=normal(), v=normal((9,)))):
        data = write_report(folder, tmp_path / f"{folder.name}.png").read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
        assert width > 400 and height > 100


def test_a_report_is_the_same_twice_and_leaves_matplotlib_alone(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # to import it is an error now

    def settings():  # but the backend, which asking for would choose
        return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}

    folder = grown(tmp_path / "out")
    with matplotlib.rc_context({"text.usetex": True, "axes.grid": True, "figure.facecolor": "red"}):
        before = settings()
        texts = [write_report(folder, tmp_path / name).read_bytes() for name in ("a.html", "b.html", "a.png", "b.png")]
        assert settings() == before
    assert texts[0] == texts[1] and texts[2] == texts[3]


# Refusals


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    folder, out = grown(tmp_path / "out"), tmp_path / "page.html"
    out.write_text("mine")
    with pytest.raises(HfInitError, match="exists and isn't replaced"):
        write_report(folder, out)
    assert out.read_text() == "mine"
    assert write_report(folder, out, overwrite=True).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "page.html"}, "nothing else is left behind"


@pytest.mark.parametrize(
    ("name", "words"),
    [("page.pdf", "is an .html or a .png"), ("no/page.html", "is not a folder"), ("d.html", "a folder")],
)
def test_a_place_that_can_not_be_is_refused(tmp_path, name, words):
    (tmp_path / "d.html").mkdir()
    with pytest.raises(HfInitError, match=words):
        write_report(grown(tmp_path / "out"), tmp_path / name, overwrite=True)


def test_the_page_goes_to_the_current_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert write_report(grown(tmp_path / "out")) == Path("hf_init-report.html")
    assert (tmp_path / "hf_init-report.html").is_file()


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(HfInitError, match=r"pip install 'hf_init\[plot\]'"):
        write_report(grown(tmp_path / "out"), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_manifest_of_other_files_is_refused(tmp_path):
    folder = grown(tmp_path / "out")
    saved(folder, **{"h.0.w": normal((3, 3))})
    with pytest.raises(CheckpointError) as error:
        write_report(folder, tmp_path / "page.html")
    assert "h.0.w" in str(error.value) and "'h.1.w' is in the manifest, but in no file" in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.pop("architecture"),
        lambda plan: plan["tensors"][1]["new"][0].update(scheme={"name": "nothing"}),
        lambda plan: plan["tensors"][1].update(geometry={"fan": 3}),
        lambda plan: plan["tensors"][1].update(geometry=7),
        lambda plan: plan.update(unused_why=[]),
    ],
)
def test_a_manifest_that_can_not_be_read_is_refused(tmp_path, change):
    import json

    folder = grown(tmp_path / "out")
    data = json.loads((folder / "hf_init.json").read_text(encoding="utf-8"))
    change(data["plan"])
    (folder / "hf_init.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(HfInitError):
        write_report(folder, tmp_path / "page.html")


def test_no_checkpoint_no_report(tmp_path):
    with pytest.raises(CheckpointError):
        write_report(tmp_path / "nothing", tmp_path / "page.html")


# Notebooks


def test_html_is_escaped_unless_it_is_html():
    assert tag("p", "<b>", Html("<i></i>"), title='"') == '<p title="&quot;">&lt;b&gt;<i></i></p>'
    assert "<script" not in dotted(NASTY)
    assert "and 3 more" in html_table("t", ["a"], [[at] for at in range(5)], most=2)


def test_plans_and_reports_show_as_tables_in_a_notebook(tmp_path):
    plan = Plan.load(grown(tmp_path / "out", NASTY))
    difference = {"name": NASTY, "reason": f"missing{NASTY}"}
    proof = VerifyReport({"kept": 1}, 8, 8, (difference,), (NASTY,), NASTY)
    tensor = {"name": NASTY, "status": "added", "shape": [1], "dtype": "float32"}
    counts = {"identical": 0, "changed": 0, "added": 1, "removed": 0}
    for shown in (plan, proof, DiffReport(NASTY, "b", (tensor,), counts)):
        page = Page(shown._repr_html_())
        assert page.faults == [] and page.elements["script"] == 0
        assert page.elements["table"] >= 2 and NASTY in page.text
