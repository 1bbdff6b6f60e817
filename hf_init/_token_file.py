"""Tokens in a file: one a line, or JSON with descriptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_init._errors import PlanError


def read(path: str | Path) -> list[Any]:
    """The tokens of a file, as ``add_tokens`` takes them.

    A ``.json`` file holds a list of texts and of objects with ``token``, ``description`` and ``special``, or one object
    of descriptions (or null) by token. Any other file has a token a line, taken as it is, spaces included; an empty
    line is none.

    Raises:
        PlanError: the file can't be read, or is JSON of another form.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "tokens.json")
        ...     _ = path.write_text('{"<tool>": "a call of a tool"}')
        ...     read(path)
        [{'token': '<tool>', 'description': 'a call of a tool'}]
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else [line for line in text.split("\n") if line.rstrip("\r")]
    except (OSError, ValueError, RecursionError) as error:
        raise PlanError(f"{path}: tokens can't be read from it: {error}; give a token a line, or JSON") from error
    if isinstance(data, dict):
        return [{"token": token, "description": description} for token, description in data.items()]
    if not isinstance(data, list):
        raise PlanError(f"{path}: expected a JSON list of tokens, or an object of descriptions, not {data!r:.60}")
    return [one.rstrip("\r") if path.suffix != ".json" else one for one in data]
