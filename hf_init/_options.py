"""Every option, once: its name, type, default and help, and the functions and commands that take it.

A group of options is a ``TypedDict``: the type checker reads its annotations, the command line and the docstrings its
``Option``s. A function takes a group by ``**options: Unpack[Group]``, a command by naming it in ``cli/_commands.py``.
An option that the command line can't say (a device, a dtype) stands in a group that no command names.
"""

# No ``from __future__ import annotations``: the Options must be there at run time. The types must not (torch): quoted.
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import TypeAlias

    import torch
    from transformers import AddedToken, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase
    from transformers.distributed.configuration_utils import DistributedConfig

    from hf_init._architecture import Architecture
    from hf_init._checkpoint import Bases
    from hf_init._plan import Keep, Plan, RecipeLike, RuleLike, SchemeLike

    ExamplesLike: TypeAlias = str | Path | Iterable[tuple[str, object] | Mapping[str, object]]
    LayersLike: TypeAlias = str | Sequence[int | str] | Mapping[str, str | Sequence[int | str]]
    TokenLike: TypeAlias = str | AddedToken | Mapping[str, object]

Form = Literal[
    "text", "flag", "number", "decimal", "names", "texts", "numbers", "repeated", "listed", "values", "pairs", "lists",
    "counts", "kinds", "places", "stacks", "or no", "either",
]  # fmt: skip
"""How the command line says a value; see ``cli/_values.py``."""


class Option(NamedTuple):
    """What there is to say of an option besides its name and type.

    Attributes:
        help: one line, for the command line and the docstrings.
        form: how a value is written on the command line. metavar: its stand-in there.
        default: what leaving it out means; None says that the help does.
        choices: the only values. short: a letter for the command line.
    """

    help: str
    form: Form = "text"
    metavar: str = ""
    default: object = None
    choices: tuple[str, ...] = ()
    short: str = ""


_Prefix: "TypeAlias" = Annotated[
    "str", Option("what the names of the base (A) get before them, such as encoder.", metavar="PREFIX", default="")
]


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


class LabelOptions(TypedDict, total=False):
    """Labels and heads."""

    labels: Annotated["Sequence[str] | None", Option("label names in order", "names", "A,B,C")]
    num_labels: Annotated["int | None", Option("how many labels, instead of their names", "number", "N")]
    entities: Annotated["Sequence[str] | None", Option("instead: O, and B- and I- of each entity", "names", "A,B")]
    rename_labels: Annotated["Mapping[str, str] | None", Option("labels whose rows are kept", "pairs", "OLD=NEW")]
    labels_keep: Annotated[
        "Literal['names', 'leading', 'none'] | None",
        Option(
            "rows follow their labels' names (the default), or their indices, or all are new",
            choices=("names", "leading", "none"),
        ),
    ]
    label_counts: Annotated[
        "Mapping[str, float] | Sequence[float] | None",
        Option("examples of each label, or their shares: biases start at the prior", "counts", "A=N,B=N"),
    ]
    target_mean: Annotated[
        "float | Sequence[float] | None", Option("of a regression's targets: the bias starts there", "decimal", "X")
    ]
    head: Annotated[
        "str | None", Option("class_means, lda, ridge, logistic (by examples), or verbalizer", metavar="METHOD")
    ]
    examples: Annotated[
        "ExamplesLike | None", Option("labelled, for METHOD: .jsonl, .json, .csv or .tsv", metavar="FILE")
    ]
    verbalizer: Annotated["Mapping[str, str | Sequence[str]] | None", Option("a label's words", "lists", "LABEL=W,W")]


class HeadsOptions(TypedDict, total=False):
    """Several heads on one backbone."""

    add_heads: Annotated[
        "Mapping[str, str | Mapping[str, object]] | None",
        Option(
            "such as topic=sequence-classification:news,sport or 'topic=regression(pooling=mean,depth=2)'",
            "kinds",
            "NAME=KIND",
        ),
    ]
    remove_heads: Annotated["Sequence[str] | None", Option("heads that go", "listed", "NAME")]
    rename_heads: Annotated["Mapping[str, str] | None", Option("heads that get another name", "pairs", "OLD=NEW")]
    take_heads: Annotated[
        "Mapping[str, str | Path | tuple[str | Path, str]] | None",
        Option(
            "the head of another checkpoint on the same backbone; DIR#THERE where it has several", "places", "NAME=DIR"
        ),
    ]
    name_head: Annotated["str | None", Option("of the one head that BASE has; default: its kind", metavar="NAME")]
    export_head: Annotated[
        "str | None", Option("of several: the result is the plain class with this one alone", metavar="NAME")
    ]


