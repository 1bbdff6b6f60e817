"""The options of what looks at a result: verify, drift, diff, check, and the trials of new rows."""

# No ``from __future__ import annotations``: the Options must be there at run time. The types must not (torch): quoted.
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

from hf_init._options.option import Option

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from hf_init._base_report import Report
    from hf_init._checkpoint import Bases
    from hf_init._options.changes import ExamplesLike
    from hf_init._plan import Plan

_Prefix: "TypeAlias" = Annotated[
    "str", Option("what the names of the base (A) get before them, such as encoder.", metavar="PREFIX", default="")
]


class VerifyOptions(TypedDict, total=False):
    """Verification."""

    recompute: Annotated["bool", Option("derive every new value again from scheme and seed", "flag")]
    examples: Annotated[
        "ExamplesLike | None", Option("with recompute: those that a head was solved from", metavar="FILE")
    ]
    texts: Annotated[
        "str | Path | Iterable[str] | None",
        Option("with recompute: those that rows were distilled from", metavar="FILE"),
    ]
    everything: Annotated["bool", Option("list all that differs; else stop at the first", "flag")]
    prefix: _Prefix
    part: Annotated["str", Option("look at one of N parts of the tensors, such as 1/4", metavar="K/N")]
    merge: Annotated[
        "Sequence[Report | str | Path]",
        Option("the reports of all parts, in JSON: read nothing, and give the whole's", "listed", "FILE"),
    ]


class TrainingOption(TypedDict, total=False):
    """Training."""

    after_training: Annotated[
        "bool", Option("OUT was trained since: prove that everything pretrained stayed (drift --frozen kept)", "flag")
    ]


class BaseOption(TypedDict, total=False):
    """Base."""

    base: Annotated[
        "Bases | Literal[False] | None",
        Option("the checkpoint it came from; default: the one in the manifest", "or no", metavar="BASE"),
    ]


class DriftOptions(TypedDict, total=False):
    """Drift."""

    plan: Annotated["Plan | str | Path | None", Option("a folder with the manifest, if neither has one", metavar="DIR")]
    frozen: Annotated[
        "str | Sequence[str]",
        Option(
            "what was meant to stay: none, kept (everything pretrained), or a glob on names; !GLOB takes out; the last "
            "that fits counts",
            "listed",
            "WHAT",
            default="none",
        ),
    ]
    prefix: _Prefix


class DiffOptions(TypedDict, total=False):
    """Difference."""

    only: Annotated["Sequence[str] | None", Option("only tensors that a glob names, in A or B", "listed", "GLOB")]
    by_layer: Annotated["bool", Option("a line a layer instead of one a tensor", "flag")]
    prefix: _Prefix


class BatchOptions(TypedDict, total=False):
    """Batch."""

    texts: Annotated["Sequence[str] | None", Option("a text of the batch; default: some of its own", "repeated", "T")]
    labels: Annotated["Sequence[str] | None", Option("of the texts: numbers or names", "names", "N,N")]
    train: Annotated["bool", Option("in training mode: with dropout and batch statistics", "flag")]
    verbose: Annotated["bool", Option("list every layer; else the three farthest from what is usual", "flag")]


class ComparisonOptions(TypedDict, total=False):
    """Schemes of new rows."""

    compare_schemes: Annotated[
        "str",
        Option(
            "with new tokens: train their rows for a few steps from every scheme on these texts, and list the schemes, "
            "best first (of a hub id the weights are fetched)",
            metavar="FILE",
        ),
    ]
    steps: Annotated["int", Option("of that training; default: 50", "number", "N")]


class ProbeOption(TypedDict, total=False):
    """Probe."""

    probe: Annotated["str", Option("with new tokens: what they do to the model on these texts", metavar="FILE")]
