"""The options that say what the result is to be, and where its base is found."""

# No ``from __future__ import annotations``: the Options must be there at run time. The types must not (torch): quoted.
from typing import TYPE_CHECKING, Annotated, TypedDict

from hf_init._options.option import Option

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from transformers import PreTrainedConfig

    from hf_init._architecture import Architecture
    from hf_init._plan import Keep, RecipeLike, RuleLike


class ClassOption(TypedDict, total=False):
    """Class."""

    architecture: Annotated[
        "Architecture",
        Option("a class, AutoModelFor* or FILE.py:CLASS; default: the checkpoint's own", metavar="CLASS"),
    ]


class TowerOption(TypedDict, total=False):
    """Parts."""

    tower: Annotated[
        "Mapping[str, str | Path]",
        Option(
            "the checkpoint of the part whose names begin with PREFIX, such as encoder.=DIR; BASE, if there is one, is "
            "that of the rest (in Python: base={PREFIX: DIR})",
            "pairs",
            "PREFIX=DIR",
        ),
    ]


class TargetOptions(TypedDict, total=False):
    """Target."""

    config: Annotated[
        "PreTrainedConfig | Mapping[str, object] | None",
        Option("values of the config, dots reach nested ones; in Python also a config object", "values", "KEY=VALUE"),
    ]
    model_kwargs: Annotated[
        "Mapping[str, object] | None",
        Option("what the class's constructor takes besides the config", "values", "KEY=VALUE"),
    ]
    keep: Annotated[
        "Keep | None",
        Option(
            "what is kept of a tensor that changes shape: leading (each element at its index, the rest is new), none, "
            "or a source row or null for each row, such as [2, 0, null]",
            "values",
            "GLOB=HOW",
        ),
    ]
    recipe: Annotated["RecipeLike", Option("rules and schemes: a YAML file or a known recipe's name", metavar="FILE")]
    rules: Annotated[
        "Sequence[RuleLike] | None",
        Option("rules before the recipe's, such as 'classifier.weight=normal(std=0.02)'", "repeated", "GLOB=SCHEME"),
    ]
    seed: Annotated["int | None", Option("of all that is drawn; default: the recipe's, or 0", "number", "N")]
    allow_new: Annotated["Sequence[str] | None", Option("only what a glob names may be new", "listed", "GLOB")]
    drop: Annotated[
        "Sequence[str] | None", Option("what of the checkpoint goes, having no place in the target", "listed", "GLOB")
    ]
    key_mapping: Annotated[
        "Mapping[str, str] | None",
        Option("regular expressions that rename the checkpoint's tensors first", "pairs", "PATTERN=NEW"),
    ]


class CacheOptions(TypedDict, total=False):
    """Hub ids, and ID@REV."""

    token: Annotated["str | bool | None", Option("for a private repository; default: the stored one")]
    cache_dir: Annotated["str | Path | None", Option("where the hub's files are kept", metavar="DIR")]
    local_files_only: Annotated["bool", Option("fetch nothing: use what is in the cache", "flag")]
    force_download: Annotated["bool", Option("fetch again what is in the cache", "flag")]


class HubOptions(CacheOptions, total=False):
    """Hub."""

    revision: Annotated["str | None", Option("of a hub repository: a branch, a tag, a commit", metavar="REV")]
    subfolder: Annotated["str", Option("where in the repository or folder the checkpoint is", metavar="DIR")]


class CodeOptions(TypedDict, total=False):
    """Code."""

    trust_remote_code: Annotated["bool | None", Option("run model code that the checkpoint brings", "flag")]