class TokenOptions(TypedDict, total=False):
    """Tokens."""

    add_tokens: Annotated[
        "Sequence[TokenLike] | None", Option("new tokens, as they are, spaces included", "texts", "T,T")
    ]
    special_tokens: Annotated[
        "Sequence[TokenLike] | None", Option("new control tokens, which no text contains", "texts", "T,T")
    ]
    add_tokens_file: Annotated[
        "str | Path | None",
        Option("new tokens: one a line, or .json, .jsonl, .csv with token, description, special", metavar="FILE"),
    ]
    rename_tokens: Annotated[
        "Mapping[str, str] | None", Option("tokens, such as reserved ones, that get another text", "pairs", "OLD=NEW")
    ]
    single_word: Annotated[
        "bool | None",
        Option("new tokens match as whole words only; default: of whole words on WordPiece", "either"),
    ]
    lstrip: Annotated["bool | None", Option("new tokens take the spaces before them", "either")]
    rstrip: Annotated["bool | None", Option("new tokens take the spaces behind them", "either")]
    normalized: Annotated[
        "bool | None", Option("new tokens match normalized text; default: all but control tokens", "either")
    ]
    pad_token: Annotated["str | None", Option("the token of this role, new or there already", metavar="T")]
    eos_token: Annotated["str | None", Option("likewise", metavar="T")]
    bos_token: Annotated["str | None", Option("likewise", metavar="T")]
    unk_token: Annotated["str | None", Option("likewise", metavar="T")]
    mask_token: Annotated["str | None", Option("likewise", metavar="T")]
    chat_template: Annotated["str | Path | None", Option("a template of chats, in Jinja", metavar="FILE")]
    existing: Annotated[
        "Literal['error', 'skip'] | None",
        Option("what to do with tokens that are there already; default: error", choices=("error", "skip")),
    ]
    pad_to_multiple_of: Annotated["int | None", Option("rows of the vocabulary's tables", "number", "N")]
    allow_shrink: Annotated["bool | None", Option("rows may go; those of tokens are named", "flag")]
    reinit_rows: Annotated["Sequence[int] | None", Option("ids whose rows are re-initialized", "numbers", "N,N")]
    tokenizer: Annotated[
        "str | Path | PreTrainedTokenizerBase | None",
        Option("another tokenizer instead: equal tokens keep their rows", metavar="DIR"),
    ]
    guarantee: Annotated[
        "Literal['distribution', 'greedy', 'learning'] | None",
        Option(
            "what holds after the change; default: greedy (decoding of old text)",
            choices=("distribution", "greedy", "learning"),
        ),
    ]
    row_scheme: Annotated[
        "SchemeLike | None", Option("of all new rows, such as mean or subtokens(norm=median)", metavar="SCHEME")
    ]
    input_rows: Annotated["SchemeLike | None", Option("of the embedding's new rows alone", metavar="SCHEME")]
    output_rows: Annotated["SchemeLike | None", Option("of the language-model head's alone", metavar="SCHEME")]


class GrowthOptions(TypedDict, total=False):
    """Growth."""

    layers: Annotated[
        "LayersLike | None",
        Option(
            "blocks of the base by number, and new ones: 0-5,new,6-11,new; every=6; 0-23,8-31; decoder=0,31",
            "stacks",
            "MAP",
        ),
    ]
    new_layers: Annotated[
        "Literal['auto', 'copy'] | None",
        Option(
            "of new blocks: the architecture's own values (auto, the default), or copies; closed",
            choices=("auto", "copy"),
        ),
    ]
    positions: Annotated["int | None", Option("of a text; the tokenizer follows", "number", "N")]
    positions_by: Annotated[
        "Literal['tile', 'interpolate'] | None",
        Option(
            "new positions are the old ones again (tile, the default), or all are stretched",
            choices=("tile", "interpolate"),
        ),
    ]
    positions_keep: Annotated["int | None", Option("with interpolate: so many first ones stay", "number", "N")]
    image_size: Annotated["int | Sequence[int] | None", Option("of images: positions are interpolated", "number", "N")]
    patch_size: Annotated["int | Sequence[int] | None", Option("of patches: the projection is resized", "number", "N")]
    num_channels: Annotated["int | None", Option("of images; new ones start at 0", "number", "N")]
    channels: Annotated[
        "str | Sequence[int | str | None] | None",
        Option("what each starts as: R,G,B,new or numbers; sum into one; repeat", metavar="MAP"),
    ]
    widen: Annotated[
        "Mapping[str, int | str] | None",
        Option("widths of feed-forward blocks, such as intermediate_size=x2", "values", "KEY=N"),
    ]
    kv_heads: Annotated["int | None", Option("of keys and values: repeated, or the mean of groups", "number", "N")]
    experts: Annotated["int | None", Option("of a mixture, a multiple: each comes equally often", "number", "N")]
    untie: Annotated["bool | None", Option("the output matrix becomes a tensor of its own", "flag")]


class FileOptions(TypedDict, total=False):
    """Files."""

    max_shard_size: Annotated[
        "str | int | None", Option("of a file, such as 5GB; default: the base's own division", metavar="SIZE")
    ]
    link: Annotated[
        "Literal['copy', 'hard', 'symbolic']",
        Option("how files that stay as they are get there", default="copy", choices=("copy", "hard", "symbolic")),
    ]
    digest: Annotated["bool", Option("record digests: the result can be verified without its base", "flag")]
    prove_function: Annotated[
        "bool", Option("run base and result on the same inputs: a claim of the plan that doesn't hold fails", "flag")
    ]
    resume: Annotated["bool", Option("go on with what an interrupted run to the same folder left", "flag")]
    rename: Annotated[
        "bool",
        Option(
            "write beside OUT and rename at the end (the default); without: in place, where the system can't rename",
            "flag",
            default=True,
        ),
    ]


