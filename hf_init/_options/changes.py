"""The options that ask for a change: of labels and heads, of tokens, of the size of a model."""

# No ``from __future__ import annotations``: the Options must be there at run time. The types must not (torch): quoted.
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

from hf_init._options.option import Option

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from transformers import AddedToken, PreTrainedTokenizerBase

    from hf_init._options.upcycle import Upcycle
    from hf_init._plan import SchemeLike

    ExamplesLike: TypeAlias = str | Path | Iterable[tuple[str, object] | Mapping[str, object]]
    LayersLike: TypeAlias = str | Sequence[int | str] | Mapping[str, str | Sequence[int | str]]
    TokenLike: TypeAlias = str | AddedToken | Mapping[str, object]


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
        Option("new tokens: one a line, or .json, .jsonl, .csv, .tsv with token, description, special", metavar="FILE"),
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
    texts: Annotated[
        "str | Path | Iterable[str] | None",
        Option("with the new tokens in them, an empty line between two: what distilled rows are from", metavar="FILE"),
    ]


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
    window_size: Annotated["int | None", Option("of attention (Swin): its positions are interpolated", "number", "N")]
    num_mel_bins: Annotated["int | None", Option("of spectrograms: the first layer is resized", "number", "N")]
    channels: Annotated[
        "str | Sequence[int | str | None] | None",
        Option("what each starts as: R,G,B,new or numbers; sum into one; repeat", metavar="MAP"),
    ]
    widen: Annotated[
        "Mapping[str, int | str] | None",
        Option("widths of feed-forward blocks: intermediate_size=N; or hidden_size=x2", "values", "KEY=N"),
    ]
    kv_heads: Annotated["int | None", Option("of keys and values: repeated, or the mean of groups", "number", "N")]
    experts: Annotated[
        "int | str | Upcycle | None",
        Option(
            "of a mixture, a multiple: each comes equally often; of a dense model: upcycle(8, top_k=2)", metavar="N"
        ),
    ]
    untie: Annotated["bool | None", Option("the output matrix becomes a tensor of its own", "flag")]
