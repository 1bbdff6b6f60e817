"""What looks wrong with a tensor, in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hf_init._checkpoint import is_floating
from hf_init._report.measure import Measure, RowStats
from hf_init._statistics import Stats
from hf_init._text import format_count
from hf_init.schemes import Distribution, Model, Scheme

FAR = 20.0
"""Standard deviations from the mean that no initialization reaches."""

RATIO = 10.0
"""How many times the standard deviation of its neighbours is suspicious."""

ALIKE = 0.01
"""Rows whose distance from their mean is below this share of their size are one vector for every purpose."""

LONG = 8
"""Elements that a row must have before equality of two rows can't be chance in a coarse dtype."""

SIGMAS = 6.0
"""Standard errors beyond which a sample is not of the expected distribution."""

# The relative error of one rounding, with room: beyond it a constant isn't the expected one.
_ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-10, "float32": 2.0**-20, "float64": 2.0**-20}


@dataclass(frozen=True)
class ReportFinding:
    """One thing that looks wrong: which tensor, a word for its kind, a sentence, how far its farthest value lies."""

    tensor: str
    kind: str
    text: str
    weight: float = 0.0


@dataclass(frozen=True)
class JudgedTensor:
    """What a tensor is judged by.

    Attributes:
        scheme: that filled it; None where nothing says how it was made.
        neighbours: of the same role, pretrained.
    """

    measure: Measure
    stats: Stats
    scheme: Scheme | None = None
    expected: Distribution | None = None
    neighbours: Sequence[Measure] = ()

    @property
    def shaped(self) -> bool:
        """Tell whether the scheme gives values a structure (a diagonal, gates), which no general rule judges."""
        return self.expected is None and not (self.scheme is None or isinstance(self.scheme, Model))

    @property
    def matrix(self) -> bool:
        return len(self.measure.shape) > 1

    @property
    def rows(self) -> RowStats | None:
        return self.measure.rows


def judge_report(
    measure: Measure,
    scheme: Scheme | None = None,
    expected: Distribution | None = None,
    neighbours: Sequence[Measure] = (),
) -> tuple[ReportFinding, ...]:
    """Return everything that looks wrong with a tensor; nothing for one that isn't made of floating-point numbers."""
    if measure.stats is None or not is_floating(measure.dtype) or not measure.stats.count:
        return ()
    case = JudgedTensor(measure, measure.stats, scheme, expected, neighbours)
    weight = _farthest(case)
    return tuple(ReportFinding(measure.name, kind, text, weight) for kind, check in _CHECKS for text in check(case))


def _farthest(case: JudgedTensor) -> float:
    """Return how many standard deviations, expected ones where there are any, the farthest value lies off the mean."""
    stats, expected = case.stats, case.expected
    mean, std = (expected.mean, expected.widest) if expected else (stats.mean, stats.std)
    return stats.farthest(mean) / std if std and not case.shaped else 0.0


def _judge_not_finite(case: JudgedTensor) -> Iterator[str]:
    stats = case.stats
    if stats.finite < stats.count:
        yield (
            f"{format_count(stats.nans)} of its {format_count(stats.count)} values are NaN and "
            f"{format_count(stats.infinite)} are "
            "infinite: the first forward pass spreads them to everything"
        )


def _judge_constant(case: JudgedTensor) -> Iterator[str]:
    stats = case.stats
    # A bias at 0 and a norm at 1 are the custom, where no scheme says otherwise.
    customary = case.expected is None and not case.matrix
    drawn = case.expected is None or case.expected.is_random
    if not stats.constant or stats.count < 2 or case.shaped or customary or not drawn:
        return
    but = f", though its scheme's distribution is {case.expected}" if case.expected else ""
    if stats.low == 0:
        yield f"dead: all of its {format_count(stats.count)} values are 0{but}; nothing passes through it"
    else:
        yield f"constant: all of its {format_count(stats.count)} values are {stats.low:.6g}{but}"


def _judge_extreme(case: JudgedTensor) -> Iterator[str]:
    stats, expected = case.stats, case.expected
    mean, std = (expected.mean, expected.widest) if expected else (stats.mean, stats.std)
    far = _farthest(case)
    if far > FAR:
        low = mean - stats.low > stats.high - mean
        whose = "its scheme's" if expected else "its own"
        yield (
            f"an extreme value: {stats.low if low else stats.high:.6g} lies {far:.0f} standard deviations "
            f"({whose}, {std:.4g}) from the mean"
        )


def _judge_repeated_rows(case: JudgedTensor) -> Iterator[str]:
    rows = case.rows
    if rows is None or case.shaped or case.stats.constant or rows.length < LONG:
        return
    looked = f"{format_count(rows.seen)} rows" + (
        "" if rows.seen == rows.total else f" looked at, of {format_count(rows.total)},"
    )
    if rows.repeated:
        yield f"identical rows: {format_count(rows.repeated)} of its {looked} equal an earlier one, bit for bit"
    elif rows.seen > 1 and rows.spread < ALIKE:
        yield (
            f"identical rows, nearly: its {looked} are practically one vector (they differ from their mean by "
            f"{rows.spread:.1%} of their size)"
        )


def _judge_neighbours(case: JudgedTensor) -> Iterator[str]:
    spreads = [each.std for each in case.neighbours if each.std > 0]
    std, usual = case.stats.std, statistics.median(spreads) if spreads else 0.0
    if not std or not usual or not math.isfinite(std / usual):
        return
    ratio = std / usual
    if ratio >= RATIO or ratio <= 1 / RATIO:
        times = f"{ratio:.3g} times" if ratio > 1 else f"1/{1 / ratio:.3g} of"
        names = ", ".join(each.name for each in case.neighbours)
        yield f"its standard deviation {std:.4g} is {times} that of tensors of the same role ({usual:.4g} in {names})"


def _judge_distribution(case: JudgedTensor) -> Iterator[str]:
    expected, stats = case.expected, case.stats
    if expected is None or not stats.finite or (stats.constant and expected.is_random):
        return
    if not expected.is_random:
        least, greatest = min(value for value, _ in expected.atoms), max(value for value, _ in expected.atoms)
        low, high = least - _rounding_error(case, least), greatest + _rounding_error(case, greatest)
        if not low <= stats.low <= stats.high <= high:
            seen = f"its values go from {stats.low:.6g} to {stats.high:.6g}"
            yield f"its scheme's distribution is {expected}, but {seen}"
        return
    std_error = expected.std * math.sqrt(max(expected.kurtosis - 1, 0) / (4 * stats.finite))
    if abs(stats.std - expected.std) > SIGMAS * std_error + 0.02 * expected.std:
        yield f"its standard deviation is {stats.std:.4g}, where its scheme's distribution has {expected.std:.4g}"
    mean_error = expected.std / math.sqrt(stats.finite)
    rounding = _rounding_error(case, expected.mean)
    if abs(stats.mean - expected.mean) > SIGMAS * mean_error + 0.02 * expected.std + rounding:
        yield f"its mean is {stats.mean:.4g}, where its scheme's distribution has {expected.mean:.4g}"


def _rounding_error(case: JudgedTensor, value: float) -> float:
    return abs(value) * _ROUNDING.get(case.measure.dtype, 2.0**-3)


_CHECKS: tuple[tuple[str, Callable[[JudgedTensor], Iterator[str]]], ...] = (
    ("not finite", _judge_not_finite),
    ("constant", _judge_constant),
    ("extreme value", _judge_extreme),
    ("identical rows", _judge_repeated_rows),
    ("unlike its neighbours", _judge_neighbours),
    ("unlike its scheme", _judge_distribution),
)
