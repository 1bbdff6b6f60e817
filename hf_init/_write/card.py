"""The model card of a result: what it is of, what is new by which scheme, what holds, and how to verify it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData, metadata_load

from hf_init._architecture import pipeline_task
from hf_init._plan import Manifest
from hf_init._verify import VerifyReport
from hf_init._version import __version__

CARD, BASE_CARD = "README.md", "BASE_README.md"
_FROM_BASE = ("license", "license_name", "license_link", "language")
"""What the base's card says that is true of what was made of it."""


def write_card(folder: Path, home: Path, proof: VerifyReport) -> None:
    """Write the card of a result, in a folder that isn't at its place, which is ``home``, yet.

    The card of the base, which came along, gets another name; of a base that is a result, the older one stays.
    """
    if (folder / CARD).is_file() and not (folder / BASE_CARD).is_file():
        (folder / CARD).rename(folder / BASE_CARD)
    manifest = Manifest.load(folder, home)
    bases = manifest.base.origins
    data = ModelCardData(
        base_model=[origin.name for origin in bases if origin.commit] or None,
        library_name="transformers",
        pipeline_tag=pipeline_task(manifest.plan.architecture),
        tags=["hf_init"],
        **{key: value for key, value in _metadata(folder / BASE_CARD).items() if key in _FROM_BASE},
    )
    base = "" if all(origin.commit for origin in bases) else " --base BASE"
    links = [
        f"[{each.name}](https://huggingface.co/{each.name}) at commit `{each.commit}`"
        if each.commit
        else f"`{each.name}`"
        for each in bases
    ]
    text = f"""# {manifest.plan.architecture} of {manifest.base.origin.name}

Extended from {" and ".join(links)} by hf_init {__version__}.
{f"The card of the base is [{BASE_CARD}]({BASE_CARD})." if (folder / BASE_CARD).exists() else ""}

## What is new, and what was kept

{manifest.plan.to_markdown()}

## Verified

{replace(proof, base=manifest.base.origin.name).to_markdown()}

The plan and the digests of all new values are in `hf_init.json`. To verify every byte again:

```bash
hf-init verify FOLDER{base}
```
"""
    card = f"---\n{data.to_yaml()}\n---\n\n{text}"
    (folder / CARD).write_text(card, encoding="utf-8", errors="backslashreplace")  # a path needn't be UTF-8


def _metadata(card: Path) -> Mapping[str, Any]:
    """Return what a card says of itself in YAML; nothing where there is none that can be read."""
    try:
        return (metadata_load(card) if card.is_file() else None) or {}
    except (ValueError, yaml.YAMLError):
        return {}
