"""What goes to the terminal: results on standard output, progress on standard error."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple, TextIO

from hf_init._base_report import Report
from hf_init._errors import HfInitError, spell_options
from hf_init._options import option_group, options_of
from hf_init._progress import Progress, no_progress
from hf_init._text import printable
from hf_init.cli._commands import COMMANDS
from hf_init.cli._values import command_line_spelling, long_name

DONE, DIFFERS, REFUSED = 0, 1, 2
RED, GREEN, YELLOW = 31, 32, 33


class Outcome(NamedTuple):
    """What a command has to say.

    Attributes:
        document: for ``--format json``.
        reports: for people. text: what follows them.
        ok: whether nothing differs.
    """

    document: Mapping[str, object]
    reports: Sequence[Report] = ()
    text: str = ""
    ok: bool = True

    @classmethod
    def of(cls, report: Report) -> Outcome:
        """Return the outcome that is one report."""
        return cls(report.to_json(), (report,), ok=report.ok)


class Terminal(NamedTuple):
    """Where progress and notices go, and the form of a result.

    Attributes:
        color: auto, always, never.
    """

    format: str = "text"
    quiet: bool = False
    color: str = "auto"

    @classmethod
    def of(cls, argv: Sequence[str]) -> Terminal:
        """Return the terminal that a command line asks for; an error about the rest of it is told in the same way."""
        words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
        given = {option: word for option, word in pairwise(words) if option in ("--format", "--color")}
        form = "json" if "--json" in argv else given.get("--format", "text")
        return cls(form, "--quiet" in argv, given.get("--color", "auto"))

    def print_outcome(self, command: str, outcome: Outcome) -> int:
        """Print a result and return the exit code, which a reader that is gone doesn't change."""
        code = DONE if outcome.ok else DIFFERS
        if self.format == "json":
            return self._print_document({"schema": f"hf_init.{command}/1", "ok": outcome.ok, **outcome.document}, code)
        if self.format == "markdown":
            texts = [report.to_markdown() for report in outcome.reports]
        else:
            texts = [self._paint(report.text(command_line_spelling), report) for report in outcome.reports]
        if self.format == "github":
            title, lines = f"hf-init {command}", []
            for report in outcome.reports:
                lines += [_annotation("warning", title, text) for text in report.worries()]
                if report.ok:
                    lines.append(_annotation("notice", title, report.headline))
                else:
                    failure = spell_options(report.failure, command_line_spelling)
                    lines.append(_annotation("error", title, failure))
            texts.append(printable("\n".join(lines)))
        return self.print_text("\n\n".join(filter(None, (*texts, printable(outcome.text)))), code)

    def _paint(self, text: str, report: Report) -> str:
        """Return a report's text with its outcome green or red, if it has one, and warnings yellow, errors red."""
        if not _wants_color(self.color, sys.stdout):
            return text
        if type(report).ok is not Report.ok:
            first, end, rest = text.partition("\n")
            text = f"{_color(first, GREEN if report.ok else RED)}{end}{rest}"
        text = re.sub(r"(?m)^warning:", _color("warning:", YELLOW), text)
        return re.sub(r"(?m)^error:", _color("error:", RED), text)

    def print_error(self, message: str) -> int:
        """Print why a command was refused and return the exit code."""
        if self.format == "json":
            return self._print_document({"schema": "hf_init.error/1", "ok": False, "error": message}, REFUSED)
        name = _color("hf-init:", RED) if _wants_color(self.color, sys.stderr) else "hf-init:"
        write_line(f"{name} {printable(message)}", sys.stderr)
        if self.format == "github":
            return self.print_text(printable(_annotation("error", "hf-init", message)), REFUSED)
        return REFUSED

    def _print_document(self, document: Mapping[str, object], code: int) -> int:
        import json

        return self.print_text(json.dumps(document, indent=2), code)

    def print_text(self, text: str, code: int = DONE) -> int:
        """Print to standard output and return the exit code."""
        write_line(text, sys.stdout)
        return code

    def notice(self, text: str) -> None:
        """Tell a person something that is no result."""
        if not self.quiet:
            write_line(f"hf-init: {printable(text)}", sys.stderr)

    @property
    def shows_bars(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty() and not self.quiet  # None: it was closed from the start

    @contextmanager
    def progress_bar(self, title: str, total: Callable[[], int]) -> Iterator[Progress]:
        """Show a progress bar on a terminal; nothing in a pipe."""
        if not self.shows_bars:
            yield no_progress
            return
        from tqdm import tqdm

        with tqdm(desc=title, total=total(), unit="B", unit_scale=True, leave=False) as bar:
            yield bar.update

    @contextmanager
    def hub_bars(self) -> Iterator[None]:
        """Show the bars of huggingface_hub, which it would draw into a pipe as well, on a terminal only."""
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        if self.shows_bars or are_progress_bars_disabled():
            yield
            return
        disable_progress_bars()
        try:
            yield
        finally:
            enable_progress_bars()

    @contextmanager
    def stopped_by_signal(self) -> Iterator[None]:
        """Make a request to end (SIGTERM) an interruption like Ctrl-C; only the main thread may say so."""
        import signal
        import threading

        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _wants_color(when: str, stream: TextIO | None) -> bool:
    usual = (
        stream is not None and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )
    return when == "always" or (when == "auto" and usual)


def _color(text: str, code: int) -> str:
    return f"\x1b[{code}m{text}\x1b[0m"


def _annotation(level: str, title: str, text: str) -> str:
    """Return a message as GitHub takes it: https://docs.github.com/actions/reference/workflow-commands-for-github-actions.

    Example:
        >>> _annotation("error", "hf-init", "50 %\\nis lost")
        '::error title=hf-init::50 %25%0Ais lost'
    """
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{level} title={title}::{escaped}"


def write_line(text: str, stream: TextIO | None) -> None:
    """Write a text and the end of its line; to a reader that is gone, or never was, write nothing."""
    if stream is None:
        return
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise  # a result that is lost; a message that is lost changes no exit code
        drop_output(stream)


def drop_output(stream: TextIO) -> None:
    """Send what is left for a reader that is gone nowhere, so that the interpreter's exit is silent."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def accept_any_encoding() -> None:
    """Let a console show what its encoding lacks as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def message_of(error: BaseException) -> str:
    """Return what to say of an error, with options as the command line has them."""
    if isinstance(error, HfInitError):
        names = options_of(*{option_group(group) for command in COMMANDS for group in command.groups})
        said = error.spelled(command_line_spelling)  # a line that is about one option begins with its name
        return re.sub(r"(?m)^\w+(?=: )", lambda word: long_name(word[0]) if word[0] in names else word[0], said)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; no unfinished result is left, unless --resume keeps it for the next run"
    return str(error)
