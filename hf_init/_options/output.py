"""The options that say where a result goes: into files, into memory, onto a terminal, into a page."""

# No ``from __future__ import annotations``: the Options must be there at run time. The types must not (torch): quoted.
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

from hf_init._options.option import Option

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from transformers import GenerationConfig
    from transformers.distributed.configuration_utils import DistributedConfig


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
    push_to_hub: Annotated[
        "str | None",
        Option("upload the verified result in one commit, and compare it with the hub's digests", metavar="REPO"),
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


class PictureOption(TypedDict, total=False):
    """Picture."""

    picture: Annotated[
        "str", Option("a picture of it, or a page with everything: FILE.html", metavar="FILE.png", short="o")
    ]


class PageOption(TypedDict, total=False):
    """Page."""

    out: Annotated["str", Option("FILE.html or FILE.png; default: hf_init-report.html here", metavar="FILE", short="o")]
