"""The report: one self-contained HTML page, or a PNG, about a result or any checkpoint. A reader of files and plans."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hf_init._checkpoint import folder_of
from hf_init._figure import check_output, put_file, require
from hf_init._paths import user_path

DEFAULT = "hf_init-report.html"


def write_report(
    folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, subfolder: str = "", **hub: Any
) -> Path:
    """Write a report on a folder: histograms of what is new over what is expected, tables, warnings.

    Args:
        folder: a result of ``extend``, or any folder in the HuggingFace layout, or a hub id: then without what only a
            plan knows.
        out: ``.html`` (one page that needs no other file), or ``.png`` (the histograms alone);
            None: ``hf_init-report.html`` in the current folder.
        hub: of a hub id: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Returns:
        The path of the report.

    Raises:
        HfInitError: matplotlib isn't installed, ``out`` exists or is neither kind of file.
        CheckpointError: the folder can't be read.

    Example:
        >>> import tempfile, numpy, safetensors.numpy
        >>> folder = tempfile.TemporaryDirectory()
        >>> safetensors.numpy.save_file({"w": numpy.eye(3)}, f"{folder.name}/model.safetensors")
        >>> write_report(folder.name, f"{folder.name}/eye.html").name
        'eye.html'
        >>> folder.cleanup()
    """
    place = user_path(DEFAULT if out is None else out)
    check_output(place)
    require()
    from hf_init._report.page import page  # matplotlib is there
    from hf_init._report.poster import poster
    from hf_init._report.survey import survey

    content = survey(folder_of(folder, subfolder, **hub))
    put_file(
        place, poster(content) if place.suffix.lower() == ".png" else page(content).encode("utf-8", "backslashreplace")
    )
    return place
