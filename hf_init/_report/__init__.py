"""The report: one self-contained HTML page, or a PNG, about a result or any checkpoint. A reader of files and plans."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from hf_init._errors import HfInitError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["report"]

DEFAULT = "hf_init-report.html"


def report(
    folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, *, overwrite: bool = False
) -> Path:
    """Writes a report on a folder: histograms of what is new over what its scheme promises, tables, warnings.

    Args:
        folder: a result of ``extend``, or any folder in the HuggingFace layout: then without what only a plan knows.
        out: ``.html`` (one page that needs no other file), or ``.png`` (the histograms alone);
            None: ``hf_init-report.html`` in the current folder.
        overwrite: replace a file that is there.

    Returns:
        The path of the report.

    Raises:
        HfInitError: matplotlib isn't installed, ``out`` exists or is neither kind of file.
        CheckpointError: the folder can't be read.

    Example:
        >>> import tempfile, numpy, safetensors.numpy
        >>> folder = tempfile.TemporaryDirectory()
        >>> safetensors.numpy.save_file({"w": numpy.eye(3)}, f"{folder.name}/model.safetensors")
        >>> report(folder.name, f"{folder.name}/eye.html").name
        'eye.html'
        >>> folder.cleanup()
    """
    from hf_init._report import _charts

    place = Path(DEFAULT if out is None else out).expanduser()
    refuse(place, overwrite)
    _charts.require()
    _put(place, _made(Path(folder).expanduser(), place))
    return place


def refuse(out: Path, overwrite: bool) -> None:
    """Raise HfInitError unless a report can be written to ``out``."""
    if out.suffix.lower() not in (".html", ".htm", ".png"):
        raise HfInitError(
            f"a report is an .html or a .png file, not {out.name!r}: give -o a name that ends in one of them"
        )
    if out.is_dir():
        raise HfInitError(f"{out} is a folder: give the name of a file in it")
    if os.path.lexists(out) and not overwrite:
        raise HfInitError(f"{out} exists and isn't replaced: remove it, or give another name with -o")
    if not out.parent.is_dir():
        raise HfInitError(f"{out.parent}, where the report would be, is not a folder: make it first")


def save_png(figure: Figure, out: str | os.PathLike[str]) -> Path:
    """Writes a figure to ``out``, in place of a file that is there; raises HfInitError unless that names a PNG."""
    from hf_init._report import _charts

    place = Path(out).expanduser()
    if place.suffix.lower() != ".png":
        raise HfInitError(f"a picture is a .png file, not {place.name!r}: give a name that ends in it")
    refuse(place, overwrite=True)
    _put(place, _charts.png_of(figure))
    return place


def _made(folder: Path, out: Path) -> bytes:
    from hf_init._report._page import page
    from hf_init._report._poster import poster
    from hf_init._report._survey import survey

    found = survey(folder)
    return poster(found) if out.suffix.lower() == ".png" else page(found).encode()


def _put(out: Path, data: bytes) -> None:
    """Whole or not at all."""
    stage = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        stage.write_bytes(data)
        os.replace(stage, out)
    finally:
        stage.unlink(missing_ok=True)
