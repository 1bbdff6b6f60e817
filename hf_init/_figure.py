"""Figures by matplotlib: under its own defaults, as a PNG, put into place whole."""

from __future__ import annotations

import io
import os
import secrets
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_init._base_report import Report
from hf_init._errors import HfInitError
from hf_init._html import Html, html_page, html_table, tag
from hf_init._paths import user_path
from hf_init._text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_output(out: Path, overwrite: bool = False) -> None:
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


def save_picture(figure: Figure, report: Report, out: str | os.PathLike[str]) -> Path:
    """Write a report's figure to ``out``, in place of a file that is there: a PNG, or a page with the whole report.

    Raises:
        HfInitError: the name ends in neither ``.png`` nor ``.html``, or nothing can be there.
    """
    place = user_path(out)
    if place.suffix.lower() not in (".html", ".png"):
        raise HfInitError(f"a picture is a .png file, a page an .html file, not {place.name!r}: give such a name")
    check_output(place, overwrite=True)
    put_file(place, png_of(figure) if place.suffix.lower() == ".png" else _report_page(figure, report).encode())
    return place


def _report_page(figure: Figure, report: Report) -> str:
    """Return a page of a report: its verdict, its picture, and all of its tables."""
    image = f"data:image/png;base64,{b64encode(png_of(figure)).decode()}"
    first, *rest = report.parts(html_table)
    verdict = tag("p", verdict_of(report), class_="note" if report.ok else "note warn")
    said = tag("p", printable(first), style="white-space: pre-line")
    tables = [
        tag("div", part, class_="wide") if isinstance(part, Html) else tag("p", part, style="white-space: pre-line")
        for part in rest
        if part
    ]
    picture = tag("img", src=image, alt=report.headline, style="max-width: 100%; background: white")
    title = report.schema.removeprefix("hf_init.").partition("/")[0]
    return html_page(title, (tag("h1", title), verdict, said, tag("figure", picture), *tables))


def verdict_of(report: Report) -> str:
    """Return in a word whether all is well."""
    return ("PASS" if not report.worries() else "PASS, with warnings") if report.ok else "FAILED"


def put_file(out: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    stage = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        stage.write_bytes(data)
        os.replace(stage, out)
    finally:
        stage.unlink(missing_ok=True)


ON_PAPER = {
    "new": "#2f6fdb",
    "expected": "#c2500a",
    "kept-1": "#5b8a72",
    "kept-2": "#8a5a9e",
    "kept-3": "#8a7a3a",
    "ink": "#333333",
}

_RC = {"svg.fonttype": "none", "svg.hashsalt": "hf_init", "font.size": 9.0, "axes.unicode_minus": True}


def require() -> None:
    """Raise HfInitError, naming the extra, unless matplotlib is installed."""
    try:
        import matplotlib.figure  # noqa: F401 - whether it can be imported is the question
    except ImportError as error:
        raise HfInitError(
            f"a report is drawn by matplotlib, which can't be imported ({error}): pip install 'hf_init[plot]'"
        ) from None


def png_of(figure: Figure) -> bytes:
    """Return a figure as a PNG on white, the same bytes whenever it is drawn."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return data.getvalue()


def svg_of(figure: Figure) -> bytes:
    """Return a figure as an SVG without a background, the same bytes whenever it is drawn."""
    data = io.BytesIO()
    figure.savefig(data, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return data.getvalue()


@contextmanager
def drawing(
    width: float, height: float, rows: int = 0, columns: int = 0, heights: Sequence[float] | None = None
) -> Iterator[tuple[Figure, Any]]:
    """Give a new figure under matplotlib's own defaults, whatever the user's settings are."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _RC]):
        figure = Figure(figsize=(width, height), layout="constrained")
        sizes = {"squeeze": False, "height_ratios": heights}
        yield figure, figure.subplots(rows, columns, **sizes) if rows else figure.subplots()


def plain_text(text: str) -> str:
    """Return text that every font has, short enough for a panel: names are untrusted."""
    flat = text.encode("ascii", "backslashreplace").decode().replace("\n", " ")
    return flat if len(flat) <= 64 else f"{flat[:30]}...{flat[-31:]}"
