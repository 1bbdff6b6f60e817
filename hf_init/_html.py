"""HTML from untrusted text: whatever isn't HTML already is escaped on its way in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_EMPTY = ("img", "link", "meta", "source", "wbr")
_LEFT = "<style>.hf-init th, .hf-init td { text-align: left }</style>"  # a notebook sets numbers, to the right


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element: children that aren't ``Html`` are escaped, ``class_`` is ``class``, None is left out.

    Example:
        >>> tag("p", "1 < 2 ", tag("b", "&"), class_="note")
        '<p class="note">1 &lt; 2 <b>&amp;</b></p>'
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opening = "".join(f' {key}="{escape(str(value))}"' for key, value in given.items())
    return Html(f"<{name}{opening}>" if name in _EMPTY else f"<{name}{opening}>{join_html(children)}</{name}>")


def join_html(children: Iterable[object]) -> Html:
    """Join elements and texts."""
    return Html("".join(child if isinstance(child, Html) else escape(str(child)) for child in children))


def html_table(head: object, columns: Sequence[object], rows: Sequence[Sequence[object]], most: int = 500) -> Html:
    """Return a table under its caption; rows beyond ``most`` are counted, not shown.

    Example:
        >>> html_table("new (1)", ["tensor"], [["<w>"]])  # doctest: +ELLIPSIS
        '<table><caption>new (1)</caption><thead>...<tbody><tr><td>&lt;w&gt;</td></tr></tbody></table>'
    """
    shown = [_row("td", row) for row in rows[:most]]
    if len(rows) > most:
        shown.append(tag("tr", tag("td", f"... and {len(rows) - most} more", colspan=len(columns))))
    heading = tag("thead", _row("th", columns))
    caption = tag("caption", head) if head else ""
    return tag("table", caption, heading, tag("tbody", *shown))


def dotted(name: str) -> Html:
    """Return a tensor's name that may be broken behind its dots.

    Example:
        >>> dotted("a.b")
        '<code>a.<wbr>b</code>'
    """
    first, *rest = name.split(".")
    return tag("code", first, *(child for part in rest for child in (".", tag("wbr"), part)))


def html_document(parts: Iterable[str]) -> Html:
    """Return parts for a notebook: tables as they are, texts as paragraphs, empty parts left out."""
    shown = (
        part if isinstance(part, Html) else tag("p", part, style="white-space: pre-line") for part in parts if part
    )
    return tag("div", Html(_LEFT), *shown, class_="hf-init")


def _row(kind: str, cells: Sequence[object]) -> Html:
    return tag("tr", *(cell if is_cell(cell) else tag(kind, cell) for cell in cells))


def is_cell(value: object) -> bool:
    """Tell whether this is a cell of a table already, with attributes of its own."""
    return isinstance(value, Html) and value.startswith(("<td", "<th"))
