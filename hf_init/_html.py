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


def html_page(title: str, parts: Iterable[object], footer: Iterable[object] = ()) -> str:
    """Return a whole page that needs no other file, in the reader's light or dark setting."""
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title}: hf_init report"),
        tag("style", Html(CSS)),
    )
    body = tag("body", tag("main", *parts), tag("footer", *footer))
    return f"<!DOCTYPE html>\n{tag('html', tag('head', *head), body, lang='en')}\n"


CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --card: #f7f8fa; --line: #dcdfe5; --text: #1d2129; --soft: #5c6470; --ink: #5c6470;
  --new: #2f6fdb; --expected: #c2500a; --kept-1: #5b8a72; --kept-2: #8a5a9e; --kept-3: #8a7a3a;
  --warn: #9a3b00; --warn-back: #fff4e8; --warn-line: #efc69d;
  --good: #1d6b43; --good-back: #edf8f1; --good-line: #b4dcc5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181d; --card: #1d2128; --line: #343a45; --text: #e6e8ec; --soft: #a3abb8; --ink: #a3abb8;
    --new: #6ea3ff; --expected: #ffa35c; --kept-1: #7fc4a0; --kept-2: #c79be0; --kept-3: #d3c07a;
    --warn: #ffbe85; --warn-back: #33261a; --warn-line: #6e4d2c;
    --good: #8fd6ae; --good-back: #182a21; --good-line: #2f5a43;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 74rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { font-size: clamp(1.1rem, 5vw, 1.7rem); line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .35rem 0; }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: .15em; }
.soft { color: var(--soft); }
.chips { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0 0; padding: 0; list-style: none; }
.chips li { border: 1px solid var(--line); border-radius: .5rem; padding: .3rem .7rem; background: var(--card); }
.chips b { font-variant-numeric: tabular-nums; }
.card {
  border: 1px solid var(--line); border-radius: .6rem; background: var(--card); padding: 1rem 1.1rem; margin: 0 0 1rem;
  break-inside: avoid;
}
.note { border: 1px solid var(--good-line); background: var(--good-back); color: var(--good); border-radius: .6rem;
  padding: .7rem 1rem; margin: .5rem 0; }
.warn { border-color: var(--warn-line); background: var(--warn-back); color: var(--warn); }
.note ul { margin: .2rem 0 0; padding-left: 1.2rem; }
.note li { margin: .15rem 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: .75rem 1.5rem; }
figure { margin: .75rem 0 0; min-width: 0; break-inside: avoid; }
figure img { display: block; width: 100%; height: auto; }
.charts figure { max-width: 40rem; }
figcaption { font-size: .82rem; color: var(--soft); overflow-wrap: anywhere; }
.key { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: 0; padding: 0; list-style: none; }
.key li { display: flex; align-items: baseline; min-width: 0; }
.key li::before {
  content: ""; flex: none; width: .75em; height: .75em; margin-right: .35em; border-radius: .15em;
  background: var(--colour); print-color-adjust: exact; -webkit-print-color-adjust: exact;
}
.new { --colour: var(--new); } .expected { --colour: var(--expected); }
.kept-1 { --colour: var(--kept-1); } .kept-2 { --colour: var(--kept-2); } .kept-3 { --colour: var(--kept-3); }
.wide { overflow-x: auto; margin: .75rem 0 0; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; }
caption { text-align: left; font-weight: 600; padding: 0 0 .35rem; }
th, td { text-align: left; padding: .28rem .6rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 500; color: var(--soft); white-space: nowrap; }
td { overflow-wrap: anywhere; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.name { min-width: 12rem; }
.fixed { white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
details { border-bottom: 1px solid var(--line); padding: .35rem 0; }
summary { cursor: pointer; }
footer { margin-top: 3rem; font-size: .85rem; color: var(--soft); }
@media screen and (max-width: 45rem) {
  table { display: block; overflow-x: auto; }
  td:first-child { min-width: 11rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --card: #fff; --line: #bbb; --text: #000; --soft: #444; --ink: #444;
    --new: #2f6fdb; --expected: #c2500a; --kept-1: #5b8a72; --kept-2: #8a5a9e; --kept-3: #8a7a3a;
    --warn: #9a3b00; --warn-back: #fff; --warn-line: #9a3b00; --good: #1d6b43; --good-back: #fff; --good-line: #888; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  .wide { overflow: visible; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
