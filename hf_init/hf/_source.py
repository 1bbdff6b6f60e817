"""Where a checkpoint is: a folder, or a hub id through huggingface_hub, its cache and its offline switch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from hf_init._checkpoint._strict import AGAIN
from hf_init._errors import CheckpointError, PlanError

GIVE = "give a folder that save_pretrained wrote, or a hub id"
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py", "*.md", "*.yaml"]


def folder_of(base: str | Path, subfolder: str = "", **hub: Any) -> Path:
    """The local folder of a checkpoint.

    Raises:
        CheckpointError: there is no such folder, and no such repository or no way to reach it.
    """
    if not str(base):
        raise CheckpointError(f"the base is an empty name; {GIVE}")
    path = Path(os.path.expanduser(base))
    if path.is_file():
        raise CheckpointError(f"{base} is a file; give the folder that holds it")
    if not path.is_dir():
        path = _downloaded(str(base), **hub)
    return path / subfolder if subfolder else path


def _downloaded(name: str, **hub: Any) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(f"no such folder: {name}; {GIVE}")
    try:
        return Path(snapshot_download(name, allow_patterns=WANTED, **hub))
    except HFValidationError:
        raise CheckpointError(f"no such folder: {name} (and no hub repository can have that name); {GIVE}") from None
    except (LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError) as error:
        why = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"no such folder: {name}; {GIVE}. As a hub repository it can't be had: {why}") from None


def config_json(folder: Path) -> dict[str, Any]:
    """The raw ``config.json`` of a checkpoint.

    Raises:
        CheckpointError: it is missing, isn't JSON, or isn't an object.
        PlanError: it describes a quantized checkpoint.
    """
    path = folder / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no config.json; give a folder that save_pretrained wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a JSON file that can be read: {error}. {AGAIN}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(data).__name__}. {AGAIN}")
    _refuse_quantized(folder, data)
    return data


def _refuse_quantized(folder: Path, data: dict[str, Any]) -> None:
    """Also where only a nested config (``text_config``) asks for it."""
    settings = data.get("quantization_config") or data.get("compression_config")
    if settings:
        method = settings.get("quant_method", "unknown method") if isinstance(settings, dict) else settings
        raise PlanError(
            f"{folder} is quantized ({method}): new values can't be written into packed storage. Extend the "
            "unquantized base checkpoint, quantize the result, and list the new modules in the quantizer's "
            "modules_to_not_convert"
        )
    for value in data.values():
        if isinstance(value, dict):
            _refuse_quantized(folder, value)
