"""Packed and scaled weights, told from the headers: by the dtypes, and by the names that stand beside them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from hf_init._checkpoint.header import TensorEntry, dtype_bits
from hf_init._errors import PlanError
from hf_init._text import join_names

KEYS = ("quantization_config", "compression_config", "quantization")
"""Where a config says that its weights are packed."""
FILES = {"quantize_config.json": "GPTQ", "hf_quant_config.json": "modelopt"}
FORMATS: Mapping[str, str] = {
    r"\.g_idx$": "GPTQ",
    r"\.qzeros$": "AWQ or GPTQ",
    r"\.(absmax|quant_map|quant_state\.\w+)$": "bitsandbytes, 4 bits",
    r"\.SCB$": "bitsandbytes, 8 bits",
    r"\.weight_(packed|shape)$": "compressed-tensors",
    r"\.weight_zero_point$": "compressed-tensors or Quark",
    r"\.weight_scale_inv$": "float8 in blocks, as DeepSeek's",
    r"\.weight_scale_2$": "modelopt, NVFP4",
    r"_blocks$": "MXFP4",
    r"\._(weight_)?(data|scale|qdata)$": "quanto or torchao",
    r"\.(W_q|meta)$": "HQQ",
    r"\.(codes|codebooks)$": "AQLM",
    r"\.(weight|input|k|v)_scales?$": "float8 or int8 with scales",
    r"\.scales$": "MLX, or another with scales",
}
"""A format by the names that only it has, the surest first."""
RAW = re.compile(r"weight|^(qzeros|W_q|codes|_data|_qdata)$|_blocks$")
"""The last word of the name of what is a matrix, and in whole numbers a packed one."""
SKIP_LISTS: Mapping[str, str] = {
    "bitsandbytes": "llm_int8_skip_modules",
    "compressed-tensors": "ignore",
    **dict.fromkeys(("awq", "eetq", "fbgemm_fp8", "fp8", "mxfp4", "quanto", "torchao"), "modules_to_not_convert"),
}
"""By a quantizer's name in a config, the list there of the modules that it leaves alone."""
UNPACK_FIRST = (
    "Extend the unquantized checkpoint and quantize the result, with the new modules left out; where there is none, "
    "load this one with plain transformers, dequantize() it, save_pretrained, and extend that folder"
)
_REFUSAL = "new values can't be written into packed storage, and its numbers aren't those of the model. " + UNPACK_FIRST


@dataclass(frozen=True)
class PackedWeights:
    """The packed weights of a checkpoint whose config names their quantizer.

    Attributes:
        method: the quantizer. config: what the config says of it.
        names: of packed tensors, and of scales and the like beside them.
    """

    method: str
    config: Mapping[str, Any]
    names: tuple[str, ...]


def packed_weights(entries: Iterable[TensorEntry]) -> list[str]:
    """Return the names of tensors whose values are packed: in fewer than 16 bits, or a matrix in whole numbers.

    Example:
        >>> packed_weights([TensorEntry(name, "int8", (2, 2), "", 0, 4) for name in ("h.weight", "mask")])
        ['h.weight']
    """
    names: list[str] = []
    for entry in entries:
        narrow = entry.dtype.startswith("float") and dtype_bits(entry.dtype) <= 8
        whole = re.fullmatch(r"u?int(8|16|32)", entry.dtype) is not None and len(entry.shape) > 1
        if narrow or (whole and RAW.search(entry.key.rpartition(".")[2])):
            names.append(entry.name)
    return names


def format_of(names: Collection[str]) -> str:
    """Return the format of packed weights by the names beside them; empty where they don't tell."""
    signs = (kind for ending, kind in FORMATS.items() if any(re.search(ending, name) for name in names))
    return next(signs, "")


def plain_config(
    folder: Path, config: Mapping[str, Any], entries: Mapping[str, TensorEntry], may_be_packed: bool = False
) -> tuple[dict[str, Any], tuple[str, ...], PackedWeights | None]:
    """Return a checkpoint's config without what is said in it of packed weights; what that was; and those, if any are.

    Args:
        may_be_packed: where the config names the quantizer, by a library's habit; else they must be plain.

    Raises:
        PlanError: they are packed, and may not be.
    """
    methods = dict(_methods(config))
    packed = packed_weights(entries.values())
    scales = [name for name in entries if any(re.search(ending, name) for ending in FORMATS)] if methods else []
    named = config.get("quantization_config")
    if (packed or scales) and may_be_packed and isinstance(named, Mapping) and named.get("quant_method"):
        names = tuple(dict.fromkeys((*packed, *scales)))
        return _without(config), (), PackedWeights(str(named["quant_method"]), named, names)
    if packed or scales:
        beside = (kind for file, kind in FILES.items() if (folder / file).is_file())
        kind = next(chain(methods.values(), beside), "") or format_of(entries)
        kinds = " in ".join(filter(None, (kind, ", ".join(sorted({entries[name].dtype for name in packed})))))
        raise PlanError(f"{folder} is quantized ({kinds}): {join_names(packed or scales)}; {_REFUSAL}")
    if isinstance(named, Mapping) and named.get("quantization_mode") == "online":
        raise PlanError(
            f"{folder}: its weights are plain, and its config says that every forward pass packs them "
            "(quantization_mode is 'online'): the result would compute something else. If the plain weights are what "
            "you want, remove quantization_config from a copy's config.json, and give that"
        )
    return _without(config), tuple(f"{key} ({method})" for key, method in methods.items()), None


def _methods(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the keys under which a config, or one nested in it, speaks of packed weights, with the format."""
    for key, value in config.items():
        if says_packed(key, value):
            kind = value.get("quant_method", "") if isinstance(value, Mapping) else value
            yield key, str(kind or ("MLX" if key == "quantization" else "of no known method"))
        elif isinstance(value, Mapping):
            yield from _methods(value)


def _without(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if not says_packed(key, value)
    }


def says_packed(key: str, value: object) -> bool:
    """Return whether a value of a config says that weights are packed."""
    given = bool(value) or isinstance(value, Mapping)  # of an empty one transformers asks for its method
    return key in KEYS and given and (key != "quantization" or (isinstance(value, Mapping) and "bits" in value))