class MemoryOptions(TypedDict, total=False):
    """Memory."""

    dtype: Annotated["str | torch.dtype | None", Option("of the model in memory; default: the config's")]
    torch_dtype: Annotated["str | torch.dtype | None", Option("the older name of dtype")]
    device_map: Annotated["str | Mapping[str, object] | torch.device | None", Option("as the library's")]
    max_memory: Annotated["Mapping[int | str, int | str] | None", Option("as the library's")]
    distributed_config: Annotated[
        "DistributedConfig | None", Option("divide the model among ranks, as the library's: FSDP2, tensor parallelism")
    ]
    attn_implementation: Annotated["str | Mapping[str, str] | None", Option("as the library's")]
    experts_implementation: Annotated["str | Mapping[str, str] | None", Option("as the library's")]
    generation_config: Annotated["GenerationConfig | None", Option("instead of the checkpoint's")]
    disable_mmap: Annotated["bool | None", Option("as the library's")]
    use_kernels: Annotated["bool", Option("as the library's")]
    weights_only: Annotated["bool", Option("as the library's")]
    use_safetensors: Annotated["bool | None", Option("as the library's")]
    low_cpu_mem_usage: Annotated["bool | None", Option("as the library's: it is its default")]
    proxies: Annotated["Mapping[str, str] | None", Option("as the library's")]


class PlanOptions(
    TargetOptions, HubOptions, CodeOptions, LabelOptions, HeadsOptions, TokenOptions, GrowthOptions, total=False
):
    """What ``plan`` takes."""


class ExtendOptions(PlanOptions, FileOptions, total=False):
    """What ``extend`` takes."""


class LoadOptions(PlanOptions, MemoryOptions, total=False):
    """What ``from_pretrained`` takes."""


class VerifyOptions(TypedDict, total=False):
    """Verification."""

    recompute: Annotated["bool", Option("derive every new value again from scheme and seed", "flag")]
    examples: Annotated[
        "ExamplesLike | None", Option("with recompute: those that a head was solved from", metavar="FILE")
    ]
    everything: Annotated["bool", Option("list all that differs; else stop at the first", "flag")]
    prefix: _Prefix


class ResultOptions(VerifyOptions, HubOptions, ClassOption, CodeOptions, total=False):
    """What ``verify`` takes."""


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


class DiffCallOptions(DiffOptions, CacheOptions, total=False):
    """What ``diff`` takes."""


class DriftCallOptions(DriftOptions, CacheOptions, total=False):
    """What ``drift`` takes."""


class BatchOptions(TypedDict, total=False):
    """Batch."""

    texts: Annotated["Sequence[str] | None", Option("a text of the batch; default: some of its own", "repeated", "T")]
    labels: Annotated["Sequence[str] | None", Option("of the texts: numbers or names", "names", "N,N")]
    train: Annotated["bool", Option("in training mode: with dropout and batch statistics", "flag")]


class CheckOptions(BatchOptions, HubOptions, ClassOption, CodeOptions, total=False):
    """What ``hf-init check`` takes."""


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


class PictureOption(TypedDict, total=False):
    """Picture."""

    picture: Annotated["str", Option("a picture of it", metavar="FILE.png", short="o")]


class PageOption(TypedDict, total=False):
    """Page."""

    out: Annotated["str", Option("FILE.html or FILE.png; default: hf_init-report.html here", metavar="FILE", short="o")]


class OutputOptions(TypedDict, total=False):
    """Output."""

    format: Annotated[
        "Literal['text', 'json', 'markdown', 'github']",
        Option(
            "of the result: json is one document, errors included, and nothing else; github is text with annotations "
            "for a workflow",
            default="text",
            choices=("text", "json", "markdown", "github"),
        ),
    ]
    json: Annotated["bool", Option("short for --format json", "flag")]
    quiet: Annotated["bool", Option("no progress and no notices on standard error", "flag")]
    color: Annotated[
        "Literal['auto', 'always', 'never']",
        Option(
            "of the outcome, failures and warnings; auto: on a terminal, unless NO_COLOR is set",
            default="auto",
            choices=("auto", "always", "never"),
        ),
    ]


def option_group(name: str) -> type:
    """Return a group of options by its name."""
    return globals()[name]


def options_of(*groups: type) -> dict[str, Option]:
    """Return the options of some groups by name, in their order."""
    return {
        name: extra
        for group in groups
        for name, hint in group.__annotations__.items()
        for extra in get_args(hint)
        if isinstance(extra, Option)
    }


def chosen_options(given: "Mapping[str, object]", group: type) -> dict[str, Any]:
    """Return those of the given options that are of a group."""
    return {name: value for name, value in given.items() if name in options_of(group)}
